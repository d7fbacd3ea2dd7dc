"""Result of a fit: estimates, an ensemble of plausible parameter sets, predictions, scores and diagnostics."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from optim.artefact import Artefact, Checked, Lineage
from optim.data.screened import Screen
from optim.errors import ConfigError, IncompatibleError, nearest
from optim.estimation.data_quality.finding import Finding
from optim.estimation.misfit import Misfit, find_misfits, noise_sentences
from optim.estimation.uncertainty.profile import LikelihoodProfile
from optim.parameters import ParameterSpec, ParameterTable

VAGUE = 0.9  # of the prior's standard deviation: a posterior wider than this has learnt nothing
MOST_TOLD = 5  # errors found in the data that are told in full wherever the fit is used
NEWCOMER = "population"  # stands for a clone or campaign that has not been seen


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

    @property
    def is_vague(self) -> bool:
        """Whether the data say nothing: the interval is about as wide as that of the prior."""
        return self.shrinkage > VAGUE


@dataclass(frozen=True)
class StartReport:
    """One start of the multi-start search."""

    start: int
    cost: float  # inf when the start failed
    iterations: int
    reason: str  # converged | max_iterations | stalled: ... | failed: ...
    optimum: int = 0  # which of the distinct ends, by cost: 0 is the best, -1 a failed start


@dataclass(frozen=True)
class Observations(Checked):
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

    def faults(self) -> list[str]:
        """What does not fit together."""
        count = len(self.vessel)
        wrong = [f.name for f in fields(self) if np.shape(getattr(self, f.name)) != (count,)]
        return [f"{name} is of the shape {np.shape(getattr(self, name))}, expected ({count},)" for name in wrong]


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
    log_score_groups: float = float("nan")  # the same with whole groups left out


@dataclass(frozen=True, repr=False)
class FitResult(Artefact, Checked):
    """A fitted model.

    `groups` are what the parameters of level clone are pooled over: clones, or experiments where `group_by` says so;
    `vessel_group` [B] is the group of each vessel. `shared_names`, `group_names`, `batch_names` and `vessel_names` are
    the parameters of each level. Ensemble arrays are on the natural scale, member 0 is the estimate itself: `shared`
    [E, Ns], `group` [E, C, Nc], `vessel` [E, B, Nv], `batch` [E, batches, Nb]; `new_group` [E, Nc] are parameters of a
    group without data, `new_run` [E, Nb + Nv] those of a batch and a vessel without data.
    """

    schema: ClassVar[str] = "optim.fit/5"
    made_by: ClassVar[str] = "optim fit"

    lineage: Lineage
    screen: Screen  # what later steps need of the data
    table: ParameterTable  # as it was fitted: levels, bounds, priors, and the values of fixed parameters
    shared_names: tuple[str, ...]
    group_names: tuple[str, ...]
    vessel_names: tuple[str, ...]
    batch_names: tuple[str, ...]
    groups: tuple[str, ...]
    vessels: tuple[str, ...]
    vessel_group: tuple[int, ...]
    group_by: str
    multiples: dict[str, str]  # parameter -> the one it multiplies
    shared: np.ndarray
    group: np.ndarray
    vessel: np.ndarray
    batch: np.ndarray
    new_group: np.ndarray
    new_run: np.ndarray
    parameters: tuple[ParameterEstimate, ...]
    observations: Observations
    noise_scale: dict[str, float]  # variable -> estimated factor on the stated noise
    spread: dict[str, float]  # group parameter -> estimated standard deviation between groups, on the fitted scale
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
    groups_left_out: Observations | None = None  # the same, whole groups left out
    findings: tuple[Finding, ...] = ()
    identifiability: tuple[str, ...] = ()  # parameters that the data do not determine, in sentences
    profiles: tuple[LikelihoodProfile, ...] = ()
    agreement: tuple[str, ...] = ()  # intervals of two methods that disagree, in sentences
    ensemble_by: str = "laplace"  # laplace | bootstrap | nuts
    without_product: tuple[str, ...] = ()  # groups that make no product that can be read; see `nonproducer`

    @cached_property
    def misfit(self) -> tuple[Misfit, ...]:
        """The assays that the model does not describe; see `optim.estimation.misfit`."""
        return find_misfits(self.observations, self.noise_scale)

    @cached_property
    def cautions(self) -> tuple[str, ...]:
        """What everything that is made from this fit says of it.

        That is errors in the data, clones without product, a search that has not converged, and noise at its cap.
        """
        product = [
            f"{name} makes no product that can be read beside that of the others: no member of the population explains "
            "how little was measured, so these readings were left out of the fit and it is not ranked; a wrong unit "
            "would look the same"
            for name in self.without_product
        ]
        errors = [f"error in the data: {f.statement}" for f in self.findings if f.severity == "error"]
        more = (
            [f"{len(errors) - MOST_TOLD} more errors in the data stand in the fit's page"] if errors[MOST_TOLD:] else []
        )
        best = min(self.starts, key=lambda s: s.cost, default=None)
        unfinished = ["the search of the fit used up its iterations before it converged; raise fit.max_iterations"]
        search = unfinished if best is not None and best.reason == "max_iterations" else []
        return (*errors[:MOST_TOLD], *more, *product, *search, *noise_sentences(self.noise_scale))

    def faults(self) -> list[str]:
        """What does not fit together: shapes of the ensembles, values that are not finite, owners of vessels."""
        members, groups, vessels = len(self.shared), len(self.groups), len(self.vessels)
        batches = self.batch.shape[1] if self.batch.ndim == 3 else 0
        own = (len(self.shared_names), len(self.group_names), len(self.vessel_names), len(self.batch_names))
        shapes = {
            "shared": (members, own[0]),
            "group": (members, groups, own[1]),
            "vessel": (members, vessels, own[2]),
            "batch": (members, batches, own[3]),
            "new_group": (members, own[1]),
            "new_run": (members, own[3] + own[2]),
        }
        found = [] if members else ["the ensemble is empty"]
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape:
                found.append(f"{name} is of the shape {array.shape}, expected {shape}")
            elif not np.all(np.isfinite(array)):
                found.append(f"{name} holds a value that is not finite")
        if np.isnan(self.cost):
            found.append("the cost is not a number")
        if len(self.vessel_group) != vessels or not all(0 <= g < groups for g in self.vessel_group):
            found.append("vessel_group does not name a group of every vessel")
        return found

    def parameter_ensemble(self, group: str) -> dict[str, np.ndarray]:
        """Ensemble of one group in a batch and a vessel to come: values [E] by parameter; member 0 is the estimate.

        Args:
            group: one of `groups`, or `population` for a group without data.

        Raises:
            ConfigError: an unknown group; names the closest one.
        """
        known = (*self.groups, NEWCOMER)
        if group not in known:
            raise ConfigError(
                f"this fit has no {self.group_by} '{group}'.{nearest(group, known)} Known: {', '.join(known)}"
            )
        members = len(self.shared)
        named = {name: np.full(members, value) for name, value in self.fixed.items()}
        named |= {name: self.shared[:, i] for i, name in enumerate(self.shared_names)}
        own = self.new_group if group == NEWCOMER else self.group[:, self.groups.index(group)]
        named |= {name: own[:, i] for i, name in enumerate(self.group_names)}
        named |= {name: self.new_run[:, i] for i, name in enumerate((*self.batch_names, *self.vessel_names))}
        return named | {name: named[name] * named[other] for name, other in self.multiples.items()}

    def estimates(self, group: str) -> dict[str, float]:
        """The estimate of one group: values by parameter; arguments and errors as for `parameter_ensemble`."""
        return {name: float(values[0]) for name, values in self.parameter_ensemble(group).items()}

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
