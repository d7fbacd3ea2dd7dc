"""Products and metrics: what a process makes, and the numbers that a batch is judged by. Each is one record of a table.

A new metric is one record of `METRICS`: it can then be limited, maximised, traded, ranked by, plotted and reported.
A new product is one record of `PRODUCTS`: the names and units of all metrics follow from the unit of its amount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from optim.errors import ConfigError, nearest
from optim.types import Array, Scalar
from optim.units import Quantity, conversion_factor, quantity_of


@dataclass(frozen=True)
class Product:
    """A kind of product: the observed variable that measures its concentration, and the unit of its amount."""

    variable: str  # of `optim.units.VARIABLES`
    unit: str  # of an amount: g, vg, mol, cells, U
    title: str

    @property
    def per_canonical(self) -> float:
        """Amount per litre, in `unit`, that one canonical unit of the variable is (1e12 vg/L for vector genomes)."""
        return conversion_factor(quantity_of(self.variable).unit, Quantity(f"{self.unit}/L"))[0]


PRODUCTS: dict[str, Product] = {
    p.variable: p
    for p in (
        Product("titre", "g", "antibody"),
        Product("product", "g", "product"),
        Product("biomass", "g", "biomass"),
        Product("vector_genomes", "vg", "packaged vector genomes"),
        Product("vcd", "cells", "viable cells"),
        Product("rna", "mol", "messenger RNA"),
        Product("activity", "U", "enzyme activity"),
    )
}


class FinishedBatch(NamedTuple):
    """What metrics are computed from: a batch at production scale. All scalars; amounts in the product's unit."""

    released: Scalar  # amount of product per attempted batch
    cost: Scalar | None  # EUR per attempted batch; None without a price book
    titre: Scalar  # amount of product per L of harvest
    harvest_l: Scalar
    culture_h: Scalar
    occupied_d: Scalar  # culture and turnaround
    viability: Scalar  # 1 where the model has none
    observed: Mapping[str, Scalar]  # the model's variables at harvest


@dataclass(frozen=True)
class Metric:
    """One number that a batch is judged by. In `name` and `unit`, {p} stands for the unit of the product's amount."""

    key: str  # its name in a configuration
    name: str  # its name in every result, with its unit
    unit: str
    title: str  # for people
    compute: Callable[[FinishedBatch], Scalar] | None  # None: the objective computes it, from the others
    less_is_better: bool = False
    signed: bool = False  # may be negative, so that it has no logarithm
    objective: bool = True  # may be maximised (or minimised, where less is better)
    needs: tuple[str, ...] = ()  # observed variables without which it is not a number
    priced: bool = False  # needs a price book
    format: str = ""  # of its value in text; '': four significant digits

    @property
    def quantity(self) -> Quantity:
        """What its unit measures, without the words of that unit."""
        text = self.unit.replace(" per batch", "").replace(" per day of the suite", "/d").replace(" per year", "/year")
        return Quantity("1" if text == "-" else text)

    @property
    def sign(self) -> float:
        """1 where more is better, -1 where less is."""
        return -1.0 if self.less_is_better else 1.0

    def of_product(self, product: Product) -> Metric:
        """The metric of a process that makes this product."""
        slug = product.unit.lower()
        return replace(self, name=self.name.format(p=slug), unit=self.unit.format(p=product.unit))

    def text(self, value: float) -> str:
        """A value as people read it, without its unit."""
        return format(value, self.format or ".4g")

    def relative_gain(self, new: float, old: float) -> float:
        """Relative improvement of `new` over `old`: positive where it is better."""
        return self.sign * relative_change(new, old)

    def to_solver(self, value: Array, scale: float = 1.0) -> Array:
        """The metric as a solver maximises it: its logarithm, negated where less is better; value/scale if signed."""
        if self.signed:
            return self.sign * value / scale
        return self.sign * jnp.log(jnp.maximum(jnp.asarray(value), 1e-30))

    def from_solver(self, value: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """The metric from what a solver maximises: the inverse of `to_solver`."""
        return self.sign * np.asarray(value) * scale if self.signed else np.exp(self.sign * np.asarray(value))


METRICS: tuple[Metric, ...] = (
    Metric("yield_per_cost", "yield_per_cost_{p}_per_eur", "{p}/EUR", "yield per cost", lambda b: b.released / b.cost,
           priced=True),
    Metric("cogs", "cogs_eur_per_{p}", "EUR/{p}", "cost of goods", lambda b: b.cost / b.released,
           less_is_better=True, priced=True),
    Metric("released", "released_{p}", "{p} per batch", "released product", lambda b: b.released),
    Metric("cost", "cost_eur", "EUR per batch", "cost", lambda b: b.cost,
           less_is_better=True, objective=False, priced=True),
    Metric("titre", "titre_{p}_per_l", "{p}/L", "titre", lambda b: b.titre),
    Metric("space_time_yield", "space_time_yield_{p}_per_l_d", "{p}/L/d", "space-time yield",
           lambda b: b.released / (b.harvest_l * b.occupied_d)),
    Metric("productivity", "productivity_{p}_per_d", "{p} per day of the suite", "productivity",
           lambda b: b.released / b.occupied_d),
    Metric("culture_time", "harvest_h", "h", "culture time", lambda b: b.culture_h, less_is_better=True,
           format=".1f"),
    Metric("harvest_volume", "harvest_volume_l", "L per batch", "harvest volume", lambda b: b.harvest_l,
           objective=False),
    Metric("product_per_biomass", "product_per_biomass_{p}_per_g", "{p}/g", "product per biomass",
           lambda b: b.titre / b.observed["biomass"], needs=("biomass",)),
    Metric("viability", "viability_at_harvest", "-", "viability at harvest", lambda b: b.viability, objective=False,
           format=".3f"),
)  # fmt: skip
PROFIT = Metric("profit", "profit_eur_per_year", "EUR per year", "profit", None, signed=True, priced=True)
MIX = Metric("mix", "mix", "weighted geometric mean", "weighted mix", None, objective=False)
OBJECTIVES: dict[str, Metric] = {m.key: m for m in (*METRICS, PROFIT) if m.objective}


@cache
def batch_metrics(product: Product) -> dict[str, Metric]:
    """All metrics of a batch by name, in the order in which results hold them."""
    return {m.name: m for m in (metric.of_product(product) for metric in METRICS)}


def compute_metrics(batch: FinishedBatch, product: Product) -> Array:
    """Every metric of a batch, [len(METRICS)]; nan where the model or the prices lack what it needs."""
    rows = []
    for m in batch_metrics(product).values():
        assert m.compute is not None
        known = all(name in batch.observed for name in m.needs) and not (m.priced and batch.cost is None)
        rows.append(m.compute(batch) if known else jnp.full((), jnp.nan))
    return jnp.stack(rows)


@cache
def _by_name() -> dict[str, Metric]:
    bound = (m.of_product(p) for p in PRODUCTS.values() for m in (*METRICS, PROFIT, MIX))
    return {m.name: m for m in bound}


def is_metric(name: str) -> bool:
    """Whether this is the name of a metric, of whichever product."""
    return name in _by_name()


def find_metric(name: str) -> Metric:
    """The metric of this name, of whichever product. Raises `ConfigError` with the nearest match."""
    if name not in _by_name():
        raise ConfigError(f"unknown metric '{name}'.{nearest(name, _by_name())}")
    return _by_name()[name]


def readable_name(name: str) -> str:
    """The title of a metric; of any other name, its words."""
    return _by_name()[name].title if is_metric(name) else name.replace("_", " ")


def name_of_metric(key: str, names: Iterable[str]) -> str:
    """The name among `names` that is the metric of this key, such as 'released_g' for 'released'; '' if none is."""
    return next((name for name in names if is_metric(name) and find_metric(name).key == key), "")


def find_product(name: str) -> Product:
    """The product that an observed variable measures. Raises `ConfigError`."""
    if name not in PRODUCTS:
        raise ConfigError(
            f"the variable '{name}' measures no product; known products: {', '.join(PRODUCTS)}. A new one is a record "
            "of PRODUCTS in optim/process/metrics.py"
        )
    return PRODUCTS[name]


def relative_change(new: float, old: float) -> float:
    """Relative change of a metric, which may be negative; nan from nothing."""
    return float((new - old) / abs(old)) if old else float("nan")
