"""Parameter tables: what is estimated, on which scale, within which bounds, and what is believed beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optim.errors import ConfigError, nearest

LEVELS = ("fixed", "shared", "clone", "vessel")
SCALES = ("log", "logit", "identity")


@dataclass(frozen=True)
class ParameterSpec:
    """One row of a parameter table.

    level: fixed (not estimated), shared (one value), clone (partially pooled around an estimated population value),
    vessel (a factor or offset of one run). `prior_sd` is on the fitted scale, centred on `value`; None leaves only
    the bounds. `spread` is the standard deviation between clones on the fitted scale.
    """

    name: str
    value: float
    unit: str
    level: str
    scale: str
    lower: float
    upper: float
    prior_sd: float | None
    spread: float | None
    source: str
    verified: bool

    def __post_init__(self) -> None:
        def refuse(key: str, message: str) -> None:
            raise ConfigError(f"parameter '{self.name}': {key}: {message}")

        for key, value, allowed in (("level", self.level, LEVELS), ("scale", self.scale, SCALES)):
            if value not in allowed:
                refuse(key, f"{value!r} is not one of {', '.join(allowed)}.{nearest(value, allowed)}")
        if not math.isfinite(self.value):
            refuse("value", f"{self.value} is not a finite number")
        if not self.source:
            refuse("source", "missing; state where the number comes from, and verified: false when nothing supports it")
        if self.level == "fixed":
            return
        if not self.lower < self.upper:
            refuse("lower", f"bounds {self.lower} and {self.upper} are not in increasing order")
        if not self.lower <= self.value <= self.upper:
            refuse("value", f"{self.value} lies outside its bounds {self.lower} to {self.upper}")
        if self.scale == "log" and self.lower <= 0.0:
            refuse("lower", f"{self.lower} must be positive on a log scale")
        if self.prior_sd is not None and self.prior_sd <= 0.0:
            refuse("prior_sd", f"{self.prior_sd} must be positive")
        if self.level == "clone" and not (self.spread and self.spread > 0.0):
            refuse("spread", "a clone parameter needs the standard deviation between clones, on the fitted scale")
        if self.level == "vessel" and self.prior_sd is None:
            refuse("prior_sd", "a vessel parameter needs a prior, else every run would explain itself")

    def forward(self, x: float) -> float:
        """Natural to fitted scale."""
        if self.scale == "log":
            return math.log(x)
        if self.scale == "logit":
            z = (x - self.lower) / (self.upper - self.lower)
            z = min(max(z, 1e-9), 1.0 - 1e-9)
            return math.log(z / (1.0 - z))
        return x

    def backward(self, u: np.ndarray) -> np.ndarray:
        """Fitted to natural scale."""
        if self.scale == "log":
            return np.exp(u)
        if self.scale == "logit":
            return self.lower + (self.upper - self.lower) / (1.0 + np.exp(-u))
        return np.asarray(u)

    def bounds(self) -> tuple[float, float]:
        """Bounds on the fitted scale."""
        if self.scale == "logit":
            return -20.0, 20.0
        return self.forward(self.lower), self.forward(self.upper)

    def prior_text(self) -> str:
        """The prior in words, as reports print it."""
        if self.level == "fixed":
            return ""
        if self.prior_sd is None:
            return f"uniform({self.lower:g}, {self.upper:g})"
        family = {"log": "lognormal", "logit": "logit-normal", "identity": "normal"}[self.scale]
        return f"{family}({self.value:g}, {self.prior_sd:g})"


@dataclass(frozen=True)
class ParameterTable:
    """All parameters of a model, in the order of the model's `Parameters`, then those of the vessels."""

    rows: tuple[ParameterSpec, ...]

    def of_level(self, level: str) -> tuple[ParameterSpec, ...]:
        return tuple(r for r in self.rows if r.level == level)

    def __getitem__(self, name: str) -> ParameterSpec:
        for row in self.rows:
            if row.name == name:
                return row
        names = [r.name for r in self.rows]
        raise ConfigError(f"no parameter '{name}'.{nearest(name, names)} Known: {', '.join(names)}")

    def unverified(self) -> tuple[str, ...]:
        """Names of parameters whose number no source supports."""
        return tuple(r.name for r in self.rows if not r.verified)


def to_natural(rows: tuple[ParameterSpec, ...], u: np.ndarray) -> np.ndarray:
    """Fitted to natural scale, parameters on the last axis."""
    if not rows:
        return np.asarray(u)
    return np.stack([row.backward(u[..., i]) for i, row in enumerate(rows)], axis=-1)


# what a vessel may deviate in, besides the parameters of the model
VESSEL_PARAMETERS = ("inoculum_factor",)


def table_from_mapping(rows: Mapping[str, Mapping[str, object]], model_parameters: tuple[str, ...]) -> ParameterTable:
    """Build the table from configuration, in model order. Raises `ConfigError` for unknown or missing names."""
    allowed = (*model_parameters, *VESSEL_PARAMETERS)
    for name in rows:
        if name not in allowed:
            raise ConfigError(
                f"model.parameters.{name}: the model has no such parameter.{nearest(name, allowed)} "
                f"Allowed: {', '.join(allowed)}"
            )
    missing = [n for n in model_parameters if n not in rows]
    if missing:
        raise ConfigError(f"model.parameters: missing {', '.join(missing)}")
    specs = []
    for name in allowed:
        if name not in rows:
            continue
        row = dict(rows[name])
        specs.append(ParameterSpec(name=name, **row))  # type: ignore[arg-type]
        vessel = name in VESSEL_PARAMETERS
        if vessel and specs[-1].level not in ("vessel", "fixed"):
            raise ConfigError(f"model.parameters.{name}: level must be vessel or fixed")
        if not vessel and specs[-1].level == "vessel":
            raise ConfigError(f"model.parameters.{name}: level vessel is for {', '.join(VESSEL_PARAMETERS)} only")
    return ParameterTable(tuple(specs))
