"""What a process is judged by: the metrics of a batch, and the one (or the mix of several) that is maximised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import ConfigError, nearest
from optim.types import Array, Scalar

METRICS: dict[str, str] = {
    "yield_per_cost_g_per_eur": "g/EUR",
    "cogs_eur_per_g": "EUR/g",
    "released_g": "g per batch",
    "cost_eur": "EUR per batch",
    "titre_g_per_l": "g/L",
    "space_time_yield_g_per_l_d": "g/L/d",
    "productivity_g_per_d": "g per day of the suite",
    "harvest_h": "h",
    "harvest_volume_l": "L per batch",
    "product_per_biomass_g_per_g": "g/g",
    "viability_at_harvest": "-",
}
PROFIT, MIX = "profit_eur_per_year", "mix"
FURTHER = {PROFIT: "EUR per year", MIX: "weighted geometric mean"}
# what may be maximised (or, where less is better, minimised) -> the metric it is
OBJECTIVES = {
    "yield_per_cost": "yield_per_cost_g_per_eur",
    "cogs": "cogs_eur_per_g",
    "released": "released_g",
    "titre": "titre_g_per_l",
    "space_time_yield": "space_time_yield_g_per_l_d",
    "productivity": "productivity_g_per_d",
    "product_per_biomass": "product_per_biomass_g_per_g",
    "culture_time": "harvest_h",
    "profit": PROFIT,
}
LESS_IS_BETTER = ("cogs_eur_per_g", "cost_eur", "harvest_h")
# Batches a year are the fewer of what the suite can do and what the market takes. The smaller of two is smoothed, so
# that the optimum, which often lies where both are equal, has a derivative: there it is 1.4 % too low.
SHARPNESS = 50.0


@dataclass(frozen=True)
class Market:
    """What product sells for, and how much of it: profit = batches a year * (sold grams * price - cost)."""

    price_eur_per_g: float
    demand_g_per_year: float
    suite_days_per_year: float
    turnaround_h: float

    def __post_init__(self) -> None:
        for key in ("price_eur_per_g", "demand_g_per_year", "suite_days_per_year"):
            if not getattr(self, key) > 0.0:
                raise ConfigError(f"objective.market.{key}: must be above 0, not {getattr(self, key)}")

    @property
    def revenue(self) -> float:
        """EUR per year when all demand is met."""
        return self.price_eur_per_g * self.demand_g_per_year

    def profit(self, grams: Scalar, cost: Scalar, culture_h: Scalar) -> Scalar:
        """EUR per year."""
        possible = jnp.log(self.suite_days_per_year * 24.0 / (culture_h + self.turnaround_h))
        wanted = jnp.log(self.demand_g_per_year) - jnp.log(jnp.maximum(grams, 1e-12))
        batches = jnp.exp(-jnp.logaddexp(-SHARPNESS * possible, -SHARPNESS * wanted) / SHARPNESS)
        return batches * (grams * self.price_eur_per_g - cost)


@dataclass(frozen=True)
class Objective:
    """What is maximised: one of `OBJECTIVES`, or a mix of several by weight.

    A solver sees its logarithm (that of the inverse, where less is better), and of profit, which may be negative, the
    share of the revenue when all demand is met. A mix is the weighted geometric mean, so that it has no unit to choose.
    """

    maximise: str
    mix: tuple[tuple[str, float], ...] = ()  # further objectives with their weights; that of `maximise` is 1
    market: Market | None = None

    def __post_init__(self) -> None:
        for key, name in (("maximise", self.maximise), *(("mix", name) for name, _ in self.mix)):
            if name not in OBJECTIVES:
                raise ConfigError(
                    f"objective.{key}: unknown '{name}'.{nearest(name, OBJECTIVES)} Known: {', '.join(OBJECTIVES)}"
                )
        names = [self.maximise, *(name for name, _ in self.mix)]
        if len(set(names)) < len(names):
            raise ConfigError("objective.mix: names an objective twice, or the one that is maximised already")
        if "profit" in names and self.market is None:
            raise ConfigError("objective.market: missing; profit needs a price, a demand and the days of a suite")
        if "profit" in names and self.mix:
            raise ConfigError("objective.mix: profit may be negative and cannot be part of a mix; limit it instead")
        if any(not weight > 0.0 for _, weight in self.mix):
            raise ConfigError("objective.mix: a weight must be above 0")

    @property
    def names(self) -> tuple[str, ...]:
        """All that it is made of."""
        return (self.maximise, *(name for name, _ in self.mix))

    @property
    def metric(self) -> str:
        """Name of the metric that is maximised."""
        return MIX if self.mix else OBJECTIVES[self.maximise]

    @property
    def metrics(self) -> dict[str, str]:
        """Every metric of a process with its unit: those of a batch, and those that this objective adds."""
        own = [*([PROFIT] if self.market else []), *([MIX] if self.mix else [])]
        return METRICS | {name: FURTHER[name] for name in own}

    def complete(self, batch: Array) -> Array:
        """All metrics [.., len(metrics)] from those of a batch [.., len(METRICS)]."""
        named = dict(zip(METRICS, jnp.moveaxis(jnp.asarray(batch), -1, 0), strict=True))
        rows = [named[name] for name in METRICS]
        if self.market:
            rows.append(self.market.profit(named["released_g"], named["cost_eur"], named["harvest_h"]))
        if self.mix:
            parts = ((self.maximise, 1.0), *self.mix)
            total = sum(weight for _, weight in parts)
            logs = [weight * seen(named[OBJECTIVES[name]], OBJECTIVES[name]) for name, weight in parts]
            rows.append(jnp.exp(sum(logs[1:], logs[0]) / total))
        return jnp.stack(rows, axis=-1)

    def slopes(self, batch: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """Slopes of all metrics [L, M, D] from values [L, M0] and slopes [L, M0, D] of those of a batch."""
        return np.asarray(_slopes(self, batch, slopes))

    def seen(self, metrics: np.ndarray) -> np.ndarray:
        """What a solver maximises, [..], from all metrics [.., M]."""
        value = metrics[..., list(self.metrics).index(self.metric)]
        return np.asarray(seen(value, self.metric, self._scale))

    def slope_seen(self, metrics: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """Gradient [L, D] of what a solver maximises, from all metrics [L, M] and their slopes [L, M, D]."""
        i = list(self.metrics).index(self.metric)
        if self.metric == PROFIT:
            return slopes[:, i] / self._scale
        sign = -1.0 if self.metric in LESS_IS_BETTER else 1.0
        return sign * slopes[:, i] / np.maximum(metrics[:, i, None], 1e-30)

    def natural(self, value: np.ndarray) -> np.ndarray:
        """The metric, from what a solver maximises."""
        if self.metric == PROFIT:
            return np.asarray(value) * self._scale
        return np.exp(-np.asarray(value) if self.metric in LESS_IS_BETTER else np.asarray(value))

    @property
    def _scale(self) -> float:
        return self.market.revenue if self.market else 1.0


def better(values: np.ndarray, metric: str) -> np.ndarray:
    """A metric as something of which more is better: itself, or its negative."""
    return -np.asarray(values) if metric in LESS_IS_BETTER else np.asarray(values)


def change(new: float, old: float) -> float:
    """Relative change of a metric, which may be negative."""
    return float((new - old) / abs(old)) if old else float("nan")


def seen(value: Array, metric: str, scale: float = 1.0) -> Array:
    """A metric as something to maximise: its logarithm, that of its inverse where less is better; profit per scale."""
    if metric == PROFIT:
        return value / scale
    log = jnp.log(jnp.maximum(jnp.asarray(value), 1e-30))
    return -log if metric in LESS_IS_BETTER else log


@partial(jax.jit, static_argnums=0)
def _slopes(objective: Objective, batch: Array, slopes: Array) -> Array:
    return jnp.einsum("lnm,lmd->lnd", jax.vmap(jax.jacfwd(objective.complete))(batch), slopes)
