"""Simulation of one vessel: schedule and parameters in, trajectory out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import SimulationError, Status
from optim.kinetics.base import AbstractKineticModel, Environment
from optim.schedule.grid import IntervalGrid
from optim.simulate.balance import amounts, concentrations
from optim.simulate.march import Integrator, march, march_reverse
from optim.types import Array, Scalar

TAPE_STEPS = 2_000


class Trajectory(NamedTuple):
    """States at every node of the schedule, just before the actions that happen there."""

    t: Array  # [K+1] h
    concentrations: Any  # the model's State, each [K+1]
    volume: Array  # [K+1] L
    status: Array  # optim.errors.Status
    steps: Array


def simulate(
    model: AbstractKineticModel,
    p: Any,
    initial: Any,
    volume: Scalar,
    grid: IntervalGrid,
    feeds: Array,
    integrator: Integrator,
    derivative: Literal["forward", "reverse"] = "forward",
) -> Trajectory:
    """Simulate one vessel.

    p: the model's Parameters; initial: its State of concentrations at node 0; volume: L; feeds: [J, N] concentrations
    of every species in every feed. Pure: batch with `jax.vmap`. Nodes after a failure hold NaN and `status` says why.
    """
    as_scalar = jnp.asarray
    y0 = amounts(model, model.State(*(as_scalar(x) for x in initial)), as_scalar(volume))
    p = jax.tree.map(as_scalar, p)
    if derivative == "reverse":
        result = march_reverse(model, p, y0, grid, feeds, integrator, TAPE_STEPS)
    else:
        result = march(model, p, y0, grid, feeds, integrator)
    columns = tuple(result.states[:, i] for i in range(result.states.shape[1]))
    return Trajectory(grid.t, concentrations(model, columns), columns[-1], result.status, result.steps)


def observe(model: AbstractKineticModel, p: Any, trajectory: Trajectory, grid: IntervalGrid) -> dict[str, Array]:
    """What assays would read at every node, each [K+1]; the environment is that of the interval that ends there."""
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.arange(grid.temperature.shape[0], dtype=jnp.int32)])
    env = Environment(grid.temperature[before], grid.ph[before])
    return model.observe(p, trajectory.concentrations, env)


def check(trajectory: Trajectory, vessels: tuple[str, ...]) -> None:
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
