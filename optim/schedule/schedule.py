"""The schedule: times and sizes of all actions on one vessel as arrays that may be traced, and its interval grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.kinetics.base import Environment
from optim.schedule.grid import IntervalActions, IntervalGrid, padded_length
from optim.types import Array


class Schedule(NamedTuple):
    """The schedule of one vessel with J feeds. All numbers may be traced, also the times of events.

    A node is a time at which something happens or is observed. Nodes need no order. Rates, setpoints and flows are
    stated at breakpoints in increasing order, the first at or before time 0, and are constant or linear up to the next.
    Actions at or after `end` do not happen. None: the schedule has no such action, as in `IntervalActions`.
    """

    times: Array  # [n] h
    withdraw: Array  # [n] L of broth withdrawn at the node (a sample)
    bolus: Array  # [n, J] L of each feed added at the node, after the sample
    end: Array  # h, time of the harvest
    rate_t: Array  # [r] h
    rate_start: Array  # [r, J] L/h from rate_t[i] on
    rate_end: Array  # [r, J] L/h reached at rate_t[i+1]
    setpoint_t: Array  # [s] h
    setpoints: Environment  # each [s], from setpoint_t[i] on
    setpoints_end: Environment | None = None  # each [s], reached at setpoint_t[i+1]; None: constant (steps)
    rate_growth: Array | None = None  # [r, J] 1/h; exponential feed: the rate times exp(growth (t - rate_t[i]))
    remove: Array | None = None  # [n] L of medium removed through the retention device
    topup_below: Array | None = None  # [n, J] concentration, as in `IntervalActions`
    topup_to: Array | None = None  # [n, J] concentration, as in `IntervalActions`
    flow_t: Array | None = None  # [f] h, breakpoints of the flows below
    harvest: Array | None = None  # [f] L/h
    level: Array | None = None  # [f] fraction of the net inflow
    bleed: Array | None = None  # [f] L/h
    bleed_above: Array | None = None  # [f] VCD in 1e9 cells/L
    evaporation: Array | None = None  # [f] L/h


FLOWS = ("harvest", "level", "bleed", "bleed_above", "evaporation")


def to_grid(schedule: Schedule, size: int | None = None) -> tuple[IntervalGrid, Array]:
    """Turn a schedule into its interval grid.

    The result is exact in every time, which may be traced and differentiated. Nodes at equal times stay separate, with
    an interval of zero length between them.

    Args:
        schedule: the schedule of one vessel with n nodes.
        size: padded number of intervals K; `padded_length(n)` by default.

    Returns:
        The grid, and the index of every node of the schedule in it [n]. The harvest is node `grid.intervals`.

    Raises:
        ValueError: `size` is smaller than the number of nodes.
    """
    n = schedule.times.shape[0]
    size = padded_length(n) if size is None else size
    if size < n:
        raise ValueError(f"a grid of {size} intervals cannot hold {n} nodes")
    xp = _library_of(schedule)
    end = xp.asarray(schedule.end)
    happens = schedule.times < end
    times = xp.concatenate([xp.minimum(schedule.times, end), end[None]])
    order = xp.argsort(times, stable=True)
    t = times[order]
    left, right = t[:-1], t[1:]
    middle = 0.5 * (left + right)

    def _at_node(values: Array | None, nothing: float = 0.0) -> Array | None:
        if values is None:
            return None
        mask = happens.reshape(-1, *[1] * (values.ndim - 1))
        return xp.where(mask, values, nothing)[order[:-1]]

    start, stop, growth = _rates(schedule, left, right, middle, xp)
    first, last = _setpoints(schedule, left, right, middle, xp)
    flow = None if schedule.flow_t is None else _breakpoint(schedule.flow_t, middle, xp)
    flows = {name: None if flow is None else _take(getattr(schedule, name), flow) for name in FLOWS}
    actions = IntervalActions(
        withdraw=_at_node(schedule.withdraw),
        bolus=_at_node(schedule.bolus),
        rate_start=start,
        rate_end=stop,
        start=first,
        end=last,
        growth=growth,
        remove=_at_node(schedule.remove),
        topup_below=_at_node(schedule.topup_below, -np.inf),
        topup_to=_at_node(schedule.topup_to),
        **flows,
    )
    pad = size - n
    padded = jax.tree.map(lambda a: xp.pad(a, ((0, pad), *[(0, 0)] * (a.ndim - 1)), mode="edge"), actions)
    # the padding has no actions and no flows; setpoints keep their last value
    idle = jax.tree.map(lambda a: xp.pad(a, ((0, pad), *[(0, 0)] * (a.ndim - 1))), actions)
    padded = idle._replace(
        start=padded.start, end=padded.end, topup_below=padded.topup_below, bleed_above=padded.bleed_above
    )
    position = xp.argsort(order)[:n].astype(np.int32)
    t = xp.concatenate([t, xp.broadcast_to(end, (pad,))])
    return IntervalGrid(t, padded, xp.asarray(n, np.int32)), position


def _library_of(schedule: Schedule) -> Any:
    """NumPy for a schedule of plain numbers, so that nothing is compiled; JAX where a leaf may be differentiated."""
    return jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(schedule)) else np


def _breakpoint(times: Array, middle: Array, xp: Any) -> Array:
    """Index of the breakpoint at or before the middle of each interval."""
    return xp.maximum(xp.searchsorted(times, middle, side="right") - 1, 0)


def _take(values: Array | None, i: Array) -> Array | None:
    return None if values is None else values[i]


def _line(times: Array, end: Array, i: Array, xp: Any) -> tuple[Array, Array]:
    """Time of breakpoint i of each interval, and the span to the next breakpoint (1 where that is zero)."""
    begin = times[i]
    until = xp.concatenate([times[1:], xp.asarray(end)[None]])[i]
    return begin, xp.where(until > begin, until - begin, 1.0)


def _rates(schedule: Schedule, left: Array, right: Array, middle: Array, xp: Any) -> tuple[Array, Array, Array | None]:
    """Feed rates at the left and right edge of each interval, and their exponential growth."""
    i = _breakpoint(schedule.rate_t, middle, xp)
    begin, span = _line(schedule.rate_t, schedule.end, i, xp)
    slope = (schedule.rate_end[i] - schedule.rate_start[i]) / span[:, None]
    before = (middle < schedule.rate_t[0])[:, None]  # nothing flows before the first breakpoint
    start = schedule.rate_start[i] + slope * (left - begin)[:, None]
    stop = schedule.rate_start[i] + slope * (right - begin)[:, None]
    growth = _take(schedule.rate_growth, i)
    if growth is not None:
        risen = xp.exp(growth * (left - begin)[:, None])
        start, stop = start * risen, stop * risen
    return xp.where(before, 0.0, start), xp.where(before, 0.0, stop), growth


def _setpoints(
    schedule: Schedule, left: Array, right: Array, middle: Array, xp: Any
) -> tuple[Environment, Environment | None]:
    """Setpoints at the left and right edge of each interval; None where they are constant in every interval."""
    i = _breakpoint(schedule.setpoint_t, middle, xp)
    first = jax.tree.map(lambda a: a[i], schedule.setpoints)
    if schedule.setpoints_end is None:
        return first, None
    begin, span = _line(schedule.setpoint_t, schedule.end, i, xp)

    def _at(time: Array) -> Environment:
        fraction = (time - begin) / span
        return jax.tree.map(lambda a, b: a[i] + (b[i] - a[i]) * fraction, schedule.setpoints, schedule.setpoints_end)

    return _at(left), _at(right)


def share_parts(schedules: Sequence[Schedule]) -> list[Schedule]:
    """The same schedules with the same optional parts: what only some of them do, the others do by nothing.

    So their grids have one structure and can be stacked. Dissolved oxygen and kLa are kept where all set them. (Host
    side, where arrays are NumPy's.)
    """
    kept = [all(getattr(s.setpoints, name) is not None for s in schedules) for name in Environment._fields]

    def _common(e: Environment) -> Environment:
        return Environment(*(x if keep else None for x, keep in zip(e, kept, strict=True)))

    found = []
    for s in schedules:
        nothing: dict[str, Any] = {
            "rate_growth": np.zeros_like(s.rate_start),
            "remove": np.zeros_like(s.withdraw),
            "topup_below": np.full_like(s.bolus, -np.inf),
            "topup_to": np.zeros_like(s.bolus),
            "setpoints_end": s.setpoints,
            "flow_t": np.zeros(1),
        }
        length = 1 if s.flow_t is None else len(s.flow_t)
        nothing |= {name: np.full(length, np.inf if name == "bleed_above" else 0.0) for name in FLOWS}
        lacking = [
            name
            for name in nothing
            if getattr(s, name) is None and any(getattr(other, name) is not None for other in schedules)
        ]
        s = s._replace(**{name: nothing[name] for name in lacking})
        ends = None if s.setpoints_end is None else _common(s.setpoints_end)
        found.append(s._replace(setpoints=_common(s.setpoints), setpoints_end=ends))
    return found
