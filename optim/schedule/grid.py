"""The interval grid: a schedule as arrays, one row per interval between two nodes."""

from __future__ import annotations

from typing import NamedTuple

from optim.kinetics.base import Environment
from optim.types import Array


class Actions(NamedTuple):
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
    actions: Actions
    intervals: Array  # number of intervals in use; the rest is padding


BUCKETS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)


def bucket(intervals: int) -> int:
    """The padded length for a number of intervals, so that schedules of different shape share a compiled program."""
    for size in BUCKETS:
        if intervals <= size:
            return size
    return -(-intervals // BUCKETS[-1]) * BUCKETS[-1]
