"""The interval grid: a schedule as arrays, one row per interval between two nodes."""

from __future__ import annotations

from typing import NamedTuple

from optim.types import Array


class IntervalGrid(NamedTuple):
    """Controls of one vessel over K intervals, padded at the end with intervals of zero length.

    Samples and all actions lie on nodes, so what is measured is never interpolated. Axes as in `optim.types`; batched
    grids have a leading axis B.
    """

    t: Array  # [K+1] h, nodes, non-decreasing
    withdraw: Array  # [K] L at the left edge
    bolus: Array  # [K, J] L at the left edge, after the withdrawal
    rate_start: Array  # [K, J] L/h at the left edge
    rate_end: Array  # [K, J] L/h at the right edge; linear in between
    temperature: Array  # [K] degC
    ph: Array  # [K]
    intervals: Array  # number of intervals in use; the rest is padding


BUCKETS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)


def bucket(intervals: int) -> int:
    """The padded length for a number of intervals, so that schedules of different shape share a compiled program."""
    for size in BUCKETS:
        if intervals <= size:
            return size
    return -(-intervals // BUCKETS[-1]) * BUCKETS[-1]
