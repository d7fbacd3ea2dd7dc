"""The march with reverse derivatives: every step of every lane is recorded, and replayed backward."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import Status
from optim.kinetics.base import AbstractKineticModel
from optim.simulation.engine.march import (
    STEPS_PER_VISIT,
    Integrator,
    LoopState,
    MarchResult,
    VesselTable,
    apply_left_edges,
    controls_at,
    initial_loop,
    interval_row,
    march_result,
    serve_lanes,
    try_step,
    work_remains,
)
from optim.simulation.engine.rhs import FrozenInputs, RightHandSide, right_hand_side
from optim.types import Array

# steps a vessel may take on average, which bounds the record; one that does not fit ends with `Status.MAX_STEPS`
TAPE_STEPS = 2_000


class Tape(NamedTuple):
    """What happened between two visits: T of them, R steps each, on L lanes, with N' states."""

    vessel: Array  # [T, L]
    k: Array
    entered: Array  # the lane began its interval k here: left edge and first accepted step
    ended: Array  # and reached its end
    y: Array  # [T, R, N', L] before every step
    s: Array  # [T, R, L]
    ds: Array
    accepted: Array


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def march_reverse(model: AbstractKineticModel, task: VesselTable, integrator: Integrator) -> MarchResult:
    """`march` with reverse derivatives, of the states. The gradient of a vessel that failed is zero."""
    return record_march(model, task, integrator).march


class RecordedMarch(NamedTuple):
    """A march, and every step it took; the first `used` rows of the tape hold them."""

    march: MarchResult
    tape: Tape
    used: Array


def record_march(model: AbstractKineticModel, task: VesselTable, integrator: Integrator) -> RecordedMarch:
    """March with a record of every step."""
    loop = initial_loop(task, integrator)
    vessels, n = task.intervals.shape[0], loop.lane.vessel.shape[0]
    visits = (-(-vessels // n) + 1) * min(
        TAPE_STEPS, integrator.max_steps
    ) // STEPS_PER_VISIT + 2  # the last one only serves
    rows, dtype = (visits, STEPS_PER_VISIT), loop.states.dtype
    count, flag, real = jnp.zeros((visits, n), jnp.int32), jnp.zeros((visits, n), bool), jnp.zeros((*rows, n), dtype)
    states = jnp.zeros((*rows, *loop.lane.y.shape), dtype)
    blank = Tape(count, count, flag, flag, states, real, real, jnp.zeros((*rows, n), bool))

    def _go(state: tuple[LoopState, Tape, Array]) -> tuple[LoopState, Tape, Array]:
        loop, tape, used = state
        loop = serve_lanes(model, task, integrator, loop)
        before = loop.lane
        length, rhs = loop.held.controls.length, right_hand_side(model, loop.held)

        def _one(i: Array, carried: Any) -> Any:
            lane, tape = carried
            after, (ds, accepted) = try_step(model, integrator, lane, length, rhs)
            tape = tape._replace(
                y=tape.y.at[used, i].set(lane.y),
                s=tape.s.at[used, i].set(lane.s),
                ds=tape.ds.at[used, i].set(ds),
                accepted=tape.accepted.at[used, i].set(accepted),
            )
            return after, tape

        lane, tape = jax.lax.fori_loop(0, STEPS_PER_VISIT, _one, (before, tape))
        at_edge = (before.s == 0.0) & (before.last_h == 0.0)
        tape = tape._replace(
            vessel=tape.vessel.at[used].set(before.vessel),
            k=tape.k.at[used].set(before.k),
            entered=tape.entered.at[used].set(at_edge & jnp.any(tape.accepted[used], axis=0)),
            ended=tape.ended.at[used].set(~before.idle & lane.idle & (lane.status == Status.OK)),
        )
        full = (used + 1 >= visits) & ~lane.idle
        lane = lane._replace(status=jnp.where(full, jnp.int32(Status.MAX_STEPS), lane.status), idle=lane.idle | full)
        return loop._replace(lane=lane), tape, used + 1

    loop, tape, used = jax.lax.while_loop(
        lambda state: work_remains(task, state[0]) & (state[2] < visits), _go, (loop, blank, jnp.zeros((), jnp.int32))
    )
    result = march_result(loop, task)
    # vessels that no lane had finished, or even begun, when the record was full
    place = jnp.where(loop.lane.active, loop.lane.vessel, vessels)
    open_ = (jnp.arange(vessels) >= loop.waiting).at[place].set(True, mode="drop")
    return RecordedMarch(
        result._replace(status=jnp.where(open_, jnp.int32(Status.MAX_STEPS), result.status)), tape, used
    )


def _forward(model: AbstractKineticModel, task: VesselTable, integrator: Integrator) -> tuple[MarchResult, Any]:
    result, tape, used = record_march(model, task, integrator)
    return result, (task, integrator, tape, used, result.states, result.status)


class _Back(NamedTuple):
    """Cotangents: of the lanes' states and of what they hold, and of the rows of the task."""

    visit: Array
    y: Array
    held: FrozenInputs
    task: VesselTable


def _backward(model: AbstractKineticModel, kept: Any, cotangent: MarchResult) -> Any:
    task, integrator, tape, used, states, status = kept
    bar = _cotangent_at_nodes(task, cotangent.states, status)
    good = status == Status.OK
    vessels = task.intervals.shape[0]
    add = partial(jax.tree.map, jnp.add)
    zeros = partial(jax.tree.map, jnp.zeros_like)

    def _go(b: _Back) -> _Back:
        at = b.visit - 1
        v, k = tape.vessel[at], tape.k[at]
        held = FrozenInputs(controls_at(task, v, k), task.p.take_rows(v), task.vessels.take_rows(v))
        ended = tape.ended[at] & good[v]
        y_bar = b.y + jnp.where(ended, bar[v, k + 1].T, 0.0)
        rhs, before_rhs = _prepared(model, held)

        def _one(i: Array, carried: Any) -> Any:
            y_bar, still_bar = carried
            r = STEPS_PER_VISIT - 1 - i
            accepted = tape.accepted[at, r] & good[v]
            y_bar, change = _step_back(integrator, y_bar, tape.y[at, r], tape.s[at, r], tape.ds[at, r], accepted, rhs)
            return y_bar, add(still_bar, change)

        y_bar, still_bar = jax.lax.fori_loop(0, STEPS_PER_VISIT, _one, (y_bar, zeros(rhs.frozen)))
        held_bar = add(b.held, before_rhs(still_bar)[0])
        entered = tape.entered[at] & good[v]
        y_bar, change = _edge_back(model, y_bar, states[v, k].T, entered, held)
        held_bar = add(held_bar, change)
        begun = entered & (k == 0)
        first = jnp.where(begun, v, vessels)
        row = jnp.where(entered, interval_row(task, v, k), task.controls.table.shape[0])
        task_bar = b.task._replace(
            y0=b.task.y0.at[first].add(y_bar.T, mode="drop"),
            p=b.task.p.add_rows(first, held_bar.p),
            vessels=b.task.vessels.add_rows(first, held_bar.vessel),
            controls=b.task.controls.add_rows(row, held_bar.controls),
        )
        y_bar, p_bar, device_bar = jax.tree.map(
            lambda a: jnp.where(begun, 0.0, a), (y_bar, held_bar.p, held_bar.vessel)
        )
        u_bar = jax.tree.map(lambda a: jnp.where(entered, 0.0, a), held_bar.controls)
        return _Back(at, y_bar, FrozenInputs(u_bar, p_bar, device_bar), task_bar)

    lanes = jnp.zeros(tape.vessel.shape[1], jnp.int32)
    held = FrozenInputs(controls_at(task, lanes, lanes), task.p.take_rows(lanes), task.vessels.take_rows(lanes))
    b = _Back(used, jnp.zeros(tape.y.shape[2:], tape.y.dtype), zeros(held), zeros(task._replace(intervals=None)))
    b = jax.lax.while_loop(lambda b: b.visit > 0, _go, b)
    no_intervals = np.zeros(task.intervals.shape, jax.dtypes.float0)
    return b.task._replace(y0=b.task.y0 + bar[:, 0], intervals=no_intervals), zeros(integrator)


def _prepared(model: AbstractKineticModel, held: FrozenInputs) -> tuple[RightHandSide, Any]:
    """The right-hand sides of all lanes, and the pull-back of what they were prepared from."""
    graph = []

    def _still(held: FrozenInputs) -> Any:
        rhs = right_hand_side(model, held)
        graph.append(rhs.graph)
        return rhs.frozen

    found, back = jax.vjp(_still, held)
    return RightHandSide(graph[0], found), back


def _step_back(
    integrator: Integrator, y_bar: Array, y: Array, s: Array, ds: Array, accepted: Array, rhs: RightHandSide
) -> tuple[Array, tuple[Array, ...]]:
    """Cotangents before one step from those after it, and of what the right-hand side holds."""
    before, change = integrator.stepper.pull_back(rhs, s, y, ds, y_bar)
    # a step that was not taken may have left the range of the rate laws: its derivative is no number
    return jnp.where(accepted, before, y_bar), tuple(jnp.where(accepted, a, 0.0) for a in change)


def _edge_back(
    model: AbstractKineticModel, y_bar: Array, y: Array, entered: Array, held: FrozenInputs
) -> tuple[Array, FrozenInputs]:
    """The same for the instant actions at the left edge."""
    before, change = jax.vjp(lambda y, held: apply_left_edges(model, y, held), y, held)[1](y_bar)
    return jnp.where(entered, before, y_bar), jax.tree.map(lambda a: jnp.where(entered, a, 0.0), change)


def _cotangent_at_nodes(task: VesselTable, bar: Array, status: Array) -> Array:
    """Cotangents [V, K+1, N'] of the nodes in use: padding repeats the last one, so its share belongs there."""
    row = jnp.arange(bar.shape[1])[None, :, None]
    last = task.intervals[:, None, None]
    bar = jnp.where((status == Status.OK)[:, None, None], bar, 0.0)
    padding = jnp.sum(jnp.where(row > last, bar, 0.0), axis=1, keepdims=True)
    return jnp.where(row > last, 0.0, bar) + jnp.where(row == last, padding, 0.0)


march_reverse.defvjp(_forward, _backward)
