"""The process problem: design x model x price book x constraints, batched over lanes of (process, parameter set)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.data.screened import Ranges
from optim.errors import ConfigError, nearest
from optim.kinetics.base import AbstractKineticModel
from optim.process.cost import CostBook, HarvestedBatch
from optim.process.design import Design
from optim.process.disturbance import Drift, broadcast_drift
from optim.process.lanes import Lanes, VesselStart, as_lanes
from optim.process.metrics import (
    OBJECTIVES,
    FinishedBatch,
    Metric,
    Product,
    batch_metrics,
    compute_metrics,
    is_metric,
)
from optim.process.objective import Objective
from optim.schedule.grid import IntervalGrid, padded_length
from optim.schedule.schedule import to_grid
from optim.settings.process import ConstraintSettings
from optim.simulation.balance import Vessel
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.batches import map_batches
from optim.simulation.engine.march import Integrator
from optim.simulation.simulate import Trajectory, observe_nodes, simulate_cultivations
from optim.types import Array
from optim.units import VARIABLES, Quantity, conversion_factor, display_unit

# units that people write in limits, to name the nearest where one is misspelt
LIMIT_UNITS = (
    *("mmol/L", "mol/L", "umol/L", "g/L", "mg/L", "mL", "L", "uL", "-", "%", "mOsm/kg", "U/mL", "U/L", "h", "d"),
    *("1e6 cells/mL", "1e9 cells/L", "1e9/mL", "1e12/L", "copies/cell", "g", "kg", "EUR", "EUR/g", "g/EUR"),
)


@dataclass(frozen=True, kw_only=True)
class Constraint(ConstraintSettings):
    """A limit with its name: variable <= limit (kind max) or >= limit (kind min), along the path or at the end."""

    name: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_metric(self.variable) and self.where != "end":
            raise ConfigError(
                f"constraints.limits.{self.name}.where: {self.variable} is known at the end only; say where: end"
            )

    def in_canonical_unit(self, product: Product) -> Constraint:
        """The same limit in the unit in which the variable is computed; an unknown variable is left to the problem.

        Raises `ConfigError` for a unit that is none, or does not fit the variable.
        """
        metric = batch_metrics(product).get(self.variable)
        if metric is not None:
            quantity = metric.quantity
            if self.unit.strip() == metric.unit:
                return self
        elif self.variable == "volume":
            quantity = Quantity("mL")
        elif self.variable in VARIABLES:
            quantity = VARIABLES[self.variable]
        else:
            return self
        try:
            factor, offset = conversion_factor(self.unit, quantity)
        except ConfigError as err:
            fitting = [unit for unit in LIMIT_UNITS if _fits(unit, quantity)]
            raise ConfigError(
                f"constraints.limits.{self.name}.unit: {err}.{nearest(self.unit, fitting)} "
                f"Usual: {', '.join(fitting) or quantity.unit}"
            ) from err
        if (factor, offset) == (1.0, 0.0):
            return self
        return replace(self, limit=self.limit * factor + offset, unit=display_unit(quantity.unit))


def _fits(unit: str, quantity: Quantity) -> bool:
    try:
        conversion_factor(unit, quantity)
    except ConfigError:
        return False
    return True


class Evaluation(NamedTuple):
    """Lanes L. Objective is what a solver maximises, see `Objective`; constraints are relative margins, met if >= 0."""

    objective: Array  # [L]
    margins: Array  # [L, R]
    metrics: Array  # [L, M], in the order of `ProcessProblem.metrics`
    status: Array  # [L]


class Slopes(NamedTuple):
    """Derivatives of an `Evaluation` by the decisions."""

    objective: Array  # [L, D]
    margins: Array  # [L, R, D]
    metrics: Array  # [L, M, D]


class _Batch(NamedTuple):
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
    harvest: HarvestedBatch
    margins: Array
    metrics: Array


class _Static(NamedTuple):
    model: AbstractKineticModel
    design: Design
    book: _Hashed
    constraints: tuple[Constraint, ...]
    product: Product
    observed: tuple[str, ...]
    retention: tuple[float, ...] | None


@dataclass(frozen=True)
class ProcessProblem:
    """What is optimised. `initial` holds concentrations at the start, `feeds` [J, N] those of every feed.

    `screened` is the range of each kind of decision in the data behind the model; outside it the model extrapolates.
    """

    model: AbstractKineticModel
    design: Design
    book: CostBook
    constraints: tuple[Constraint, ...]
    objective: Objective
    observed: tuple[str, ...]
    initial: np.ndarray
    feeds: np.ndarray
    integrator: Integrator
    screened: Ranges = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = batch_metrics(self.product)
        allowed = (*self.observed, "volume", *known)
        for c in self.constraints:
            if c.variable not in allowed:
                raise ConfigError(
                    f"constraints.{c.name}.variable: the model does not predict '{c.variable}'."
                    f"{nearest(c.variable, allowed)} It predicts {', '.join(self.observed)}; "
                    f"a batch has {', '.join(('volume', *known))}"
                )
        if self.product.variable not in self.observed:
            raise ConfigError(
                f"the product is '{self.product.variable}', which the model does not predict. "
                f"It predicts {', '.join(self.observed)}"
            )
        priced = [known[c.variable].key for c in self.constraints if c.variable in known and known[c.variable].priced]
        if not self.book.items and (priced or any(OBJECTIVES[key].priced for key in self.objective.names)):
            key = (priced or [k for k in self.objective.names if OBJECTIVES[k].priced])[0]
            raise ConfigError(f"{key} needs a price book; choose one (cost=...), or another objective and other limits")
        for key in self.objective.names:
            lacking = [v for v in OBJECTIVES[key].needs if v not in self.observed]
            if lacking:
                raise ConfigError(f"objective.maximise: {key} needs a model with {', '.join(lacking)}")
        self.book.check_product(self.product)

    @property
    def static(self) -> _Static:
        kept = None
        if self.design.perfused:  # the device keeps cells and what is theirs
            cells = self.model.inoculum_species
            kept = tuple(float(s.name in cells or not s.dilutes) for s in self.model.species)
        return _Static(self.model, self.design, _Hashed(self.book), self.constraints, self.product, self.observed, kept)

    @property
    def product(self) -> Product:
        """What the process makes."""
        return self.objective.product

    @property
    def metric(self) -> str:
        """Name of the metric that is maximised."""
        return self.objective.target.name

    @property
    def metrics(self) -> dict[str, Metric]:
        """Every metric of a process, by name."""
        return self.objective.metrics

    def evaluate(self, x: np.ndarray, lanes: Lanes | np.ndarray) -> Evaluation:
        """Evaluate decisions x [L, D], in their units, in as many lanes; an array [L, P] holds their parameters."""
        found: Evaluation = self._run(_judged_evaluation, x, lanes)
        return found

    def derivatives(self, x: np.ndarray, lanes: Lanes | np.ndarray) -> tuple[Evaluation, Slopes]:
        """`evaluate`, and its derivatives by the decisions."""
        found: tuple[Evaluation, Slopes] = self._run(_judged_derivatives, x, lanes)
        return found

    def trace(self, x: np.ndarray, lanes: Lanes | np.ndarray) -> Trace:
        """Trajectories of every lane; arguments as in `evaluate`."""
        trace: Trace = self._run(_judged_trace, x, lanes)
        return trace

    def _run(self, program: Any, x: np.ndarray, lanes: Lanes | np.ndarray) -> Any:
        static, past = self.static, self.design.past
        return map_batches(
            lambda x, lanes: program(self.objective, static, x, lanes, self.feeds, past, self.integrator),
            (np.asarray(x, float), self._complete(as_lanes(lanes), len(x))),
        )

    def _complete(self, lanes: Lanes, number: int) -> Lanes:
        """Lanes with what they have in common in every one of them."""
        start, prices = lanes.start, lanes.prices
        if start is None:
            start = VesselStart(np.tile(self.initial, (number, 1)), np.full(number, self.design.start_volume_l))
        if prices is None:
            prices = np.tile(self.book.prices(), (number, 1))
        whole = lanes._replace(start=start, prices=prices, drift=broadcast_drift(lanes.drift, number))
        complete: Lanes = jax.tree.map(lambda a: np.asarray(a, float), whole)
        return complete


class _Hashed:
    """A price book as part of the compiled program, compared by what it says."""

    def __init__(self, book: CostBook):
        self.book = book
        self.key = repr(book)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and other.key == self.key


def _lane(s: _Static, params: Any, prices: Array, grid: IntervalGrid, trajectory: Trajectory) -> Trace:
    seen = observe_nodes(s.model, params, trajectory, grid=grid)
    last = grid.intervals
    harvest = _harvest(s, trajectory, seen, grid, last)
    metrics = _metrics(s, prices, harvest, seen, last)
    before = jnp.maximum(jnp.arange(grid.t.shape[0]) - 1, 0)
    return Trace(
        t=grid.t,
        observed=jnp.stack([seen[name] for name in s.observed]),
        volume=trajectory.volume,
        temperature=grid.actions.start.temperature[before],
        status=trajectory.status,
        harvest=harvest,
        margins=_margins(s, trajectory, seen, metrics, grid, last),
        metrics=metrics,
    )


def _harvest(
    s: _Static, trajectory: Trajectory, seen: dict[str, Array], grid: IntervalGrid, last: Array
) -> HarvestedBatch:
    book = s.book.book
    scale = book.production_volume_l / s.design.start_volume_l
    length = grid.t[1:] - grid.t[:-1]
    a = grid.actions
    flowed = jnp.sum(0.5 * (a.rate_start + a.rate_end) * length[:, None] + a.bolus, axis=0)  # [J]
    # samples are drawn for the laboratory, not from the production vessel: what they took is put back in proportion
    taken = jnp.sum(a.withdraw)
    volume = trajectory.volume[last]
    titre = seen[s.product.variable][last] * s.product.per_canonical
    gathered, medium = volume + taken, jnp.zeros(())
    if s.design.perfused:
        # what left the vessel, through the device or with the bleed, is harvest too; only the device's holds product
        gathered = s.design.start_volume_l + jnp.sum(flowed)
        collected = jnp.zeros(())
        for species in s.model.species:
            if species.collected:
                collected = collected + trajectory.collected[species.name][last] * s.product.per_canonical
        titre = (titre * (volume + taken) + collected) / gathered
        medium = jnp.sum(flowed[jnp.asarray(s.design.perfusion_feeds)])
    return HarvestedBatch(
        basal_l=book.production_volume_l + medium * scale,
        feed_l=(jnp.sum(flowed) - medium) * scale,
        culture_h=grid.t[last],
        harvest_l=gathered * scale,
        titre=titre,
        viability=seen["viability"][last] if "viability" in seen else jnp.ones(()),
    )


def _metrics(s: _Static, prices: Array, h: HarvestedBatch, seen: dict[str, Array], last: Array) -> Array:
    """All metrics of a batch, [len(METRICS)]."""
    book = s.book.book
    batch = FinishedBatch(
        released=book.released_amount(h),
        cost=jnp.sum(book.costs(prices, h)) if book.items else None,
        titre=h.titre,
        harvest_l=h.harvest_l,
        culture_h=h.culture_h,
        occupied_d=(h.culture_h + book.turnaround_h) / 24.0,
        viability=h.viability,
        observed={name: values[last] for name, values in seen.items()},
    )
    return compute_metrics(batch, s.product)


def _margins(
    s: _Static,
    trajectory: Trajectory,
    seen: dict[str, Array],
    metrics: Array,
    grid: IntervalGrid,
    last: Array,
) -> Array:
    added = jnp.sum(grid.actions.bolus, axis=1) - grid.actions.withdraw
    volume = (trajectory.volume + jnp.append(added, 0.0)) * 1000.0  # mL, just after what is added at the node
    since = s.design.checked_from_h
    places = list(batch_metrics(s.product))
    rows = []
    for c in s.constraints:
        if c.variable in places:
            value = metrics[places.index(c.variable)][None]
        else:
            # at the moment itself the volume can still be chosen; what an assay reads has come about before
            own, past = (volume, grid.t < since) if c.variable == "volume" else (seen[c.variable], grid.t <= since)
            value = jnp.where(past, own[last], own) if c.where == "path" else own[last][None]
        rows.append(((c.limit - value) if c.kind == "max" else (value - c.limit)) / abs(c.limit))
    return jnp.concatenate(rows) if rows else jnp.zeros(0)


@partial(jax.jit, static_argnums=0)
def _trace(s: _Static, x: Array, lanes: Lanes, feeds: Array, past: Any, integrator: Integrator) -> Trace:
    design = s.design.with_past(past)
    assert lanes.start is not None

    def gridded(x: Array, drift: Drift) -> IntervalGrid:
        schedule = drift.applied(design.schedule(x))
        return to_grid(schedule, padded_length(schedule.times.shape[0]))[0]

    n, drift = x.shape[0], lanes.drift
    cells = jnp.asarray([name in s.model.inoculum_species for name in s.model.names()])

    def begun(x: Array, concentrations: Array, drift: Drift) -> Array:
        state = design.initial(x, concentrations)
        return jnp.where(cells, state * drift.inoculum, state)

    grid = jax.vmap(gridded)(x, drift)
    start = s.model.State(*jnp.moveaxis(jax.vmap(begun)(x, lanes.start.concentrations, drift), -1, 0))
    stocks = jax.vmap(lambda x, d: design.stocks(x, jnp.asarray(feeds)) * d.strength)(x, drift)
    params = s.model.Parameters(*(lanes.parameters[:, i] for i in range(len(s.model.Parameters._fields))))
    kept = None if s.retention is None else jnp.broadcast_to(jnp.asarray(s.retention), (n, len(s.retention)))
    cultivation = Cultivation(start, lanes.start.volume_l, grid, Vessel(stocks, kept))
    trajectory = simulate_cultivations(s.model, params, cultivation, integrator=integrator)
    return jax.vmap(lambda p, c, g, t: _lane(s, p, c, g, t))(params, lanes.prices, grid, trajectory)


@partial(jax.jit, static_argnums=0)
def _evaluate(s: _Static, x: Array, lanes: Lanes, feeds: Array, past: Any, integrator: Integrator) -> _Batch:
    t = _trace(s, x, lanes, feeds, past, integrator)
    return _Batch(t.margins, t.metrics, t.status)


@partial(jax.jit, static_argnums=0)
def _derivatives(
    s: _Static, x: Array, lanes: Lanes, feeds: Array, past: Any, integrator: Integrator
) -> tuple[_Batch, _Batch]:
    def along(direction: Array) -> Any:
        there = (jnp.broadcast_to(direction, x.shape),)
        value, slope = jax.jvp(lambda a: _evaluate(s, a, lanes, feeds, past, integrator), (x,), there)
        return value, slope.margins, slope.metrics

    # Directions outside, lanes inside: lanes stay the fastest axis of every array in the loop. The values do not depend
    # on the direction, so they are computed once for all.
    value, margins, metrics = jax.vmap(along, out_axes=(None, -1, -1))(jnp.eye(x.shape[1], dtype=x.dtype))
    return value, _Batch(margins, metrics, value.status)


# Simulations do not know the objective, so that one compiled program serves all. What an objective adds to a batch is a
# small program of its own on batches of the same size: a lane gets the same digits whatever lanes stand beside it.


def _judged_evaluation(objective: Objective, *run: Any) -> Evaluation:
    return _judge(objective, _evaluate(*run))


def _judged_derivatives(objective: Objective, *run: Any) -> tuple[Evaluation, Slopes]:
    batch, slopes = _derivatives(*run)
    return _judge(objective, batch), _judge_slopes(objective, batch, slopes)


def _judged_trace(objective: Objective, *run: Any) -> Trace:
    trace = _trace(*run)
    return trace._replace(metrics=_judge(objective, _Batch(trace.margins, trace.metrics, trace.status)).metrics)


@partial(jax.jit, static_argnums=0)
def _judge(objective: Objective, batch: _Batch) -> Evaluation:
    metrics = objective.complete(batch.metrics)
    return Evaluation(objective.to_solver(metrics), batch.margins, metrics, batch.status)


@partial(jax.jit, static_argnums=0)
def _judge_slopes(objective: Objective, batch: _Batch, slopes: _Batch) -> Slopes:
    metrics = objective.slopes(batch.metrics, slopes.metrics)
    return Slopes(objective.slopes_to_solver(objective.complete(batch.metrics), metrics), slopes.margins, metrics)
