"""Lanes of a process problem: what differs between simulations that run side by side, apart from their decisions."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from optim.process.disturbance import AS_PLANNED, Drift
from optim.types import Array


class VesselStart(NamedTuple):
    """State at inoculation of vessels that are known, where it is not that of the platform medium."""

    concentrations: Array  # [L, N]
    volume_l: Array  # [L]


class Lanes(NamedTuple):
    """Parameter sets, one per lane, and what else a lane has of its own."""

    parameters: Array  # [L, P] in the order of the model
    start: VesselStart | None = None  # None: the problem's medium, in its vessel
    prices: Array | None = None  # [L, I] in the order of the price book; None: its own
    drift: Drift = AS_PLANNED  # numbers of all lanes, or [L]

    @property
    def number(self) -> int:
        """How many."""
        return len(self.parameters)

    def rows(self, places: np.ndarray) -> Lanes:
        """Lanes at some places."""
        found: Lanes = jax.tree.map(lambda a: np.asarray(a)[places] if np.ndim(a) else a, self)
        return found

    def repeated(self, times: int) -> Lanes:
        """Each lane so many times, one after another."""
        return self.rows(np.repeat(np.arange(self.number), times))

    def tiled(self, times: int) -> Lanes:
        """All lanes so many times, one after another."""
        return self.rows(np.tile(np.arange(self.number), times))


def one_lane(parameters: np.ndarray) -> Lanes:
    """The lane of one parameter set [P]."""
    return Lanes(np.asarray(parameters, float)[None])


def as_lanes(lanes: Lanes | np.ndarray) -> Lanes:
    """Lanes as they are; an array [L, P] holds parameters of lanes that differ in nothing else."""
    return lanes if isinstance(lanes, Lanes) else Lanes(np.asarray(lanes, float))
