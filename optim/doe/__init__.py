"""Design of experiments: which runs to do next, so that the decision becomes surest."""
