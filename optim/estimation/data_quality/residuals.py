"""Residual analysis: misfitting vessels, trends and autocorrelation, lack of fit from replicates, wrong noise.

All tests use the residuals of a robust fit; `excluded` [B, M] marks readings already judged faulty.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from optim.data.dataset import Run
from optim.estimation.data_quality.finding import Finding, join_names, time_text
from optim.estimation.data_quality.robust_fit import MAD, MEDIAN_ERROR, RobustFit
from optim.estimation.noise import MEASURED

# probability of a false finding in a clean dataset, over all tests of one kind
FALSE_ALARM_RATE = 0.01
SQUARE_CAP = 9.0  # largest squared residual that counts: one outlier does not make a vessel misfit
MEAN_CAPPED_SQUARE = float(
    stats.chi2.cdf(SQUARE_CAP, 3) + SQUARE_CAP * stats.chi2.sf(SQUARE_CAP, 1)
)  # mean of a capped square of a normal residual
MISFIT_RATIO = 1.7  # mean square of a misfitting vessel, relative to the usual one
NOISE_RATIO = 2.0  # factor on the stated noise from which a finding is reported


def misfit_vessels(r: RobustFit, excluded: np.ndarray) -> list[Finding]:
    """Vessels whose residuals are wider than those of the others, by chi-square with capped squares."""
    runs, use = r.problem.dataset.runs, r.use & ~excluded
    n = use.sum(axis=1)
    square = np.where(use, np.minimum(r.z**2, SQUARE_CAP), 0.0)
    mean = square.sum(axis=1) / np.maximum(n, 1) / MEAN_CAPPED_SQUARE
    enough = np.flatnonzero(n >= 8)
    if len(enough) < 3:
        return []
    usual = float(np.median(mean[enough]))
    # deviations within a vessel are correlated where the model is not perfect: theory alone would underestimate the
    # spread between vessels, so it is measured
    spread = MAD * float(np.median(np.abs(mean[enough] - usual)))
    findings = []
    for b in enough:
        # the usual value is itself estimated from few vessels, by the median
        error = max(spread, usual * np.sqrt(2.0 / n[b])) * np.sqrt(1.0 + 1.57 / len(enough))
        distance = (mean[b] - usual) / error
        if distance < stats.norm.isf(FALSE_ALARM_RATE / len(enough)) or mean[b] < MISFIT_RATIO * usual:
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


def _worst(r: RobustFit, b: int, use: np.ndarray) -> str:
    """The assay that fits worst in a vessel, in words: its name, the side of its deviation and the time it begins."""
    p = r.problem
    best, text = -1.0, ""
    for i, name in enumerate(p.variables):
        rows = r.readings_of(b, i, censored=True)
        rows = rows[use[b, rows]]
        if not len(rows):
            continue
        size = float(np.sum(np.minimum(r.z[b, rows] ** 2, SQUARE_CAP)))
        if size > best:
            far = rows[np.abs(r.z[b, rows]) > 2.0]
            side = "high" if float(np.median(r.z[b, rows])) > 0.0 else "low"
            since = time_text(float(r.time_h[b, (far if len(far) else rows)[0]]), p.dataset.runs[b].end_time_h)
            best, text = size, f"{name}, which reads {side} from {since} on"
    return text


def residual_structure(r: RobustFit, excluded: np.ndarray) -> list[Finding]:
    """Structure in the residuals of every assay: trend in time, autocorrelation, dependence on level."""
    p, findings = r.problem, []
    for i, name in enumerate(p.variables):
        series = []
        for b in range(len(p.dataset.runs)):
            rows = r.readings_of(b, i)
            rows = rows[~excluded[b, rows]]
            if len(rows) >= 4:
                series.append((r.time_h[b, rows], np.clip(r.z[b, rows], -4.0, 4.0), r.predicted[b, rows]))
        if sum(len(z) for _, z, _ in series) < 12:
            continue
        found = [_trend(name, series), _autocorrelation(name, series), _level(name, series)]
        findings += [f for f in found if f is not None]
    return findings


Series = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def _limit(tests: int = 21) -> float:
    return float(stats.norm.isf(0.5 * FALSE_ALARM_RATE / tests))


def _trend(name: str, series: Series) -> Finding | None:
    """Finding of a trend: the mean slope of residuals over time, with vessels as independent samples."""
    if len(series) < 4:
        return None
    end = max(float(t[-1]) for t, _, _ in series)
    rise = np.array([np.polyfit(t / end, z, 1)[0] for t, z, _ in series])
    mean, error = float(np.mean(rise)), float(np.std(rise, ddof=1) / np.sqrt(len(rise)))
    if abs(mean) < 1.0 or abs(mean) < stats.t.isf(0.5 * FALSE_ALARM_RATE / 21, len(rise) - 1) * error:
        return None
    way = "rise" if mean > 0.0 else "fall"
    statement = (
        f"residuals of {name} {way} over the run, in all vessels alike, by {abs(mean):.1f} ± {error:.1f} times the "
        f"noise from start to end: the model misses something slow, or the assay drifts; check standards run early and "
        f"late, and look at this assay's plot before trusting its extrapolation"
    )
    return Finding("trend", "warning", "", name, None, statement)


def _autocorrelation(name: str, series: Series) -> Finding | None:
    """Finding of lag-1 autocorrelation: neighbouring residuals are alike where the model has the wrong shape."""
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
    """Finding that residuals depend on the level: relative and constant noise are in the wrong proportion."""
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


def noise_factors(r: RobustFit) -> list[Finding]:
    """Assays whose scatter differs much from their stated noise."""
    findings, v = [], r.problem.vessels
    for i, name in enumerate(r.problem.variables):
        n = int(np.sum(r.uncensored & (v.variable == i)))
        scale = float(r.scale[i])
        if n < 8 or 1.0 / NOISE_RATIO < scale < NOISE_RATIO:
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


def lack_of_fit(r: RobustFit, excluded: np.ndarray) -> list[Finding]:
    """Lack of fit: residuals against the differences of replicate readings, and of vessels treated alike."""
    findings = []
    for i, name in enumerate(r.problem.variables):
        within, n_within, groups, spread = _pure_error(r, i, excluded)
        if n_within >= 5 and groups > 5 and within > 0.0:
            ratio = spread / within
            if ratio > 2.0 and stats.f.sf(ratio, groups, n_within) < FALSE_ALARM_RATE / len(r.problem.variables):
                statement = (
                    f"repeated readings of one {name} sample differ by {np.sqrt(within):.2g} times its noise, but "
                    f"their means lie {np.sqrt(ratio):.1f} times as far from the model as that allows (F = "
                    f"{ratio:.1f}, {groups} and {n_within} degrees of freedom): lack of fit, not scatter of the assay"
                )
                findings.append(Finding("lack of fit", "warning", "", name, None, statement))
        pairs = _of_twins(r, i, excluded)
        if len(pairs) >= 10:
            between = float(np.mean(np.minimum(0.5 * (pairs[:, 0] - pairs[:, 1]) ** 2, SQUARE_CAP)))
            common = float(np.mean(np.minimum(0.5 * (pairs[:, 0] + pairs[:, 1]) ** 2, SQUARE_CAP)))
            if common > 2.0 * between and stats.f.sf(common / between, len(pairs), len(pairs)) < FALSE_ALARM_RATE / 7:
                statement = (
                    f"vessels treated alike agree with each other in {name} {np.sqrt(common / between):.1f} times as "
                    f"well as with the model ({len(pairs)} pairs of readings): what is left is lack of fit, not noise"
                )
                findings.append(Finding("lack of fit", "warning", "", name, None, statement))
    return findings


def _pure_error(r: RobustFit, i: int, excluded: np.ndarray) -> tuple[float, int, int, float]:
    """Pure error of a variable: variance within repeated readings of a sample and its degrees of freedom, then the
    number of such samples and the variance of their means about the model."""
    within, n_within, means = 0.0, 0, []
    for b in range(len(r.problem.dataset.runs)):
        rows = r.readings_of(b, i)
        rows = rows[~excluded[b, rows]]
        for time in np.unique(r.time_h[b, rows]):
            z = np.clip(r.z[b, rows[r.time_h[b, rows] == time]], -4.0, 4.0)
            if len(z) > 1:
                within += float(np.sum((z - z.mean()) ** 2))
                n_within += len(z) - 1
                means.append(len(z) * float(z.mean()) ** 2)
    return within / max(n_within, 1), n_within, len(means), float(np.mean(means)) if means else 0.0


def _of_twins(r: RobustFit, i: int, excluded: np.ndarray) -> np.ndarray:
    """Residuals [n, 2] of pairs of vessels treated alike, at the same times; each vessel is in one pair at most."""
    runs, pairs, paired = r.problem.dataset.runs, [], set[int]()
    for a in range(len(runs)):
        for b in range(a + 1, len(runs)):
            if {a, b} & paired or not treated_alike(runs[a], runs[b]):
                continue
            paired |= {a, b}
            rows = [[k for k in r.readings_of(v, i) if not excluded[v, k]] for v in (a, b)]
            at = [{float(r.time_h[v, k]): float(r.z[v, k]) for k in own} for v, own in zip((a, b), rows, strict=True)]
            pairs += [(at[0][t], at[1][t]) for t in at[0] if t in at[1]]
    return np.array(pairs).reshape(-1, 2)


def treated_alike(a: Run, b: Run) -> bool:
    """Whether two runs are of one clone and one experiment, with the same start and the same actions."""
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


def one_sided_assays(r: RobustFit, excluded: np.ndarray) -> list[Finding]:
    """Assays of one vessel that lie on one side of the model throughout; single readings do not show it."""
    p, found = r.problem, []
    tests = len(p.variables) * len(p.dataset.runs)
    for b, run in enumerate(p.dataset.runs):
        for i, name in enumerate(p.variables):
            rows = r.readings_of(b, i)
            rows = rows[~excluded[b, rows] & (p.vessels.censored[b, rows] == MEASURED)]
            if len(rows) < 5:
                continue
            z = r.z[b, rows]
            middle = float(np.median(z))
            error = MEDIAN_ERROR * max(MAD * float(np.median(np.abs(z - middle))), 0.7) / np.sqrt(len(z))
            if abs(middle) < 1.5 or abs(middle) / error < stats.norm.isf(FALSE_ALARM_RATE / tests) + 1.0:
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


def count_kinds(findings: tuple[Finding, ...]) -> str:
    """Number of findings of each kind, in one line."""
    kinds = list(dict.fromkeys(f.kind for f in findings))
    return join_names([f"{sum(f.kind == k for f in findings)} {k}" for k in kinds], 20) if kinds else "nothing found"
