"""Estimation: parameters of all groups at once, with their uncertainty, from the readings of a dataset."""
