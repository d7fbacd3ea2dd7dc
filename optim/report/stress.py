"""The view of a sensitivity analysis: influence of parameters and prices, and effect of disturbances."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from optim.optimisation.sensitivity import Stress
from optim.process.metrics import find_metric, readable_name, relative_change
from optim.report.process import frame_of
from optim.report.style import BLUE, GREEN, GREY, INK, ORANGE, STYLE, new_figure, tidy_axes
from optim.report.view import View

TORNADO_ROWS = 16  # rows of a tornado


def stress_view(s: Stress) -> View:
    """The view of a sensitivity analysis."""
    return View(
        kind=s.kind(),
        title=f"Sensitivity of the process of {s.clone}",
        lines=stress_lines(s),
        doubts=s.lineage.doubts,
        notes=s.lineage.notes,
        metrics={"stress/limits_met": s.met},
        tables={"drifts": frame_of(s.drifts), "influences": influence_frame(s)},
        figures={"tornado": lambda: draw_tornado(s), "drifts": lambda: draw_drifts(s)},
    )


def stress_lines(s: Stress, most: int = 8) -> list[str]:
    """The largest influences on the metric, the ends of ranges that change the best process, and the disturbances."""
    value = f"{s.objective} {find_metric(s.objective).text(s.value)} {s.unit}"
    lines = [f"sensitivity of the process of {s.clone}: {value}, all limits met in {s.met:.0%} of parameter sets"]
    lines.append(f"  {'parameter or price':<24} {'range':<22} {'unchanged':>18} {'reoptimised':>18}")
    for r in s.influences[:most]:
        span = f"{r.low.value:.3g} to {r.high.value:.3g} {r.unit}"
        stay, anew = (
            " ".join(f"{100.0 * relative_change(getattr(side, which), s.value):>+7.1f}%" for side in (r.low, r.high))
            for which in ("stay", "anew")
        )
        lines.append(f"  {r.name:<24} {span:<22} {stay:>18} {anew:>18}")
    ends = [(r.name, end, side) for r in s.influences for end, side in (("low", r.low), ("high", r.high)) if side.moved]
    ends.sort(key=lambda e: -np.nan_to_num(e[2].gain, nan=np.inf))
    for name, end, side in ends[:most]:
        why = "the limits require" if np.isnan(side.gain) else f"{100.0 * side.gain:.1f}% can be gained with"
        lines.append(f"    {name} at its {end} end: {why} {side.moved}")
    lines.append(f"  at {len(ends)} of {2 * len(s.influences)} ends another process is better")
    lines.append(f"  {'disturbance':<30} {'change, 90 %':>26} {'limits met':>12}")
    for d in s.drifts:
        band = f"{100.0 * d.change:+.1f}% [{100.0 * d.change_p05:+.1f}, {100.0 * d.change_p95:+.1f}]"
        failed = f", {d.failed} could not be simulated" if d.failed else ""
        lines.append(f"  {d.name:<30} {band:>26} {d.met:>12.0%} {d.breaks}{failed}")
    return lines


def influence_frame(s: Stress) -> pd.DataFrame:
    """A table with one row per end of the range of a parameter or price."""
    return pd.DataFrame(
        [
            {"name": r.name, "kind": r.kind, "unit": r.unit, "at_estimate": r.value, "end": end} | asdict(side)
            for r in s.influences
            for end, side in (("low", r.low), ("high", r.high))
        ]
    )


def draw_tornado(found: Stress) -> Figure:
    """Tornado diagram: change of the metric over the range of each parameter and price, unchanged and reoptimised."""
    rows = found.influences[:TORNADO_ROWS]
    what = readable_name(found.objective)
    figure = new_figure(
        f"Sensitivity of the {what} of {found.clone}", (8.5, 1.1 + 0.27 * len(rows)), found.lineage.simulated
    )
    a = figure.add_subplot(1, 1, 1)
    tidy_axes(a)
    y = np.arange(len(rows))[::-1]
    for side, colour, label in (("low", BLUE, "low end"), ("high", ORANGE, "high end")):
        ends = [getattr(r, side) for r in rows]
        stay = np.array([100.0 * relative_change(e.stay, found.value) for e in ends])
        anew = np.array([100.0 * relative_change(e.anew, found.value) for e in ends])
        a.barh(y, np.nan_to_num(stay), 0.62, color=colour, alpha=0.75, label=f"{label}, process unchanged")
        a.plot(
            anew,
            y,
            "|",
            color=INK,
            markersize=9,
            markeredgewidth=1.4,
            label=None if side == "low" else "process reoptimised",
        )
        broken = [i for i, e in enumerate(ends) if e.broken]
        a.plot(np.nan_to_num(stay)[broken], y[broken], "x", color=INK, markersize=5)
    a.plot([], [], "x", color=INK, markersize=5, label="a limit is broken if the process is unchanged")
    a.axvline(0.0, color=INK, linewidth=0.8)
    marked = [f"{r.name}{' *' if r.flips else ''}" for r in rows]
    a.set_yticks(y, [f"{m}  ({r.kind})" for m, r in zip(marked, rows, strict=True)], fontsize=STYLE["small"])
    a.set_xlabel(f"change of {what} [%]   (* another process is better)", fontsize=STYLE["font"])
    a.legend(fontsize=STYLE["small"], frameon=False, loc="lower right")
    return figure


def draw_drifts(found: Stress) -> Figure:
    """Draw each disturbance: change of the metric with its 90 % interval, and how often all limits are met."""
    rows = found.drifts
    what = readable_name(found.objective)
    title = f"Disturbances of the process of {found.clone}"
    figure = new_figure(title, (8.5, 1.0 + 0.27 * (len(rows) + 1)), found.lineage.simulated)
    a, b = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for axes in (a, b):
        tidy_axes(axes)
    y = np.arange(len(rows))[::-1]
    middle = np.array([100.0 * r.change for r in rows])
    low, high = np.array([100.0 * r.change_p05 for r in rows]), np.array([100.0 * r.change_p95 for r in rows])
    a.errorbar(middle, y, xerr=[middle - low, high - middle], fmt="o", color=BLUE, markersize=4)
    a.axvline(0.0, color=INK, linewidth=0.8)
    a.set_yticks(y, [r.name for r in rows], fontsize=STYLE["small"])
    a.set_xlabel(f"change of {what} [%], 90 %", fontsize=STYLE["font"])
    b.barh(y, [100.0 * r.met for r in rows], color=GREEN, height=0.6)
    for place, r in zip(y, rows, strict=True):
        if r.breaks:
            b.text(1.0 + 100.0 * r.met, place, r.breaks, fontsize=STYLE["small"], va="center", color=ORANGE)
    b.axvline(100.0 * found.met, color=GREY, linewidth=1.0, linestyle="--")
    b.text(100.0 * found.met, len(rows) - 0.35, "as planned", fontsize=STYLE["small"], color=GREY, ha="center")
    b.set_xlim(0.0, 130.0)
    b.set_xticks([0, 25, 50, 75, 100])
    b.set_xlabel("parameter sets that meet all limits [%]", fontsize=STYLE["font"])
    return figure
