"""Optimisation of processes: search, ranking, robustness, sensitivity and trade-offs."""
