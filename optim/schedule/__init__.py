"""Schedules: the actions on a vessel, and the interval grid over which the simulator integrates."""
