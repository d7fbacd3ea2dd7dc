"""The view of a ranking of clones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from optim.optimisation.result import Ranking, bounded_share, probability_text
from optim.process.metrics import find_metric, readable_name
from optim.report.style import BLUE, GREEN, GREY, ORANGE, STYLE, new_figure, tidy_axes
from optim.report.view import View


def ranking_view(r: Ranking) -> View:
    """The view of a ranking."""
    return View(
        kind=r.kind(),
        title="Clones, each at its own optimised process",
        lines=ranking_lines(r),
        doubts=r.lineage.doubts,
        notes=r.lineage.notes,
        metrics=ranking_metrics(r),
        tables={"ranking": ranking_frame(r)},
        figures={"ranking": lambda: draw_ranking(r)},
    )


def ranking_lines(r: Ranking, top: int = 5) -> list[str]:
    """The best clones with their intervals; for simulated data, rank correlation and regret against the truth."""
    lines = [
        f"ranking by {r.objective} ({r.unit}), each of {sum(not c.message for c in r.rows)} clones at its own optimum"
    ]
    text = find_metric(r.objective).text
    for c in [c for c in r.rows if not c.message][:top]:
        true = f"   truth {text(c.truth)} (rank {c.truth_rank})" if c.truth is not None else ""
        lines.append(
            f"  {c.rank:>2} {c.clone:<8} {text(c.objective.p50)} [{text(c.objective.p05)}, {text(c.objective.p95)}]   "
            f"platform {text(c.at_platform.p50)}   P(best) {probability_text(c.probability_best, r.draws)}{true}"
        )
        if c.marks:
            lines.append(f"     ! {'; '.join(c.marks)}")
    for why, names in _not_ranked(r).items():
        lines.append(f"  not ranked: {', '.join(names)}: {why}")
    lines.append(f"  prices: {'; '.join(r.price_flips[:4]) or 'no price within its range changes the best clone'}")
    m = ranking_metrics(r)
    if "ranking/regret" in m:
        lines.append(
            f"  against the simulated truth: rank correlation {m['ranking/spearman_with_truth']:.3f}, "
            f"regret of the chosen clone {m['ranking/regret']:.2%}"
        )
    return lines


def _not_ranked(r: Ranking) -> dict[str, list[str]]:
    """Clones that have no place, by the reason."""
    found: dict[str, list[str]] = {}
    for c in r.rows:
        if c.message:
            found.setdefault(c.message, []).append(c.clone)
    return found


def ranking_metrics(r: Ranking) -> dict[str, float]:
    """Metrics of a ranking by name.

    For simulated data these include the rank correlation with the truth and the regret: the relative shortfall of the
    chosen clone's true value below that of the truly best clone.
    """
    metrics = {"ranking/probability_best": bounded_share(r.rows[0].probability_best, r.draws)}
    pairs = [(c.objective.p50, c.truth) for c in r.rows if c.truth is not None]
    if len(pairs) > 2:
        said, true = np.array(pairs).T
        metrics["ranking/spearman_with_truth"] = float(spearmanr(said, true).statistic)
        good = find_metric(r.objective).sign * true
        metrics["ranking/regret"] = float((good.max() - good[0]) / abs(good.max()))
    return metrics


def ranking_frame(r: Ranking) -> pd.DataFrame:
    """A table with one row per clone; intervals and decisions have their own columns."""
    rows = []
    for c in r.rows:
        row: dict[str, Any] = {"rank": c.rank, "clone": c.clone}
        for name, value in (("", c.objective), ("at_platform_", c.at_platform)):
            row |= {f"{name}{r.objective}_{q}": getattr(value, q) for q in ("p05", "p50", "p95")}
        likely = None if c.message else bounded_share(c.probability_best, r.draws)
        row |= {"probability_best": likely, "expected_loss": c.expected_loss, "truth": c.truth}
        rows.append(row | {"truth_rank": c.truth_rank, "message": c.message, "marks": "; ".join(c.marks)} | c.decisions)
    return pd.DataFrame(rows)


def draw_ranking(result: Ranking) -> Figure:
    """Draw every clone at its own optimum: the metric with its interval, and the probability of being the best."""
    rows = [r for r in result.rows if not r.message]
    figure = new_figure(
        "Clones, each at its own optimised process", (8.0, 0.9 + 0.26 * len(rows)), result.lineage.simulated
    )
    a, b = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    y = np.arange(len(rows))[::-1]
    for axes in (a, b):
        tidy_axes(axes)
    mid = np.array([r.objective.p50 for r in rows])
    low, high = np.array([r.objective.p05 for r in rows]), np.array([r.objective.p95 for r in rows])
    a.errorbar(mid, y, xerr=[mid - low, high - mid], fmt="o", color=BLUE, markersize=4, label="own optimum (90 %)")
    a.plot([r.at_platform.p50 for r in rows], y, "|", color=GREY, markersize=8, label="platform process")
    if all(r.truth is not None for r in rows):
        truth = np.array([r.truth for r in rows], dtype=float)
        a.plot(truth, y, "x", color=ORANGE, markersize=5, label="truth, same process")
    a.set_yticks(y, [f"{r.clone} !" if r.marks else r.clone for r in rows])
    a.set_xlabel(f"{readable_name(result.objective)} [{result.unit}]", fontsize=STYLE["font"])
    a.legend(fontsize=STYLE["small"], frameon=False, loc="lower right")
    # filled: the share of draws; outlined: how far it could differ where all draws agree
    b.barh(y, [bounded_share(r.probability_best, result.draws) for r in rows], fill=False, edgecolor=GREEN, height=0.6)
    b.barh(y, [min(r.probability_best, result.draws / (result.draws + 1)) for r in rows], color=GREEN, height=0.6)
    b.set_xlim(0.0, 1.0)
    b.set_xlabel("probability of being the best", fontsize=STYLE["font"])
    return figure
