"""Faulty readings: dead probes, wrong units, calibration factors, single outliers, missing assays.

Each detector returns findings in words with the readings that they are about, so that later ones can exclude them.
`excluded` [B, M] marks readings already judged faulty; b is the index of a vessel, i that of a variable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from optim.data.dataset import Dataset
from optim.errors import ConfigError
from optim.estimation.data_quality.finding import Finding, join_names, time_text, value_text
from optim.estimation.data_quality.robust_fit import MAD, MEDIAN_ERROR, RobustFit
from optim.estimation.noise import ABOVE, MEASURED
from optim.units import VARIABLES, conversion_factor, display_unit

# consecutive readings are stuck when their range is below this fraction of the noise: four normal readings are so once
# in 300 times; the model must move by MODEL_RANGE times the noise besides
STUCK_RANGE, LEAST_STUCK, MODEL_RANGE = 0.3, 4, 4.0
# number of outliers to expect in all readings together when the noise is normal
EXPECTED_OUTLIERS = 0.05
# units in which laboratories report, by canonical unit
LABORATORY_UNITS: dict[str, tuple[str, ...]] = {
    "mmol/L": ("mmol/L", "g/L", "mg/L", "mg/dL", "mol/L", "umol/L"),
    "g/L": ("g/L", "mg/L", "mg/dL", "ug/mL", "ug/L", "mmol/L"),
    "1e9 cells/L": ("1e6 cells/mL", "cells/mL", "1e5 cells/mL", "1e3 cells/mL"),
    "1": ("fraction", "%"),
    "%": ("%", "fraction"),
    "1e12/L": ("1e9/mL", "1/mL", "1e12/mL", "1e6/mL"),
    "mOsm/kg": ("mOsm/kg", "osmol/kg"),
}
# slips that no unit of the assay explains
UNEXPLAINED_SLIPS = {
    1000.0: "a prefix (milli, micro)",
    60.0: "minutes and hours",
    24.0: "hours and days",
    100.0: "percent",
}
# in logarithms: how far an observed factor may be from that of a slip, since faults distort the robust fit
SLIP_TOLERANCE = 0.3


@dataclass(frozen=True)
class SuspectReadings:
    """A finding with the readings that it is about: indices `rows` along M of one vessel."""

    finding: Finding
    vessel: int
    rows: np.ndarray


# --- dead probes ---


def dead_probes(r: RobustFit, excluded: np.ndarray) -> list[SuspectReadings]:
    """Assays of a vessel that stand still, or stay at a limit of quantification, while the model moves."""
    found = []
    for b, run in enumerate(r.problem.dataset.runs):
        for i, name in enumerate(r.problem.variables):
            rows = r.readings_of(b, i)
            rows = rows[~excluded[b, rows]]
            stuck = _stuck(r, b, rows)
            if stuck is None:
                stuck = _beyond(r, b, i, excluded)
                if stuck is None:
                    continue
            value, z = r.problem.vessels.value[b, stuck], r.z[b, stuck]
            y = r.predicted[b, stuck]
            first, last = (time_text(r.time_h[b, k], run.end_time_h) for k in (stuck[0], stuck[-1]))
            upper = VARIABLES[name].upper
            at = "at its limit, " if float(np.median(value)) in (0.0, upper) else ""
            statement = (
                f"{name} in vessel {run.run_id} stays {at}at {value_text(name, float(np.median(value)))} from {first} "
                f"to {last} ({len(stuck)} readings), while everything else in the vessel says that it went from "
                f"{value_text(name, y[0])} to {value_text(name, y[-1])} (between {value_text(name, y.min())} and "
                f"{value_text(name, y.max())}), off by up to {np.abs(z).max():.0f} times the noise: the probe or the "
                "transfer of its values looks dead; check the sensor and leave these readings out"
            )
            time = float(r.time_h[b, stuck[0]])
            found.append(SuspectReadings(Finding("dead probe", "error", run.run_id, name, time, statement), b, stuck))
    return found


def _stuck(r: RobustFit, b: int, rows: np.ndarray) -> np.ndarray | None:
    """Indices of the longest series of readings that stand still while the model moves; None where there is none."""
    value, best = r.problem.vessels.value[b], np.zeros(0, int)
    sd = r.posterior.noise.sd[b]
    for first in range(len(rows)):
        last = first + 1
        while last < len(rows) and _still(value[rows[first : last + 1]], _unit_sd(r, b, rows[first : last + 1], sd)):
            last += 1
        if last - first > max(len(best), LEAST_STUCK - 1):
            best = rows[first:last]
    if len(best) < LEAST_STUCK or np.ptp(r.z[b, best]) < MODEL_RANGE or np.sqrt(np.mean(r.z[b, best] ** 2)) < 1.8:
        return None
    return best


def _still(value: np.ndarray, sd: np.ndarray) -> bool:
    """Whether readings move little compared with their noise and with their level (tiny readings have a tiny range)."""
    return bool(np.ptp(value) <= min(STUCK_RANGE * float(np.median(sd)), 0.05 * float(np.abs(value).max())))


def _unit_sd(r: RobustFit, b: int, rows: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Noise of some readings of one variable in its unit, from noise on the scale of the assay."""
    name = r.problem.variables[r.problem.vessels.variable[b, rows[0]]]
    return r.problem.noise.reading_sd(name, r.predicted[b, rows], sd[rows])


def _beyond(r: RobustFit, b: int, i: int, excluded: np.ndarray) -> np.ndarray | None:
    """Indices of consecutive readings beyond a limit of quantification, where the model is clearly within."""
    v, rows = r.problem.vessels, r.readings_of(b, i, censored=True)
    rows = rows[~excluded[b, rows]]
    bad = (v.censored[b, rows] != MEASURED) & (np.abs(r.z[b, rows]) > 3.0)
    start = np.flatnonzero(bad & ~np.append(False, bad[:-1]))
    for first in start:
        stop = first + int(np.argmin(np.append(bad[first:], False)))
        if stop - first >= LEAST_STUCK:
            return np.asarray(rows[first:stop])
    return None


# --- wrong units ---


def unit_factors(name: str) -> list[tuple[float, str]]:
    """Factors by which readings are off when one unit is taken for another, each with the slip in words."""
    quantity = VARIABLES[name]
    found: list[tuple[float, str]] = []
    units = LABORATORY_UNITS.get(quantity.unit, ())
    for meant in units:
        for taken in units:
            try:
                ratio = conversion_factor(taken, quantity)[0] / conversion_factor(meant, quantity)[0]
            except ConfigError:
                continue  # mass and amount are interchangeable only where there is a molar mass
            if abs(np.log(ratio)) > 0.5 and not any(abs(np.log(ratio / f)) < 0.02 for f, _ in found):
                found.append((ratio, f"{display_unit(meant)} taken for {display_unit(taken)}"))
    for slip, words in UNEXPLAINED_SLIPS.items():
        for ratio in (slip, 1.0 / slip):
            if not any(abs(np.log(ratio / f)) < 0.1 for f, _ in found):
                found.append((ratio, f"{words} mixed up"))
    return found


def wrong_units(r: RobustFit, excluded: np.ndarray) -> list[SuspectReadings]:
    """Assays of a vessel whose readings are all off by the factor of a known slip between units.

    Only the worst vessel of each group is reported: the robust fit lies between it and the others, which then seem
    wrong too.
    """
    found, largest = list[SuspectReadings](), dict[tuple[int, int], tuple[float, int]]()
    for b, run in enumerate(r.problem.dataset.runs):
        for i, name in enumerate(r.problem.variables):
            rows = _with_ratio(r, b, i, excluded)
            if len(rows) < 3:
                continue
            log_ratio = np.log(r.problem.vessels.value[b, rows] / r.predicted[b, rows])
            middle = float(np.median(log_ratio))
            slip = nearest_slip(name, middle)
            if slip is None or not _better_by(r, b, rows, slip[0]):
                continue
            group = (int(r.problem.vessel_group[b]), i)
            if abs(middle) < abs(largest.get(group, (0.0, 0))[0]):
                continue
            largest[group] = (middle, len(found))
            rest = r.readings_of(b, i, censored=True)
            statement = (
                f"{name} in vessel {run.run_id} reads {_times(middle)} what everything else in the vessel says, in "
                f"{len(rows)} readings alike (a factor of {np.exp(middle):.3g}, scatter "
                f"{100 * MAD * np.median(np.abs(log_ratio - middle)):.0f} %): the factor of {slip[0]:.3g} fits "
                f"{slip[1]}; check the unit in which it was exported"
            )
            finding = Finding("wrong unit", "error", run.run_id, name, float(r.time_h[b, rows[0]]), statement)
            found.append(SuspectReadings(finding, b, rest))
    return [found[k] for _, k in largest.values()]


def nearest_slip(name: str, log_ratio: float, near: float = SLIP_TOLERANCE) -> tuple[float, str] | None:
    """The known slip nearest to a factor, as (factor, words); None where none is within `near` logarithms."""
    ratio, words = min(unit_factors(name), key=lambda f: abs(np.log(f[0]) - log_ratio))
    return (ratio, words) if abs(np.log(ratio) - log_ratio) < near else None


def off_by_a_factor(r: RobustFit, excluded: np.ndarray) -> list[SuspectReadings]:
    """Assays of a vessel that are off by one factor which belongs to no unit: calibration or dilution."""
    found = []
    for b, run in enumerate(r.problem.dataset.runs):
        for i, name in enumerate(r.problem.variables):
            rows = _with_ratio(r, b, i, excluded)
            if len(rows) < 5:
                continue
            log_ratio = np.log(r.problem.vessels.value[b, rows] / r.predicted[b, rows])
            middle = float(np.median(log_ratio))
            error = MEDIAN_ERROR * MAD * float(np.median(np.abs(log_ratio - middle))) / np.sqrt(len(rows))
            # the scatter about one factor must be small, unlike that about a drift
            if abs(middle) < max(np.log(1.25), 6.0 * error) or not _better_by(r, b, rows, float(np.exp(middle))):
                continue
            statement = (
                f"{name} in vessel {run.run_id} reads {_times(middle)} what everything else in the vessel says, in "
                f"{len(rows)} readings alike (a factor of {np.exp(middle):.3g} ± {np.exp(middle) * error:.1g}); no "
                f"usual unit has this factor: check the calibration and the dilution of these samples"
            )
            time = float(r.time_h[b, rows[0]])
            finding = Finding("off by a factor", "warning", run.run_id, name, time, statement)
            found.append(SuspectReadings(finding, b, rows))
    return found


def _with_ratio(r: RobustFit, b: int, i: int, excluded: np.ndarray) -> np.ndarray:
    """Indices of the readings with a meaningful ratio to the prediction: both positive, the larger well above noise."""
    rows = r.readings_of(b, i)
    if not len(rows):
        return rows
    y, value = r.predicted[b, rows], r.problem.vessels.value[b, rows]
    sd = _unit_sd(r, b, rows, r.posterior.noise.sd[b])
    # a reading far too low is as informative as one far too high: the larger of the two must exceed the noise
    return np.asarray(rows[(y > 0.0) & (value > 0.0) & (np.maximum(y, value) > 4.0 * sd) & ~excluded[b, rows]])


def _better_by(r: RobustFit, b: int, rows: np.ndarray, ratio: float) -> bool:
    """Whether readings fit when divided by a factor, and do not fit as they are."""
    y, value = r.predicted[b, rows], r.problem.vessels.value[b, rows]
    # the prediction itself is uncertain by about a tenth
    sd = np.hypot(_unit_sd(r, b, rows, r.posterior.noise.sd[b]), 0.1 * y)
    before, after = (np.abs(x - y) / sd for x in (value, value / ratio))
    gain = float(np.sum(np.log1p(before**2 / 5.0) - np.log1p(after**2 / 5.0))) * 2.5
    return gain > 15.0 and float(np.median(after)) < min(1.5, 0.5 * float(np.median(before)))


def _times(log_ratio: float) -> str:
    ratio = float(np.exp(log_ratio))
    return f"{ratio:.3g} times" if ratio > 1.0 else f"1/{1.0 / ratio:.3g} of"


def merge_over_batches(r: RobustFit, suspicions: list[SuspectReadings]) -> list[Finding]:
    """Findings of suspicions, with those that most vessels of a batch share merged into one."""
    p = r.problem
    findings: list[Finding] = []
    for key in dict.fromkeys((s.finding.kind, s.finding.variable) for s in suspicions):
        alike = [s for s in suspicions if (s.finding.kind, s.finding.variable) == key]
        i = p.variables.index(key[1])
        for batch, name in enumerate(p.batches):
            own = [s for s in alike if p.vessel_batch[s.vessel] == batch]
            having = [
                b for b in np.flatnonzero(p.vessel_batch == batch) if len(r.readings_of(int(b), i, censored=True))
            ]
            if len(own) > 2 and len(own) >= 0.6 * len(having):
                first = own[0].finding
                statement = (
                    f"in {len(own)} of {len(having)} vessels of batch {name} alike: {first.statement} (the other "
                    f"vessels: {join_names([s.finding.vessel for s in own[1:]])})"
                )
                findings.append(Finding(first.kind, first.severity, "", first.variable, first.time_h, statement))
            else:
                findings += [s.finding for s in own]
    return findings


# --- single outliers ---


def outlier_threshold(readings: int, of_assay: int) -> float:
    """Distance, in units of the noise, beyond which `EXPECTED_OUTLIERS` of so many normal readings lie.

    The noise is estimated from `of_assay` of them. A scatter estimated by the median is worth 0.37 of as many readings
    (Rousseeuw & Croux 1993, J Am Stat Assoc 88:1273).
    """
    return float(stats.t.isf(0.5 * EXPECTED_OUTLIERS / max(readings, 1), max(0.37 * of_assay, 4.0)))


def single_outliers(r: RobustFit, excluded: np.ndarray) -> list[SuspectReadings]:
    """Single readings far from their prediction by all others, while the readings around them fit."""
    judged, found = r.use & ~excluded, list[tuple[float, SuspectReadings]]()
    n, width = int(judged.sum()), _local_width(r, judged)
    v = r.problem.vessels
    for i, name in enumerate(r.problem.variables):
        limit = outlier_threshold(n, int(np.sum(judged & (v.variable == i))))
        for b, run in enumerate(r.problem.dataset.runs):
            rows = r.readings_of(b, i, censored=True)
            rows = rows[~excluded[b, rows]]
            for place, k in enumerate(rows):
                z = abs(float(r.alone[b, k])) / float(width[b, k])
                around = [j for j in range(place - 2, place + 3) if 0 <= j < len(rows) and j != place]
                near = float(np.median(np.abs(r.z[b, rows[around]]))) if around else 0.0
                if z < limit or z < 2.0 * near:
                    continue
                value, y, time = float(v.value[b, k]), float(r.predicted[b, k]), float(r.time_h[b, k])
                sign = {MEASURED: "", ABOVE: ">"}.get(int(v.censored[b, k]), "<")
                slip = nearest_slip(name, float(np.log(value / y))) if value > 0.0 and y > 0.0 and not sign else None
                hint = f"; the factor fits {slip[1]}" if slip else ""
                at = time_text(time, run.end_time_h)
                at = f"on {at}" if at.startswith("day") else f"at {at}"
                statement = (
                    f"{name} in vessel {run.run_id} {at} reads {sign}{value_text(name, value)} where "
                    f"{value_text(name, max(y, 0.0))} is expected, {z:.1f} times the noise (beyond {limit:.1f} only "
                    f"{EXPECTED_OUTLIERS:g} of all {n} readings would lie by chance): check this sample and its "
                    f"entry{hint}"
                )
                finding = Finding("outlier", "warning", run.run_id, name, time, statement)
                found.append((z, SuspectReadings(finding, b, np.array([k]))))
    return [s for _, s in sorted(found, key=lambda pair: -pair[0])]


def _local_width(r: RobustFit, judged: np.ndarray) -> np.ndarray:
    """Scatter of the readings of an assay at similar levels [B, M], in units of the noise, at least 1.

    Where the noise model is wrong about high or low readings, these are then not all outliers.
    """
    width = np.ones(judged.shape)
    for i in range(len(r.problem.variables)):
        b, k = np.nonzero(judged & r.uncensored & (r.problem.vessels.variable == i))
        if len(b) < 8:
            continue
        order = np.argsort(r.predicted[b, k])
        size = np.abs(r.alone[b, k])[order]
        whole, reach = float(np.median(size)), max(10, len(size) // 8)
        local = [np.median(size[max(0, p - reach) : p + reach + 1]) for p in range(len(size))]
        width[b[order], k[order]] = MAD * np.maximum(np.maximum(local, whole), 1.0 / MAD)
    return width


# --- missing assays ---


def missing_assays(dataset: Dataset, expected: tuple[str, ...]) -> list[Finding]:
    """Assays that a vessel or clone lacks while others have them, and `expected` ones that no vessel has."""
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
