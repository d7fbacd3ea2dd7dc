"""The objective: the metric or weighted mix that an optimisation maximises, and the market that profit needs."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import ConfigError, nearest
from optim.process.metrics import MIX, OBJECTIVES, PRODUCTS, PROFIT, Metric, Product, batch_metrics
from optim.settings.objective import MarketSettings
from optim.types import Array, Scalar

# Batches a year are the fewer of what the suite can do and what the market takes. The smaller of two is smoothed, so
# that the optimum, which often lies where both are equal, has a derivative: there it is 1.4 % too low.
SHARPNESS = 50.0


@dataclass(frozen=True, kw_only=True)
class Market(MarketSettings):
    """The market of a product: profit = batches a year * (sold grams * price - cost)."""

    turnaround_h: float  # h between two batches of a suite, as the price book says

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
    product: Product = PRODUCTS["titre"]

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
        if "profit" in names and self.product.unit != "g":
            raise ConfigError(
                f"objective.market: prices and demand are in g, but {self.product.title} are counted in "
                f"{self.product.unit}; maximise yield_per_cost or cogs instead"
            )
        if "profit" in names and self.mix:
            raise ConfigError("objective.mix: profit may be negative and cannot be part of a mix; limit it instead")
        if any(not weight > 0.0 for _, weight in self.mix):
            raise ConfigError("objective.mix: a weight must be above 0")

    @property
    def names(self) -> tuple[str, ...]:
        """All that it is made of."""
        return (self.maximise, *(name for name, _ in self.mix))

    @property
    def target(self) -> Metric:
        """The metric that is maximised."""
        return MIX if self.mix else OBJECTIVES[self.maximise].of_product(self.product)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Every metric of a process by name: those of a batch, and those that this objective adds."""
        own = [*([PROFIT] if self.market else []), *([MIX] if self.mix else [])]
        return batch_metrics(self.product) | {m.name: m for m in own}

    def complete(self, batch: Array) -> Array:
        """All metrics [.., len(metrics)] from those of a batch [.., len(METRICS)]."""
        rows = list(jnp.moveaxis(jnp.asarray(batch), -1, 0))
        named = {m.key: row for m, row in zip(batch_metrics(self.product).values(), rows, strict=True)}
        if self.market:
            rows.append(self.market.profit(named["released"], named["cost"], named["culture_time"]))
        if self.mix:
            parts = ((self.maximise, 1.0), *self.mix)
            total = sum(weight for _, weight in parts)
            logs = [weight * OBJECTIVES[key].to_solver(named[key]) for key, weight in parts]
            rows.append(jnp.exp(sum(logs[1:], logs[0]) / total))
        return jnp.stack(rows, axis=-1)

    def slopes(self, batch: Array, slopes: Array) -> Array:
        """Slopes of all metrics [L, M, D] from values [L, M0] and slopes [L, M0, D] of those of a batch."""
        return jnp.einsum("lnm,lmd->lnd", jax.vmap(jax.jacfwd(self.complete))(batch), slopes)

    def to_solver(self, metrics: Array) -> Array:
        """The objective as a solver maximises it, [..], from all metrics [.., M]."""
        return self.target.to_solver(metrics[..., self._place], self._scale)

    def slopes_to_solver(self, metrics: Array, slopes: Array) -> Array:
        """Gradient [L, D] of what a solver maximises, from all metrics [L, M] and their slopes [L, M, D]."""
        i = self._place
        if self.target.signed:
            return self.target.sign * slopes[:, i] / self._scale
        return self.target.sign * slopes[:, i] / jnp.maximum(metrics[:, i, None], 1e-30)

    def from_solver(self, value: np.ndarray) -> np.ndarray:
        """The metric, from what a solver maximises."""
        return self.target.from_solver(value, self._scale)

    @property
    def _place(self) -> int:
        return list(self.metrics).index(self.target.name)

    @property
    def _scale(self) -> float:
        return self.market.revenue if self.market else 1.0
