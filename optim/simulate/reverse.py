"""The march with reverse derivatives: every step of every lane is recorded, and replayed backward."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import Status
from optim.kinetics.base import AbstractKineticModel
from optim.schedule.grid import IntervalGrid
from optim.simulate.balance import Vessel, left_edge
from optim.simulate.march import (
    STEPS_PER_VISIT,
    Held,
    Integrator,
    Loop,
    March,
    Task,
    advance,
    controls_at,
    finish,
    interval_row,
    start,
    to_task,
    try_step,
    visit,
)
from optim.types import Array, Scalar, StateTuple

# steps a vessel may take on average, which bounds the record; one that does not fit ends with `Status.MAX_STEPS`
TAPE_STEPS = 2_000


class _Tape(NamedTuple):
    """What happened between two visits: T of them, R steps each, on L lanes, with N' states."""

    vessel: Array  # [T, L]
    k: Array
    entered: Array  # the lane began its interval k here: left edge and first accepted step
    ended: Array  # and reached its end
    y: Array  # [T, R, N', L] before every step
    s: Array  # [T, R, L]
    ds: Array
    accepted: Array


def march_reverse(
    model: AbstractKineticModel, p: Any, y0: StateTuple, grid: IntervalGrid, vessel: Vessel, integrator: Integrator
) -> March:
    """`march` with reverse derivatives, of the states. The gradient of a vessel that failed is zero."""
    return _recorded(model, to_task(p, y0, grid, vessel), integrator)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recorded(model: AbstractKineticModel, task: Task, integrator: Integrator) -> March:
    return _record(model, task, integrator)[0]


def _record(model: AbstractKineticModel, task: Task, integrator: Integrator) -> tuple[March, _Tape, Array]:
    loop = start(model, task, integrator)
    vessels, n = task.intervals.shape[0], loop.lane.vessel.shape[0]
    visits = (-(-vessels // n) + 1) * min(TAPE_STEPS, integrator.max_steps) // STEPS_PER_VISIT + 1
    rows, dtype = (visits, STEPS_PER_VISIT), loop.states.dtype
    count, flag, real = jnp.zeros((visits, n), jnp.int32), jnp.zeros((visits, n), bool), jnp.zeros((*rows, n), dtype)
    states = jnp.zeros((*rows, len(loop.lane.y), n), dtype)
    blank = _Tape(count, count, flag, flag, states, real, real, jnp.zeros((*rows, n), bool))

    def go(state: tuple[Loop, _Tape, Array]) -> tuple[Loop, _Tape, Array]:
        loop, tape, used = state
        before = loop.lane

        def one(i: Array, carried: Any) -> Any:
            lane, tape = carried
            after, (ds, accepted) = advance(model, integrator, lane, loop.held)
            tape = tape._replace(
                y=tape.y.at[used, i].set(jnp.stack(lane.y)),
                s=tape.s.at[used, i].set(lane.s),
                ds=tape.ds.at[used, i].set(ds),
                accepted=tape.accepted.at[used, i].set(accepted),
            )
            return after, tape

        lane, tape = jax.lax.fori_loop(0, STEPS_PER_VISIT, one, (before, tape))
        at_edge = (before.s == 0.0) & (before.last_h == 0.0)
        tape = tape._replace(
            vessel=tape.vessel.at[used].set(before.vessel),
            k=tape.k.at[used].set(before.k),
            entered=tape.entered.at[used].set(at_edge & jnp.any(tape.accepted[used], axis=0)),
            ended=tape.ended.at[used].set(~before.idle & lane.idle & (lane.status == Status.OK)),
        )
        full = (used + 1 >= visits) & ~lane.idle
        lane = lane._replace(status=jnp.where(full, jnp.int32(Status.MAX_STEPS), lane.status), idle=lane.idle | full)
        return visit(model, task, integrator, loop._replace(lane=lane)), tape, used + 1

    loop, tape, used = jax.lax.while_loop(
        lambda state: jnp.any(state[0].lane.active) & (state[2] < visits), go, (loop, blank, jnp.zeros((), jnp.int32))
    )
    result = finish(loop, task)
    # vessels that no lane had finished, or even begun, when the record was full
    place = jnp.where(loop.lane.active, loop.lane.vessel, vessels)
    open_ = (jnp.arange(vessels) >= loop.waiting).at[place].set(True, mode="drop")
    return result._replace(status=jnp.where(open_, jnp.int32(Status.MAX_STEPS), result.status)), tape, used


def _forward(model: AbstractKineticModel, task: Task, integrator: Integrator) -> tuple[March, Any]:
    result, tape, used = _record(model, task, integrator)
    return result, (task, integrator, tape, used, result.states, result.status)


class _Back(NamedTuple):
    """Cotangents: of the lanes' states and of what they hold, and of the rows of the task."""

    visit: Array
    y: StateTuple
    held: Held
    task: Task


def _backward(model: AbstractKineticModel, kept: Any, cotangent: March) -> Any:
    task, integrator, tape, used, states, status = kept
    bar = _cotangent_at_nodes(task, cotangent.states, status)
    good = status == Status.OK
    vessels = task.intervals.shape[0]
    over = partial(jax.vmap, in_axes=-1, out_axes=-1)
    add = partial(jax.tree.map, jnp.add)

    def go(b: _Back) -> _Back:
        at = b.visit - 1
        v, k = tape.vessel[at], tape.k[at]
        _, p, device = task.of_vessel.take(v)
        held = Held(controls_at(task, v, k), p, device)
        ended = tape.ended[at] & good[v]
        y_bar = tuple(a + jnp.where(ended, bar[v, k + 1, i], 0.0) for i, a in enumerate(b.y))

        def one(i: Array, carried: Any) -> Any:
            y_bar, held_bar = carried
            r = STEPS_PER_VISIT - 1 - i
            y = tuple(tape.y[at, r, j] for j in range(len(y_bar)))
            accepted = tape.accepted[at, r] & good[v]
            back = over(partial(_step_back, model, integrator))
            y_bar, change = back(y_bar, y, tape.s[at, r], tape.ds[at, r], accepted, held)
            return y_bar, add(held_bar, change)

        y_bar, held_bar = jax.lax.fori_loop(0, STEPS_PER_VISIT, one, (y_bar, b.held))
        entered = tape.entered[at] & good[v]
        node = tuple(states[v, k, i] for i in range(len(y_bar)))
        y_bar, change = over(partial(_edge_back, model))(y_bar, node, entered, held)
        held_bar = add(held_bar, change)
        begun = entered & (k == 0)
        vessel_bar = (y_bar, held_bar.p, held_bar.device)
        task_bar = b.task._replace(
            of_vessel=b.task.of_vessel.add(jnp.where(begun, v, vessels), vessel_bar),
            of_interval=b.task.of_interval.add(
                jnp.where(entered, interval_row(task, v, k), b.task.of_interval.table.shape[0]), held_bar.u
            ),
        )
        y_bar, p_bar, device_bar = jax.tree.map(lambda a: jnp.where(begun, 0.0, a), vessel_bar)
        u_bar = jax.tree.map(lambda a: jnp.where(entered, 0.0, a), held_bar.u)
        return _Back(at, y_bar, Held(u_bar, p_bar, device_bar), task_bar)

    zeros = partial(jax.tree.map, jnp.zeros_like)
    lanes = jnp.zeros(tape.vessel.shape[1], jnp.int32)
    y0, p, device = task.of_vessel.take(lanes)
    blank = Task(zeros(task.of_vessel), zeros(task.of_interval), task.intervals)
    b = _Back(used, zeros(y0), zeros(Held(controls_at(task, lanes, lanes), p, device)), blank)
    b = jax.lax.while_loop(lambda b: b.visit > 0, go, b)
    table = b.task.of_vessel.table.at[:, : len(y0)].add(bar[:, 0])
    of_vessel = jax.tree.unflatten(jax.tree.structure(task.of_vessel), [table])
    no_intervals = np.zeros(task.intervals.shape, jax.dtypes.float0)
    return Task(of_vessel, b.task.of_interval, no_intervals), zeros(integrator)


def _step_back(
    model: AbstractKineticModel,
    integrator: Integrator,
    y_bar: StateTuple,
    y: StateTuple,
    s: Scalar,
    ds: Scalar,
    accepted: Scalar,
    held: Held,
) -> tuple[StateTuple, Held]:
    """Cotangents before one step of one vessel from those after it, and of what the lane holds."""
    pull = jax.vjp(lambda y, held: try_step(model, held, integrator.stepper, y, s, ds)[0], y, held)[1]
    before, change = pull(y_bar)
    # a step that was not taken may have left the range of the rate laws: its derivative is no number
    before = tuple(jnp.where(accepted, a, b) for a, b in zip(before, y_bar, strict=True))
    return before, jax.tree.map(lambda a: jnp.where(accepted, a, 0.0), change)


def _edge_back(
    model: AbstractKineticModel, y_bar: StateTuple, y: StateTuple, entered: Scalar, held: Held
) -> tuple[StateTuple, Held]:
    """The same for the instant actions at the left edge."""
    before, change = jax.vjp(lambda y, held: left_edge(model, y, held.u, held.device), y, held)[1](y_bar)
    before = tuple(jnp.where(entered, a, b) for a, b in zip(before, y_bar, strict=True))
    return before, jax.tree.map(lambda a: jnp.where(entered, a, 0.0), change)


def _cotangent_at_nodes(task: Task, bar: Array, status: Array) -> Array:
    """Cotangents [V, K+1, N'] of the nodes in use: padding repeats the last one, so its share belongs there."""
    row = jnp.arange(bar.shape[1])[None, :, None]
    last = task.intervals[:, None, None]
    bar = jnp.where((status == Status.OK)[:, None, None], bar, 0.0)
    padding = jnp.sum(jnp.where(row > last, bar, 0.0), axis=1, keepdims=True)
    return jnp.where(row > last, 0.0, bar) + jnp.where(row == last, padding, 0.0)


_recorded.defvjp(_forward, _backward)
