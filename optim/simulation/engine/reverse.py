"""Reverse-mode derivatives of the march: every step of every lane is recorded and replayed backward (a tape)."""

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
    apply_left_edges,
    initial_loop,
    march_result,
    serve_lanes,
    try_step,
    work_remains,
)
from optim.simulation.engine.rhs import FrozenInputs, RightHandSide, right_hand_side
from optim.simulation.engine.table import VesselTable, controls_at, interval_row
from optim.types import Array

# average number of steps per vessel that the tape can hold; a vessel that does not fit ends with `Status.MAX_STEPS`
TAPE_STEPS = 2_000


class Tape(NamedTuple):
    """The tape of a march: T visits, R steps between two visits, L lanes with N' states each."""

    vessel: Array  # [T, L] index of the vessel
    k: Array  # [T, L] index of the interval
    entered: Array  # [T, L] whether the lane began its interval here: left edge and first accepted step
    ended: Array  # [T, L] whether the lane reached the end of its interval
    y: Array  # [T, R, N', L] states before every step
    s: Array  # [T, R, L] position before every step
    ds: Array  # [T, R, L] size of every step
    accepted: Array  # [T, R, L] whether the step was accepted


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def march_reverse(model: AbstractKineticModel, table: VesselTable, integrator: Integrator) -> MarchResult:
    """`march` with reverse-mode derivatives of the states; same arguments. A failed vessel has the gradient zero."""
    return record_march(model, table, integrator).march


class RecordedMarch(NamedTuple):
    """The result of a march with the tape of its steps."""

    march: MarchResult
    tape: Tape
    used: Array  # number of visits on the tape; the rows after them are blank


def record_march(model: AbstractKineticModel, table: VesselTable, integrator: Integrator) -> RecordedMarch:
    """`march` with a tape of every step; same arguments."""
    loop = initial_loop(table, integrator)
    vessels, n = table.intervals.shape[0], loop.lane.vessel.shape[0]
    visits = (-(-vessels // n) + 1) * min(
        TAPE_STEPS, integrator.max_steps
    ) // STEPS_PER_VISIT + 2  # the last one only serves
    rows, dtype = (visits, STEPS_PER_VISIT), loop.states.dtype
    count, flag, real = jnp.zeros((visits, n), jnp.int32), jnp.zeros((visits, n), bool), jnp.zeros((*rows, n), dtype)
    states = jnp.zeros((*rows, *loop.lane.y.shape), dtype)
    blank = Tape(count, count, flag, flag, states, real, real, jnp.zeros((*rows, n), bool))

    def _visit_and_record(state: tuple[LoopState, Tape, Array]) -> tuple[LoopState, Tape, Array]:
        loop, tape, used = state
        loop = serve_lanes(model, table, loop, integrator=integrator)
        before = loop.lane
        length, rhs = loop.frozen.controls.length, right_hand_side(model, loop.frozen)

        def _record_step(i: Array, carried: Any) -> Any:
            lane, tape = carried
            after, (ds, accepted) = try_step(model, lane, rhs, length=length, integrator=integrator)
            tape = tape._replace(
                y=tape.y.at[used, i].set(lane.y),
                s=tape.s.at[used, i].set(lane.s),
                ds=tape.ds.at[used, i].set(ds),
                accepted=tape.accepted.at[used, i].set(accepted),
            )
            return after, tape

        lane, tape = jax.lax.fori_loop(0, STEPS_PER_VISIT, _record_step, (before, tape))
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
        lambda state: work_remains(table, state[0]) & (state[2] < visits),
        _visit_and_record,
        (loop, blank, jnp.zeros((), jnp.int32)),
    )
    result = march_result(loop, table)
    # vessels that were not finished, or not begun, when the tape was full
    place = jnp.where(loop.lane.active, loop.lane.vessel, vessels)
    open_ = (jnp.arange(vessels) >= loop.waiting).at[place].set(True, mode="drop")
    return RecordedMarch(
        result._replace(status=jnp.where(open_, jnp.int32(Status.MAX_STEPS), result.status)), tape, used
    )


def _forward(model: AbstractKineticModel, table: VesselTable, integrator: Integrator) -> tuple[MarchResult, Any]:
    result, tape, used = record_march(model, table, integrator)
    return result, (table, integrator, tape, used, result.states, result.status)


class _Back(NamedTuple):
    """Cotangents on the way back: of the states and frozen inputs of the lanes, and of the vessel table."""

    visit: Array
    y: Array
    frozen: FrozenInputs
    table: VesselTable


def _backward(model: AbstractKineticModel, residuals: Any, cotangent: MarchResult) -> Any:
    table, integrator, tape, used, states, status = residuals
    bar = _cotangent_at_nodes(table, cotangent.states, status)
    good = status == Status.OK
    vessels = table.intervals.shape[0]
    add = partial(jax.tree.map, jnp.add)
    zeros = partial(jax.tree.map, jnp.zeros_like)

    def _visit_back(b: _Back) -> _Back:
        at = b.visit - 1
        v, k = tape.vessel[at], tape.k[at]
        inputs = FrozenInputs(controls_at(table, v, k), table.p.take_rows(v), table.vessels.take_rows(v))
        ended = tape.ended[at] & good[v]
        y_bar = b.y + jnp.where(ended, bar[v, k + 1].T, 0.0)
        rhs, rhs_pullback = _right_hand_side_pullback(model, inputs)

        def _replay_step(i: Array, carried: Any) -> Any:
            y_bar, frozen_bar = carried
            r = STEPS_PER_VISIT - 1 - i
            accepted = tape.accepted[at, r] & good[v]
            y_bar, change = _step_back(integrator, y_bar, tape.y[at, r], tape.s[at, r], tape.ds[at, r], accepted, rhs)
            return y_bar, add(frozen_bar, change)

        y_bar, frozen_bar = jax.lax.fori_loop(0, STEPS_PER_VISIT, _replay_step, (y_bar, zeros(rhs.frozen)))
        inputs_bar = add(b.frozen, rhs_pullback(frozen_bar)[0])
        entered = tape.entered[at] & good[v]
        y_bar, change = _edge_back(model, y_bar, states[v, k].T, entered, inputs)
        inputs_bar = add(inputs_bar, change)
        begun = entered & (k == 0)
        first = jnp.where(begun, v, vessels)
        row = jnp.where(entered, interval_row(table, v, k), table.controls.table.shape[0])
        table_bar = b.table._replace(
            y0=b.table.y0.at[first].add(y_bar.T, mode="drop"),
            p=b.table.p.add_rows(first, inputs_bar.p),
            vessels=b.table.vessels.add_rows(first, inputs_bar.vessel),
            controls=b.table.controls.add_rows(row, inputs_bar.controls),
        )
        y_bar, p_bar, vessel_bar = jax.tree.map(
            lambda a: jnp.where(begun, 0.0, a), (y_bar, inputs_bar.p, inputs_bar.vessel)
        )
        u_bar = jax.tree.map(lambda a: jnp.where(entered, 0.0, a), inputs_bar.controls)
        return _Back(at, y_bar, FrozenInputs(u_bar, p_bar, vessel_bar), table_bar)

    lanes = jnp.zeros(tape.vessel.shape[1], jnp.int32)
    inputs = FrozenInputs(controls_at(table, lanes, lanes), table.p.take_rows(lanes), table.vessels.take_rows(lanes))
    b = _Back(used, jnp.zeros(tape.y.shape[2:], tape.y.dtype), zeros(inputs), zeros(table._replace(intervals=None)))
    b = jax.lax.while_loop(lambda b: b.visit > 0, _visit_back, b)
    no_intervals = np.zeros(table.intervals.shape, jax.dtypes.float0)
    return b.table._replace(y0=b.table.y0 + bar[:, 0], intervals=no_intervals), zeros(integrator)


def _right_hand_side_pullback(model: AbstractKineticModel, inputs: FrozenInputs) -> tuple[RightHandSide, Any]:
    """The right-hand side of the lanes, and the pullback from its frozen values to the frozen inputs."""
    graph = []

    def _frozen_values(inputs: FrozenInputs) -> Any:
        rhs = right_hand_side(model, inputs)
        graph.append(rhs.graph)
        return rhs.frozen

    values, pullback = jax.vjp(_frozen_values, inputs)
    return RightHandSide(graph[0], values), pullback


def _step_back(
    integrator: Integrator, y_bar: Array, y: Array, s: Array, ds: Array, accepted: Array, rhs: RightHandSide
) -> tuple[Array, tuple[Array, ...]]:
    """Cotangents before one step from those after it, and of the frozen values of the right-hand side."""
    before, change = integrator.stepper.pull_back(rhs, y, y_bar, s=s, h=ds)
    # a rejected step may have left the domain of the rate laws, and its derivative may be NaN
    return jnp.where(accepted, before, y_bar), tuple(jnp.where(accepted, a, 0.0) for a in change)


def _edge_back(
    model: AbstractKineticModel, y_bar: Array, y: Array, entered: Array, inputs: FrozenInputs
) -> tuple[Array, FrozenInputs]:
    """As `_step_back` for the instant actions at the left edge."""
    before, change = jax.vjp(lambda y, inputs: apply_left_edges(model, y, inputs), y, inputs)[1](y_bar)
    return jnp.where(entered, before, y_bar), jax.tree.map(lambda a: jnp.where(entered, a, 0.0), change)


def _cotangent_at_nodes(table: VesselTable, bar: Array, status: Array) -> Array:
    """Cotangents [V, K+1, N'] of the nodes in use; those of the padding are added to the last one."""
    row = jnp.arange(bar.shape[1])[None, :, None]
    last = table.intervals[:, None, None]
    bar = jnp.where((status == Status.OK)[:, None, None], bar, 0.0)
    padding = jnp.sum(jnp.where(row > last, bar, 0.0), axis=1, keepdims=True)
    return jnp.where(row > last, 0.0, bar) + jnp.where(row == last, padding, 0.0)


march_reverse.defvjp(_forward, _backward)
