"""The engine of the simulator: graphs of scalars, steppers, and the march. Nothing above needs to open it."""
