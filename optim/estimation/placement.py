"""Where a new clone stands after some days of samples: its parameters, and what its runs will come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optim.artefact import Artefact, Lineage


@dataclass(frozen=True)
class PlacedParameter:
    """One parameter of a new clone, on the natural scale."""

    name: str
    unit: str
    estimate: float
    lower90: float
    upper90: float
    sd: float  # on the fitted scale
    prior_sd: float  # the same before any sample: spread between clones and uncertainty of their mean

    @property
    def shrinkage(self) -> float:
        """1: the samples say nothing yet."""
        return self.sd / self.prior_sd


@dataclass(frozen=True)
class Bands:
    """Predictions at every node of the planned runs, one entry per vessel, variable and node, in canonical units.

    Arrays are [M]: median, 90 % band of the true value, and of what an assay would read.
    """

    vessel: tuple[str, ...]
    variable: tuple[str, ...]
    time_h: np.ndarray
    predicted: np.ndarray
    lower90: np.ndarray
    upper90: np.ndarray
    reading_lower90: np.ndarray
    reading_upper90: np.ndarray


@dataclass(frozen=True)
class Placed:
    """One clone after some days. Draws are on the natural scale: shared [D, Ns] and the clone's own [D, Nc]."""

    clone: str
    day: float
    readings: int  # in use up to that day
    members: float  # of the old ensemble, how many have a say
    parameters: tuple[PlacedParameter, ...]
    shared: np.ndarray
    own: np.ndarray
    bands: Bands

    def __getitem__(self, name: str) -> PlacedParameter:
        return next(p for p in self.parameters if p.name == name)


@dataclass(frozen=True)
class Placement(Artefact):
    """New clones under the population of a fit, each after every number of days asked for."""

    schema: ClassVar[str] = "optim.placement/2"
    made_by: ClassVar[str] = "optim place"

    lineage: Lineage
    shared_names: tuple[str, ...]
    clone_names: tuple[str, ...]
    clones: tuple[str, ...]
    placed: tuple[Placed, ...]

    def of(self, clone: str) -> tuple[Placed, ...]:
        """A clone's path, by day."""
        return tuple(p for p in self.placed if p.clone == clone)
