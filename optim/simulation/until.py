"""Terminal events: cultivations that end when a criterion is met, such as a viability, a titre or a volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim.kinetics.base import AbstractKineticModel
from optim.runtime import require_float64
from optim.schedule.grid import IntervalGrid, split_interval
from optim.simulation.balance import Controls, to_amounts, to_concentrations
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.rhs import FrozenInputs, right_hand_side
from optim.simulation.simulate import Trajectory, simulate_cultivations
from optim.types import Array

# simulations spent on locating an event: the error falls faster than geometrically once the bracket is small
LOCATION_ROUNDS = 14

# concentrations (a State, each [K+1]) and volume [K+1] in L of one vessel -> [K+1]; met where it is not negative
Criterion = Callable[[Any, Array], Array]


class UntilResult(NamedTuple):
    """Cultivations [B] that ended at their criterion, or as planned where it was not met."""

    trajectory: Trajectory  # the last node in use is that of the event
    grid: IntervalGrid  # the schedules, cut at the event
    crossed: Array  # [B] whether the criterion was met before the planned end
    t: Array  # [B] h, time of the event or of the planned end
    change: Array  # [B] change of the criterion per hour at the event; 0 without an event


def simulate_until(
    model: AbstractKineticModel,
    p: Any,
    cultivation: Cultivation,
    *,
    integrator: Integrator,
    criterion: Criterion,
) -> UntilResult:
    """Simulate a batch of B cultivations, each until `criterion` first rises to zero (a terminal event).

    The criterion is evaluated at nodes, just before their actions, so place nodes as densely as it moves. The time of
    the event is then located to round-off by simulation, not by interpolation. It is differentiable with respect to
    everything that a trajectory is, by the implicit function theorem. A criterion that is met at the start ends the
    cultivation there.

    Args:
        model: kinetic model.
        p: the model's Parameters, each [B].
        cultivation: as for `simulate_cultivations`, with a leading axis B. Every grid needs one interval of padding:
            call `to_grid` with a size above the number of nodes.
        integrator: as for `simulate_cultivations`.
        criterion: function of concentrations and volume of one vessel, evaluated for all nodes at once.

    Returns:
        The trajectories, cut at the event, and the times of the events.

    Raises:
        OptimError: JAX is set to single precision.
    """
    require_float64("simulate_until")
    grid = cultivation.grid
    run = lambda g: simulate_cultivations(model, p, cultivation._replace(grid=g), integrator=integrator)  # noqa: E731
    values = jax.vmap(criterion)
    whole = run(grid)
    at_nodes = values(whole.concentrations, whole.volume)
    used = jnp.arange(at_nodes.shape[1])[None, :] <= grid.intervals[:, None]
    met = used & (at_nodes >= 0.0)
    crossed = jnp.any(met, axis=1) & (whole.status == 0)
    node = jnp.where(crossed, jnp.argmax(met, axis=1), grid.intervals)
    k = jnp.maximum(node - 1, 0)
    pick = lambda a, i: jnp.take_along_axis(a, i[:, None], axis=1)[:, 0]  # noqa: E731
    low, high = pick(grid.t, k), pick(grid.t, node)

    def _cut_grid(t: Array) -> IntervalGrid:
        longer = jax.vmap(split_interval)(grid, k, t)
        return longer._replace(intervals=jnp.where(crossed, k + 1, grid.intervals + 1).astype(jnp.int32))

    def _criterion_at(t: Array) -> tuple[Trajectory, Array]:
        shorter = run(_cut_grid(t))
        return shorter, pick(values(shorter.concentrations, shorter.volume), k + 1)

    bracket = jax.lax.stop_gradient((low, high, pick(at_nodes, node)))
    time = jax.lax.stop_gradient(_root(lambda t: jax.lax.stop_gradient(_criterion_at(t)[1]), *bracket))
    shorter, value = _criterion_at(time)
    stopped = jax.lax.stop_gradient(shorter)
    slope = _criterion_slope(model, p, cultivation._replace(grid=_cut_grid(time)), stopped, k, criterion)
    real = crossed & (slope > 0.0)
    slope = jnp.where(real, slope, 0.0)
    # one Newton step: it moves the time by round-off, and gives it the derivative of the implicit function
    time = jnp.where(crossed, time - jnp.where(real, value / jnp.where(real, slope, 1.0), 0.0), high)
    end = _cut_grid(time)
    return UntilResult(run(end), end, crossed, time, slope)


def _criterion_slope(
    model: AbstractKineticModel,
    p: Any,
    cultivation: Cultivation,
    trajectory: Trajectory,
    k: Array,
    criterion: Criterion,
) -> Array:
    """Change of the criterion per hour at the end of interval k of every vessel, from the right-hand side."""
    grid = cultivation.grid
    lanes = lambda tree: jax.tree.map(lambda a: jnp.moveaxis(jnp.asarray(a), 0, -1), tree)  # noqa: E731
    row = jnp.arange(k.shape[0])
    u = Controls(grid.t[row, k + 1] - grid.t[row, k], jax.tree.map(lambda a: a[row, k], grid.actions))
    c = model.State(*(x[row, k + 1] for x in trajectory.concentrations))
    y = to_amounts(model, c, trajectory.volume[row, k + 1], actions=grid.actions)
    rhs = right_hand_side(model, FrozenInputs(*lanes((u, p, cultivation.vessel))))
    change = rhs(jnp.ones(k.shape), jnp.stack(y))
    inverse = jnp.where(u.length > 0.0, 1.0 / jnp.where(u.length > 0.0, u.length, 1.0), 0.0)

    def _value(y: tuple[Array, ...]) -> Array:
        one = lambda x: jax.tree.map(lambda a: a[:, None], x)  # noqa: E731
        return jax.vmap(criterion)(one(to_concentrations(model, y)), one(y[len(model.species)]))[:, 0]

    return jax.lax.stop_gradient(jax.jvp(_value, (tuple(y),), (tuple(x * inverse for x in change),))[1])


def _root(f: Callable[[Array], Array], low: Array, high: Array, above: Array) -> Array:
    """The root of an increasing f in each bracket; `above` is the value of f at `high`.

    Regula falsi in the Illinois form (Dowell & Jarratt 1971, BIT 11:168).
    """

    def _one_round(i: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, below, above, side = state
        share = jnp.where(above > below, -below / jnp.where(above > below, above - below, 1.0), 0.5)
        t = jnp.where(i == 0, low, low + jnp.clip(share, 0.0, 1.0) * (high - low))
        value = f(t)
        up = value >= 0.0
        # the end that stays for two rounds loses half of its weight
        below = jnp.where(up, jnp.where(side > 0, 0.5 * below, below), value)
        above = jnp.where(up, value, jnp.where(side < 0, 0.5 * above, above))
        side = jnp.where(up, 1, jnp.where(i == 0, 0, -1)).astype(side.dtype)
        return jnp.where(up, low, t), jnp.where(up, t, high), below, above, side

    start = (low, high, jnp.full_like(low, -1.0), above, jnp.zeros(low.shape, jnp.int32))
    return jax.lax.fori_loop(0, LOCATION_ROUNDS, _one_round, start)[1]
