"""Artefact of predicted new clones: their parameters after some days of samples, and bands of their runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optim.artefact import Artefact, Lineage


@dataclass(frozen=True)
class PredictedParameter:
    """One parameter of a new clone, on the natural scale.

    `sd` is the standard deviation on the fitted scale, `prior_sd` the same before any sample: the spread between
    clones together with the uncertainty of their mean.
    """

    name: str
    unit: str
    estimate: float
    lower90: float
    upper90: float
    sd: float
    prior_sd: float

    @property
    def shrinkage(self) -> float:
        """Posterior over prior standard deviation; 1: the samples have not informed the parameter yet."""
        return self.sd / self.prior_sd


@dataclass(frozen=True)
class PredictionBands:
    """Predictions at every node of the planned runs, one entry per vessel, variable and node, in canonical units.

    Arrays are [M]: median, 90 % band of the true value, and 90 % band of a reading of it.
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
class CloneReadings:
    """All readings of the new clones' runs, one entry each, in canonical units; time_h and value are [M]."""

    vessel: tuple[str, ...]
    variable: tuple[str, ...]
    time_h: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class PredictedClone:
    """Posterior of one new clone after some days. Draws are on the natural scale: shared [D, Ns], own [D, Nc].

    `readings`: number in use up to that day. `members`: effective number of members of the earlier ensemble.
    """

    clone: str
    day: float
    readings: int
    members: float
    parameters: tuple[PredictedParameter, ...]
    shared: np.ndarray
    own: np.ndarray
    bands: PredictionBands

    def __getitem__(self, name: str) -> PredictedParameter:
        return next(p for p in self.parameters if p.name == name)


@dataclass(frozen=True, repr=False)
class NewClonePrediction(Artefact):
    """New clones under the population of a fit, each predicted after every requested number of days."""

    schema: ClassVar[str] = "optim.placement/2"
    made_by: ClassVar[str] = "optim place"

    lineage: Lineage  # data are those of the new clones
    shared_names: tuple[str, ...]
    clone_names: tuple[str, ...]
    clones: tuple[str, ...]
    placed: tuple[PredictedClone, ...]
    readings: CloneReadings

    def of_clone(self, clone: str) -> tuple[PredictedClone, ...]:
        """Predictions of one clone, by day."""
        return tuple(p for p in self.placed if p.clone == clone)
