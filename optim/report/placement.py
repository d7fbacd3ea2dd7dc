"""The view of predicted new clones: parameters and bands of their runs after every number of days."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from optim.estimation.transfer.prediction import NewClonePrediction
from optim.report.style import BLUE, GREY, ORANGE, STYLE, set_title, tidy_axes, unit_of
from optim.report.view import View


def placement_view(p: NewClonePrediction) -> View:
    """The view of predicted new clones."""
    return View(
        kind=p.kind(),
        title="New clones, predicted from their first days",
        lines=placement_lines(p),
        doubts=p.lineage.doubts,
        notes=p.lineage.notes,
        tables={"placement": placement_frame(p)},
        figures={f"placement_{clone}": partial(draw_placement, p, clone) for clone in p.clones},
    )


def placement_lines(placement: NewClonePrediction) -> list[str]:
    """Estimates of every new clone after each number of days, with standard deviations as a fraction of the prior's."""
    names = placement.clone_names
    wide = [max(20, len(n) + 2) for n in names]
    lines = [
        f"  {'clone':<10}{'day':>5}{'readings':>10}" + "".join(f"{n:>{w}}" for n, w in zip(names, wide, strict=True))
    ]
    for placed in placement.placed:
        cells = [f"{p.estimate:.4g} (sd {p.shrinkage:.0%})" for p in (placed[n] for n in names)]
        shown = "".join(f"{cell:>{w}}" for cell, w in zip(cells, wide, strict=True))
        lines.append(f"  {placed.clone:<10}{placed.day:>5g}{placed.readings:>10}{shown}")
    lines.append("  sd: standard deviation, as a fraction of that before any sample")
    return lines


def placement_frame(placement: NewClonePrediction) -> pd.DataFrame:
    """A table with one row per new clone, day and parameter."""
    rows = []
    for placed in placement.placed:
        for p in placed.parameters:
            rows.append(
                {"clone": placed.clone, "day": placed.day, "readings": placed.readings, "shrinkage": p.shrinkage}
                | asdict(p)
            )
    return pd.DataFrame(rows)


def draw_placement(result: NewClonePrediction, clone: str) -> Figure:
    """Draw the predictions of a new clone's run: a row per number of days with samples, a column per assay."""
    path = result.of_clone(clone)
    b = path[0].bands
    vessel = b.vessel[0]
    variables = list(dict.fromkeys(v for v, name in zip(b.variable, b.vessel, strict=True) if name == vessel))
    figure = Figure(figsize=(2.2 * len(variables), 0.9 + 1.6 * len(path)), layout="constrained", facecolor="white")
    set_title(figure, f"{clone}, vessel {vessel}: predicted from its first days", result.lineage.simulated)
    m = result.readings
    axes = figure.subplots(len(path), len(variables), sharex=True, sharey="col", squeeze=False)
    for r, (row, placed) in enumerate(zip(axes, path, strict=True)):
        b = placed.bands
        for a, variable in zip(row, variables, strict=True):
            tidy_axes(a)
            own = np.array([v == variable and n == vessel for v, n in zip(b.variable, b.vessel, strict=True)])
            day = b.time_h[own] / 24.0
            a.fill_between(day, b.reading_lower90[own], b.reading_upper90[own], color=BLUE, alpha=0.12, linewidth=0)
            a.fill_between(day, b.lower90[own], b.upper90[own], color=BLUE, alpha=0.25, linewidth=0)
            a.plot(day, b.predicted[own], color=BLUE, linewidth=1.2)
            read = (np.array(m.vessel) == vessel) & (np.array(m.variable) == variable)
            seen = read & (m.time_h <= 24.0 * placed.day)
            a.plot(m.time_h[read & ~seen] / 24.0, m.value[read & ~seen], "o", color=GREY, markersize=2.4, mfc="white")
            a.plot(m.time_h[seen] / 24.0, m.value[seen], "o", color=ORANGE, markersize=2.6)
            a.set_ylim(bottom=0.0)
            if r == 0:
                a.set_title(f"{variable} [{unit_of(variable)}]", fontsize=STYLE["font"])
            if r == len(path) - 1:
                a.set_xlabel("day", fontsize=STYLE["small"])
        row[0].set_ylabel(f"after day {placed.day:g}", fontsize=STYLE["small"])
    return figure
