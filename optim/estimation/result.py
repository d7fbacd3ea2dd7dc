"""Result of a fit: estimates, an ensemble of plausible parameter sets, predictions, scores and diagnostics."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np

from optim.artefact import Artefact, Lineage
from optim.data.screened import Screen
from optim.errors import IncompatibleError
from optim.estimation.data_quality.finding import Finding
from optim.estimation.uncertainty.profile import LikelihoodProfile
from optim.parameters import ParameterSpec, ParameterTable


@dataclass(frozen=True)
class ParameterEstimate:
    """One row of the table of estimates, on the natural scale."""

    name: str
    level: str  # shared | population | clone | batch | vessel | fixed
    owner: str  # clone, batch or vessel id; '' for shared, population and fixed
    unit: str
    estimate: float
    lower90: float
    upper90: float
    prior: str  # e.g. 'lognormal(0.043, 0.30)'; '' for fixed
    shrinkage: float  # posterior sd / prior sd on the fitted scale; 1: the data add no information
    at_bound: bool
    source: str
    verified: bool
    verdict: str = ""  # how well the data determine it, in words


@dataclass(frozen=True)
class StartReport:
    """One start of the multi-start search."""

    start: int
    cost: float  # inf when the start failed
    iterations: int
    reason: str  # converged | max_iterations | stalled: ... | failed: ...
    optimum: int = 0  # which of the distinct ends, by cost: 0 is the best, -1 a failed start


@dataclass(frozen=True)
class Observations:
    """All fitted data points, one entry each, in canonical units. Arrays are [M]."""

    vessel: tuple[str, ...]
    clone: tuple[str, ...]
    variable: tuple[str, ...]
    time_h: np.ndarray
    value: np.ndarray
    sd: np.ndarray
    predicted: np.ndarray
    lower90: np.ndarray
    upper90: np.ndarray
    censored: tuple[str, ...]  # '' | '<' | '>'


@dataclass(frozen=True)
class Recovery:
    """Estimate against the truth of a simulated screen, one entry per parameter and owner."""

    name: str
    owner: str
    truth: float
    estimate: float
    lower90: float
    upper90: float


@dataclass(frozen=True)
class ModelScore:
    """One row of a model comparison."""

    model: str
    parameters: int
    log_likelihood: float
    aicc: float
    bic: float
    r2: dict[str, float]  # variable -> R2 in sample
    r2_left_out: dict[str, float]  # variable -> R2 of leave-one-run-out predictions; {} when not asked for
    log_score: float = float("nan")  # mean log predictive density of readings of runs left out
    log_score_clones: float = float("nan")  # the same with whole clones left out


@dataclass(frozen=True, repr=False)
class FitResult(Artefact):
    """A fitted model.

    Ensemble arrays are on the natural scale, member 0 is the estimate itself: shared [E, Ns],
    clone [E, C, Nc], vessel [E, B, Nv], batch [E, batches, Nb], and `newcomer` [E, Nc]: clone parameters of a clone (or
    campaign) not seen yet; `other` [E, Nb + Nv]: batch and vessel parameters of a batch and a vessel not seen yet.
    `clones` are the groups that clone parameters belong to: clones, or experiments where `group_by` says so.
    """

    schema: ClassVar[str] = "optim.fit/3"
    made_by: ClassVar[str] = "optim fit"

    lineage: Lineage
    screen: Screen  # what later steps need of the data
    table: ParameterTable  # as it was fitted: levels, bounds, priors, and the values of fixed parameters
    shared_names: tuple[str, ...]
    clone_names: tuple[str, ...]
    vessel_names: tuple[str, ...]
    batch_names: tuple[str, ...]
    clones: tuple[str, ...]
    vessels: tuple[str, ...]
    vessel_clone: tuple[int, ...]
    group_by: str
    multiples: dict[str, str]  # parameter -> the one it multiplies
    shared: np.ndarray
    clone: np.ndarray
    vessel: np.ndarray
    batch: np.ndarray
    newcomer: np.ndarray
    other: np.ndarray
    parameters: tuple[ParameterEstimate, ...]
    observations: Observations
    noise_scale: dict[str, float]  # variable -> estimated factor on the stated noise
    spread: dict[str, float]  # clone parameter -> estimated standard deviation between clones, on the fitted scale
    cost: float
    log_likelihood: float
    n_parameters: int
    aicc: float
    bic: float
    r2: dict[str, float]
    starts: tuple[StartReport, ...]
    history: tuple[float, ...]  # cost per iteration of the best start
    recovery: tuple[Recovery, ...] = ()
    comparison: tuple[ModelScore, ...] = ()
    left_out: Observations | None = None  # leave-one-run-out predictions of every point
    clones_left_out: Observations | None = None  # the same, whole clones (or experiments) left out
    findings: tuple[Finding, ...] = ()
    identifiability: tuple[str, ...] = ()  # parameters that the data do not determine, in sentences
    profiles: tuple[LikelihoodProfile, ...] = ()
    agreement: tuple[str, ...] = ()  # intervals of two methods that disagree, in sentences
    ensemble_by: str = "laplace"  # laplace | bootstrap | nuts

    @property
    def fixed(self) -> dict[str, float]:
        """Parameters that were not estimated, by name, on the natural scale."""
        return {row.name: row.value for row in self.table.of_level("fixed")}


def require_table(result: FitResult, table: ParameterTable, place: Path) -> None:
    """Refuse a parameter table that is not the one which was fitted; sources may differ.

    Raises `IncompatibleError` that names every parameter that differs, both values and the remedy.
    """
    ours, theirs = ({row.name: row for row in rows} for rows in (table.rows, result.table.rows))
    faults = [f"'{name}' is only in the configuration" for name in ours if name not in theirs]
    faults += [f"'{name}' is only in the fit" for name in theirs if name not in ours]
    for name in ours.keys() & theirs.keys():
        for key in (f.name for f in fields(ParameterSpec) if f.name not in ("source", "verified")):
            a, b = getattr(ours[name], key), getattr(theirs[name], key)
            if a != b and repr(a) != repr(b):  # a bound that is not stated is NaN, which equals nothing
                faults.append(f"'{name}': {key} is {a!r} in the configuration and {b!r} in the fit")
    if faults:
        raise IncompatibleError(
            f"{place} was made with other parameters: {'; '.join(sorted(faults))}. Take the changes out of the "
            "configuration, or run `optim fit` with it first"
        )
