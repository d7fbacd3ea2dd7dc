"""Plots of a decision: what it leans on, what drifts do to it, what it trades, what robustness is worth."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from optim.optimisation.pareto import Front
from optim.optimisation.result import Optimum
from optim.optimisation.sensitivity import Stress
from optim.process.metrics import readable_name, relative_change
from optim.report.plots import BLUE, GREEN, GREY, INK, ORANGE, STYLE, _figure, _tidy
from optim.report.terminal_process import measured

MOST = 16  # rows of a tornado


def tornado(found: Stress) -> Figure:
    """Change of the metric over the range of each parameter and price: the process as it is, and optimised anew."""
    rows = found.influences[:MOST]
    what = readable_name(found.objective)
    figure = _figure(8.5, 1.1 + 0.27 * len(rows), f"What the {what} of {found.clone} leans on", found.lineage.simulated)
    a = figure.add_subplot(1, 1, 1)
    _tidy(a)
    y = np.arange(len(rows))[::-1]
    for side, colour, label in (("low", BLUE, "at the low end"), ("high", ORANGE, "at the high end")):
        ends = [getattr(r, side) for r in rows]
        stay = np.array([100.0 * relative_change(e.stay, found.value) for e in ends])
        anew = np.array([100.0 * relative_change(e.anew, found.value) for e in ends])
        a.barh(y, np.nan_to_num(stay), 0.62, color=colour, alpha=0.75, label=f"{label}, process as it is")
        a.plot(
            anew,
            y,
            "|",
            color=INK,
            markersize=9,
            markeredgewidth=1.4,
            label=None if side == "low" else "optimised anew",
        )
        broken = [i for i, e in enumerate(ends) if e.broken]
        a.plot(np.nan_to_num(stay)[broken], y[broken], "x", color=INK, markersize=5)
    a.plot([], [], "x", color=INK, markersize=5, label="a limit is broken if it stays")
    a.axvline(0.0, color=INK, linewidth=0.8)
    marked = [f"{r.name}{' *' if r.flips else ''}" for r in rows]
    a.set_yticks(y, [f"{m}  ({r.kind})" for m, r in zip(marked, rows, strict=True)], fontsize=STYLE["small"])
    a.set_xlabel(f"change of {what} [%]   (* another process is worth it)", fontsize=STYLE["font"])
    a.legend(fontsize=STYLE["small"], frameon=False, loc="lower right")
    return figure


def drifts(found: Stress) -> Figure:
    """Change of the metric under each drift with its 90 % interval, and how often all limits are met."""
    rows = found.drifts
    what = readable_name(found.objective)
    title = f"What drifts do to the process of {found.clone}"
    figure = _figure(8.5, 1.0 + 0.27 * (len(rows) + 1), title, found.lineage.simulated)
    a, b = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for axes in (a, b):
        _tidy(axes)
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


def front(found: Front) -> Figure:
    """The front between two metrics, its ends and the platform process."""
    figure = _figure(6.0, 4.2, f"Trade-off for {found.clone}", found.lineage.simulated)
    a = figure.add_subplot(1, 1, 1)
    _tidy(a)
    x, y = [p.second for p in found.points], [p.first for p in found.points]
    a.plot(x, y, "o-", color=BLUE, markersize=5, linewidth=1.3, label="best of both")
    a.plot(found.platform[1], found.platform[0], "s", color=GREY, markersize=6, label="platform process")
    a.set_xlabel(f"{readable_name(found.second)} [{found.second_unit}]", fontsize=STYLE["font"])
    a.set_ylabel(f"{readable_name(found.first)} [{found.first_unit}]", fontsize=STYLE["font"])
    a.legend(fontsize=STYLE["small"], frameon=False)
    return figure


def robustness(optimum: Optimum) -> Figure:
    """The metric over the parameter sets, and how often all limits are met: platform, nominal and robust process."""
    r = optimum.robustness
    assert r is not None
    figure = _figure(8.5, 2.3, f"What robustness is worth, {optimum.clone}: {measured(r)}", optimum.lineage.simulated)
    a, b = figure.subplots(1, 2, sharey=True)
    for axes in (a, b):
        _tidy(axes)
    y = np.arange(len(r.rows))[::-1]
    key = optimum.objective
    for place, row, process in zip(y, r.rows, (optimum.baseline, r.nominal, optimum.optimum), strict=True):
        m = process.metrics[key]
        a.plot([m.p05, m.p95], [place, place], color=BLUE, linewidth=5, alpha=0.25, solid_capstyle="butt")
        a.plot(m.p50, place, "|", color=BLUE, markersize=12, markeredgewidth=1.6)
        a.plot(row.seen, place, "o", color=GREY, markersize=5)
        a.plot(row.held_out, place, "o", color=ORANGE, markersize=5)
    for column, colour, label in ((0, GREY, "searched"), (1, ORANGE, "held out")):
        values = [100.0 * (row.met_held_out if column else row.met_seen) for row in r.rows]
        b.barh(y + (0.18 if column == 0 else -0.18), values, 0.32, color=colour, label=label)
    if r.chance:
        b.axvline(100.0 * r.chance, color=INK, linewidth=0.9, linestyle="--")
    b.set_xlim(0.0, 100.0)
    a.set_yticks(y, [row.process for row in r.rows], fontsize=STYLE["font"])
    a.set_ylim(-0.6, len(r.rows) - 0.4)
    what = f"{readable_name(key)} [{optimum.optimum.metric_units[key]}]"
    a.set_xlabel(f"{what}: 90 % (bar), measure (dots)", fontsize=STYLE["small"])
    b.set_xlabel("scenarios in which all limits are met [%]", fontsize=STYLE["small"])
    b.legend(fontsize=STYLE["small"], frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return figure
