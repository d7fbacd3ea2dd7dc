"""Transfer of a fit to new runs: a continued fit, predictions of new clones, the posterior of a running vessel."""
