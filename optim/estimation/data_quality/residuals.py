"""What residuals say beyond single readings: vessels that do not fit, structure, replicates, and the noise itself.

All of it speaks of residuals of the reference fit, from which known faults are left out.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from optim.data.dataset import Run
from optim.estimation.data_quality.finding import Finding, listed, when
from optim.estimation.data_quality.robust_fit import MAD, MEDIAN_ERROR, Reference
from optim.estimation.noise import MEASURED

# a statement that is wrong once in so many clean datasets, over all that is looked at
FALSE_ALARM = 0.01
CAP = 9.0  # squares count no more: one outlier does not make a vessel
EXPECTED = float(stats.chi2.cdf(CAP, 3) + CAP * stats.chi2.sf(CAP, 1))  # mean of such a square, normal noise
LARGE = 1.7  # times the usual mean square, from which a vessel is worth a look
WIDE = 2.0  # a factor on the stated noise worth telling


def misfits(r: Reference, but: np.ndarray) -> list[Finding]:
    """Vessels whose residuals are wider than those of all vessels, by chi-square with capped squares."""
    runs, use = r.problem.dataset.runs, r.use & ~but
    n = use.sum(axis=1)
    square = np.where(use, np.minimum(r.z**2, CAP), 0.0)
    mean = square.sum(axis=1) / np.maximum(n, 1) / EXPECTED
    seen = np.flatnonzero(n >= 8)
    if len(seen) < 3:
        return []
    usual = float(np.median(mean[seen]))
    # deviations within a vessel go together where the model is not perfect: the spread between vessels, not theory
    # alone, says what is unusual
    spread = MAD * float(np.median(np.abs(mean[seen] - usual)))
    findings = []
    for b in seen:
        # what is usual is itself found from few vessels, by the median
        error = max(spread, usual * np.sqrt(2.0 / n[b])) * np.sqrt(1.0 + 1.57 / len(seen))
        distance = (mean[b] - usual) / error
        if distance < stats.norm.isf(FALSE_ALARM / len(seen)) or mean[b] < LARGE * usual:
            continue
        worst = _worst(r, int(b), use)
        ratio = np.sqrt(mean[b] / usual)
        statement = (
            f"vessel {runs[b].run_id} does not fit: its {n[b]} readings scatter {ratio:.1f} times as wide about the "
            f"model as those of the other vessels (chi-square {square[b].sum():.0f} where {n[b] * usual:.0f} ± "
            f"{n[b] * error:.0f} is usual), most of all {worst}; check what was really done to it: feeds, setpoints, "
            f"inoculum, contamination, and its label"
        )
        findings.append(Finding("vessel does not fit", "warning", runs[b].run_id, "", None, statement))
    return findings


def _worst(r: Reference, b: int, use: np.ndarray) -> str:
    """The assay that fits worst in a vessel, and on which side and when it starts."""
    p = r.problem
    best, text = -1.0, ""
    for i, name in enumerate(p.variables):
        rows = r.rows(b, i, censored=True)
        rows = rows[use[b, rows]]
        if not len(rows):
            continue
        size = float(np.sum(np.minimum(r.z[b, rows] ** 2, CAP)))
        if size > best:
            far = rows[np.abs(r.z[b, rows]) > 2.0]
            side = "high" if float(np.median(r.z[b, rows])) > 0.0 else "low"
            since = when(float(r.time_h[b, (far if len(far) else rows)[0]]), p.dataset.runs[b].end_time_h)
            best, text = size, f"{name}, which reads {side} from {since} on"
    return text


def structure(r: Reference, but: np.ndarray) -> list[Finding]:
    """What is left in the residuals of every assay: trend in time, memory, dependence on level."""
    p, findings = r.problem, []
    for i, name in enumerate(p.variables):
        series = []
        for b in range(len(p.dataset.runs)):
            rows = r.rows(b, i)
            rows = rows[~but[b, rows]]
            if len(rows) >= 4:
                series.append((r.time_h[b, rows], np.clip(r.z[b, rows], -4.0, 4.0), r.predicted[b, rows]))
        if sum(len(z) for _, z, _ in series) < 12:
            continue
        found = [_trend(name, series), _memory(name, series), _level(name, series)]
        findings += [f for f in found if f is not None]
    return findings


Series = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def _limit(tests: int = 21) -> float:
    return float(stats.norm.isf(0.5 * FALSE_ALARM / tests))


def _trend(name: str, series: Series) -> Finding | None:
    """The mean slope of residuals over time, vessels being what is independent."""
    if len(series) < 4:
        return None
    end = max(float(t[-1]) for t, _, _ in series)
    rise = np.array([np.polyfit(t / end, z, 1)[0] for t, z, _ in series])
    mean, error = float(np.mean(rise)), float(np.std(rise, ddof=1) / np.sqrt(len(rise)))
    if abs(mean) < 1.0 or abs(mean) < stats.t.isf(0.5 * FALSE_ALARM / 21, len(rise) - 1) * error:
        return None
    way = "rise" if mean > 0.0 else "fall"
    statement = (
        f"residuals of {name} {way} over the run, in all vessels alike, by {abs(mean):.1f} ± {error:.1f} times the "
        f"noise from start to end: the model misses something slow, or the assay drifts; check standards run early and "
        f"late, and look at this assay's plot before trusting its extrapolation"
    )
    return Finding("trend", "warning", "", name, None, statement)


def _memory(name: str, series: Series) -> Finding | None:
    """Lag-1 autocorrelation and runs of one sign: neighbours err alike where the model's curve has the wrong shape."""
    pairs = [(z[:-1], z[1:]) for _, z, _ in series]
    first, second = (np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))
    total = float(np.sum(np.concatenate([z for _, z, _ in series]) ** 2)) / sum(len(z) for _, z, _ in series)
    n = len(first)
    if total <= 0.0:
        return None
    correlation = float(np.mean(first * second)) / total
    if correlation < 0.3 or correlation * np.sqrt(n) < _limit():
        return None
    same = float(np.mean(np.sign(first) == np.sign(second)))
    statement = (
        f"residuals of {name} remember each other: from one sample to the next they are correlated by "
        f"{correlation:.2f} (none expected; {2.0 / np.sqrt(n):.2f} by chance), and {100 * same:.0f} % of neighbours "
        f"lie on the same side of the curve instead of 50 %: the model's curve has the wrong shape there, so intervals "
        f"of what this assay informs are too narrow"
    )
    return Finding("autocorrelation", "warning", "", name, None, statement)


def _level(name: str, series: Series) -> Finding | None:
    """Whether the size of residuals depends on the level: the shares of relative and constant noise are wrong."""
    size = np.concatenate([np.abs(z) for _, z, _ in series])
    level = np.concatenate([y for _, _, y in series])
    if np.ptp(level) <= 0.0 or np.ptp(size) <= 0.0 or len(size) < 20:
        return None
    correlation = float(stats.spearmanr(size, level).statistic)
    if abs(correlation) < 0.25 or abs(correlation) * np.sqrt(len(size) - 1) < _limit():
        return None
    high, low = level >= np.median(level), level < np.median(level)
    ratio = float(np.sqrt(np.mean(size[high] ** 2) / np.mean(size[low] ** 2)))
    more = "more" if ratio > 1.0 else "less"
    change = "raise `relative`" if ratio > 1.0 else "raise `floor`"
    statement = (
        f"high readings of {name} scatter {more} than its noise model says: {ratio:.2f} times as much in the upper "
        f"half of its readings as in the lower (rank correlation {correlation:.2f}); {change} of this assay's noise "
        f"against the other part"
    )
    return Finding("noise depends on level", "note", "", name, None, statement)


def noise_factors(r: Reference) -> list[Finding]:
    """Assays whose readings scatter far from what was stated."""
    findings, v = [], r.problem.vessels
    for i, name in enumerate(r.problem.variables):
        n = int(np.sum(r.measured & (v.variable == i)))
        scale = float(r.scale[i])
        if n < 8 or 1.0 / WIDE < scale < WIDE:
            continue
        wide = scale > 1.0
        meaning = (
            "either the assay is worse than stated, or the model misses something: compare repeated readings of one "
            "sample"
            if wide
            else "the stated noise is too pessimistic, and other assays get too much weight: state what repeated "
            "readings say"
        )
        statement = (
            f"{name} scatters {scale:.2g} times as wide as its stated noise about the reference fit ({n} readings, by "
            f"the median): {meaning}"
        )
        findings.append(Finding("noise", "warning" if wide else "note", "", name, None, statement))
    return findings


def replicates(r: Reference, but: np.ndarray) -> list[Finding]:
    """Residuals against what replicates differ by: of one sample, and of vessels of one clone treated alike."""
    findings = []
    for i, name in enumerate(r.problem.variables):
        within, n_within, groups, spread = _pure_error(r, i, but)
        if n_within >= 5 and groups > 5 and within > 0.0:
            ratio = spread / within
            if ratio > 2.0 and stats.f.sf(ratio, groups, n_within) < FALSE_ALARM / len(r.problem.variables):
                statement = (
                    f"repeated readings of one {name} sample differ by {np.sqrt(within):.2g} times its noise, but "
                    f"their means lie {np.sqrt(ratio):.1f} times as far from the model as that allows (F = "
                    f"{ratio:.1f}, {groups} and {n_within} degrees of freedom): lack of fit, not scatter of the assay"
                )
                findings.append(Finding("lack of fit", "warning", "", name, None, statement))
        pairs = _of_twins(r, i, but)
        if len(pairs) >= 10:
            between = float(np.mean(np.minimum(0.5 * (pairs[:, 0] - pairs[:, 1]) ** 2, CAP)))
            common = float(np.mean(np.minimum(0.5 * (pairs[:, 0] + pairs[:, 1]) ** 2, CAP)))
            if common > 2.0 * between and stats.f.sf(common / between, len(pairs), len(pairs)) < FALSE_ALARM / 7:
                statement = (
                    f"vessels treated alike agree with each other in {name} {np.sqrt(common / between):.1f} times as "
                    f"well as with the model ({len(pairs)} pairs of readings): what is left is lack of fit, not noise"
                )
                findings.append(Finding("lack of fit", "warning", "", name, None, statement))
    return findings


def _pure_error(r: Reference, i: int, but: np.ndarray) -> tuple[float, int, int, float]:
    """Variance within repeated readings and its degrees of freedom; number of samples, and what their means say."""
    within, n_within, means = 0.0, 0, []
    for b in range(len(r.problem.dataset.runs)):
        rows = r.rows(b, i)
        rows = rows[~but[b, rows]]
        for time in np.unique(r.time_h[b, rows]):
            z = np.clip(r.z[b, rows[r.time_h[b, rows] == time]], -4.0, 4.0)
            if len(z) > 1:
                within += float(np.sum((z - z.mean()) ** 2))
                n_within += len(z) - 1
                means.append(len(z) * float(z.mean()) ** 2)
    return within / max(n_within, 1), n_within, len(means), float(np.mean(means)) if means else 0.0


def _of_twins(r: Reference, i: int, but: np.ndarray) -> np.ndarray:
    """Residuals [n, 2] of vessels of one clone with the same schedule, at the same times; each vessel in one pair."""
    runs, pairs, taken = r.problem.dataset.runs, [], set[int]()
    for a in range(len(runs)):
        for b in range(a + 1, len(runs)):
            if {a, b} & taken or not treated_alike(runs[a], runs[b]):
                continue
            taken |= {a, b}
            rows = [[k for k in r.rows(v, i) if not but[v, k]] for v in (a, b)]
            at = [{float(r.time_h[v, k]): float(r.z[v, k]) for k in own} for v, own in zip((a, b), rows, strict=True)]
            pairs += [(at[0][t], at[1][t]) for t in at[0] if t in at[1]]
    return np.array(pairs).reshape(-1, 2)


def treated_alike(a: Run, b: Run) -> bool:
    """Vessels of one clone in one batch, to which the same was done."""
    same = (
        "clone_id",
        "experiment_id",
        "medium_id",
        "start_volume_l",
        "temperature_c",
        "ph",
        "inoculum_vcd",
        "actions",
    )
    return all(getattr(a, key) == getattr(b, key) for key in same)


def at_odds(r: Reference, but: np.ndarray) -> list[Finding]:
    """Assays of one vessel that lie on one side of the model throughout, as single readings do not show."""
    p, found = r.problem, []
    tests = len(p.variables) * len(p.dataset.runs)
    for b, run in enumerate(p.dataset.runs):
        for i, name in enumerate(p.variables):
            rows = r.rows(b, i)
            rows = rows[~but[b, rows] & (p.vessels.censored[b, rows] == MEASURED)]
            if len(rows) < 5:
                continue
            z = r.z[b, rows]
            middle = float(np.median(z))
            error = MEDIAN_ERROR * max(MAD * float(np.median(np.abs(z - middle))), 0.7) / np.sqrt(len(z))
            if abs(middle) < 1.5 or abs(middle) / error < stats.norm.isf(FALSE_ALARM / tests) + 1.0:
                continue
            found.append(
                (abs(middle), run.run_id, name, "high" if middle > 0.0 else "low", float(r.time_h[b, rows[0]]))
            )
    if not found:
        return []
    findings = []
    for size, vessel, name, side, time in sorted(found, reverse=True)[:8]:
        statement = (
            f"{name} in vessel {vessel} reads {side} throughout, by {size:.1f} times the noise of one reading, against "
            f"what everything else in the vessel says: check calibration, dilution and sample handling of this vessel"
        )
        findings.append(Finding("one-sided", "warning", vessel, name, time, statement))
    return findings


def summary(findings: tuple[Finding, ...]) -> str:
    """How many findings of which kind, in one line."""
    kinds = list(dict.fromkeys(f.kind for f in findings))
    return listed([f"{sum(f.kind == k for f in findings)} {k}" for k in kinds], 20) if kinds else "nothing found"
