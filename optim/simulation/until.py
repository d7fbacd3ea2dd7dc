"""Runs that end when a criterion is met: viability below 60 %, titre above 2 g/L, volume at its limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim.kinetics.base import AbstractKineticModel
from optim.runtime import require_float64
from optim.schedule.grid import IntervalGrid, split_interval
from optim.simulation.balance import Controls, Vessel, to_amounts, to_concentrations
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.rhs import FrozenInputs, right_hand_side
from optim.simulation.simulate import Trajectory, simulate
from optim.types import Array

# simulations spent on a crossing: the error falls faster than geometrically once the bracket is small
ROUNDS = 14

# concentrations (a State, each [K+1]) and volume [K+1] of one vessel -> [K+1], met when not below zero
Criterion = Callable[[Any, Array], Array]


class UntilResult(NamedTuple):
    """Runs [B] that ended at their criterion, or as planned."""

    trajectory: Trajectory  # the node of the crossing is the last in use
    grid: IntervalGrid  # what was run, cut at the crossing
    crossed: Array  # whether the criterion was met before the planned end
    t: Array  # h, of the crossing or of the planned end
    change: Array  # of the criterion per hour at the crossing; 0 where there is none


def simulate_until(
    model: AbstractKineticModel,
    p: Any,
    initial: Any,
    volume: Array,
    grid: IntervalGrid,
    vessel: Vessel,
    integrator: Integrator,
    criterion: Criterion,
) -> UntilResult:
    """Simulate B vessels, each until `criterion` first rises to zero; arguments as for `simulate`.

    Whether it is met is judged at nodes, just before their actions: give nodes as close as the criterion moves. The
    time of the crossing is found to round-off by simulation, not by interpolation. It is differentiable (by the
    implicit function theorem) in everything that `simulate` is, and so is all that happens until then: the limit
    of a criterion is a smooth decision. A criterion that is met at the start ends the run there.
    Needs one interval of padding in every grid (`to_grid` with a size above the number of nodes).
    """
    require_float64("simulate_until")
    run = lambda g: simulate(model, p, initial, volume, g, vessel, integrator)  # noqa: E731
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

    def _cut(t: Array) -> IntervalGrid:
        more = jax.vmap(split_interval)(grid, k, t)
        return more._replace(intervals=jnp.where(crossed, k + 1, grid.intervals + 1).astype(jnp.int32))

    def _at(t: Array) -> tuple[Trajectory, Array]:
        found = run(_cut(t))
        return found, pick(values(found.concentrations, found.volume), k + 1)

    known = jax.lax.stop_gradient((low, high, pick(at_nodes, node)))
    time = jax.lax.stop_gradient(_root(lambda t: jax.lax.stop_gradient(_at(t)[1]), *known))
    found, value = _at(time)
    slope = _slope(model, p, _cut(time), vessel, jax.lax.stop_gradient(found), k, criterion)
    real = crossed & (slope > 0.0)
    slope = jnp.where(real, slope, 0.0)
    # one Newton step: it moves the time by round-off, and gives it the derivative of the implicit function
    time = jnp.where(crossed, time - jnp.where(real, value / jnp.where(real, slope, 1.0), 0.0), high)
    end = _cut(time)
    return UntilResult(run(end), end, crossed, time, slope)


def _slope(
    model: AbstractKineticModel,
    p: Any,
    grid: IntervalGrid,
    vessel: Vessel,
    trajectory: Trajectory,
    k: Array,
    criterion: Criterion,
) -> Array:
    """Change of the criterion per hour at the end of interval k of every vessel, from the right-hand side."""
    lanes = lambda tree: jax.tree.map(lambda a: jnp.moveaxis(jnp.asarray(a), 0, -1), tree)  # noqa: E731
    row = jnp.arange(k.shape[0])
    u = Controls(grid.t[row, k + 1] - grid.t[row, k], jax.tree.map(lambda a: a[row, k], grid.actions))
    c = model.State(*(x[row, k + 1] for x in trajectory.concentrations))
    y = to_amounts(model, c, trajectory.volume[row, k + 1], grid.actions)
    rhs = right_hand_side(model, FrozenInputs(*lanes((u, p, vessel))))
    change = rhs(jnp.ones(k.shape), jnp.stack(y))
    inverse = jnp.where(u.length > 0.0, 1.0 / jnp.where(u.length > 0.0, u.length, 1.0), 0.0)

    def _value(y: tuple[Array, ...]) -> Array:
        one = lambda x: jax.tree.map(lambda a: a[:, None], x)  # noqa: E731
        return jax.vmap(criterion)(one(to_concentrations(model, y)), one(y[len(model.species)]))[:, 0]

    return jax.lax.stop_gradient(jax.jvp(_value, (tuple(y),), (tuple(x * inverse for x in change),))[1])


def _root(f: Callable[[Array], Array], low: Array, high: Array, above: Array) -> Array:
    """Where f rises through zero in each bracket, of which the value at its end is known.

    Regula falsi in the Illinois form (Dowell & Jarratt 1971, BIT 11:168).
    """

    def _one(i: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, below, above, side = state
        share = jnp.where(above > below, -below / jnp.where(above > below, above - below, 1.0), 0.5)
        t = jnp.where(i == 0, low, low + jnp.clip(share, 0.0, 1.0) * (high - low))
        value = f(t)
        up = value >= 0.0
        # the end that stays twice loses half of its weight
        below = jnp.where(up, jnp.where(side > 0, 0.5 * below, below), value)
        above = jnp.where(up, value, jnp.where(side < 0, 0.5 * above, above))
        side = jnp.where(up, 1, jnp.where(i == 0, 0, -1)).astype(side.dtype)
        return jnp.where(up, low, t), jnp.where(up, t, high), below, above, side

    start = (low, high, jnp.full_like(low, -1.0), above, jnp.zeros(low.shape, jnp.int32))
    return jax.lax.fori_loop(0, ROUNDS, _one, start)[1]
