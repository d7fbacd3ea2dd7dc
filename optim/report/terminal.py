"""What the terminal shows of a fit, a ranking, an optimum and a simulation; and the same as metrics for tracking."""

from __future__ import annotations

import re

import numpy as np
from scipy.stats import spearmanr

from optim.estimation.result import FitResult
from optim.estimation.score import r_squared
from optim.estimation.transfer.prediction import NewClonePrediction
from optim.optimisation.result import Optimum, ProcessOutcome, Ranking, Series
from optim.process.metrics import find_metric, relative_change
from optim.report.terminal_process import robustness_lines, variant_lines

NAN = float("nan")


def fit_lines(r: FitResult) -> list[str]:
    """Scores of a fit: all runs, each run left out, models compared, recovery of a simulated truth."""
    variables = list(r.r2)
    wide = [max(7, len(v) + 2) for v in variables]

    def row(label: str, values: dict[str, float]) -> str:
        return f"  {label:<20}" + "".join(f"{values[v]:>{w}.3f}" for v, w in zip(variables, wide, strict=True))

    lines = [f"  {'R2 after time 0':<20}" + "".join(f"{v:>{w}}" for v, w in zip(variables, wide, strict=True))]
    lines.append(row("  all runs", r.r2))
    m = fit_metrics(r)
    if r.left_out is not None:
        lines.append(row("  each run left out", r_squared(r.left_out)))
        share = m["left_out/coverage_of_90_percent_bands"]
        lines.append(f"    90 % bands of left-out runs hold {share:.0%} of their points")
    if r.comparison:
        names = [f"{v} (left out)" for v in variables]
        lines.append(f"  {'model':<18}{'k':>4}{'AICc':>9}{'BIC':>9}" + "".join(f"{n:>{len(n) + 2}}" for n in names))
        for c in r.comparison:
            cells = [f"{c.r2[v]:.3f} ({c.r2_left_out.get(v, NAN):.3f})" for v in variables]
            shown = "".join(f"{cell:>{len(n) + 2}}" for cell, n in zip(cells, names, strict=True))
            lines.append(f"  {c.model:<18}{c.parameters:>4}{c.aicc:>9.1f}{c.bic:>9.1f}{shown}")
    if r.recovery:
        lines.append(
            f"  recovery of the simulated truth: median error {m['recovery/median_error']:.1%}, "
            f"90 % intervals hold {m['recovery/coverage']:.0%} of {len(r.recovery)} true values"
        )
    return lines


def placement_lines(placement: NewClonePrediction) -> list[str]:
    """Every clone's parameters after every number of days: estimate, and its interval as a share of the first."""
    names = placement.clone_names
    wide = [max(20, len(n) + 2) for n in names]
    lines = [
        f"  {'clone':<10}{'day':>5}{'readings':>10}" + "".join(f"{n:>{w}}" for n, w in zip(names, wide, strict=True))
    ]
    for placed in placement.placed:
        cells = [f"{p.estimate:.4g} (sd {p.shrinkage:.0%})" for p in (placed[n] for n in names)]
        shown = "".join(f"{cell:>{w}}" for cell, w in zip(cells, wide, strict=True))
        lines.append(f"  {placed.clone:<10}{placed.day:>5g}{placed.readings:>10}{shown}")
    lines.append("  sd: standard deviation, as a share of that before any sample")
    return lines


def fit_metrics(r: FitResult) -> dict[str, float]:
    """Scores by name."""
    metrics = {f"fit/r2_{v}": x for v, x in r.r2.items()} | {"fit/aicc": r.aicc, "fit/bic": r.bic, "fit/cost": r.cost}
    if r.left_out is not None:
        o = r.left_out
        metrics |= {f"left_out/r2_{v}": x for v, x in r_squared(o).items()}
        inside = (o.value >= o.lower90) & (o.value <= o.upper90)
        metrics["left_out/coverage_of_90_percent_bands"] = float(np.mean(inside[o.time_h > 0.0]))
    if r.recovery:
        error = [abs(np.log(x.estimate / x.truth)) for x in r.recovery if x.truth > 0.0]
        hit = [x.lower90 <= x.truth <= x.upper90 for x in r.recovery]
        metrics |= {"recovery/median_error": float(np.median(error)), "recovery/coverage": float(np.mean(hit))}
    return metrics


def ranking_lines(r: Ranking, top: int = 5) -> list[str]:
    """The best clones, and how the ranking stands against a simulated truth."""
    lines = [f"ranking by {r.objective} ({r.unit}), each of {len(r.rows)} clones at its own optimum"]
    text = find_metric(r.objective).text
    for c in [c for c in r.rows if not c.message][:top]:
        true = f"   truth {text(c.truth)} (rank {c.truth_rank})" if c.truth is not None else ""
        lines.append(
            f"  {c.rank:>2} {c.clone:<8} {text(c.objective.p50)} [{text(c.objective.p05)}, {text(c.objective.p95)}]   "
            f"platform {text(c.at_platform.p50)}   P(best) {c.probability_best:.2f}{true}"
        )
    lines.append(
        f"  prices: {'; '.join(r.price_flips[:4]) or 'the first stays the first over the range of every price'}"
    )
    m = ranking_metrics(r)
    if "ranking/regret" in m:
        lines.append(
            f"  against the simulated truth: rank correlation {m['ranking/spearman_with_truth']:.3f}, "
            f"regret of the chosen clone {m['ranking/regret']:.2%}"
        )
    return lines


def ranking_metrics(r: Ranking) -> dict[str, float]:
    """Scores by name; against the truth where there is one. Regret: what the chosen clone truly falls short by."""
    metrics = {"ranking/probability_best": r.rows[0].probability_best}
    pairs = [(c.objective.p50, c.truth) for c in r.rows if c.truth is not None]
    if len(pairs) > 2:
        said, true = np.array(pairs).T
        metrics["ranking/spearman_with_truth"] = float(spearmanr(said, true).statistic)
        good = find_metric(r.objective).sign * true
        metrics["ranking/regret"] = float((good.max() - good[0]) / abs(good.max()))
    return metrics


def optimum_lines(o: Optimum) -> list[str]:
    """The gain over the platform process, the decisions and the limits that bind."""
    a, b = o.optimum.metrics[o.objective], o.baseline.metrics[o.objective]
    unit, text = o.optimum.metric_units[o.objective], find_metric(o.objective).text
    ok = sum(x.success for x in o.starts)
    lines = [
        f"optimum of {o.objective} for {o.clone}: {text(a.p50)} {unit} [{text(a.p05)}, {text(a.p95)}], "
        f"platform {text(b.p50)} [{text(b.p05)}, {text(b.p95)}], {relative_change(a.p50, b.p50):+.0%}; "
        f"{ok} of {len(o.starts)} starts converged"
    ]
    grouped: dict[str, str] = {}
    for d in o.optimum.decisions:
        value = f"{d.value:.4g}{'*' if d.outside_screened else ''}"
        timed = re.fullmatch(r"(.*)_(day_[\d.]+|[\d.]+h)", d.name)
        stem = timed.group(1) if timed else d.name
        if stem in grouped:
            grouped[stem] += f", {value}"
        elif timed:
            grouped[stem] = f"{stem}, {d.unit}, from {timed.group(2).replace('_', ' ')} on: {value}"
        else:
            grouped[stem] = f"{stem} {value} {d.unit}"
    lines += [f"    {text}" for text in grouped.values()]
    active = [c.name for c in o.optimum.constraints if c.active]
    lines.append(f"    binding: {', '.join(active) or 'no limit'}")
    lines += variant_lines(o.variants, unit) if o.variants else []
    return lines + (robustness_lines(o.robustness, unit) if o.robustness else [])


def simulation_lines(process: ProcessOutcome) -> list[str]:
    """A simulated process: its trajectories, its metrics, and the limits that it breaks."""
    lines = trajectory_lines(process.trajectory)
    for name, value in process.metrics.items():
        m = find_metric(name)
        lines.append(f"  {m.title:<28}{m.text(value.p50):>12} {process.metric_units[name]}")
    broken = [c for c in process.constraints if c.margin < 0.0]
    for c in broken:
        lines.append(f"  limit broken: {c.name}, {c.value:.4g} {c.unit} where {c.kind} {c.limit:g} is allowed")
    if process.constraints and not broken:
        lines.append(f"  all limits are met: {', '.join(c.name for c in process.constraints)}")
    return lines


def trajectory_lines(s: Series, rows: int = 14) -> list[str]:
    """A table of a trajectory, about `rows` long."""
    heads = [f"{n} [{u}]" for n, u in zip(s.names, s.units, strict=True)]
    wide = [max(9, len(h) + 2) for h in heads]
    lines = [f"  {'time [h]':>8}" + "".join(f"{h:>{w}}" for h, w in zip(heads, wide, strict=True))]
    every = max(1, len(s.time_h) // rows)
    for i in [*range(0, len(s.time_h) - 1, every), len(s.time_h) - 1]:
        values = "".join(f"{v:>{w}.4g}" for v, w in zip(s.p50[:, i], wide, strict=True))
        lines.append(f"  {s.time_h[i]:>8.1f}{values}")
    return lines
