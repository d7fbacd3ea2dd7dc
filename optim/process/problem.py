"""The process problem: design x model x price book x constraints, batched over lanes of (process, parameter set)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import ConfigError, nearest
from optim.kinetics.base import AbstractKineticModel
from optim.process.cost import CostBook, Harvest
from optim.process.design import Design
from optim.schedule.grid import IntervalGrid, bucket
from optim.schedule.schedule import to_grid
from optim.simulate.balance import Vessel
from optim.simulate.lanes import in_batches
from optim.simulate.march import Integrator
from optim.simulate.simulate import Trajectory, observe, simulate
from optim.types import Array

METRICS: dict[str, str] = {
    "yield_per_cost_g_per_eur": "g/EUR",
    "cogs_eur_per_g": "EUR/g",
    "released_g": "g per batch",
    "cost_eur": "EUR per batch",
    "titre_g_per_l": "g/L",
    "space_time_yield_g_per_l_d": "g/L/d",
    "harvest_h": "h",
    "harvest_volume_l": "L per batch",
    "product_per_biomass_g_per_g": "g/g",
    "viability_at_harvest": "-",
}
# what may be maximised -> the metric it is
OBJECTIVES = {
    "yield_per_cost": "yield_per_cost_g_per_eur",
    "titre": "titre_g_per_l",
    "space_time_yield": "space_time_yield_g_per_l_d",
    "product_per_biomass": "product_per_biomass_g_per_g",
}


@dataclass(frozen=True)
class Constraint:
    """variable <= limit (kind max) or >= limit (kind min), along the path or at the end. Volume is in mL."""

    name: str
    variable: str
    kind: str
    limit: float
    unit: str
    where: str
    source: str
    verified: bool

    def __post_init__(self) -> None:
        for key, value, allowed in (("kind", self.kind, ("max", "min")), ("where", self.where, ("path", "end"))):
            if value not in allowed:
                raise ConfigError(f"constraints.{self.name}.{key}: {value!r} is not one of {', '.join(allowed)}")
        if self.limit == 0.0:
            raise ConfigError(f"constraints.{self.name}.limit: 0 gives the constraint no scale; use a small number")


class Evaluation(NamedTuple):
    """Lanes L. Objective is the log of the metric to maximise; constraints are relative margins, met when >= 0."""

    objective: Array  # [L]
    margins: Array  # [L, R]
    metrics: Array  # [L, len(METRICS)]
    status: Array  # [L]


class Trace(NamedTuple):
    """Everything at every node, lanes first: observed variables [L, V, K+1], volume in L, temperature."""

    t: Array
    observed: Array
    volume: Array
    temperature: Array
    status: Array
    harvest: Harvest
    margins: Array
    metrics: Array


class _Static(NamedTuple):
    model: AbstractKineticModel
    design: Design
    book: _Hashed
    constraints: tuple[Constraint, ...]
    objective: str
    product: str
    observed: tuple[str, ...]


@dataclass(frozen=True)
class ProcessProblem:
    """What is optimised. `initial` holds concentrations at the start, `feeds` [J, N] those of every feed."""

    model: AbstractKineticModel
    design: Design
    book: CostBook
    constraints: tuple[Constraint, ...]
    objective: str
    product: str  # observed variable that is the product: titre or product
    observed: tuple[str, ...]
    initial: np.ndarray
    feeds: np.ndarray
    integrator: Integrator

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(
                f"objective.maximise: unknown '{self.objective}'.{nearest(self.objective, OBJECTIVES)} "
                f"Known: {', '.join(OBJECTIVES)}"
            )
        allowed = (*self.observed, "volume")
        for c in self.constraints:
            if c.variable not in allowed:
                raise ConfigError(
                    f"constraints.{c.name}.variable: the model does not predict '{c.variable}'."
                    f"{nearest(c.variable, allowed)} It predicts {', '.join(allowed)}"
                )
        if self.objective == "product_per_biomass" and "biomass" not in self.observed:
            raise ConfigError("objective.maximise: product_per_biomass needs a model with biomass")

    @property
    def static(self) -> _Static:
        return _Static(
            self.model, self.design, _Hashed(self.book), self.constraints, self.objective, self.product, self.observed
        )

    @property
    def metric(self) -> str:
        """Name of the metric that is maximised."""
        return OBJECTIVES[self.objective]

    def evaluate(self, x: np.ndarray, p: np.ndarray) -> Evaluation:
        """x [L, D] decisions in their units, p [L, P] parameters in model order.

        Lanes of vessels that are known bring more columns: N concentrations and the volume at their start, and then the
        numbers that a `Remaining` design takes after the decisions.
        """
        return self._run(_evaluate, x, p)

    def derivatives(self, x: np.ndarray, p: np.ndarray) -> tuple[Evaluation, np.ndarray, np.ndarray]:
        """`evaluate`, the gradient of the objective [L, D] and the Jacobian of the margins [L, R, D]."""
        return self._run(_derivatives, x, p)

    def trace(self, x: np.ndarray, p: np.ndarray) -> Trace:
        """Trajectories of every lane."""
        return self._run(_trace, x, p)

    def _run(self, program: Any, x: np.ndarray, p: np.ndarray) -> Any:
        static = self.static
        return in_batches(
            lambda a, b: program(static, a, b, self.initial, self.feeds, self.integrator),
            (np.asarray(x, float), np.asarray(p, float)),
        )


class _Hashed:
    """A price book as part of the compiled program, compared by what it says."""

    def __init__(self, book: CostBook):
        self.book = book
        self.key = repr(book)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and other.key == self.key


def _lane(s: Any, params: Any, grid: IntervalGrid, trajectory: Trajectory) -> Trace:
    seen = observe(s.model, params, trajectory, grid)
    last = grid.intervals
    harvest = _harvest(s, trajectory, seen, grid, last)
    margins = _margins(s, trajectory, seen, grid, last)
    before = jnp.maximum(jnp.arange(grid.t.shape[0]) - 1, 0)
    return Trace(
        t=grid.t,
        observed=jnp.stack([seen[name] for name in s.observed]),
        volume=trajectory.volume,
        temperature=grid.actions.start.temperature[before],
        status=trajectory.status,
        harvest=harvest,
        margins=margins,
        metrics=_metrics(s, harvest, seen, last),
    )


def _harvest(s: Any, trajectory: Trajectory, seen: dict[str, Array], grid: IntervalGrid, last: Array) -> Harvest:
    scale = s.book.book.production_volume_l / s.design.start_volume_l
    length = grid.t[1:] - grid.t[:-1]
    a = grid.actions
    flowed = jnp.sum(0.5 * (a.rate_start + a.rate_end) * length[:, None]) + jnp.sum(a.bolus)
    # samples are drawn for the laboratory, not from the production vessel: what they took is put back in proportion
    taken = jnp.sum(a.withdraw)
    volume = trajectory.volume[last]
    return Harvest(
        basal_l=jnp.asarray(s.book.book.production_volume_l),
        feed_l=flowed * scale,
        culture_h=grid.t[last],
        harvest_l=(volume + taken) * scale,
        titre=seen[s.product][last],
        viability=seen["viability"][last] if "viability" in seen else jnp.ones(()),
    )


def _metrics(s: Any, h: Harvest, seen: dict[str, Array], last: Array) -> Array:
    book = s.book.book
    grams = book.released_g(h)
    cost = jnp.sum(book.costs(jnp.asarray(book.prices()), h))
    occupied = (h.culture_h + book.turnaround_h) / 24.0
    content = h.titre / seen["biomass"][last] if "biomass" in seen else jnp.full((), jnp.nan)
    values = {
        "yield_per_cost_g_per_eur": grams / cost,
        "cogs_eur_per_g": cost / grams,
        "released_g": grams,
        "cost_eur": cost,
        "titre_g_per_l": h.titre,
        "space_time_yield_g_per_l_d": grams / (h.harvest_l * occupied),
        "harvest_h": h.culture_h,
        "harvest_volume_l": h.harvest_l,
        "product_per_biomass_g_per_g": content,
        "viability_at_harvest": h.viability,
    }
    return jnp.stack([values[name] for name in METRICS])


def _margins(s: Any, trajectory: Trajectory, seen: dict[str, Array], grid: IntervalGrid, last: Array) -> Array:
    added = jnp.sum(grid.actions.bolus, axis=1) - grid.actions.withdraw
    volume = (trajectory.volume + jnp.append(added, 0.0)) * 1000.0  # mL, just after what is added at the node
    since = s.design.checked_from_h
    rows = []
    for c in s.constraints:
        # at the moment itself the volume can still be chosen; what an assay reads has come about before
        own, past = (volume, grid.t < since) if c.variable == "volume" else (seen[c.variable], grid.t <= since)
        value = jnp.where(past, own[last], own)
        room = (c.limit - value) if c.kind == "max" else (value - c.limit)
        rows.append(room / abs(c.limit) if c.where == "path" else room[last][None] / abs(c.limit))
    return jnp.concatenate(rows) if rows else jnp.zeros(0)


def _objective(s: Any, trace: Trace) -> Array:
    value = trace.metrics[..., list(METRICS).index(OBJECTIVES[s.objective])]
    return jnp.log(jnp.maximum(value, 1e-30))


@partial(jax.jit, static_argnums=0)
def _trace(s: Any, x: Array, p: Array, initial: Array, feeds: Array, integrator: Integrator) -> Trace:
    def gridded(x: Array) -> IntervalGrid:
        schedule = s.design.schedule(x)
        return to_grid(schedule, bucket(schedule.times.shape[0]))[0]

    lanes, species = x.shape[0], len(s.model.species)
    own = p[:, len(s.model.Parameters._fields) :]  # of vessels that are known: start, volume, and what was done
    grid = jax.vmap(gridded)(jnp.concatenate([x, own[:, species + 1 :]], axis=1))
    params = s.model.Parameters(*(p[:, i] for i in range(len(s.model.Parameters._fields))))
    usual = jnp.append(initial, s.design.start_volume_l)
    first = own[:, : species + 1] if own.shape[1] else jnp.broadcast_to(usual, (lanes, species + 1))
    start = s.model.State(*(first[:, i] for i in range(species)))
    vessel = Vessel(jnp.broadcast_to(feeds, (lanes, *feeds.shape)))
    volume = first[:, species]
    trajectory = simulate(s.model, params, start, volume, grid, vessel, integrator)
    return jax.vmap(lambda p, g, t: _lane(s, p, g, t))(params, grid, trajectory)


@partial(jax.jit, static_argnums=0)
def _evaluate(s: Any, x: Array, p: Array, initial: Array, feeds: Array, integrator: Integrator) -> Evaluation:
    t = _trace(s, x, p, initial, feeds, integrator)
    return Evaluation(_objective(s, t), t.margins, t.metrics, t.status)


@partial(jax.jit, static_argnums=0)
def _derivatives(
    s: Any, x: Array, p: Array, initial: Array, feeds: Array, integrator: Integrator
) -> tuple[Evaluation, Array, Array]:
    def along(direction: Array) -> Any:
        there = (jnp.broadcast_to(direction, x.shape),)
        value, slope = jax.jvp(lambda a: _evaluate(s, a, p, initial, feeds, integrator), (x,), there)
        return value, slope.objective, slope.margins

    # Directions outside, lanes inside: lanes stay the fastest axis of every array in the loop. The values do not depend
    # on the direction, so they are computed once for all.
    return jax.vmap(along, out_axes=(None, -1, -1))(jnp.eye(x.shape[1], dtype=x.dtype))
