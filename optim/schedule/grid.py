"""The interval grid: a schedule as arrays, one row per interval between two nodes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optim.kinetics.base import Environment
from optim.types import Array


class IntervalActions(NamedTuple):
    """What is done to one vessel in every interval (J feeds). A field that is None is not done and costs nothing.

    At the left edge, in this order: a sample is withdrawn, cell-free medium is removed, boluses are given, feeds top
    up. Then, through the interval, everything flows at once.
    """

    withdraw: Array  # [K] L of broth
    bolus: Array  # [K, J] L
    rate_start: Array  # [K, J] L/h at the left edge
    rate_end: Array  # [K, J] L/h at the right edge; linear in between
    start: Environment  # each [K], at the left edge
    end: Environment | None = None  # each [K], at the right edge, linear in between; None holds the start
    growth: Array | None = None  # [K, J] 1/h; the linear rate times exp(growth (t - left edge)): exponential feeds
    remove: Array | None = None  # [K] L of medium taken through the retention device (medium exchange)
    topup_below: Array | None = None  # [K, J] feed j is given when its target species is below this concentration
    topup_to: Array | None = None  # [K, J] and brings it to this one
    harvest: Array | None = None  # [K] L/h through the retention device (perfusion)
    level: Array | None = None  # [K] share of the net inflow that leaves with the harvest: 1 holds the volume
    bleed: Array | None = None  # [K] L/h of broth
    bleed_above: Array | None = None  # [K] VCD above which broth is bled to hold it
    evaporation: Array | None = None  # [K] L/h of water


class IntervalGrid(NamedTuple):
    """Actions of one vessel over K intervals, padded at the end with intervals of zero length.

    Samples and all actions lie on nodes, so what is measured is never interpolated. Axes as in `optim.types`; batched
    grids have a leading axis B.
    """

    t: Array  # [K+1] h, nodes, non-decreasing
    actions: IntervalActions
    intervals: Array  # number of intervals in use; the rest is padding


def split_interval(grid: IntervalGrid, k: Array, t: Array) -> IntervalGrid:
    """One vessel's grid with a node more, at time t within interval k; needs one interval of padding.

    Nothing happens at the new node: feeds and setpoints run on through it. Traceable, and exact in t.
    """
    left, right = grid.t[k], grid.t[k + 1]
    nodes = jnp.arange(grid.t.shape[0])
    share = jnp.where(right > left, (t - left) / jnp.where(right > left, right - left, 1.0), 0.0)
    place = jnp.arange(grid.t.shape[0] - 1)
    a = jax.tree.map(lambda x: x[place - (place > k)], grid.actions)
    first, second = place == k, place == k + 1

    def _put(values: Array, mask: Array, value: Array | float) -> Array:
        return jnp.where(mask.reshape(-1, *[1] * (values.ndim - 1)), value, values)

    def _between(start: Array, end: Array) -> tuple[Array, Array]:
        middle = start[k] + share * (end[k] - start[k])
        return _put(start, second, middle), _put(end, first, middle)

    rate_start, rate_end = _between(a.rate_start, a.rate_end)
    if a.growth is not None:
        # the line that is left goes on growing from where it is
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


BUCKETS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)


def padded_length(intervals: int) -> int:
    """The padded length for a number of intervals, so that schedules of different shape share a compiled program."""
    for size in BUCKETS:
        if intervals <= size:
            return size
    return -(-intervals // BUCKETS[-1]) * BUCKETS[-1]
