"""Data quality: outliers, swapped vessels, wrong units, dead probes and misfits, each reported in words."""
