"""Simulation of vessels: schedules and parameters in, trajectories out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import SimulationError, Status
from optim.kinetics.base import AbstractKineticModel
from optim.runtime import require_float64
from optim.schedule.grid import IntervalGrid
from optim.simulation.balance import Vessel, collected_species, to_amounts, to_concentrations
from optim.simulation.engine.march import Integrator, march
from optim.simulation.engine.reverse import march_reverse
from optim.types import Array, Scalar


class Trajectory(NamedTuple):
    """States at every node of the schedule, just before the actions that happen there."""

    t: Array  # [K+1] h
    concentrations: Any  # the model's State, each [K+1]
    volume: Array  # [K+1] L
    collected: dict[str, Array]  # [K+1] what left with the harvest line so far, by species
    status: Array  # optim.errors.Status
    steps: Array  # tried
    rejected: Array
    error: Array  # sum of the local errors of all steps, in units of the tolerance


def simulate(
    model: AbstractKineticModel,
    p: Any,
    initial: Any,
    volume: Array,
    grid: IntervalGrid,
    vessel: Vessel,
    integrator: Integrator,
    derivative: Literal["forward", "reverse"] = "forward",
) -> Trajectory:
    """Simulate B vessels at once; every leaf of every argument has a leading axis B.

    p: the model's Parameters; initial: its State of concentrations at node 0; volume: L. Differentiable in all of them,
    forward or (`derivative="reverse"`) backward. A vessel's numbers do not depend on the vessels beside it. Nodes after
    a failure hold NaN and `status` says why; `check` turns that into an error.
    """
    require_float64("simulate")
    initial = model.State(*(jnp.asarray(x) for x in initial))
    y0 = jnp.stack(to_amounts(model, initial, jnp.asarray(volume), grid.actions), axis=-1)
    p = jax.tree.map(jnp.asarray, p)
    grid, vessel = jax.tree.map(jnp.asarray, (grid, vessel))
    run = march_reverse if derivative == "reverse" else march
    result = run(model, p, y0, grid, vessel, integrator)
    columns = tuple(result.states[..., i] for i in range(result.states.shape[-1]))
    n = len(model.species)
    names = [model.species[i].name for i in collected_species(model)]
    return Trajectory(
        t=grid.t,
        concentrations=to_concentrations(model, columns),
        volume=columns[n],
        collected=dict(zip(names, columns[n + 1 :], strict=False)),
        status=result.status,
        steps=result.steps,
        rejected=result.rejected,
        error=result.error,
    )


def simulate_one(
    model: AbstractKineticModel,
    p: Any,
    initial: Any,
    volume: Scalar,
    grid: IntervalGrid,
    vessel: Vessel,
    integrator: Integrator,
    derivative: Literal["forward", "reverse"] = "forward",
) -> Trajectory:
    """`simulate` of a single vessel, without the axis B. For many vessels call `simulate`, not this under `vmap`."""
    require_float64("simulate_one")
    arguments = (p, tuple(initial), volume, grid, vessel)
    p, initial, volume, grid, vessel = jax.tree.map(lambda x: jnp.asarray(x)[None], arguments)
    many = simulate(model, p, initial, volume, grid, vessel, integrator, derivative)
    one: Trajectory = jax.tree.map(lambda x: x[0], many)
    return one


def observe_nodes(model: AbstractKineticModel, p: Any, trajectory: Trajectory, grid: IntervalGrid) -> dict[str, Array]:
    """What assays would read at every node of one vessel, each [K+1].

    The environment is that of the interval that ends at the node.
    """
    last = grid.actions.end or grid.actions.start
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.arange(grid.t.shape[0] - 1, dtype=jnp.int32)])
    env = jax.tree.map(lambda a: a[before], last)
    return model.observe(p, trajectory.concentrations, env)


def check_trajectory(trajectory: Trajectory, vessels: tuple[str, ...]) -> None:
    """Raise `SimulationError` naming every vessel of a batched trajectory that did not end well."""
    status = np.atleast_1d(np.asarray(trajectory.status))
    if not status.any():
        return
    t = np.atleast_2d(np.asarray(trajectory.t))
    volume = np.atleast_2d(np.asarray(trajectory.volume))
    lines = []
    for b in np.flatnonzero(status):
        code = Status(int(status[b]))
        reached = t[b][np.isfinite(volume[b])]
        at = float(reached[-1]) if reached.size else float(t[b][0])
        lines.append(f"vessel '{vessels[b]}' after {at:.4g} h: {code.name.lower()}; {code.remedy}")
    raise SimulationError("simulation failed\n  " + "\n  ".join(lines))
