"""Inspection of the data for faults, reported in words that a bench scientist understands.

Faults distort the fit by which they would be detected. So they are detected in the residuals of a robust fit, the gross
ones first; these are excluded and the robust fit is repeated before the finer ones are judged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import numpy as np

from optim.data.dataset import Dataset
from optim.errors import FitError
from optim.estimation.data_quality.accusations import withhold_accusations
from optim.estimation.data_quality.finding import Finding, order_findings, time_text, value_text
from optim.estimation.data_quality.readings import (
    EXPECTED_OUTLIERS,
    SuspectReadings,
    dead_probes,
    merge_over_batches,
    missing_assays,
    nearest_slip,
    off_by_a_factor,
    single_outliers,
    wrong_units,
)
from optim.estimation.data_quality.residuals import (
    count_kinds,
    lack_of_fit,
    misfit_vessels,
    noise_factors,
    one_sided_assays,
    residual_structure,
)
from optim.estimation.data_quality.robust_fit import MAD, RobustFit, fit_robustly
from optim.estimation.data_quality.swaps import find_swap
from optim.estimation.noise import NoiseModel
from optim.estimation.posterior import Point, Posterior
from optim.estimation.problem import FitProblem, observable_names
from optim.runtime import require_float64
from optim.units import VARIABLES

BATCH_TOLERANCE = 0.5  # in logarithms: how far the factor of a whole batch may be from that of a known slip
MOST_INSPECTIONS = 8  # gross faults may hide each other: the search for them is repeated so often at most


@dataclass(frozen=True)
class QualityReport:
    """Findings, the gravest first, and the number of false ones to expect.

    `readings`: number of readings inspected. `expected_outliers`: number of single outliers that clean data with normal
    noise would give. `suspect` [B, M]: readings that the findings are about, in the order of `FitProblem.vessels`; see
    `without_suspects`. `reference`: the last robust fit.
    """

    findings: tuple[Finding, ...]
    readings: int
    expected_outliers: float
    suspect: np.ndarray
    reference: RobustFit | None = None

    def of_severity(self, severity: str) -> tuple[Finding, ...]:
        """Findings of one severity."""
        return tuple(f for f in self.findings if f.severity == severity)

    def text_lines(self) -> list[str]:
        """The findings as lines of text, after a line with their number."""
        head = (
            f"{self.readings} readings looked at: {count_kinds(self.findings)} (of clean data, "
            f"{self.expected_outliers:g} single outliers are expected)"
        )
        return [head, *(f"{f.severity}: {f.statement}" for f in self.findings)]


def inspect_data(posterior: Posterior, best: Point) -> QualityReport:
    """Inspect the data of a fit for faults, by robust fits that start from its mode `best`.

    Raises `FitError` when no robust fit can be simulated; `inspect_dataset` then inspects the data without a model.
    """
    require_float64("inspect_data")
    problem = posterior.problem
    findings: list[Finding] = [
        *missing_assays(problem.dataset, _expected(problem)),
        *impossible_readings(problem.dataset),
    ]
    excluded = np.zeros(problem.vessels.value.shape, bool)
    starts = [best, posterior.prior_point()]
    r = _fitted(posterior, starts, excluded)
    suspicions: list[SuspectReadings] = []
    for _ in range(MOST_INSPECTIONS):
        new = dead_probes(r, excluded)
        _leave_out(excluded, new)
        units = wrong_units(r, excluded)
        _leave_out(excluded, units)
        suspicions += new + units
        if not new + units:
            mixed = find_swap(r, excluded)
            if mixed is None:
                break
            findings.append(mixed[0])
            excluded[list(mixed[1])] = True
        r = _fitted(posterior, [r.point, *starts], excluded)
    suspicions, dropped = _confirmed(r, suspicions, excluded)
    if dropped:
        r = _fitted(posterior, [r.point, *starts], excluded)
    factors = off_by_a_factor(r, excluded)
    _leave_out(excluded, factors)
    if factors:
        r = _fitted(posterior, [r.point], excluded)
    findings += merge_over_batches(r, suspicions + factors)
    findings += misfit_vessels(r, excluded) + one_sided_assays(r, excluded)
    faulty = excluded.copy()
    single = single_outliers(r, excluded)
    _leave_out(excluded, single)
    findings += [s.finding for s in single]
    findings = withhold_accusations(findings, r, faulty)
    reported = {f.variable for f in findings if f.kind == "wrong unit"}
    findings += [f for f in _of_whole_batches(posterior, r) if f.variable not in reported]
    findings += residual_structure(r, excluded) + lack_of_fit(r, excluded) + noise_factors(r)
    return QualityReport(
        order_findings(findings), int((problem.vessels.weight > 0.0).sum()), EXPECTED_OUTLIERS, excluded, r
    )


def _confirmed(
    r: RobustFit, suspicions: list[SuspectReadings], excluded: np.ndarray
) -> tuple[list[SuspectReadings], bool]:
    """Suspicions that hold against a robust fit without them, and whether any did not; `excluded` is updated in place.

    The first robust fits are distorted by all faults at once, and so are the factors relative to them.
    """
    confirmed, dropped = list[SuspectReadings](), False
    for s in suspicions:
        without_own = excluded.copy()
        without_own[s.vessel, s.rows] = False
        find = dead_probes if s.finding.kind == "dead probe" else wrong_units
        again = [o for o in find(r, without_own) if o.vessel == s.vessel and o.finding.variable == s.finding.variable]
        confirmed += again
        if not again:
            excluded[s.vessel, s.rows] = False
            dropped = True
    return confirmed, dropped


def _of_whole_batches(posterior: Posterior, r: RobustFit) -> list[Finding]:
    """Wrong units of a whole batch, which the fit follows: readings are compared with media and with priors."""
    p = posterior.problem
    first = [
        SuspectReadings(f, p.dataset.run_ids.index(f.vessel), np.zeros(0, int))
        for f in _against_medium(p.dataset)
        if f.variable in p.variables
    ]
    findings = [f for f in merge_over_batches(r, first) if not f.vessel]
    reported = {f.variable for f in findings}
    y, status = p.predict(posterior.lane_parameters(posterior.prior_point()))
    for i, name in enumerate(p.variables):
        for batch, batch_name in enumerate(p.batches):
            use = r.uncensored & (p.vessels.variable == i) & (p.vessels.value > 0.0) & (y > 0.0)
            use &= ((status == 0) & (p.vessel_batch == batch))[:, None]
            if name in reported or use.sum() < 10:
                continue
            ratios = np.log(p.vessels.value[use] / y[use])
            ratio = float(np.median(ratios))
            # an exhausted substrate is off by any factor; a slip is one factor throughout
            alike = MAD * float(np.median(np.abs(ratios - ratio))) < BATCH_TOLERANCE
            slip = nearest_slip(name, ratio, BATCH_TOLERANCE) if alike and abs(ratio) > np.log(4.0) else None
            if slip is not None:
                statement = (
                    f"{name} in batch {batch_name} reads {np.exp(ratio):.3g} times what is usual for such cells and "
                    f"media, in the middle of {int(use.sum())} readings: the factor of {slip[0]:.3g} would fit "
                    f"{slip[1]}; the fit may have followed it, so check the unit in which the batch was exported"
                )
                findings.append(Finding("wrong unit", "warning", "", name, None, statement))
    return findings


def inspect_dataset(dataset: Dataset, expected: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    """Inspect a dataset without a model: missing assays, impossible readings, stuck values, wrong units.

    `expected` are variables that should be measured. Vessels are compared with each other at the same time, and the
    first sample with the medium.
    """
    findings = [
        *missing_assays(dataset, expected),
        *impossible_readings(dataset),
        *_standing_still(dataset),
        *_against_medium(dataset),
    ]
    return order_findings(findings)


def impossible_readings(dataset: Dataset) -> list[Finding]:
    """Readings outside the possible range of their assay."""
    m, findings = dataset.measurements, []
    for k, name in enumerate(m.variable):
        run, value, upper = dataset.runs[int(m.run[k])], float(m.value[k]), VARIABLES[name].upper
        if value < 0.0 or (upper is not None and value > 1.02 * upper):
            time = float(m.time_h[k])
            limit = "0 is the least" if value < 0.0 else f"{upper:g} is the most"
            statement = (
                f"{name} in vessel {run.run_id} ({time_text(time, run.end_time_h)}) reads {value_text(name, value)}, "
                f"where {limit}: check the entry and its unit"
            )
            findings.append(Finding("impossible reading", "error", run.run_id, name, time, statement))
    return findings


def _standing_still(dataset: Dataset) -> list[Finding]:
    """Four or more equal readings in a row, where the same assay moves by a fifth or more in other vessels."""
    m, findings = dataset.measurements, []
    name_of, free = np.array(m.variable), np.array([c == "" for c in m.censored])
    for name in dict.fromkeys(m.variable):
        for b, run in enumerate(dataset.runs):
            own = np.flatnonzero((m.run == b) & (name_of == name) & free)
            own = own[np.argsort(m.time_h[own], kind="stable")]
            value = m.value[own]
            same = np.flatnonzero(np.diff(value, prepend=np.nan, append=np.nan) != 0.0)
            longest = int(np.argmax(np.diff(same))) if len(same) > 1 else 0
            stuck = own[same[longest] : same[longest + 1]] if len(same) > 1 else own[:0]
            if len(stuck) < 4 or value[same[longest]] == 0.0:
                continue
            first, last = m.time_h[stuck[0]], m.time_h[stuck[-1]]
            moves = []
            for other in range(len(dataset.runs)):
                rows = (m.run == other) & (name_of == name) & free & (m.time_h >= first) & (m.time_h <= last)
                if other != b and rows.sum() >= 4:
                    moves.append(float(np.ptp(m.value[rows]) / max(np.median(np.abs(m.value[rows])), 1e-12)))
            if moves and np.median(moves) > 0.2:
                statement = (
                    f"{name} in vessel {run.run_id} reads {value_text(name, float(m.value[stuck[0]]))} {len(stuck)} "
                    f"times in a row, from {time_text(first, run.end_time_h)} to {time_text(last, run.end_time_h)}, "
                    f"where it moves by {100 * np.median(moves):.0f} % in other vessels: check the sensor"
                )
                findings.append(Finding("dead probe", "error", run.run_id, name, float(first), statement))
    return findings


def _against_medium(dataset: Dataset) -> list[Finding]:
    """First samples that differ from the composition of the medium by the factor of a slip between units."""
    findings = []
    for b, run in enumerate(dataset.runs):
        medium = dataset.medium(run.medium_id, run.run_id)
        for name, value in dataset.initial_sample(b).items():
            made = medium.get(name, 0.0)
            if value <= 0.0 or made <= 0.0:
                continue
            ratio = float(np.log(value / made))
            slip = nearest_slip(name, ratio) if abs(ratio) > 1.0 else None
            if slip is not None:
                statement = (
                    f"the first sample of vessel {run.run_id} reads {value_text(name, value)} {name}, where its medium "
                    f"has {value_text(name, made)}: the factor of {np.exp(ratio):.3g} fits {slip[1]}; check the unit"
                )
                findings.append(Finding("wrong unit", "error", run.run_id, name, 0.0, statement))
    return findings


def without_suspects(problem: FitProblem, quality: QualityReport) -> FitProblem:
    """The fit problem without the suspect readings of an inspection (their weight becomes 0)."""
    v = problem.vessels
    return replace(problem, vessels=v._replace(weight=np.where(quality.suspect, 0.0, v.weight)))


def _expected(problem: FitProblem) -> tuple[str, ...]:
    """Variables that the model predicts and whose noise is stated."""
    stated: NoiseModel = problem.noise
    with jax.ensure_compile_time_eval():
        names = observable_names(problem.model, problem.table)
    return tuple(name for name in names if name in stated.assays)


def _fitted(posterior: Posterior, starts: list[Point], excluded: np.ndarray) -> RobustFit:
    r = fit_robustly(posterior, starts, excluded)
    if not np.isfinite(r.point.cost):
        raise FitError("no reference fit could be simulated, so the data cannot be judged by one; see `inspect_raw`")
    return r


def _leave_out(excluded: np.ndarray, suspicions: list[SuspectReadings]) -> None:
    for s in suspicions:
        excluded[s.vessel, s.rows] = True
