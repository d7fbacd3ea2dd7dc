"""Measurement noise: what a deviation is worth, per assay."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from optim.errors import ConfigError, nearest
from optim.types import Array
from optim.units import VARIABLES

# codes of a censored value
MEASURED, BELOW, ABOVE = 0, 1, 2


@dataclass(frozen=True)
class AssayNoise:
    """Standard deviation = sqrt((relative * value)^2 + floor^2), in the canonical unit of the variable."""

    relative: float
    floor: float


@dataclass(frozen=True)
class NoiseModel:
    """Noise per assay. With `estimate_scale`, one factor per assay is found from the residuals."""

    assays: dict[str, AssayNoise]
    estimate_scale: bool = True

    def __post_init__(self) -> None:
        for name, assay in self.assays.items():
            if name not in VARIABLES:
                raise ConfigError(f"noise.assays.{name}: unknown variable.{nearest(name, VARIABLES)}")
            if assay.relative < 0.0 or assay.floor <= 0.0:
                raise ConfigError(f"noise.assays.{name}: relative must not be negative and floor must be positive")

    def sd(self, variable: str, value: np.ndarray) -> np.ndarray:
        """Standard deviation of measured values. Raises `ConfigError` for an assay that is not declared."""
        if variable not in self.assays:
            raise ConfigError(
                f"noise.assays: no entry for '{variable}', which the dataset holds; add relative and floor"
            )
        assay = self.assays[variable]
        return np.sqrt((assay.relative * value) ** 2 + assay.floor**2)


def residual(predicted: Array, value: Array, sd: Array, censored: Array) -> Array:
    """Whitened residuals whose half sum of squares is the negative log-likelihood, constants left out.

    A censored value enters by the probability of lying beyond its limit (Tobin 1958, Econometrica 26:24), as the
    residual with the same half square.
    """
    plain = (predicted - value) / sd
    # distance beyond the limit; clipped where the probability is 1 to machine precision and its root has no derivative
    beyond = jnp.where(censored == ABOVE, plain, -plain)
    tail = jnp.sqrt(-2.0 * norm.logcdf(jnp.clip(beyond, -30.0, 5.0)))
    signed = jnp.where(censored == ABOVE, -tail, tail)
    return jnp.where(censored == MEASURED, plain, signed)
