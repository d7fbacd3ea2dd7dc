"""Re-planning: the rest of a running batch, optimised anew from its readings (shrinking horizon)."""
