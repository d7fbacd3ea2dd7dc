"""Simulation of vessels: kinetics, balance and integrator brought together."""
