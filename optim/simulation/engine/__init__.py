"""The engine of the simulator: graphs of scalars, steppers, and the march. Internal to the simulator, apart from the integrator and its steppers."""
