"""Faults of the data: outliers, swapped vessels, slips of units, dead probes, each told in words."""
