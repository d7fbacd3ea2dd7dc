"""Simulation of cultivations: kinetic parameters and schedules in, trajectories out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import SimulationError, Status
from optim.kinetics.base import AbstractKineticModel
from optim.runtime import require_float64
from optim.schedule.grid import IntervalGrid
from optim.simulation.balance import collected_species, to_amounts, to_concentrations
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator, march
from optim.simulation.engine.reverse import march_reverse
from optim.simulation.engine.table import pack_vessels
from optim.types import Array


class Trajectory(NamedTuple):
    """The trajectory of a cultivation: its state at every node, just before the actions that happen there.

    A batch of cultivations has a leading axis B in every leaf.
    """

    t: Array  # [K+1] h
    concentrations: Any  # the model's State, each [K+1] in the species' unit
    volume: Array  # [K+1] L
    collected: dict[str, Array]  # [K+1] amount of each collected species that left through the retention device
    status: Array  # `optim.errors.Status`
    steps: Array  # number of attempted steps
    rejected: Array  # number of rejected steps
    error: Array  # sum of the local errors of all steps, in units of the tolerance


def simulate_cultivations(
    model: AbstractKineticModel,
    p: Any,
    cultivation: Cultivation,
    *,
    integrator: Integrator,
    derivative: Literal["forward", "reverse"] = "forward",
) -> Trajectory:
    """Simulate a batch of B cultivations.

    The result is differentiable with respect to `p` and every number of `cultivation`. The numbers of one vessel do not
    depend on the other vessels of the batch. May be called inside `jax.jit`.

    Args:
        model: kinetic model; static under `jax.jit`.
        p: the model's Parameters, each [B].
        cultivation: initial states, schedules and vessels; every leaf has a leading axis B.
        integrator: stepper, tolerances and limits of the time integration.
        derivative: "forward" for `jax.jvp` and `jax.jacfwd` (few inputs), "reverse" for `jax.grad` (few outputs).

    Returns:
        The trajectories. A failure is data: nodes after it are NaN, the gradient is zero, and `status` holds the
        reason. `check_trajectory` turns a failure into an error.

    Raises:
        OptimError: JAX is set to single precision.
    """
    require_float64("simulate_cultivations")
    grid, vessel = jax.tree.map(jnp.asarray, (cultivation.grid, cultivation.vessel))
    initial = model.State(*(jnp.asarray(x) for x in cultivation.initial))
    y0 = jnp.stack(to_amounts(model, initial, jnp.asarray(cultivation.volume), actions=grid.actions), axis=-1)
    p = jax.tree.map(jnp.asarray, p)
    run = march_reverse if derivative == "reverse" else march
    result = run(model, pack_vessels(p, y0, grid=grid, vessel=vessel), integrator)
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
    cultivation: Cultivation,
    *,
    integrator: Integrator,
    derivative: Literal["forward", "reverse"] = "forward",
) -> Trajectory:
    """Simulate a single cultivation: `simulate_cultivations` without the batch axis.

    Do not call this function under `jax.vmap`; `simulate_cultivations` batches cultivations much faster.

    Args:
        model: kinetic model.
        p: the model's Parameters, each a number.
        cultivation: initial state, schedule and vessel without a batch axis.
        integrator: as for `simulate_cultivations`.
        derivative: as for `simulate_cultivations`.

    Returns:
        The trajectory without a batch axis.

    Raises:
        OptimError: JAX is set to single precision.
    """
    require_float64("simulate_one")
    one = (p, cultivation._replace(initial=tuple(cultivation.initial)))
    p, cultivation = jax.tree.map(lambda x: jnp.asarray(x)[None], one)
    batch = simulate_cultivations(model, p, cultivation, integrator=integrator, derivative=derivative)
    trajectory: Trajectory = jax.tree.map(lambda x: x[0], batch)
    return trajectory


def observe_nodes(
    model: AbstractKineticModel, p: Any, trajectory: Trajectory, *, grid: IntervalGrid
) -> dict[str, Array]:
    """Observed variables (error-free assay values) at every node of one cultivation.

    Args:
        model: kinetic model.
        p: the model's Parameters, each a number.
        trajectory: a trajectory without a batch axis; use `jax.vmap` for a batch.
        grid: the schedule of that trajectory. The environment of a node is that of the interval that ends there.

    Returns:
        Values [K+1] by the name of the variable, in its canonical unit (`optim.units.VARIABLES`).
    """
    last = grid.actions.end or grid.actions.start
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.arange(grid.t.shape[0] - 1, dtype=jnp.int32)])
    env = jax.tree.map(lambda a: a[before], last)
    return model.observe(p, trajectory.concentrations, env)


def check_trajectory(trajectory: Trajectory, vessels: tuple[str, ...]) -> None:
    """Turn failed simulations into an error.

    Args:
        trajectory: trajectories with a leading axis B.
        vessels: the name of each vessel [B].

    Raises:
        SimulationError: at least one vessel failed. The message names each of them, the time, the reason and the
            remedy.
    """
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
