"""The view of a fit: scores, parameters, observations, figures and the page."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd

from optim.estimation.result import FitResult
from optim.estimation.score import r_squared
from optim.report.fit_figures import fit_figures
from optim.report.fit_page import fit_page
from optim.report.process import frame_of
from optim.report.view import View

NAN = float("nan")


def fit_view(r: FitResult) -> View:
    """The view of a fit."""
    return View(
        kind=r.kind(),
        title=f"{r.lineage.model} fitted to {r.lineage.dataset}",
        lines=fit_lines(r),
        doubts=r.lineage.doubts,
        notes=r.lineage.notes,
        metrics=fit_metrics(r),
        series={"fit/cost_per_iteration": r.history},
        tables={"parameters": frame_of(r.parameters), "observations": pd.DataFrame(asdict(r.observations))},
        figures=fit_figures(r),
        page=partial(fit_page, r),
    )


def fit_lines(r: FitResult) -> list[str]:
    """Scores of a fit: all runs, each run left out, models compared, recovery of a simulated truth."""
    variables = list(r.r2)
    wide = [max(7, len(v) + 2, len(f"{r.r2[v]:.3f}") + 2) for v in variables]

    def _row(label: str, values: dict[str, float]) -> str:
        return f"  {label:<20}" + "".join(f"{values[v]:>{w}.3f}" for v, w in zip(variables, wide, strict=True))

    lines = [f"  {'R2 after time 0':<20}" + "".join(f"{v:>{w}}" for v, w in zip(variables, wide, strict=True))]
    lines.append(_row("  all runs", r.r2))
    m = fit_metrics(r)
    if r.left_out is not None:
        lines.append(_row("  each run left out", r_squared(r.left_out)))
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


def fit_metrics(r: FitResult) -> dict[str, float]:
    """Scores of a fit by name."""
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
