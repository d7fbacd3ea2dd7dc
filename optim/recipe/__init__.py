"""The recipe: an optimum as a process team executes it, rounded to what pumps can do."""
