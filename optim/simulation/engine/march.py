"""The march: the loop over time steps, which owns the clocks, the nodes and the status of all vessels.

Vessels run on lanes. Each lane has its own vessel, interval, clock and step size. When its vessel is finished, a lane
takes the next vessel that waits, so no vessel waits for the slowest one. All lanes step at once. The lanes that have
reached a node are served every few steps (a visit): only a visit pays for storing states and for actions at nodes.

Step sizes are chosen from values only and are never differentiated, and interval lengths enter the right-hand side as
factors. So derivatives with respect to event times, doses, rates, setpoints, initial state and parameters are those of
the discrete solution, exact for the steps taken. `march` has forward derivatives, `engine.reverse` has reverse ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import Status
from optim.kinetics.base import AbstractKineticModel
from optim.settings.simulation import IntegratorSettings
from optim.simulation.balance import Controls, apply_left_edge, state_scales
from optim.simulation.engine.rhs import FrozenInputs, RightHandSide, hold_in_memory, right_hand_side, stack_rows
from optim.simulation.engine.steppers import AbstractStepper, Tsit5
from optim.simulation.engine.table import VesselTable, controls_at
from optim.types import Array

# steps between two visits: a lane that reaches a node idles for half of them on average; a visit costs about one step
STEPS_PER_VISIT = 4
# A step is rejected if it takes a species below zero by more than this fraction of its scale. That is no round-off, and
# the error estimate can miss it: a step over the pole of s/(k+s) at -k can land on another smooth solution.
NEGATIVE_TOLERANCE = 1e-4
# logarithm of the smallest error that enters the trend: a much smaller one says nothing about the next step
LEAST_LOG_ERROR = math.log(1e-4)


class Integrator(eqx.Module):
    """The time integration: a stepper and its settings."""

    stepper: AbstractStepper = Tsit5()
    """The one-step method."""
    rtol: float = IntegratorSettings.rtol
    """Relative tolerance of the local error."""
    atol: float = IntegratorSettings.atol
    """Absolute tolerance of the local error, relative to the scale of each species."""
    max_steps: int = eqx.field(static=True, default=IntegratorSettings.max_steps)
    """Attempted steps after which a vessel fails with `Status.MAX_STEPS`."""
    first_step_h: float = IntegratorSettings.first_step_h
    """First step size of a vessel, h."""
    smallest_step_h: float = 1e-9
    """Step size below which a vessel fails, h."""
    guard: bool = eqx.field(static=True, default=True)
    """Keep explicit steps within the region of stability, which error control of the values alone does not. This is
    needed wherever derivatives are taken; turn it off only if values alone are used."""
    lanes: int = eqx.field(static=True, default=64)
    """Largest number of lanes."""


class MarchResult(NamedTuple):
    """The result of a march of V vessels with K intervals and N' states each."""

    states: Array  # [V, K+1, N'] amounts, volume in L and collected amounts at every node
    status: Array  # [V] `optim.errors.Status`
    steps: Array  # [V] number of attempted steps
    rejected: Array  # [V] number of rejected steps
    error: Array  # [V] sum of the local errors of all steps, in units of the tolerance


class LaneState(NamedTuple):
    """The state of L lanes; every leaf has the lanes as its last axis."""

    vessel: Array  # index of the vessel
    k: Array  # index of the interval
    s: Array  # position in the interval, 0..1
    h: Array  # next step size, h
    y: Array  # [N', L] state of the vessel
    push: Array | None  # [N', L] estimate of the fastest mode, in units of the species' scales
    idle: Array  # whether the lane waits for the visit: at a node, after a failure, or without a vessel
    active: Array  # whether the lane has a vessel
    status: Array
    steps: Array
    rejected: Array
    error: Array
    last_h: Array  # size of the last accepted step, h; 0 at the beginning of an interval
    last_size: Array  # logarithm of the squared error of that step
    stumbled: Array  # whether the last step was rejected


class LoopState(NamedTuple):
    """The state of the loop over visits."""

    lane: LaneState
    frozen: FrozenInputs  # of the interval of every lane
    waiting: Array  # index of the next vessel that no lane has taken
    states: Array  # [V, K+1, N']
    summary: Array  # [V, 4] status, steps, rejected, error


def march(model: AbstractKineticModel, table: VesselTable, integrator: Integrator) -> MarchResult:
    """Integrate V vessels from node 0 to their last node.

    Args:
        model: kinetic model.
        table: all inputs of the vessels, from `pack_vessels`.
        integrator: stepper and settings.

    Returns:
        The states at all nodes. Rows after a failure are NaN; rows of padding repeat the last state.
    """

    def _visit_and_step(loop: LoopState) -> LoopState:
        loop = serve_lanes(model, table, loop, integrator=integrator)
        length, rhs = loop.frozen.controls.length, right_hand_side(model, loop.frozen)
        lane = jax.lax.fori_loop(
            0,
            STEPS_PER_VISIT,
            lambda _, lane: try_step(model, lane, rhs, length=length, integrator=integrator)[0],
            loop.lane,
        )
        return loop._replace(lane=lane)

    return march_result(
        jax.lax.while_loop(lambda loop: work_remains(table, loop), _visit_and_step, initial_loop(table, integrator)),
        table,
    )


def _lane_count(vessels: int, integrator: Integrator) -> int:
    """Number of lanes: a multiple of 8, so that the numbers of a vessel do not depend on its lane."""
    return max(8, min(integrator.lanes, -(-vessels // 8) * 8))


def work_remains(table: VesselTable, loop: LoopState) -> Array:
    """Whether a lane has a vessel, or a vessel waits for a lane."""
    return jnp.any(loop.lane.active) | (loop.waiting < table.intervals.shape[0])


def initial_loop(table: VesselTable, integrator: Integrator) -> LoopState:
    """The state of the loop before the first visit: no lane has a vessel."""
    vessels = table.intervals.shape[0]
    n = _lane_count(vessels, integrator)
    dtype = table.y0.dtype
    zero, none = jnp.zeros(n, jnp.int32), jnp.zeros(n, dtype)
    first = jnp.minimum(jnp.arange(n, dtype=jnp.int32), vessels - 1)
    y0 = table.y0[first].T
    states = jnp.full((vessels, table.node_count, y0.shape[0]), jnp.nan, dtype).at[:, 0].set(table.y0)
    lane = LaneState(
        vessel=first,
        k=zero,
        s=none,
        h=none,
        y=y0,
        push=_mixed(y0) if _guarded(integrator) else None,
        idle=jnp.ones(n, bool),
        active=jnp.zeros(n, bool),
        status=zero,
        steps=zero,
        rejected=zero,
        error=none,
        last_h=none,
        last_size=jnp.zeros(n, jnp.float32),
        stumbled=jnp.zeros(n, bool),
    )
    frozen = FrozenInputs(controls_at(table, first, zero), table.p.take_rows(first), table.vessels.take_rows(first))
    return LoopState(lane, frozen, jnp.zeros((), jnp.int32), states, jnp.zeros((vessels, 4), dtype))


def _guarded(integrator: Integrator) -> bool:
    return integrator.guard and integrator.stepper.stability_limit is not None


def _mixed(y: Array) -> Array:
    """A direction with a part of every mode, since a simple combination of states could be at rest by chance."""
    mixed = np.cos(1.0 + 2.0 * np.arange(y.shape[0]))
    return jnp.broadcast_to(jnp.asarray(mixed, y.dtype)[:, None], y.shape)


def _select(mask: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), yes, no)


def try_step(
    model: AbstractKineticModel, lane: LaneState, rhs: RightHandSide, *, length: Array, integrator: Integrator
) -> tuple[LaneState, tuple[Array, Array]]:
    """Try one step on every lane that is not idle.

    Args:
        model: kinetic model.
        lane: the lanes.
        rhs: their right-hand side.
        length: h, length of the interval of each lane [L].
        integrator: stepper and settings.

    Returns:
        The lanes after the step, and the size of the step as a fraction of the interval [L] and whether it was
        accepted [L].
    """
    n = len(model.species)
    length = jax.lax.stop_gradient(length)
    wanted = jnp.where(length > 0.0, lane.h / jnp.where(length > 0.0, length, 1.0), 1.0)
    push = lane.push
    if push is not None and integrator.stepper.stability_limit is not None:
        speed, push = _fastest(model, lane, rhs, push)
        wanted = jnp.minimum(wanted, integrator.stepper.stability_limit / speed)
    remaining = 1.0 - lane.s
    # a very short last step would cost a whole step: stretch this one by up to 1 % to reach the node
    ends = wanted >= 0.99 * remaining
    ds = jax.lax.stop_gradient(jnp.where(ends, remaining, wanted))
    ends, ds, tried_h = hold_in_memory((ends, ds, ds * length))
    new, error = integrator.stepper.step(rhs, lane.y, s=lane.s, h=ds)

    square = hold_in_memory(_error_square(model, integrator, lane.y, new, error))
    size, growth = _growth(integrator, lane, square, tried_h)
    negative = _negative(model, lane.y, new)
    growth = jnp.where(negative, jnp.minimum(growth, 0.25), growth)
    accepted = (square <= 1.0) & ~negative & ~lane.idle
    finite, negative, accepted, growth = hold_in_memory((jnp.isfinite(square), negative, accepted, growth))
    # a step that was shortened to end at a node says little about the next one: it must not reduce the step size
    h = jnp.where(accepted & ends, jnp.maximum(lane.h, tried_h * growth), tried_h * growth)
    y = jnp.where(accepted, new, lane.y)
    steps = lane.steps + jnp.where(lane.idle, 0, 1).astype(jnp.int32)
    smallest = integrator.smallest_step_h
    failed = jnp.select(
        [
            ~accepted & (h < smallest) & finite & negative,
            (~accepted & (h < smallest) & finite) | (~ends & (tried_h < smallest)),
            ~accepted & (h < smallest),
            accepted & (jax.lax.stop_gradient(new[n]) <= 0.0),
            # a vessel does not fail if its last step is the last one allowed
            (steps >= integrator.max_steps) & ~(accepted & ends),
        ],
        [
            jnp.int32(Status.OUT_OF_RANGE),
            jnp.int32(Status.STEP_TOO_SMALL),
            jnp.int32(Status.NON_FINITE),
            jnp.int32(Status.VOLUME_EXHAUSTED),
            jnp.int32(Status.MAX_STEPS),
        ],
        jnp.int32(Status.OK),
    )
    status = jnp.where(lane.idle, lane.status, failed)
    after = lane._replace(
        last_h=jnp.where(accepted, tried_h, lane.last_h),
        last_size=jnp.where(accepted, jnp.maximum(size, LEAST_LOG_ERROR), lane.last_size),
        stumbled=~accepted & ~lane.idle,
        s=jnp.where(accepted, lane.s + ds, lane.s),
        h=jax.lax.stop_gradient(jnp.where(lane.idle, lane.h, h)),
        y=y,
        push=push,
        idle=lane.idle | (accepted & ends) | (status != Status.OK),
        status=status,
        steps=steps,
        rejected=lane.rejected + (~accepted & ~lane.idle).astype(jnp.int32),
        error=lane.error + jnp.where(accepted, jnp.sqrt(square), 0.0),
    )
    return after, (ds, accepted)


def _growth(integrator: Integrator, c: LaneState, square: Array, tried_h: Array) -> tuple[Array, Array]:
    """Predictive step size control: the logarithm of the squared error, and the factor for the next step size.

    The controller follows the trend of the error, so that few steps are rejected: Gustafsson 1994, ACM Trans Math Softw
    20:496, as in Hairer & Wanner 1996 (Solving ODEs II, IV.8).
    """
    # single precision is sufficient for a step size, and its exponentials are several times cheaper
    size = jnp.log(jnp.clip(square, 1e-20, 1e20).astype(jnp.float32))
    exponent = jnp.float32(-0.5 / integrator.stepper.error_order)
    plain = 0.9 * jnp.exp(exponent * size)
    trend = plain * jnp.exp(exponent * (size - c.last_size)) * (tried_h / c.last_h).astype(jnp.float32)
    growth = jnp.where((square <= 1.0) & (c.last_h > 0.0), jnp.minimum(plain, trend), plain)
    growth = jnp.clip(growth, 0.2, jnp.where(c.stumbled, 1.0, 5.0))
    return size, jnp.where(jnp.isfinite(square), growth, 0.1).astype(square.dtype)


def _fastest(model: AbstractKineticModel, c: LaneState, rhs: RightHandSide, push: Array) -> tuple[Array, Array]:
    """Rate of the fastest mode (per unit of s) and its direction, by one power iteration per step; values only.

    Error control of the values alone does not keep an explicit step stable. At a quasi-steady state the error vanishes
    and the step grows; the derivatives, which have no error estimate, then grow without bound.
    """
    frozen, s, y, v = jax.lax.stop_gradient((rhs.frozen, c.s, c.y, push))
    scale = state_scales(model, y)
    w = RightHandSide(rhs.graph, frozen).push_forward(s, y, hold_in_memory(v * scale)) / scale
    length, before = jnp.sqrt(sum(w**2)), jnp.sqrt(sum(v**2))
    speed = length / before
    usable = jnp.isfinite(speed) & (speed > 0.0)
    # a small part of every direction stays, so that a mode that becomes active is detected
    turned = jnp.where(usable, w / jnp.where(usable, length, 1.0) + 1e-3 * _mixed(y), _mixed(y))
    return jnp.where(usable, speed, 1e-30), jax.lax.stop_gradient(turned)


def _error_square(
    model: AbstractKineticModel, integrator: Integrator, old: Array, new: Array, error: Sequence[Array]
) -> Array:
    """Mean square of the error of the species over its tolerance; values only, without derivative."""
    old, new, error = jax.lax.stop_gradient((old, new, error))
    n = len(model.species)
    floor = integrator.atol * state_scales(model, new)
    squares = []
    for i in range(n):
        squares.append((error[i] / (floor[i] + integrator.rtol * jnp.maximum(jnp.abs(old[i]), jnp.abs(new[i])))) ** 2)
    return sum(squares[1:], squares[0]) / n


def _negative(model: AbstractKineticModel, old: Array, new: Array) -> Array:
    """Whether a step takes an unsigned species below zero."""
    old, new = jax.lax.stop_gradient((old, new))
    floor = -NEGATIVE_TOLERANCE * state_scales(model, new)
    negative = jnp.zeros(new.shape[1:], bool)
    for i, species in enumerate(model.species):
        if not species.signed:
            negative = negative | (new[i] < jnp.minimum(floor[i], old[i]))
    return negative


def serve_lanes(
    model: AbstractKineticModel, table: VesselTable, loop: LoopState, *, integrator: Integrator
) -> LoopState:
    """Serve the idle lanes: store the state at the node, assign the next vessel, and apply the actions of the node.

    Args:
        model: kinetic model.
        table: all inputs of the vessels.
        loop: the loop before the visit.
        integrator: stepper and settings.

    Returns:
        The loop after the visit.
    """
    lane = loop.lane
    vessels = table.intervals.shape[0]
    status = lane.status
    arrived = lane.active & lane.idle & (status == Status.OK)
    k = jnp.where(arrived, lane.k + 1, lane.k)
    # lanes that have not arrived write to distinct places beyond the last, which are dropped: all places are unique
    nowhere = vessels + jnp.arange(k.shape[0], dtype=jnp.int32)
    place = jnp.where(arrived, lane.vessel, nowhere)
    states = loop.states.at[place, k].set(lane.y.T, mode="drop", unique_indices=True)
    done = lane.active & ((status != Status.OK) | (k >= table.intervals[lane.vessel]))
    results = (status, lane.steps, lane.rejected, lane.error)
    rows = jnp.stack([x.astype(loop.summary.dtype) for x in results], axis=-1)
    place = jnp.where(done, lane.vessel, nowhere)
    summary = loop.summary.at[place].set(jax.lax.stop_gradient(rows), mode="drop", unique_indices=True)

    free = ~lane.active | done
    candidate = loop.waiting + jnp.cumsum(free).astype(jnp.int32) - 1
    taken = free & (candidate < vessels)
    lane = lane._replace(k=k, status=status, active=(lane.active & ~done) | taken)
    lane = _select(taken, _fresh(integrator, lane, candidate), lane)
    lane = lane._replace(y=jnp.where(taken, table.y0[lane.vessel].T, lane.y))
    # lanes in the middle of an interval take the same rows as before, so nothing has to be selected
    frozen = FrozenInputs(
        controls_at(table, lane.vessel, lane.k), table.p.take_rows(lane.vessel), table.vessels.take_rows(lane.vessel)
    )

    enters = (arrived & lane.active) | taken
    y = jnp.where(enters, apply_left_edges(model, lane.y, frozen), lane.y)
    emptied = enters & _emptied(model, lane.y, frozen.controls)
    lane = lane._replace(
        s=jnp.where(enters, 0.0, lane.s),
        last_h=jnp.where(enters, 0.0, lane.last_h),
        y=y,
        idle=~lane.active | emptied,
        status=jnp.where(emptied, jnp.int32(Status.VOLUME_EXHAUSTED), lane.status),
    )
    return LoopState(lane, frozen, loop.waiting + jnp.sum(taken).astype(jnp.int32), states, summary)


def apply_left_edges(model: AbstractKineticModel, y: Array, frozen: FrozenInputs) -> Array:
    """Apply the instant actions at the left edge to the states y [N', L] of every lane."""
    edge = jax.vmap(lambda y, u, vessel: apply_left_edge(model, tuple(y), u, vessel=vessel), in_axes=-1, out_axes=-1)
    return stack_rows(edge(y, frozen.controls, frozen.vessel))


def _fresh(integrator: Integrator, lane: LaneState, vessel: Array) -> LaneState:
    """The lanes at the beginning of a vessel."""
    zero, none = jnp.zeros_like(lane.k), jnp.zeros_like(lane.s)
    return lane._replace(
        vessel=vessel,
        k=zero,
        s=none,
        h=jnp.full_like(lane.h, integrator.first_step_h),
        push=None if lane.push is None else _mixed(lane.y),
        status=zero,
        steps=zero,
        rejected=zero,
        error=none,
        last_size=jnp.zeros_like(lane.last_size),
        stumbled=jnp.zeros_like(lane.stumbled),
    )


def _emptied(model: AbstractKineticModel, y: Array, u: Controls) -> Array:
    """Whether the instant actions would empty the vessel."""
    left = jax.lax.stop_gradient(y[len(model.species)] - u.actions.withdraw)
    removed = 0.0 if u.actions.remove is None else u.actions.remove
    refilled = jnp.sum(u.actions.bolus, axis=0)
    return (left <= 0.0) | (left < removed) | (left - removed + refilled <= 0.0)


def march_result(loop: LoopState, table: VesselTable) -> MarchResult:
    """The result of a finished loop. Rows of padding repeat the last state: reductions over nodes need no mask."""
    status, steps, rejected = (loop.summary[:, i].astype(jnp.int32) for i in range(3))
    last = table.intervals[:, None, None]
    padding = jnp.arange(table.node_count)[None, :, None] > last
    repeated = jnp.take_along_axis(loop.states, last, axis=1)
    states = jnp.where(padding & (status == Status.OK)[:, None, None], repeated, loop.states)
    return MarchResult(states, status, steps, rejected, loop.summary[:, 3])
