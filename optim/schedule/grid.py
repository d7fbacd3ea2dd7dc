"""The interval grid: the schedule of a vessel as arrays, one row per interval between two nodes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optim.kinetics.base import Environment
from optim.types import Array


class IntervalActions(NamedTuple):
    """Actions on one vessel in each of K intervals, with J feeds. None: the schedule has no such action.

    Instant actions happen at the left edge of an interval, in this order: a sample is withdrawn, cell-free medium is
    removed, boluses are added, feeds top up. Flows then run through the whole interval.
    """

    withdraw: Array  # [K] L of broth
    bolus: Array  # [K, J] L
    rate_start: Array  # [K, J] L/h at the left edge
    rate_end: Array  # [K, J] L/h at the right edge; linear in between
    start: Environment  # each [K], setpoints at the left edge
    end: Environment | None = None  # each [K], setpoints at the right edge, linear in between; None: constant
    growth: Array | None = None  # [K, J] 1/h; exponential feed: the linear rate times exp(growth (t - left edge))
    remove: Array | None = None  # [K] L of medium removed through the retention device (medium exchange)
    topup_below: Array | None = None  # [K, J] feed j is added if its target species is below this concentration
    topup_to: Array | None = None  # [K, J] concentration of the target species after the top-up
    harvest: Array | None = None  # [K] L/h through the retention device (perfusion)
    level: Array | None = None  # [K] fraction of the net inflow that leaves with the harvest: 1 keeps the volume
    bleed: Array | None = None  # [K] L/h of broth
    bleed_above: Array | None = None  # [K] VCD in 1e9 cells/L that the bleed controls
    evaporation: Array | None = None  # [K] L/h of water


class IntervalGrid(NamedTuple):
    """The schedule of one vessel over K intervals, padded at the end with intervals of zero length.

    All samples and actions lie on nodes, so a simulated measurement is never interpolated. A batch of grids has a
    leading axis B.
    """

    t: Array  # [K+1] h, nodes, non-decreasing
    actions: IntervalActions
    intervals: Array  # number of intervals without the padding


def split_interval(grid: IntervalGrid, k: Array, t: Array) -> IntervalGrid:
    """Split an interval at a new node at which no action happens: feeds and setpoints continue through it.

    The result is exact in t, which may be traced and differentiated.

    Args:
        grid: the schedule of one vessel, with at least one interval of padding.
        k: index of the interval to split.
        t: h, time of the new node, within interval k.

    Returns:
        The grid with one more interval in use, of the same padded length.
    """
    left, right = grid.t[k], grid.t[k + 1]
    nodes = jnp.arange(grid.t.shape[0])
    fraction = jnp.where(right > left, (t - left) / jnp.where(right > left, right - left, 1.0), 0.0)
    place = jnp.arange(grid.t.shape[0] - 1)
    a = jax.tree.map(lambda x: x[place - (place > k)], grid.actions)
    first, second = place == k, place == k + 1

    def _put(values: Array, mask: Array, value: Array | float) -> Array:
        return jnp.where(mask.reshape(-1, *[1] * (values.ndim - 1)), value, values)

    def _between(start: Array, end: Array) -> tuple[Array, Array]:
        middle = start[k] + fraction * (end[k] - start[k])
        return _put(start, second, middle), _put(end, first, middle)

    rate_start, rate_end = _between(a.rate_start, a.rate_end)
    if a.growth is not None:
        # the second part starts from the rate that the exponential has reached at the new node
        grown = jnp.exp(a.growth[k] * (t - left))
        rate_start, rate_end = (_put(x, second, x[k + 1] * grown) for x in (rate_start, rate_end))
    start, end = a.start, a.end
    if end is not None:
        pairs = jax.tree.map(_between, start, end)
        start, end = (jax.tree.map(lambda _, pair, i=i: pair[i], a.start, pairs) for i in (0, 1))
    still = {name: getattr(a, name) for name in ("withdraw", "bolus", "remove")}
    return IntervalGrid(
        t=jnp.where(nodes == k + 1, t, grid.t[nodes - (nodes > k + 1)]),
        actions=a._replace(
            rate_start=rate_start,
            rate_end=rate_end,
            start=start,
            end=end,
            topup_below=None if a.topup_below is None else _put(a.topup_below, second, -jnp.inf),
            **{name: None if x is None else _put(x, second, 0.0) for name, x in still.items()},
        ),
        intervals=grid.intervals + 1,
    )


# padded lengths of grids: few enough that schedules of different length share compiled programs
BUCKETS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)


def padded_length(intervals: int) -> int:
    """The padded length of a grid, so that schedules of different length share a compiled program.

    Args:
        intervals: number of intervals in use.

    Returns:
        The next value of `BUCKETS`, or the next multiple of the largest one.
    """
    for size in BUCKETS:
        if intervals <= size:
            return size
    return -(-intervals // BUCKETS[-1]) * BUCKETS[-1]
