"""Simulation of cultivations: kinetics, material balance and time integration."""
