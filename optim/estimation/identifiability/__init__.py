"""Identifiability: which parameters the data determine, and which reading would help."""
