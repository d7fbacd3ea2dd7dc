"""The fit problem: a dataset and a model as arrays, and residuals with their Jacobian per vessel.

Every vessel depends on its own parameters only: the shared ones, those of its clone, and its own. Their Jacobian
columns are computed per vessel, and only small normal matrices leave the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.data.dataset import Dataset
from optim.errors import DatasetError
from optim.fit.noise import ABOVE, BELOW, MEASURED, NoiseModel, residual
from optim.kinetics.base import AbstractKineticModel, Environment
from optim.params import ParameterSpec, ParameterTable
from optim.schedule.from_run import feeds_of, schedule_of
from optim.schedule.grid import IntervalGrid, bucket
from optim.schedule.schedule import to_grid
from optim.simulate.balance import Vessel
from optim.simulate.lanes import LANES, in_batches
from optim.simulate.march import Integrator
from optim.simulate.simulate import Trajectory, observe, simulate
from optim.simulate.stiffness import explicit_steps, poor_choice
from optim.types import Array


class Vessels(NamedTuple):
    """All vessels of a dataset as padded arrays, axis B first."""

    grid: IntervalGrid
    feeds: Array  # [B, J, N]
    initial: Array  # [B, N]
    volume: Array  # [B] L
    node: Array  # [B, M] node of each observation
    variable: Array  # [B, M] index into `FitProblem.variables`
    value: Array  # [B, M]
    sd: Array  # [B, M]
    censored: Array  # [B, M]
    weight: Array  # [B, M] 1, or 0 for padding


class Blocks(NamedTuple):
    """Normal equations of each vessel over its own Q parameters."""

    cost: Array  # [L] half sum of squares; inf where the simulation failed
    gradient: Array  # [L, Q]
    hessian: Array  # [L, Q, Q] Gauss-Newton
    squares: Array  # [L] sum of squares


@dataclass(frozen=True)
class FitProblem:
    """One model and one dataset. `vessel_clone` [B] gives the group of each vessel: the clone, or the experiment."""

    model: AbstractKineticModel
    table: ParameterTable
    dataset: Dataset
    noise: NoiseModel
    integrator: Integrator
    variables: tuple[str, ...]
    vessels: Vessels
    vessel_clone: np.ndarray
    groups: tuple[str, ...]
    group_by: str

    @property
    def shared(self) -> tuple[ParameterSpec, ...]:
        return self.table.of_level("shared")

    @property
    def clone(self) -> tuple[ParameterSpec, ...]:
        return self.table.of_level("clone")

    @property
    def vessel(self) -> tuple[ParameterSpec, ...]:
        return self.table.of_level("vessel")

    def layout(self) -> Layout:
        """Where each parameter stands; hashable, so that it is part of the compiled program."""
        fixed = {s.name: s.value for s in self.table.of_level("fixed")}
        free = tuple((s.name, s.scale, s.lower, s.upper) for s in (*self.shared, *self.clone, *self.vessel))
        return Layout(self.model, self.variables, tuple(sorted(fixed)), free)

    def fixed_values(self) -> np.ndarray:
        fixed = {s.name: s.value for s in self.table.of_level("fixed")}
        return np.array([fixed[name] for name in sorted(fixed)])

    def predict(self, u: np.ndarray, vessel: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Predictions [L, M] and status [L] of lanes u [L, Q]; `vessel` [L] says whose lane each is (default: all)."""
        y, _, trajectory = self._simulated(u, vessel)
        return y, trajectory.status

    def poor_integrator(self, u: np.ndarray) -> str | None:
        """What another stepper would save at u [B, Q], judged on the first vessels; None: the choice is good."""
        few = np.arange(min(len(u), LANES))
        _, p, trajectory = self._simulated(u[few], few)
        v = self._take(few)
        bound = explicit_steps(self.model, p, trajectory, v.grid, Vessel(v.feeds))
        return poor_choice(self.integrator, trajectory.steps, bound)

    def _simulated(self, u: np.ndarray, vessel: np.ndarray | None) -> tuple[np.ndarray, Any, Trajectory]:
        layout, fixed = self.layout(), self.fixed_values()
        found: tuple[np.ndarray, Any, Trajectory] = in_batches(
            lambda a, v: _predict(layout, a, fixed, v, self.integrator), (u, self._take(vessel))
        )
        return found

    def blocks(self, u: np.ndarray, sd: np.ndarray, vessel: np.ndarray) -> Blocks:
        """Cost, gradient and Gauss-Newton matrix of each lane. sd [B, M]: noise of every point; vessel [L] as above."""
        layout, fixed = self.layout(), self.fixed_values()
        lanes = self._take(vessel)._replace(sd=sd[vessel])
        return in_batches(lambda a, v: _blocks(layout, a, fixed, v, self.integrator), (u, lanes))

    def _take(self, vessel: np.ndarray | None) -> Vessels:
        return self.vessels if vessel is None else jax.tree.map(lambda x: x[vessel], self.vessels)


class Layout(NamedTuple):
    """Static description of a problem: names and scales, no numbers that change between calls."""

    model: AbstractKineticModel
    variables: tuple[str, ...]
    fixed: tuple[str, ...]
    free: tuple[tuple[str, str, float, float], ...]

    def natural(self, u: Array, fixed: Array) -> dict[str, Array]:
        """Named parameters on the natural scale from fitted ones u [Q]."""
        values: dict[str, Array] = {name: fixed[i] for i, name in enumerate(self.fixed)}
        for i, (name, scale, lower, upper) in enumerate(self.free):
            if scale == "log":
                values[name] = jnp.exp(u[i])
            elif scale == "logit":
                values[name] = lower + (upper - lower) * jax.nn.sigmoid(u[i])
            else:
                values[name] = u[i]
        return values


def apply_parameters(model: AbstractKineticModel, named: dict[str, Array], initial: Array) -> tuple[Any, Any]:
    """The model's Parameters, and its initial State after the vessel's own deviations."""
    p = model.Parameters(**{name: named[name] for name in model.Parameters._fields})
    factor = named.get("inoculum_factor", 1.0)
    start = model.State(
        *(initial[i] * factor if name in model.inoculum_species else initial[i] for i, name in enumerate(model.names()))
    )
    return p, start


@partial(jax.jit, static_argnums=0)
def _predict(
    layout: Layout, u: Array, fixed: Array, v: Vessels, integrator: Integrator
) -> tuple[Array, Any, Trajectory]:
    """Predictions [L, M] of vessels on lanes, their parameters, and their trajectories."""

    def seen_by_assays(p: Any, trajectory: Trajectory, v: Vessels) -> Array:
        seen = observe(layout.model, p, trajectory, v.grid)
        return jnp.stack([seen[name] for name in layout.variables])[v.variable, v.node]

    p, start = jax.vmap(lambda a, c: apply_parameters(layout.model, layout.natural(a, fixed), c))(u, v.initial)
    trajectory = simulate(layout.model, p, start, v.volume, v.grid, Vessel(v.feeds), integrator)
    return jax.vmap(seen_by_assays)(p, trajectory, v), p, trajectory


@partial(jax.jit, static_argnums=0)
def _blocks(layout: Layout, u: Array, fixed: Array, v: Vessels, integrator: Integrator) -> Blocks:
    def whitened(u: Array) -> tuple[Array, Array]:
        y, _, trajectory = _predict(layout, u, fixed, v, integrator)
        status = trajectory.status
        good = (status == 0)[:, None] & (v.weight > 0.0)
        # a failed lane is masked before the residual: it must reach neither the sums nor their derivative
        r = residual(jnp.where(good, y, v.value), v.value, v.sd, v.censored)
        return jnp.where(good, r * v.weight, 0.0), status

    def along(direction: Array) -> tuple[Array, Array, Array]:
        r, slope, status = jax.jvp(whitened, (u,), (jnp.broadcast_to(direction, u.shape),), has_aux=True)
        return r, status, slope

    # directions outside, lanes inside: lanes stay the fastest axis of every array in the loop
    r, status, jacobian = jax.vmap(along, out_axes=(None, None, 0))(jnp.eye(u.shape[1], dtype=u.dtype))
    squares = jnp.sum(r**2, axis=1)
    return Blocks(
        cost=jnp.where(status == 0, 0.5 * squares, jnp.inf),
        gradient=jnp.einsum("qlm,lm->lq", jacobian, r),
        hessian=jnp.einsum("qlm,plm->lqp", jacobian, jacobian),
        squares=squares,
    )


def build_problem(
    model: AbstractKineticModel,
    table: ParameterTable,
    dataset: Dataset,
    noise: NoiseModel,
    integrator: Integrator,
    group_by: str = "clone",
) -> FitProblem:
    """Turn a dataset into arrays. Raises `DatasetError` when it does not suit the model."""
    variables, observed = _observed(model, table, dataset)
    schedules, nodes = [], []
    feeds = [feeds_of(run) for run in dataset.runs]
    n_feeds = max(len(f) for f in feeds)
    feed_table = np.zeros((len(dataset.runs), n_feeds, len(model.species)))
    initial = np.zeros((len(dataset.runs), len(model.species)))
    for b, run in enumerate(dataset.runs):
        padded = feeds[b] + tuple(f"-{i}" for i in range(n_feeds - len(feeds[b])))
        times = np.unique([observed[b][i][0] for i in range(len(observed[b]))])
        schedules.append(schedule_of(run, times[times < run.end_time_h], padded))
        for j, name in enumerate(feeds[b]):
            feed_table[b, j] = model.feed(dataset.media.get(name, {}))
        try:
            start = model.initial(dataset.media[run.medium_id], run.inoculum_vcd, dataset.initial_sample(b))
        except DatasetError as err:
            raise DatasetError(f"run '{run.run_id}': {err}") from err
        initial[b] = [start[name] for name in model.names()]
    size = bucket(max(len(s.times) for s in schedules))
    grids = []
    for run, schedule in zip(dataset.runs, schedules, strict=True):
        grid = jax.tree.map(np.asarray, to_grid(jax.tree.map(jnp.asarray, schedule), size)[0])
        grids.append(grid)
        nodes.append(np.append(schedule.times, run.end_time_h))
    width = max(1, max(len(o) for o in observed))
    arrays = {k: np.zeros((len(observed), width)) for k in ("node", "variable", "value", "sd", "censored", "weight")}
    arrays["sd"] += 1.0
    for b, rows in enumerate(observed):
        for m, (time, variable, value, censored) in enumerate(rows):
            arrays["node"][b, m] = int(np.argmin(np.abs(nodes[b] - time)))
            arrays["variable"][b, m] = variables.index(variable)
            arrays["value"][b, m] = value
            arrays["sd"][b, m] = noise.sd(variable, np.asarray(value))
            arrays["censored"][b, m] = {"": MEASURED, "<": BELOW, ">": ABOVE}[censored]
            arrays["weight"][b, m] = 1.0
    vessels = Vessels(
        grid=jax.tree.map(lambda *x: np.stack(x), *grids),
        feeds=feed_table,
        initial=initial,
        volume=np.array([run.start_volume_l for run in dataset.runs]),
        node=arrays["node"].astype(np.int32),
        variable=arrays["variable"].astype(np.int32),
        value=arrays["value"],
        sd=arrays["sd"],
        censored=arrays["censored"].astype(np.int32),
        weight=arrays["weight"],
    )
    names = [run.experiment_id if group_by == "experiment" else run.clone_id for run in dataset.runs]
    groups = tuple(dict.fromkeys(names))
    member_of = np.array([groups.index(name) for name in names])
    return FitProblem(model, table, dataset, noise, integrator, variables, vessels, member_of, groups, group_by)


Row = tuple[float, str, float, str]


def _observed(
    model: AbstractKineticModel, table: ParameterTable, dataset: Dataset
) -> tuple[tuple[str, ...], list[list[Row]]]:
    """Per vessel the points to fit. What defines the initial state exactly is no evidence about parameters."""
    m = dataset.measurements
    known = observable_names(model, table)
    unused = sorted(set(m.variable) - set(known))
    if set(m.variable) <= set(unused):
        raise DatasetError(
            f"dataset '{dataset.name}' measures {', '.join(unused)}, but the model predicts {', '.join(known)}"
        )
    rows: list[list[Row]] = [[] for _ in dataset.runs]
    for i in range(len(m.value)):
        variable, time = m.variable[i], float(m.time_h[i])
        if variable in unused or (time == 0.0 and variable in model.initial_variables):
            continue
        rows[int(m.run[i])].append((time, variable, float(m.value[i]), m.censored[i]))
    present = {v for own in rows for _, v, _, _ in own}
    return tuple(v for v in known if v in present), rows


def observable_names(model: AbstractKineticModel, table: ParameterTable) -> tuple[str, ...]:
    """Variables that the model predicts."""
    values = {row.name: row.value for row in table.rows}
    p = model.Parameters(**{name: values[name] for name in model.Parameters._fields})
    ones = model.State(*(jnp.ones(()) for _ in model.species))
    return tuple(model.observe(p, ones, Environment(jnp.asarray(37.0), jnp.asarray(7.0))))
