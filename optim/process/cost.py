"""What a production batch costs: a table of priced items, and the downstream train that turns harvest into product.

Cost of an item = price * driver * (V/V_ref)^a * (titre/titre_ref)^b. Drivers come from the harvested process at
production scale; nothing is rounded, so that derivatives stay exact. Every price carries a source, or says that it has
none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import ConfigError, nearest
from optim.process.metrics import PRODUCTS, Product
from optim.settings.process import CostSettings, PriceSettings
from optim.types import Array, Scalar

CATEGORIES = ("media", "feed", "seed train", "single use", "facility", "labour", "quality", "downstream")
DRIVERS: dict[str, str] = {
    "batch": "batch",
    "basal_l": "L",
    "feed_l": "L",
    "culture_days": "d",
    "suite_days": "d",
    "harvest_l": "L",
    "clarified_l": "L",  # harvest volume times the effort that dead cells add
    **{f"captured_{p.unit.lower()}": p.unit for p in PRODUCTS.values()},  # product that reaches the first column
}
# effort of clarification = 1 + RISE * softplus((viability0 - viability) / WIDTH) / softplus(viability0 / WIDTH);
# constructed: rises smoothly as viability falls below 80 %, doubling at about none alive
CLARITY_VIABILITY, CLARITY_WIDTH, CLARITY_RISE = 0.8, 0.1, 1.0


@dataclass(frozen=True, kw_only=True)
class PriceItem(PriceSettings):
    """One line of a price book with its name."""

    name: str

    def __post_init__(self) -> None:
        key = f"cost.items.{self.name}"
        if self.category not in CATEGORIES:
            raise ConfigError(f"{key}.category: {self.category!r} is not one of {', '.join(CATEGORIES)}")
        if self.driver not in DRIVERS:
            raise ConfigError(
                f"{key}.driver: {self.driver!r} is unknown.{nearest(self.driver, DRIVERS)} Known: {', '.join(DRIVERS)}"
            )
        if not self.source.strip():
            raise ConfigError(f"{key}.source: missing; name it, or write what the number is and set verified: false")
        if not self.low <= self.price <= self.high or self.low < 0.0:
            raise ConfigError(
                f"{key}: price {self.price} must lie between low {self.low} and high {self.high}, all >= 0"
            )
        if not self.unit.endswith(f"/{DRIVERS[self.driver]}"):
            raise ConfigError(f"{key}.unit: {self.unit!r} must be a currency per {DRIVERS[self.driver]}")


class HarvestedBatch(NamedTuple):
    """A finished process at production scale, all scalars."""

    basal_l: Scalar
    feed_l: Scalar
    culture_h: Scalar
    harvest_l: Scalar
    titre: Scalar  # amount of product, in its own unit, per L of harvest
    viability: Scalar  # 1 where the model has none


class CostBook(CostSettings):
    """Prices, and the numbers that turn a harvest into released product."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.rows  # each item checks itself

    @cached_property
    def rows(self) -> tuple[PriceItem, ...]:
        """The items with their names, in the order of the book."""
        return tuple(PriceItem(name=name, **vars(row)) for name, row in self.items.items())

    @classmethod
    def unpriced(cls, volume_l: float) -> CostBook:
        """A book without prices, for a batch of this starting volume that is all released. Costs are nan."""
        said = dict.fromkeys(("production_volume_l", "turnaround_h", "success", "stage_yields"), "no price book")
        return cls("", "no price book", "EUR", volume_l, 0.0, 1.0, {}, said, {})

    @property
    def recovery(self) -> float:
        """Share of the product in the harvest that leaves the last stage."""
        return float(np.prod(list(self.stage_yields.values())))

    def prices(self) -> np.ndarray:
        return np.array([item.price for item in self.rows])

    def unverified_text(self) -> str:
        """'N of M prices are unverified'."""
        bad = sum(not item.verified for item in self.rows)
        return f"{bad} of {len(self.rows)} prices are unverified"

    def check_product(self, product: Product) -> None:
        """Refuse prices per amount of another kind of product. Raises `ConfigError`."""
        for item in self.rows:
            if item.driver.startswith("captured_") and DRIVERS[item.driver] != product.unit:
                raise ConfigError(
                    f"cost.items.{item.name}.driver: '{item.driver}' counts a product in {DRIVERS[item.driver]}, but "
                    f"{product.title} are counted in {product.unit}; choose a price book for it (cost=...)"
                )

    def drivers(self, h: HarvestedBatch) -> dict[str, Scalar]:
        """Amount of each driver of a batch."""
        first = next(iter(self.stage_yields.values()), 1.0)
        soft = jax.nn.softplus
        rise = soft((CLARITY_VIABILITY - h.viability) / CLARITY_WIDTH) / soft(CLARITY_VIABILITY / CLARITY_WIDTH)
        return {
            "batch": jnp.ones_like(h.titre),
            "basal_l": h.basal_l,
            "feed_l": h.feed_l,
            "culture_days": h.culture_h / 24.0,
            "suite_days": (h.culture_h + self.turnaround_h) / 24.0,
            "harvest_l": h.harvest_l,
            "clarified_l": h.harvest_l * (1.0 + CLARITY_RISE * rise),
        } | {f"captured_{p.unit.lower()}": h.titre * h.harvest_l * first for p in PRODUCTS.values()}

    def costs(self, prices: Array, h: HarvestedBatch) -> Array:
        """Cost of every item of one batch, [I], in the book's currency; `prices` [I] may be traced."""
        amount = self.drivers(h)
        # a dilute product must not make a negative power infinite where a start has made nothing yet
        titre = jnp.maximum(h.titre, 1e-6)
        if not self.items:
            return jnp.zeros(0)
        return jnp.stack(
            [
                prices[i]
                * amount[item.driver]
                * (self.production_volume_l / item.scale_reference_l) ** item.scale_exponent
                * (titre / item.titre_reference) ** item.titre_exponent
                for i, item in enumerate(self.rows)
            ]
        )

    def released_amount(self, h: HarvestedBatch) -> Scalar:
        """Product released per attempted batch, in the product's unit: failed batches count with nothing."""
        return h.titre * h.harvest_l * self.recovery * self.success

    def elasticities(self, h: HarvestedBatch) -> dict[str, float]:
        """Relative change of cost per relative change of each price."""
        prices = jnp.asarray(self.prices())
        share = jax.grad(lambda log_p: jnp.log(jnp.sum(self.costs(jnp.exp(log_p), h))))(jnp.log(prices))
        return {item.name: float(s) for item, s in zip(self.rows, share, strict=True)}
