"""Schedules: the actions done to a vessel, and the interval grid that the simulator marches over."""
