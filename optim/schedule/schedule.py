"""A schedule: what is done to one vessel and when, as arrays that may be traced, and its interval grid."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from optim.schedule.grid import IntervalGrid, bucket
from optim.types import Array


class Schedule(NamedTuple):
    """Actions of one vessel. All numbers may be traced: event times are decisions like any other.

    A node is a time at which something happens or is observed; nodes need no order. Rates and setpoints are given at
    breakpoints in increasing order, the first at or before time 0, and hold (or run linearly) to the next.
    Actions at or after `end` do not happen.
    """

    times: Array  # [n] h
    withdraw: Array  # [n] L of broth taken at the node (a sample)
    bolus: Array  # [n, J] L of each feed given at the node, after the sample
    end: Array  # h, harvest
    rate_t: Array  # [r] h
    rate_start: Array  # [r, J] L/h from rate_t[i] on
    rate_end: Array  # [r, J] L/h reached at rate_t[i+1]
    setpoint_t: Array  # [s] h
    temperature: Array  # [s] degC
    ph: Array  # [s]


def to_grid(schedule: Schedule, size: int | None = None) -> tuple[IntervalGrid, Array]:
    """The interval grid, and the place of every node of the schedule in it ([n]; the end is node `grid.intervals`).

    Traceable and exact in every time. Nodes at equal times stay apart, with an interval of zero length between them.
    """
    n = schedule.times.shape[0]
    size = bucket(n) if size is None else size
    if size < n:
        raise ValueError(f"a grid of {size} intervals cannot hold {n} nodes")
    end = jnp.asarray(schedule.end)
    happens = schedule.times < end
    times = jnp.concatenate([jnp.minimum(schedule.times, end), end[None]])
    order = jnp.argsort(times, stable=True)
    t = times[order]
    withdraw = jnp.where(happens, schedule.withdraw, 0.0)[order[:-1]]
    bolus = jnp.where(happens[:, None], schedule.bolus, 0.0)[order[:-1]]
    left, right = t[:-1], t[1:]
    middle = 0.5 * (left + right)
    start, stop = _rates(schedule, left, right, middle)
    setpoint = jnp.clip(jnp.searchsorted(schedule.setpoint_t, middle, side="right") - 1, 0)
    pad = size - n
    position = jnp.zeros(n + 1, jnp.int32).at[order].set(jnp.arange(n + 1, dtype=jnp.int32))[:n]
    grid = IntervalGrid(
        t=jnp.concatenate([t, jnp.broadcast_to(end, (pad,))]),
        withdraw=jnp.pad(withdraw, (0, pad)),
        bolus=jnp.pad(bolus, ((0, pad), (0, 0))),
        rate_start=jnp.pad(start, ((0, pad), (0, 0))),
        rate_end=jnp.pad(stop, ((0, pad), (0, 0))),
        temperature=jnp.pad(schedule.temperature[setpoint], (0, pad), mode="edge"),
        ph=jnp.pad(schedule.ph[setpoint], (0, pad), mode="edge"),
        intervals=jnp.asarray(n, jnp.int32),
    )
    return grid, position


def _rates(schedule: Schedule, left: Array, right: Array, middle: Array) -> tuple[Array, Array]:
    i = jnp.clip(jnp.searchsorted(schedule.rate_t, middle, side="right") - 1, 0)
    begin = schedule.rate_t[i]
    until = jnp.concatenate([schedule.rate_t[1:], jnp.asarray(schedule.end)[None]])[i]
    span = jnp.where(until > begin, until - begin, 1.0)
    slope = (schedule.rate_end[i] - schedule.rate_start[i]) / span[:, None]
    before = (middle < schedule.rate_t[0])[:, None]  # nothing flows before the first breakpoint
    start = schedule.rate_start[i] + slope * (left - begin)[:, None]
    stop = schedule.rate_start[i] + slope * (right - begin)[:, None]
    return jnp.where(before, 0.0, start), jnp.where(before, 0.0, stop)


def merge(times: np.ndarray, withdraw: np.ndarray, bolus: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes with equal times become one, their volumes added (host side, where times are known numbers)."""
    unique, where = np.unique(times, return_inverse=True)
    out = np.zeros(len(unique))
    np.add.at(out, where, withdraw)
    fed = np.zeros((len(unique), bolus.shape[1]))
    np.add.at(fed, where, bolus)
    return unique, out, fed
