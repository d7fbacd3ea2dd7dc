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
from optim.errors import DatasetError
from optim.estimation import likelihood
from optim.estimation.likelihood import Layout, VesselEquations, Vessels
from optim.estimation.noise import NoiseModel, Scatter, on_scale, scatter_arrays
from optim.estimation.start import require_stated
from optim.estimation.vessels import vessel_arrays
from optim.kinetics.base import AbstractKineticModel, Environment
from optim.parameters import ParameterSpec, ParameterTable
from optim.simulation.balance import Vessel
from optim.simulation.engine.batches import BATCH_ROWS, join_batches, split_batches
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.stiffness import explicit_step_count, stepper_advice

# largest number of lanes of one call: it fills the vector units, and every other number is compiled anew
MOST_LANES = 64
# a vessel's readings are padded to a multiple of this, so that a few more or less of them share a compiled program
READINGS_MULTIPLE = 16


@dataclass(frozen=True)
class FitProblem:
    """A model, its parameter table and a dataset as arrays.

    `variables` are the measured quantities that the model predicts. `vessel_group` [B] is the group of each vessel in
    `groups` (clones, or experiments where `group_by` says so): parameters of level clone are pooled over the groups.
    `vessel_batch` [B] is its experiment in `batches`. The parameters of a lane are the shared ones, those of its batch,
    of its group, and its own, in this order.
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
        """Parameters with one value for all vessels."""
        return self.table.of_level("shared")

    @property
    def batch_specs(self) -> tuple[ParameterSpec, ...]:
        """Parameters with one value per batch (experiment)."""
        return self.table.of_level("batch")

    @property
    def group_specs(self) -> tuple[ParameterSpec, ...]:
        """Parameters of level clone: one value per group, pooled around a population mean."""
        return self.table.of_level("clone")

    @property
    def vessel_specs(self) -> tuple[ParameterSpec, ...]:
        """Parameters with one value per vessel."""
        return self.table.of_level("vessel")

    @cached_property
    def layout(self) -> Layout:
        """The order of the parameters of a lane; hashable, so that it can be part of the compiled program."""
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
        """Values of the fixed parameters on the natural scale, in the order of `Layout.fixed`."""
        fixed = {s.name: s.value for s in self.table.of_level("fixed")}
        return np.array([fixed[name] for name in self.layout.fixed])

    @cached_property
    def scatter(self) -> Scatter:
        """The noise model as arrays, one entry per variable."""
        return scatter_arrays(self.noise, self.variables)

    def make_lanes(self, vessel: np.ndarray, sd: np.ndarray | None = None) -> VesselLanes:
        """Put vessels on lanes, ready to be simulated with any parameter values.

        `vessel` [L]: index of the vessel on each lane, repeated for several parameter sets. `sd` [B, M]: noise of every
        reading; default: as stated.
        """
        v = self.vessels if sd is None else self.vessels._replace(sd=sd)
        vessel, ready = np.asarray(vessel), []
        for place, part in split_batches(v, vessel, min(-(-len(self.vessel_group) // 8) * 8, MOST_LANES)):
            # a row that only pads the call has no intervals: it ends where it begins
            used = np.append(True, np.diff(place) > 0)
            grid = part.grid._replace(intervals=jnp.where(used, part.grid.intervals, 0))
            ready.append((place, part._replace(grid=grid)))
        return VesselLanes(self, vessel, tuple(ready))

    @cached_property
    def all_lanes(self) -> VesselLanes:
        """Every vessel on one lane, with the stated noise."""
        return self.make_lanes(np.arange(len(self.vessel_group)))

    def select_vessels(self, vessels: np.ndarray) -> FitProblem:
        """The problem of some of the vessels (indices); arrays keep their widths, so that programs are shared."""
        group, batch = self.vessel_group[vessels], self.vessel_batch[vessels]
        groups, group_of = _numbered([self.groups[c] for c in group])
        batches, batch_of = _numbered([self.batches[b] for b in batch])
        return replace(
            self,
            dataset=self.dataset.select_runs(vessels),
            vessels=jax.tree.map(lambda x: x[vessels], self.vessels),
            vessel_group=group_of,
            groups=groups,
            vessel_batch=batch_of,
            batches=batches,
        )

    def readings_until(self, time_h: float) -> FitProblem:
        """The problem with the readings up to a time (h) only."""
        v = self.vessels
        at = np.take_along_axis(v.grid.t, v.node, axis=1)
        return replace(self, vessels=v._replace(weight=np.where(at <= time_h, v.weight, 0.0)))

    def predict(self, u: np.ndarray, vessel: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Predicted readings [L, M] and status [L] at u [L, Q]; `vessel` [L]: that of each lane (default: all)."""
        lanes = self.all_lanes if vessel is None else self.make_lanes(vessel)
        y, _, trajectory = lanes.run_program(likelihood.predict_readings, u)
        return y, trajectory.status

    def scaled_deviation(self, y: np.ndarray) -> np.ndarray:
        """Predictions y less readings [B, M], on the scale on which each assay scatters."""
        v = self.vessels
        scale, floor = self.scatter.scale[v.variable], self.scatter.floor[v.variable]
        return np.asarray(on_scale(y, scale, floor) - on_scale(v.value, scale, floor))

    def integrator_advice(self, u: np.ndarray) -> str | None:
        """Advice to use another stepper at u [B, Q], judged on the first vessels; None where the choice is good."""
        few = np.arange(min(len(u), BATCH_ROWS))
        v = jax.tree.map(lambda x: x[few], self.vessels)
        _, p, trajectory = self.make_lanes(few).run_program(likelihood.predict_readings, u[few])
        bound = explicit_step_count(
            self.model, p, trajectory, grid=v.grid, vessel=Vessel(v.feeds, v.retention, None, v.topup)
        )
        return stepper_advice(self.integrator, trajectory.steps, bound)


@dataclass(frozen=True)
class VesselLanes:
    """Vessels on lanes: `vessel` [L] is the vessel of each, `ready` the prepared arrays by call with their rows."""

    problem: FitProblem
    vessel: np.ndarray
    ready: tuple[tuple[np.ndarray, Vessels], ...]

    def vessel_costs(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Negative log-likelihood [L] and whitened residuals [L, M] at u [L, Q]."""
        costs: tuple[np.ndarray, np.ndarray] = self.run_program(
            likelihood.vessel_costs, u, scatter=self.problem.scatter
        )
        return costs

    def vessel_equations(self, u: np.ndarray) -> VesselEquations:
        """Cost, gradient and Gauss-Newton matrix of each lane at u [L, Q]."""
        equations: VesselEquations = self.run_program(likelihood.vessel_equations, u, scatter=self.problem.scatter)
        return equations

    def with_readings(self, value: np.ndarray, censored: np.ndarray) -> VesselLanes:
        """The same lanes with other readings and codes of censoring, [L, M]."""
        ready = tuple((rows, v._replace(value=value[rows], censored=censored[rows])) for rows, v in self.ready)
        return VesselLanes(self.problem, self.vessel, ready)

    def run_program(self, program: Any, u: np.ndarray, **rest: Any) -> Any:
        """Run a program of `likelihood` at u [L, Q]; returns its results as NumPy arrays."""
        p = self.problem
        return join_batches(
            [
                program(p.layout, u[rows], v, fixed=p.fixed_values, integrator=p.integrator, **rest)
                for rows, v in self.ready
            ],
            len(u),
        )


def build_problem(
    model: AbstractKineticModel,
    table: ParameterTable,
    dataset: Dataset,
    *,
    noise: NoiseModel,
    integrator: Integrator,
    group_by: str = "clone",
) -> FitProblem:
    """Turn a dataset into the arrays of a fit problem.

    `group_by` (clone | experiment) is what the parameters of level clone are estimated for. Raises `DatasetError` when
    the model predicts none of the measured variables, or when a run lacks what the model's initial state needs, or when
    its medium does not state what the model needs and the first samples read.
    """
    variables, observed = _observed(model, table, dataset)
    times = [np.unique([time for time, *_ in rows]) for rows in observed]
    made = vessel_arrays(model, dataset, times)
    require_stated(model, table, dataset)
    width = max(1, -(-max(len(o) for o in observed) // READINGS_MULTIPLE)) * READINGS_MULTIPLE
    arrays = {k: np.zeros((len(observed), width)) for k in ("node", "variable", "value", "sd", "censored", "weight")}
    arrays["sd"] += 1.0
    for b, rows in enumerate(observed):
        for m, (time, variable, value, censored) in enumerate(rows):
            arrays["node"][b, m] = int(np.argmin(np.abs(made.nodes[b] - time)))
            arrays["variable"][b, m] = variables.index(variable)
            arrays["value"][b, m] = value
            arrays["sd"][b, m] = noise.sd_on_scale(variable, np.asarray(value))
            arrays["censored"][b, m] = noise.censoring_code(variable, value, censored)
            arrays["weight"][b, m] = 1.0
    vessels = Vessels(
        grid=made.grid,
        feeds=made.feeds,
        initial=made.initial,
        volume=made.volume,
        node=arrays["node"].astype(np.int32),
        variable=arrays["variable"].astype(np.int32),
        value=arrays["value"],
        sd=arrays["sd"],
        censored=arrays["censored"].astype(np.int32),
        weight=arrays["weight"],
        retention=made.retention,
        topup=made.topup,
    )
    experiments = [run.experiment_id for run in dataset.runs]
    groups, group_of = _numbered(experiments if group_by == "experiment" else [run.clone_id for run in dataset.runs])
    batches, batch_of = _numbered(experiments)
    return FitProblem(
        model, table, dataset, noise, integrator, variables, vessels, group_of, groups, group_by, batch_of, batches
    )


def _numbered(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The different names in order of appearance, and the index of each name among them."""
    different = tuple(dict.fromkeys(names))
    return different, np.array([different.index(name) for name in names])


Row = tuple[float, str, float, str]


def _observed(
    model: AbstractKineticModel, table: ParameterTable, dataset: Dataset
) -> tuple[tuple[str, ...], list[list[Row]]]:
    """Variables to fit, and the readings of each vessel.

    Readings that define the initial state are left out: they are no evidence about the parameters.
    """
    m = dataset.measurements
    predicted = observable_names(model, table)
    unused = sorted(set(m.variable) - set(predicted))
    if set(m.variable) <= set(unused):
        raise DatasetError(
            f"dataset '{dataset.name}' measures {', '.join(unused)}, but the model predicts {', '.join(predicted)}"
        )
    rows: list[list[Row]] = [[] for _ in dataset.runs]
    for i in range(len(m.value)):
        variable, time = m.variable[i], float(m.time_h[i])
        if variable in unused or (time == 0.0 and variable in model.initial_variables):
            continue
        rows[int(m.run[i])].append((time, variable, float(m.value[i]), m.censored[i]))
    present = {v for own in rows for _, v, _, _ in own}
    return tuple(v for v in predicted if v in present), rows


def observable_names(model: AbstractKineticModel, table: ParameterTable) -> tuple[str, ...]:
    """Names of the variables that the model predicts."""
    values = table.natural_values()
    p = model.Parameters(**{name: values[name] for name in model.Parameters._fields})
    ones = model.State(*(jnp.ones(()) for _ in model.species))
    # which variables there are does not depend on setpoints, but some models refuse one that they lack
    return tuple(model.observe(p, ones, Environment(*(jnp.asarray(x) for x in (37.0, 7.0, 40.0, 100.0)))))
