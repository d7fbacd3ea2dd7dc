"""The engine of the simulator: graphs of scalar functions, steppers and the march.

Internal to the simulator, apart from the integrator and its steppers.
"""
