"""Uncertainty of parameters by profile likelihood, bootstrap and sampling, and whether they agree."""
