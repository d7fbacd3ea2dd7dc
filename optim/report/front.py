"""The view of a Pareto front between two objectives."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from optim.optimisation.pareto import Front
from optim.process.metrics import readable_name
from optim.report.style import BLUE, GREY, STYLE, new_figure, tidy_axes
from optim.report.view import View


def front_view(f: Front) -> View:
    """The view of a Pareto front."""
    return View(
        kind=f.kind(),
        title=f"Trade-off for {f.clone}",
        lines=front_lines(f),
        doubts=f.lineage.doubts,
        notes=f.lineage.notes,
        metrics={"front/hypervolume": f.hypervolume, "front/points": float(len(f.points))},
        tables={"front": front_frame(f)},
        figures={"front": lambda: draw_front(f)},
    )


def front_lines(f: Front) -> list[str]:
    """The processes of the front, the platform process, and levels that could not be reached."""
    lines = [
        f"front of {f.first} ({f.first_unit}) against {f.second} ({f.second_unit}) for {f.clone}: "
        f"{len(f.points)} processes, hypervolume {f.hypervolume:.3f} of its rectangle"
    ]
    lines += [f"  {p.second:>12.5g} {p.first:>12.5g}" for p in f.points]
    lines.append(f"  {f.platform[1]:>12.5g} {f.platform[0]:>12.5g}  platform process")
    if f.lost:
        lines.append(f"  {f.lost} levels could not be reached within all limits")
    return lines


def front_frame(f: Front) -> pd.DataFrame:
    """A table with one row per process of the front; decisions have their own columns."""
    return pd.DataFrame([{f.first: p.first, f.second: p.second, "success": p.success} | p.decisions for p in f.points])


def draw_front(found: Front) -> Figure:
    """Draw the Pareto front between two metrics and the platform process."""
    figure = new_figure(f"Trade-off for {found.clone}", (6.0, 4.2), found.lineage.simulated)
    a = figure.add_subplot(1, 1, 1)
    tidy_axes(a)
    x, y = [p.second for p in found.points], [p.first for p in found.points]
    a.plot(x, y, "o-", color=BLUE, markersize=5, linewidth=1.3, label="Pareto front")
    a.plot(found.platform[1], found.platform[0], "s", color=GREY, markersize=6, label="platform process")
    a.set_xlabel(f"{readable_name(found.second)} [{found.second_unit}]", fontsize=STYLE["font"])
    a.set_ylabel(f"{readable_name(found.first)} [{found.first_unit}]", fontsize=STYLE["font"])
    a.legend(fontsize=STYLE["small"], frameon=False)
    return figure
