"""Public datasets, each brought into the contract by a file of its own."""
