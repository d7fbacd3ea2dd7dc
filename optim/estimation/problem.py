"""The fit problem: a dataset and a model as arrays, one lane per vessel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optim.data.dataset import Dataset
from optim.data.schedules import feeds_of, schedule_of
from optim.errors import DatasetError
from optim.estimation import likelihood
from optim.estimation.likelihood import Layout, VesselEquations, Vessels
from optim.estimation.noise import NoiseModel, Scatter, on_scale, scatter_arrays
from optim.kinetics.base import AbstractKineticModel, Environment
from optim.parameters import ParameterSpec, ParameterTable
from optim.schedule.grid import padded_length
from optim.schedule.schedule import to_grid
from optim.simulation.balance import Vessel
from optim.simulation.engine.batches import BATCH_ROWS, join_batches, split_batches
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.stiffness import explicit_step_count, stepper_advice

# most vessels of one batch: enough to fill vector units, and one size, since every other is compiled anew
MOST_LANES = 64
# a vessel's readings are padded to a multiple of this, so that a few more or less of them share a compiled program
READINGS_MULTIPLE = 16


@dataclass(frozen=True)
class FitProblem:
    """One model and one dataset.

    `vessel_group` [B] gives the group of each vessel (the clone, or the experiment), `vessel_batch` [B] its experiment.
    The parameters of a lane are the shared ones, those of its batch, of its clone, and its own, in this order.
    """

    model: AbstractKineticModel
    table: ParameterTable
    dataset: Dataset
    noise: NoiseModel
    integrator: Integrator
    variables: tuple[str, ...]
    vessels: Vessels
    vessel_group: np.ndarray
    groups: tuple[str, ...]
    group_by: str
    vessel_batch: np.ndarray
    batches: tuple[str, ...]

    @property
    def shared_specs(self) -> tuple[ParameterSpec, ...]:
        return self.table.of_level("shared")

    @property
    def batch_specs(self) -> tuple[ParameterSpec, ...]:
        return self.table.of_level("batch")

    @property
    def group_specs(self) -> tuple[ParameterSpec, ...]:
        return self.table.of_level("clone")

    @property
    def vessel_specs(self) -> tuple[ParameterSpec, ...]:
        return self.table.of_level("vessel")

    @cached_property
    def layout(self) -> Layout:
        """Where each parameter stands; hashable, so that it is part of the compiled program."""
        rows = (*self.shared_specs, *self.batch_specs, *self.group_specs, *self.vessel_specs)
        return Layout(
            self.model,
            self.variables,
            tuple(sorted(s.name for s in self.table.of_level("fixed"))),
            tuple((s.name, s.scale, s.lower, s.upper) for s in rows),
            tuple((s.name, s.times) for s in self.table.rows if s.times),
        )

    @cached_property
    def fixed_values(self) -> np.ndarray:
        fixed = {s.name: s.value for s in self.table.of_level("fixed")}
        return np.array([fixed[name] for name in self.layout.fixed])

    @cached_property
    def scatter(self) -> Scatter:
        return scatter_arrays(self.noise, self.variables)

    def make_lanes(self, vessel: np.ndarray, sd: np.ndarray | None = None) -> VesselLanes:
        """Vessels (indices [L], repeated where several parameter sets are asked for) made ready on the device.

        sd [B, M]: noise of every point; default: as stated.
        """
        v = self.vessels if sd is None else self.vessels._replace(sd=sd)
        vessel, ready = np.asarray(vessel), []
        for place, part in split_batches(v, vessel, min(-(-len(self.vessel_group) // 8) * 8, MOST_LANES)):
            # a row that only fills up has no intervals: it ends where it begins
            used = np.append(True, np.diff(place) > 0)
            grid = part.grid._replace(intervals=jnp.where(used, part.grid.intervals, 0))
            ready.append((place, part._replace(grid=grid)))
        return VesselLanes(self, vessel, tuple(ready))

    @cached_property
    def all_lanes(self) -> VesselLanes:
        """Every vessel once, with the stated noise."""
        return self.make_lanes(np.arange(len(self.vessel_group)))

    def select_vessels(self, vessels: np.ndarray) -> FitProblem:
        """The same with some of the vessels (indices); of equal shape, so that compiled programs are shared."""
        clone, batch = self.vessel_group[vessels], self.vessel_batch[vessels]
        groups, member_of = _numbered([self.groups[c] for c in clone])
        batches, batch_of = _numbered([self.batches[b] for b in batch])
        return replace(
            self,
            dataset=self.dataset.only(vessels),
            vessels=jax.tree.map(lambda x: x[vessels], self.vessels),
            vessel_group=member_of,
            groups=groups,
            vessel_batch=batch_of,
            batches=batches,
        )

    def readings_until(self, time_h: float) -> FitProblem:
        """The same with the readings up to a time only."""
        v = self.vessels
        at = np.take_along_axis(v.grid.t, v.node, axis=1)
        return replace(self, vessels=v._replace(weight=np.where(at <= time_h, v.weight, 0.0)))

    def predict(self, u: np.ndarray, vessel: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Predictions [L, M] and status [L] of lanes u [L, Q]; `vessel` [L] says whose lane each is (default: all)."""
        y, _, trajectory = (self.all_lanes if vessel is None else self.make_lanes(vessel)).run_program(
            likelihood.predict_readings, u
        )
        return y, trajectory.status

    def scaled_deviation(self, y: np.ndarray) -> np.ndarray:
        """Predictions less readings [B, M], on the scale on which each assay scatters."""
        v = self.vessels
        scale, floor = self.scatter.scale[v.variable], self.scatter.floor[v.variable]
        return np.asarray(on_scale(y, scale, floor) - on_scale(v.value, scale, floor))

    def integrator_advice(self, u: np.ndarray) -> str | None:
        """What another stepper would save at u [B, Q], judged on the first vessels; None: the choice is good."""
        few = np.arange(min(len(u), BATCH_ROWS))
        v = jax.tree.map(lambda x: x[few], self.vessels)
        _, p, trajectory = self.make_lanes(few).run_program(likelihood.predict_readings, u[few])
        bound = explicit_step_count(self.model, p, trajectory, grid=v.grid, vessel=Vessel(v.feeds))
        return stepper_advice(self.integrator, trajectory.steps, bound)


@dataclass(frozen=True)
class VesselLanes:
    """Vessels on lanes, ready for any parameter values."""

    problem: FitProblem
    vessel: np.ndarray
    ready: tuple[tuple[np.ndarray, Vessels], ...]

    def vessel_costs(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Negative log-likelihood [L] and residuals [L, M] of each lane at u [L, Q]."""
        found: tuple[np.ndarray, np.ndarray] = self.run_program(likelihood.vessel_costs, u, self.problem.scatter)
        return found

    def vessel_equations(self, u: np.ndarray) -> VesselEquations:
        """Cost, gradient and Gauss-Newton matrix of each lane."""
        found: VesselEquations = self.run_program(likelihood.vessel_equations, u, self.problem.scatter)
        return found

    def with_readings(self, value: np.ndarray, censored: np.ndarray) -> VesselLanes:
        """The same vessels with other readings, [L, M]."""
        ready = tuple((rows, v._replace(value=value[rows], censored=censored[rows])) for rows, v in self.ready)
        return VesselLanes(self.problem, self.vessel, ready)

    def run_program(self, program: Any, u: np.ndarray, *rest: Any) -> Any:
        """A program of `likelihood` at u [L, Q]; its results as NumPy arrays."""
        p = self.problem
        return join_batches(
            [program(p.layout, u[rows], p.fixed_values, v, *rest, p.integrator) for rows, v in self.ready], len(u)
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
            feed_table[b, j] = model.feed(dataset.medium(name, run.run_id) if name else {})
        medium = dataset.medium(run.medium_id, run.run_id)
        try:
            start = model.initial(medium, run.inoculum_vcd, dataset.initial_sample(b))
        except DatasetError as err:
            raise DatasetError(f"run '{run.run_id}': {err}") from err
        initial[b] = [start[name] for name in model.names()]
    size = padded_length(max(len(s.times) for s in schedules))
    grids = []
    for run, schedule in zip(dataset.runs, schedules, strict=True):
        grid = jax.tree.map(np.asarray, to_grid(jax.tree.map(jnp.asarray, schedule), size)[0])
        grids.append(grid)
        nodes.append(np.append(schedule.times, run.end_time_h))
    width = max(1, -(-max(len(o) for o in observed) // READINGS_MULTIPLE)) * READINGS_MULTIPLE
    arrays = {k: np.zeros((len(observed), width)) for k in ("node", "variable", "value", "sd", "censored", "weight")}
    arrays["sd"] += 1.0
    for b, rows in enumerate(observed):
        for m, (time, variable, value, censored) in enumerate(rows):
            arrays["node"][b, m] = int(np.argmin(np.abs(nodes[b] - time)))
            arrays["variable"][b, m] = variables.index(variable)
            arrays["value"][b, m] = value
            arrays["sd"][b, m] = noise.sd_on_scale(variable, np.asarray(value))
            arrays["censored"][b, m] = noise.censoring_code(variable, value, censored)
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
    experiments = [run.experiment_id for run in dataset.runs]
    groups, member_of = _numbered(experiments if group_by == "experiment" else [run.clone_id for run in dataset.runs])
    batches, batch_of = _numbered(experiments)
    return FitProblem(
        model, table, dataset, noise, integrator, variables, vessels, member_of, groups, group_by, batch_of, batches
    )


def _numbered(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The different names in order of appearance, and the place of each."""
    different = tuple(dict.fromkeys(names))
    return different, np.array([different.index(name) for name in names])


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
    """Variables that the model predicts, whatever the vessel controls."""
    values = table.values()
    p = model.Parameters(**{name: values[name] for name in model.Parameters._fields})
    ones = model.State(*(jnp.ones(()) for _ in model.species))
    level = jnp.ones(())
    return tuple(model.observe(p, ones, Environment(37.0 * level, 7.0 * level, 50.0 * level, 100.0 * level)))
