"""Measurement noise: the likelihood of a reading of each assay, censored ones and outliers included."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from scipy.special import gammaln, ndtri, stdtrit

from optim.errors import ConfigError
from optim.settings.estimation import NOISE_KINDS, AssaySettings, NoiseSettings
from optim.types import Array
from optim.units import VARIABLES

# codes of a censored value
MEASURED, BELOW, ABOVE = 0, 1, 2
# scale on which the readings of an assay scatter
NORMAL, LOG, LOGIT = 0, 1, 2
NOISE_CODES = dict(zip(NOISE_KINDS, (NORMAL, LOG, LOGIT), strict=True))
# a reading of exactly 0 or 1 has no logarithm of odds: this distance from it is used instead
LEAST_FRACTION = 1e-3
# range of the factor on the stated noise that a fit estimates
LEAST_NOISE, MOST_NOISE = 0.2, 5.0


class NoiseModel(NoiseSettings):
    """The noise of every assay, as standard deviations, limits and densities of readings."""

    def assay_noise(self, variable: str) -> AssaySettings:
        """The noise settings of an assay. Raises `ConfigError` for one without settings."""
        if variable not in self.assays:
            raise ConfigError(
                f"noise.assays: no entry for '{variable}', which the dataset holds; add relative and floor"
            )
        return self.assays[variable]

    def sd_on_scale(self, variable: str, value: np.ndarray) -> np.ndarray:
        """Standard deviation, on the scale of the assay, of readings of the true `value` (canonical unit)."""
        assay = self.assay_noise(variable)
        value = np.asarray(value, float)
        if assay.kind != "normal":
            return np.full_like(value, assay.relative)
        counting = np.zeros_like(value)
        if assay.counted > 0.0:
            inside = np.clip(value, 0.0, 1.0)
            share = VARIABLES[variable].upper == 1.0
            counting = (inside * (1.0 - inside) if share else value**2) / assay.counted
        return np.sqrt((assay.relative * value) ** 2 + assay.floor**2 + counting)

    def reading_sd(self, variable: str, value: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Convert `sd` from the scale of the assay to its unit, for small deviations about `value`."""
        assay = self.assay_noise(variable)
        if assay.kind == "lognormal":
            return sd * (np.abs(value) + assay.floor)
        if assay.kind == "logit":
            inside = np.clip(value, LEAST_FRACTION, 1.0 - LEAST_FRACTION)
            return sd * inside * (1.0 - inside)
        return sd

    def tail_factor(self, variable: str) -> float:
        """Width of the middle 90 % of an assay's readings, relative to a normal distribution with the same `sd`."""
        nu = self.assay_noise(variable).robust
        return float(stdtrit(nu, 0.95) * np.sqrt((nu + 1.0) / nu) / ndtri(0.95)) if nu else 1.0

    def reading_range(self, variable: str) -> tuple[float, float]:
        """Least and largest possible reading of an assay: 0, and 1 for a fraction, inf for others."""
        upper = VARIABLES[variable].upper
        return 0.0, np.inf if upper is None else upper

    def censoring_code(self, variable: str, value: float, mark: str) -> int:
        """Code of a reading with the censoring `mark` ('' | '<' | '>'): MEASURED, BELOW or ABOVE.

        A fraction that reads exactly 0 or 1 counts as censored: the instrument cuts its scatter off there.
        """
        if mark:
            return {"<": BELOW, ">": ABOVE}[mark]
        if VARIABLES[variable].upper == 1.0 and self.assay_noise(variable).kind == "normal":
            return ABOVE if value >= 1.0 else BELOW if value <= 0.0 else MEASURED
        return MEASURED

    def log_normaliser(self, variable: str, value: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Logarithm of the factor of each reading's density that the residuals leave out.

        `sd` is on the scale of the assay. With this factor densities are per unit of the reading, so that different
        noise models can be compared.
        """
        assay = self.assay_noise(variable)
        log_factor = -np.log(sd * np.sqrt(2.0 * np.pi))
        if assay.robust:
            nu = assay.robust
            log_factor = gammaln(0.5 * (nu + 1.0)) - gammaln(0.5 * nu) - 0.5 * np.log(np.pi * (nu + 1.0)) - np.log(sd)
        if assay.kind == "lognormal":
            log_factor = log_factor - np.log(np.maximum(value + assay.floor, 1e-12))
        if assay.kind == "logit":
            inside = np.clip(value, LEAST_FRACTION, 1.0 - LEAST_FRACTION)
            log_factor = log_factor - np.log(inside * (1.0 - inside))
        return log_factor


class Scatter(NamedTuple):
    """The noise model as arrays for the compiled programs, one entry per variable."""

    scale: Array  # NORMAL | LOG | LOGIT
    floor: Array  # in the unit of the assay
    robust: Array  # degrees of freedom, 0: normal


def scatter_arrays(noise: NoiseModel, variables: tuple[str, ...]) -> Scatter:
    """The noise model of some variables as arrays [V]."""
    rows = [noise.assay_noise(name) for name in variables]
    return Scatter(
        np.array([NOISE_CODES[row.kind] for row in rows], np.int32),
        np.array([row.floor for row in rows]),
        np.array([row.robust for row in rows]),
    )


def on_scale(y: Array, scale: Array, floor: Array) -> Array:
    """Readings or predictions y, transformed to the scale on which they scatter (NORMAL, LOG or LOGIT)."""
    logarithm = jnp.log(jnp.maximum(y + floor, 1e-12))
    inside = jnp.clip(y, LEAST_FRACTION, 1.0 - LEAST_FRACTION)
    odds = jnp.log(inside) - jnp.log1p(-inside)
    return jnp.where(scale == LOG, logarithm, jnp.where(scale == LOGIT, odds, y))


def whitened_residual(predicted: Array, value: Array, sd: Array, *, censored: Array) -> Array:
    """Whitened residuals: half their sum of squares is the negative log-likelihood without constants.

    Arguments have one shape; `sd` is on the scale of the assay, `censored` are codes. A censored value enters by the
    probability of lying beyond its limit (Tobin 1958, Econometrica 26:24), as the residual with the same half square.
    """
    plain = (predicted - value) / sd
    # distance beyond the limit; clipped where the probability is 1 to machine precision and its root has no derivative
    beyond = jnp.where(censored == ABOVE, plain, -plain)
    tail = jnp.sqrt(-2.0 * log_ndtr(jnp.clip(beyond, -30.0, 5.0)))
    signed = jnp.where(censored == ABOVE, -tail, tail)
    return jnp.where(censored == MEASURED, plain, signed)


def robust_loss(square: Array, freedom: Array) -> tuple[Array, Array]:
    """Negative log-likelihood of a squared residual, and its weight in Gauss-Newton equations.

    Student's t with `freedom` degrees, scaled so that the weight of small residuals is one as for the normal
    distribution (freedom 0); Lange et al. 1989, J Am Stat Assoc 84:881.
    """
    heavy = freedom > 0.0
    nu = jnp.where(heavy, freedom, 1.0)
    loss = jnp.where(heavy, 0.5 * (nu + 1.0) * jnp.log1p(square / (nu + 1.0)), 0.5 * square)
    weight = jnp.where(heavy, 1.0 / (1.0 + square / (nu + 1.0)), 1.0)
    return loss, weight
