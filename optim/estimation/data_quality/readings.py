"""Readings that cannot be right: dead probes, wrong units, single outliers, assays that are missing.

Each finder says in words what it saw, and which readings it means, so that what follows can do without them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from optim.data.dataset import Dataset
from optim.errors import ConfigError
from optim.estimation.data_quality.finding import Finding, listed, reads, when
from optim.estimation.data_quality.robust_fit import MAD, Reference
from optim.estimation.noise import ABOVE, MEASURED
from optim.units import VARIABLES, display, factor

# a run of readings is stuck when they lie within this share of the noise of one reading: four normal readings do so
# once in 300 times, and the model must move by LEAST_MODEL_MOVE times the noise besides
STILL, LEAST_RUN, LEAST_MODEL_MOVE = 0.3, 4, 4.0
# outliers expected by chance in all readings together, were the noise normal
FALSE_OUTLIER = 0.05
# units in which laboratories report, by canonical unit
UNITS_IN_USE: dict[str, tuple[str, ...]] = {
    "mmol/L": ("mmol/L", "g/L", "mg/L", "mg/dL", "mol/L", "umol/L"),
    "g/L": ("g/L", "mg/L", "mg/dL", "ug/mL", "ug/L", "mmol/L"),
    "1e9 cells/L": ("1e6 cells/mL", "cells/mL", "1e5 cells/mL", "1e3 cells/mL"),
    "1": ("fraction", "%"),
    "%": ("%", "fraction"),
    "1e12/L": ("1e9/mL", "1/mL", "1e12/mL", "1e6/mL"),
    "mOsm/kg": ("mOsm/kg", "osmol/kg"),
}
# slips that no unit of the assay explains
SLIPS = {1000.0: "a prefix (milli, micro)", 60.0: "minutes and hours", 24.0: "hours and days", 100.0: "percent"}
# of a logarithm: how far the factor seen may be from that of a unit, since faults bend the reference
UNIT_TOLERANCE = 0.3


@dataclass(frozen=True)
class Suspicion:
    """A finding, and the readings that it means: places along M of one vessel."""

    finding: Finding
    vessel: int
    rows: np.ndarray


# --- dead probes ---


def dead_probes(r: Reference, but: np.ndarray) -> list[Suspicion]:
    """Assays of a vessel that stand still while the model moves; readings in `but` [B, M] are known to be wrong."""
    found = []
    for b, run in enumerate(r.problem.dataset.runs):
        for i, name in enumerate(r.problem.variables):
            rows = r.rows(b, i)
            rows = rows[~but[b, rows]]
            stuck = _stuck(r, b, rows)
            if stuck is None:
                stuck = _beyond(r, b, i, but)
                if stuck is None:
                    continue
            value, z = r.problem.vessels.value[b, stuck], r.z[b, stuck]
            y = r.predicted[b, stuck]
            first, last = (when(r.time_h[b, k], run.end_time_h) for k in (stuck[0], stuck[-1]))
            upper = VARIABLES[name].upper
            at = "at its limit, " if float(np.median(value)) in (0.0, upper) else ""
            statement = (
                f"{name} in vessel {run.run_id} stays {at}at {reads(name, float(np.median(value)))} from {first} to "
                f"{last} ({len(stuck)} readings), while everything else in the vessel says that it went from "
                f"{reads(name, y[0])} to {reads(name, y[-1])} (between {reads(name, y.min())} and "
                f"{reads(name, y.max())}), off by up to {np.abs(z).max():.0f} times the noise: the probe or the "
                f"transfer of its values looks dead; check the sensor and leave these readings out"
            )
            time = float(r.time_h[b, stuck[0]])
            found.append(Suspicion(Finding("dead probe", "error", run.run_id, name, time, statement), b, stuck))
    return found


def _stuck(r: Reference, b: int, rows: np.ndarray) -> np.ndarray | None:
    """The longest run of readings that stand still while the model moves, if there is one."""
    value, best = r.problem.vessels.value[b], np.zeros(0, int)
    # without the noise of one reading: the deviation that it makes
    sd = r.posterior.noise.sd[b]
    for first in range(len(rows)):
        last = first + 1
        while last < len(rows) and _still(value[rows[first : last + 1]], _unit_sd(r, b, rows[first : last + 1], sd)):
            last += 1
        if last - first > max(len(best), LEAST_RUN - 1):
            best = rows[first:last]
    if len(best) < LEAST_RUN or np.ptp(r.z[b, best]) < LEAST_MODEL_MOVE or np.sqrt(np.mean(r.z[b, best] ** 2)) < 1.8:
        return None
    return best


def _still(value: np.ndarray, sd: np.ndarray) -> bool:
    """Little movement by the noise, and by the level too: what is far too small as a whole moves all the same."""
    return bool(np.ptp(value) <= min(STILL * float(np.median(sd)), 0.05 * float(np.abs(value).max())))


def _unit_sd(r: Reference, b: int, rows: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Noise in the unit of the assay."""
    name = r.problem.variables[r.problem.vessels.variable[b, rows[0]]]
    return r.problem.noise.reading_sd(name, r.predicted[b, rows], sd[rows])


def _beyond(r: Reference, b: int, i: int, but: np.ndarray) -> np.ndarray | None:
    """A run of readings beyond a limit of quantification where the model is clearly within."""
    v, rows = r.problem.vessels, r.rows(b, i, censored=True)
    rows = rows[~but[b, rows]]
    bad = (v.censored[b, rows] != MEASURED) & (np.abs(r.z[b, rows]) > 3.0)
    start = np.flatnonzero(bad & ~np.append(False, bad[:-1]))
    for first in start:
        stop = first + int(np.argmin(np.append(bad[first:], False)))
        if stop - first >= LEAST_RUN:
            return np.asarray(rows[first:stop])
    return None


# --- wrong units ---


def unit_factors(name: str) -> list[tuple[float, str]]:
    """Factors by which an assay's readings are off when a unit is taken for another, each with the slip in words."""
    quantity = VARIABLES[name]
    found: list[tuple[float, str]] = []
    units = UNITS_IN_USE.get(quantity.unit, ())
    for meant in units:
        for taken in units:
            try:
                ratio = factor(taken, quantity)[0] / factor(meant, quantity)[0]
            except ConfigError:
                continue  # mass and amount are interchangeable only where there is a molar mass
            if abs(np.log(ratio)) > 0.5 and not any(abs(np.log(ratio / f)) < 0.02 for f, _ in found):
                found.append((ratio, f"{display(meant)} taken for {display(taken)}"))
    for slip, words in SLIPS.items():
        for ratio in (slip, 1.0 / slip):
            if not any(abs(np.log(ratio / f)) < 0.1 for f, _ in found):
                found.append((ratio, f"{words} mixed up"))
    return found


def wrong_units(r: Reference, but: np.ndarray) -> list[Suspicion]:
    """Assays of a vessel whose readings are all off by the factor of a known slip between units.

    Of one clone the worst vessel only: the reference lies between it and the others, which look wrong likewise.
    """
    found, largest = list[Suspicion](), dict[tuple[int, int], tuple[float, int]]()
    for b, run in enumerate(r.problem.dataset.runs):
        for i, name in enumerate(r.problem.variables):
            rows = _with_ratio(r, b, i, but)
            if len(rows) < 3:
                continue
            log_ratio = np.log(r.problem.vessels.value[b, rows] / r.predicted[b, rows])
            middle = float(np.median(log_ratio))
            slip = slip_of(name, middle)
            if slip is None or not _better_by(r, b, rows, slip[0]):
                continue
            group = (int(r.problem.vessel_group[b]), i)
            if abs(middle) < abs(largest.get(group, (0.0, 0))[0]):
                continue
            largest[group] = (middle, len(found))
            rest = r.rows(b, i, censored=True)
            statement = (
                f"{name} in vessel {run.run_id} reads {_times(middle)} what everything else in the vessel says, in "
                f"{len(rows)} readings alike (a factor of {np.exp(middle):.3g}, scatter "
                f"{100 * MAD * np.median(np.abs(log_ratio - middle)):.0f} %): the factor of {slip[0]:.3g} fits "
                f"{slip[1]}; check the unit in which it was exported"
            )
            finding = Finding("wrong unit", "error", run.run_id, name, float(r.time_h[b, rows[0]]), statement)
            found.append(Suspicion(finding, b, rest))
    return [found[k] for _, k in largest.values()]


def slip_of(name: str, log_ratio: float, near: float = UNIT_TOLERANCE) -> tuple[float, str] | None:
    """The known slip nearest to a factor; None: no slip is near."""
    ratio, words = min(unit_factors(name), key=lambda f: abs(np.log(f[0]) - log_ratio))
    return (ratio, words) if abs(np.log(ratio) - log_ratio) < near else None


def off_by_a_factor(r: Reference, but: np.ndarray) -> list[Suspicion]:
    """Assays of a vessel that are off by one factor which is that of no unit: calibration, or dilution."""
    found = []
    for b, run in enumerate(r.problem.dataset.runs):
        for i, name in enumerate(r.problem.variables):
            rows = _with_ratio(r, b, i, but)
            if len(rows) < 5:
                continue
            log_ratio = np.log(r.problem.vessels.value[b, rows] / r.predicted[b, rows])
            middle = float(np.median(log_ratio))
            error = 1.2533 * MAD * float(np.median(np.abs(log_ratio - middle))) / np.sqrt(len(rows))
            # one factor, not a drift: the scatter about it is that of the noise
            if abs(middle) < max(np.log(1.25), 6.0 * error) or not _better_by(r, b, rows, float(np.exp(middle))):
                continue
            statement = (
                f"{name} in vessel {run.run_id} reads {_times(middle)} what everything else in the vessel says, in "
                f"{len(rows)} readings alike (a factor of {np.exp(middle):.3g} ± {np.exp(middle) * error:.1g}); no "
                f"usual unit has this factor: check the calibration and the dilution of these samples"
            )
            time = float(r.time_h[b, rows[0]])
            finding = Finding("off by a factor", "warning", run.run_id, name, time, statement)
            found.append(Suspicion(finding, b, rows))
    return found


def _with_ratio(r: Reference, b: int, i: int, but: np.ndarray) -> np.ndarray:
    """Readings whose ratio to the prediction says something: both well above the noise floor."""
    rows = r.rows(b, i)
    if not len(rows):
        return rows
    y, value = r.predicted[b, rows], r.problem.vessels.value[b, rows]
    sd = _unit_sd(r, b, rows, r.posterior.noise.sd[b])
    # a reading far too low says as much as one far too high: it is the larger of the two that must be seen
    return np.asarray(rows[(y > 0.0) & (value > 0.0) & (np.maximum(y, value) > 4.0 * sd) & ~but[b, rows]])


def _better_by(r: Reference, b: int, rows: np.ndarray, ratio: float) -> bool:
    """Whether the readings fit once they are divided by a factor, and do not as they are."""
    y, value = r.predicted[b, rows], r.problem.vessels.value[b, rows]
    # what everything else says of this assay is itself not exact: a tenth
    sd = np.hypot(_unit_sd(r, b, rows, r.posterior.noise.sd[b]), 0.1 * y)
    before, after = (np.abs(x - y) / sd for x in (value, value / ratio))
    gain = float(np.sum(np.log1p(before**2 / 5.0) - np.log1p(after**2 / 5.0))) * 2.5
    return gain > 15.0 and float(np.median(after)) < min(1.5, 0.5 * float(np.median(before)))


def _times(log_ratio: float) -> str:
    ratio = float(np.exp(log_ratio))
    return f"{ratio:.3g} times" if ratio > 1.0 else f"1/{1.0 / ratio:.3g} of"


def over_batches(r: Reference, suspicions: list[Suspicion]) -> list[Finding]:
    """What is alike in every vessel of a batch is said once, of the batch."""
    p = r.problem
    findings: list[Finding] = []
    for key in dict.fromkeys((s.finding.kind, s.finding.variable) for s in suspicions):
        alike = [s for s in suspicions if (s.finding.kind, s.finding.variable) == key]
        i = p.variables.index(key[1])
        for batch, name in enumerate(p.batches):
            own = [s for s in alike if p.vessel_batch[s.vessel] == batch]
            having = [b for b in np.flatnonzero(p.vessel_batch == batch) if len(r.rows(int(b), i, censored=True))]
            if len(own) > 2 and len(own) >= 0.6 * len(having):
                first = own[0].finding
                statement = (
                    f"in {len(own)} of {len(having)} vessels of batch {name} alike: {first.statement} (the other "
                    f"vessels: {listed([s.finding.vessel for s in own[1:]])})"
                )
                findings.append(Finding(first.kind, first.severity, "", first.variable, first.time_h, statement))
            else:
                findings += [s.finding for s in own]
    return findings


# --- single outliers ---


def threshold(readings: int, of_assay: int) -> float:
    """Distance beyond which `FALSE_OUTLIER` of so many normal readings lie, their noise being found from `of_assay`.

    A scatter found by the median is worth 0.37 of as many readings (Rousseeuw & Croux 1993, J Am Stat Assoc 88:1273).
    """
    return float(stats.t.isf(0.5 * FALSE_OUTLIER / max(readings, 1), max(0.37 * of_assay, 4.0)))


def outliers(r: Reference, but: np.ndarray) -> list[Suspicion]:
    """Single readings far from what all others say of them, while the readings around them lie well."""
    judged, found = r.use & ~but, list[tuple[float, Suspicion]]()
    n, width = int(judged.sum()), _local_width(r, judged)
    v = r.problem.vessels
    for i, name in enumerate(r.problem.variables):
        limit = threshold(n, int(np.sum(judged & (v.variable == i))))
        for b, run in enumerate(r.problem.dataset.runs):
            rows = r.rows(b, i, censored=True)
            rows = rows[~but[b, rows]]
            for place, k in enumerate(rows):
                z = abs(float(r.alone[b, k])) / float(width[b, k])
                around = [j for j in range(place - 2, place + 3) if 0 <= j < len(rows) and j != place]
                near = float(np.median(np.abs(r.z[b, rows[around]]))) if around else 0.0
                if z < limit or z < 2.0 * near:
                    continue
                value, y, time = float(v.value[b, k]), float(r.predicted[b, k]), float(r.time_h[b, k])
                sign = {MEASURED: "", ABOVE: ">"}.get(int(v.censored[b, k]), "<")
                slip = slip_of(name, float(np.log(value / y))) if value > 0.0 and y > 0.0 and not sign else None
                hint = f"; the factor fits {slip[1]}" if slip else ""
                at = when(time, run.end_time_h)
                at = f"on {at}" if at.startswith("day") else f"at {at}"
                statement = (
                    f"{name} in vessel {run.run_id} {at} reads {sign}{reads(name, value)} where "
                    f"{reads(name, max(y, 0.0))} is expected, {z:.1f} times the noise (beyond {limit:.1f} only "
                    f"{FALSE_OUTLIER:g} of all {n} readings would lie by chance): check this sample and its entry{hint}"
                )
                finding = Finding("outlier", "warning", run.run_id, name, time, statement)
                found.append((z, Suspicion(finding, b, np.array([k]))))
    return [s for _, s in sorted(found, key=lambda pair: -pair[0])]


def _local_width(r: Reference, judged: np.ndarray) -> np.ndarray:
    """How wide readings of an assay lie about their predictions without them [B, M], at levels like theirs.

    At least 1: where the noise model is wrong about high or low readings, these are not all outliers.
    """
    width = np.ones(judged.shape)
    for i in range(len(r.problem.variables)):
        b, k = np.nonzero(judged & r.measured & (r.problem.vessels.variable == i))
        if len(b) < 8:
            continue
        order = np.argsort(r.predicted[b, k])
        size = np.abs(r.alone[b, k])[order]
        whole, reach = float(np.median(size)), max(10, len(size) // 8)
        local = [np.median(size[max(0, p - reach) : p + reach + 1]) for p in range(len(size))]
        width[b[order], k[order]] = MAD * np.maximum(np.maximum(local, whole), 1.0 / MAD)
    return width


# --- what is missing, and what raw data say without any fit ---


def missing(dataset: Dataset, expected: tuple[str, ...]) -> list[Finding]:
    """Assays that others have and a vessel or clone has not; and `expected` ones that nobody has."""
    m, findings = dataset.measurements, []
    name_of = np.array(m.variable)
    for name in dict.fromkeys((*m.variable, *expected)):
        counts = np.array([int(np.sum((m.run == b) & (name_of == name))) for b in range(len(dataset.runs))])
        without = [b for b in range(len(dataset.runs)) if not counts[b]]
        if len(without) == len(dataset.runs):
            statement = f"{name} is expected (its noise is stated and the model predicts it) but was never measured"
            findings.append(Finding("missing assay", "warning", "", name, None, statement))
            continue
        for clone in dataset.clones:
            own = [b for b, run in enumerate(dataset.runs) if run.clone_id == clone]
            lost = [b for b in own if b in without]
            whole = len(own) > 1 and lost == own
            for b in [own[0]] if whole else lost:
                run = dataset.runs[b]
                who = f"any vessel of clone {clone}" if whole else f"vessel {run.run_id}"
                statement = (
                    f"{name} is missing in {who}, where {len(dataset.runs) - len(without)} of {len(dataset.runs)} "
                    f"vessels have it (usually {np.median(counts[counts > 0]):.0f} readings): look for the samples, or "
                    f"for rows lost in the export"
                )
                findings.append(Finding("missing assay", "warning", "" if whole else run.run_id, name, None, statement))
        usual = float(np.median(counts[counts > 0]))
        for b in (int(k) for k in np.flatnonzero((counts > 0) & (counts < 0.4 * usual) & (usual >= 5))):
            run = dataset.runs[b]
            statement = (
                f"{name} has only {counts[b]} readings in vessel {run.run_id}, where others usually have {usual:.0f}: "
                f"look for rows lost in the export"
            )
            findings.append(Finding("few readings", "note", run.run_id, name, None, statement))
    return findings
