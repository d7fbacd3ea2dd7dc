"""Parameter tables: level, scale, bounds and prior of every parameter, and its transformation to the fitted scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optim.errors import ConfigError, nearest
from optim.settings.model import ParameterSettings
from optim.units import VARIABLES

PARAMETER_LEVELS = ("fixed", "shared", "clone", "batch", "vessel")
PARAMETER_SCALES = ("log", "logit", "identity")
PRIORS = ("auto", "normal", "lognormal", "uniform", "half_normal")


@dataclass(frozen=True, kw_only=True)
class ParameterSpec(ParameterSettings):
    """One row of a parameter table with its name. Raises `ConfigError` for values that contradict each other.

    `level`: fixed (not estimated), shared (one value), clone (one value per clone or other group, partially pooled
    around an estimated population mean), batch (one value per experiment), vessel (one per run). `scale`: the fitted
    scale, log, logit between the bounds, or identity.

    `prior`: auto is normal on the fitted scale (lognormal for log), centred on `value`; normal and lognormal are so on
    the natural scale, whatever the fitted one; half_normal has its mode at zero and no centre; uniform has only the
    bounds, as has auto without `prior_sd`. `prior_sd` is in logarithms for lognormal, else in the unit of the parameter
    (of the fitted scale for auto). `spread` is the standard deviation between groups on the fitted scale.

    `times` names another parameter that this one multiplies: fixed at 1 it is a tie, estimated it is a ratio.
    """

    name: str

    def __post_init__(self) -> None:
        def _refuse(key: str, message: str) -> None:
            raise ConfigError(f"parameter '{self.name}': {key}: {message}")

        choices = (
            ("level", self.level, PARAMETER_LEVELS),
            ("scale", self.scale, PARAMETER_SCALES),
            ("prior", self.prior, PRIORS),
        )
        for key, value, allowed in choices:
            if value not in allowed:
                _refuse(key, f"{value!r} is not one of {', '.join(allowed)}.{nearest(value, allowed)}")
        if not math.isfinite(self.value):
            _refuse("value", f"{self.value} is not a finite number")
        if not self.source:
            _refuse(
                "source", "missing; state where the number comes from, and verified: false when nothing supports it"
            )
        if self.level == "fixed":
            return
        if not self.lower < self.upper:
            _refuse("lower", f"bounds {self.lower} and {self.upper} are not in increasing order")
        if not self.lower <= self.value <= self.upper:
            _refuse("value", f"{self.value} lies outside its bounds {self.lower} to {self.upper}")
        if self.scale == "log" and self.lower <= 0.0:
            _refuse("lower", f"{self.lower} must be positive on a log scale")
        if self.prior_sd is not None and self.prior_sd <= 0.0:
            _refuse("prior_sd", f"{self.prior_sd} must be positive")
        if self.prior in ("normal", "lognormal", "half_normal") and self.prior_sd is None:
            _refuse("prior_sd", f"a {self.prior} prior needs its standard deviation")
        if self.prior == "uniform" and self.prior_sd is not None:
            _refuse("prior_sd", "a uniform prior has none; its width is that of the bounds")
        if self.prior in ("lognormal", "half_normal") and self.lower < 0.0:
            _refuse("lower", f"{self.lower} must not be negative with a {self.prior} prior")
        if self.prior == "lognormal" and self.value <= 0.0:
            _refuse("value", f"{self.value} must be positive with a lognormal prior")
        if self.level == "clone" and not (self.spread and self.spread > 0.0):
            _refuse("spread", "a clone parameter needs the standard deviation between clones, on the fitted scale")
        if self.level in ("vessel", "batch") and self.prior_sd is None:
            _refuse("prior_sd", f"a {self.level} parameter needs a prior, else every run would explain itself")

    def to_fitted(self, x: float) -> float:
        """Transform a value from the natural to the fitted scale."""
        if self.scale == "log":
            return math.log(x)
        if self.scale == "logit":
            z = (x - self.lower) / (self.upper - self.lower)
            z = min(max(z, 1e-9), 1.0 - 1e-9)
            return math.log(z / (1.0 - z))
        return x

    def to_natural(self, u: np.ndarray) -> np.ndarray:
        """Transform values from the fitted to the natural scale, any shape."""
        if self.scale == "log":
            return np.exp(u)
        if self.scale == "logit":
            return self.lower + (self.upper - self.lower) / (1.0 + np.exp(-u))
        return np.asarray(u)

    def scale_slope(self, u: np.ndarray) -> np.ndarray:
        """Derivative of `to_natural` at u, any shape."""
        if self.scale == "log":
            return np.exp(u)
        if self.scale == "logit":
            z = 1.0 / (1.0 + np.exp(-u))
            return (self.upper - self.lower) * z * (1.0 - z)
        return np.ones_like(u)

    def fitted_bounds(self) -> tuple[float, float]:
        """Lower and upper bound on the fitted scale; -20 and 20 on a logit scale."""
        if self.scale == "logit":
            return -20.0, 20.0
        return self.to_fitted(self.lower), self.to_fitted(self.upper)

    @property
    def prior_family(self) -> str:
        """Family of the prior: that of `prior`, with auto resolved."""
        if self.prior != "auto":
            return self.prior
        if self.prior_sd is None:
            return "uniform"
        return {"log": "lognormal", "logit": "logit_normal", "identity": "normal"}[self.scale]

    def has_gaussian_prior(self) -> bool:
        """Whether the prior is normal on the fitted scale."""
        own = {"log": "lognormal", "logit": "logit_normal", "identity": "normal"}[self.scale]
        return self.prior_family == own

    def prior_score(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Negative log prior density over the fitted scale at u, its slope and its Gauss-Newton curvature.

        Without constants; arrays have the shape of u. A prior on another scale includes the Jacobian factor between the
        two densities, so that the mode, the Laplace approximation and a sampler refer to one distribution.
        """
        u = np.asarray(u, float)
        none = np.zeros_like(u)
        if self.prior_family == "uniform" or self.prior_sd is None:
            # a stated uniform prior is uniform on the natural scale; no prior at all has no density
            return none if self.prior == "auto" else -self._log_slope(u), self._minus_log_slope_slope(u), none
        if self.has_gaussian_prior():
            r = (u - self.to_fitted(self.value)) / self.prior_sd
            return 0.5 * r**2, r / self.prior_sd, none + 1.0 / self.prior_sd**2
        x, dx = self.to_natural(u), self.scale_slope(u)
        if self.prior_family == "lognormal":
            r, dr = (np.log(x) - math.log(self.value)) / self.prior_sd, dx / (x * self.prior_sd)
            # the density of x has a factor 1/x
            return 0.5 * r**2 + np.log(x) - self._log_slope(u), r * dr + dx / x + self._minus_log_slope_slope(u), dr**2
        centre = 0.0 if self.prior_family == "half_normal" else self.value
        r, dr = (x - centre) / self.prior_sd, dx / self.prior_sd
        return 0.5 * r**2 - self._log_slope(u), r * dr + self._minus_log_slope_slope(u), dr**2

    def _log_slope(self, u: np.ndarray) -> np.ndarray:
        return np.log(self.scale_slope(u))

    def _minus_log_slope_slope(self, u: np.ndarray) -> np.ndarray:
        """Derivative of -log(scale_slope)."""
        if self.prior == "auto" or self.scale == "identity":
            return np.zeros_like(u)
        return np.full_like(u, -1.0) if self.scale == "log" else np.tanh(0.5 * u)

    def prior_sd_fitted(self) -> float | None:
        """Standard deviation of the prior on the fitted scale at its centre; None for a uniform or half-normal one."""
        if self.prior_sd is None:
            return None
        if self.has_gaussian_prior():
            return self.prior_sd
        if self.prior_family == "half_normal":
            return None
        at = np.asarray(self.to_fitted(self.value))
        by = self.value if self.prior_family == "lognormal" else 1.0
        return float(self.prior_sd * by / self.scale_slope(at))

    def prior_text(self) -> str:
        """The prior in words, as reports print it."""
        if self.level == "fixed":
            return ""
        if self.prior_family == "uniform":
            return f"uniform({self.lower:g}, {self.upper:g})"
        if self.prior_family == "half_normal":
            return f"half-normal({self.prior_sd:g})"
        return f"{self.prior_family.replace('_', '-')}({self.value:g}, {self.prior_sd:g})"


@dataclass(frozen=True)
class ParameterTable:
    """All parameters of a model, in the order of the model's `Parameters`, then those of the vessels."""

    rows: tuple[ParameterSpec, ...]

    def __post_init__(self) -> None:
        known = {row.name: row for row in self.rows}
        for row in self.rows:
            if not row.times:
                continue
            if row.times not in known:
                raise ConfigError(
                    f"parameter '{row.name}': times: no parameter '{row.times}'.{nearest(row.times, known)}"
                )
            if row.times == row.name or known[row.times].times:
                raise ConfigError(
                    f"parameter '{row.name}': times: '{row.times}' is itself a multiple of another; name that one"
                )

    def of_level(self, level: str) -> tuple[ParameterSpec, ...]:
        """Rows of one level, in the order of the table."""
        return tuple(r for r in self.rows if r.level == level)

    def __getitem__(self, name: str) -> ParameterSpec:
        for row in self.rows:
            if row.name == name:
                return row
        names = [r.name for r in self.rows]
        raise ConfigError(f"no parameter '{name}'.{nearest(name, names)} Known: {', '.join(names)}")

    def unverified_names(self) -> tuple[str, ...]:
        """Names of the parameters whose value no source supports."""
        return tuple(r.name for r in self.rows if not r.verified)

    def natural_values(self) -> dict[str, float]:
        """Stated values of all parameters on the natural scale, with `times` multiplied out."""
        plain = {row.name: row.value for row in self.rows}
        return {row.name: plain[row.name] * (plain[row.times] if row.times else 1.0) for row in self.rows}


def to_natural(rows: tuple[ParameterSpec, ...], u: np.ndarray) -> np.ndarray:
    """Transform parameters u [..., P] from the fitted to the natural scale; `rows` [P] are their specifications."""
    if not rows:
        return np.asarray(u)
    return np.stack([row.to_natural(u[..., i]) for i, row in enumerate(rows)], axis=-1)


def to_fitted(rows: tuple[ParameterSpec, ...], x: np.ndarray) -> np.ndarray:
    """Transform parameters x [..., P] from the natural to the fitted scale, clipped to their bounds."""
    x = np.asarray(x, float)
    fitted = np.empty_like(x)
    for i, row in enumerate(rows):
        inside = np.clip(x[..., i], row.lower, row.upper)
        fitted[..., i] = np.vectorize(row.to_fitted, otypes=[float])(inside) if inside.size else inside
    return fitted


# deviations of a vessel or a batch, besides the parameters of the model: cells and volume at the start, and a factor or
# an offset (in its unit) of each assay
START_PARAMETERS = ("inoculum_factor", "volume_factor")
SCALE_PREFIX, OFFSET_PREFIX = "scale_", "offset_"
VESSEL_PARAMETERS = (
    *START_PARAMETERS,
    *(f"{kind}{name}" for kind in (SCALE_PREFIX, OFFSET_PREFIX) for name in VARIABLES),
)


def parameter_table(rows: Mapping[str, ParameterSettings], model_parameters: tuple[str, ...]) -> ParameterTable:
    """Build a parameter table from settings, in model order. Raises `ConfigError` for a wrong name or level."""
    allowed = (*model_parameters, *VESSEL_PARAMETERS)
    for name in rows:
        if name not in allowed:
            raise ConfigError(
                f"model.parameters.{name}: the model has no such parameter.{nearest(name, allowed)} "
                f"Allowed: {', '.join((*model_parameters, *START_PARAMETERS))}, scale_ASSAY, offset_ASSAY"
            )
    missing = [n for n in model_parameters if n not in rows]
    if missing:
        raise ConfigError(f"model.parameters: missing {', '.join(missing)}")
    specs = [ParameterSpec(name=name, **vars(rows[name])) for name in allowed if name in rows]
    for spec in specs:
        if spec.name not in model_parameters and spec.level not in ("vessel", "batch", "fixed"):
            raise ConfigError(f"model.parameters.{spec.name}: level must be vessel, batch or fixed")
    return ParameterTable(tuple(specs))
