"""Datasets: the contract, reading, writing, and where public sets come from."""
