"""Settings: one class per section of the configuration. Hydra composes them, and functions take them as arguments."""
