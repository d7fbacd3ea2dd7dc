"""Views of a process: trajectories, decisions, limits and bill as tables; courses, feeds and cost as figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from optim.optimisation.result import ProcessOutcome, Series
from optim.process.metrics import find_metric, name_of_metric, readable_name
from optim.report.actions import drawn_feeds
from optim.report.style import BLUE, GREEN, GREY, ORANGE, STYLE, new_figure, panel_grid, tidy_axes
from optim.schedule.actions import start_time


class Comparison(NamedTuple):
    """A process beside the platform process of the same clone."""

    clone: str
    baseline: ProcessOutcome
    best: ProcessOutcome
    simulated: bool


def frame_of(rows: Iterable[Any]) -> pd.DataFrame:
    """A table with a row per record and a column per field."""
    return pd.DataFrame([asdict(row) for row in rows])


def trajectory_frame(s: Series) -> pd.DataFrame:
    """A table of trajectories over time with 90 % bands; every column name holds the unit."""
    table: dict[str, Any] = {"time_h": s.time_h}
    for i, (name, unit) in enumerate(zip(s.names, s.units, strict=True)):
        label = f"{name} [{unit}]"
        table |= {f"{label} p05": s.p05[i], f"{label} p50": s.p50[i], f"{label} p95": s.p95[i]}
    return pd.DataFrame(table)


def process_tables(process: ProcessOutcome) -> dict[str, pd.DataFrame]:
    """Trajectories, bill, limits and decisions of a process."""
    return {
        "trajectories": trajectory_frame(process.trajectory),
        "cost": frame_of(process.cost_items),
        "limits": frame_of(process.constraints),
        "decisions": frame_of(process.decisions),
    }


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


def draw_simulation(s: Series, title: str) -> Figure:
    """All variables of a simulated process over time, each with its unit."""
    figure, axes = panel_grid(len(s.names), title, False, size=(2.5, 1.9))
    day = float(s.time_h.max()) > 72.0
    t = s.time_h / (24.0 if day else 1.0)
    for name, unit, values, a in zip(s.names, s.units, s.p50, axes, strict=True):
        if name == "temperature":
            a.step(t, values, where="pre", color=BLUE, linewidth=1.4)
        else:
            a.plot(t, values, color=BLUE, linewidth=1.4)
        a.set_title(f"{readable_name(name)} [{unit}]", fontsize=STYLE["font"])
    axes[-1].set_xlabel("day" if day else "h", fontsize=STYLE["small"])
    return figure


def draw_processes(c: Comparison) -> Figure:
    """Trajectories of optimum and platform process with 90 % bands."""
    s = c.best.trajectory
    names = list(s.names)
    figure, axes = panel_grid(len(names), f"Optimum and platform process, {c.clone}", c.simulated, size=(2.5, 1.9))
    day = float(s.time_h.max()) > 72.0
    for name, a in zip(names, axes, strict=True):
        for process, colour in ((c.baseline, GREY), (c.best, BLUE)):
            series = process.trajectory
            i = series.names.index(name)
            t = series.time_h / (24.0 if day else 1.0)
            if name == "temperature":
                a.step(t, series.p50[i], where="pre", color=colour, linewidth=1.4)
                continue
            a.fill_between(t, series.p05[i], series.p95[i], color=colour, alpha=0.2, linewidth=0)
            a.plot(t, series.p50[i], color=colour, linewidth=1.4, label=process.name)
        for limit in c.best.constraints:
            if limit.name.startswith(name) or (name == "volume" and limit.name == "vessel_volume"):
                a.axhline(limit.limit, color=ORANGE, linewidth=0.9, linestyle="--")
        a.set_title(f"{name.replace('_', ' ')} [{s.units[s.names.index(name)]}]", fontsize=STYLE["font"])
    axes[0].legend(fontsize=STYLE["small"], frameon=False)
    axes[-1].set_xlabel("day" if day else "h", fontsize=STYLE["small"])
    return figure


def draw_feeds(c: Comparison) -> Figure:
    """Feeds of optimum and platform process: a panel for the boluses and one for the rates of every feed."""
    pairs = ((c.baseline, GREY, -0.2), (c.best, BLUE, 0.2))
    drawn = [drawn_feeds(p.actions) for p, *_ in pairs]
    named = [(feed, kind) for own in drawn for kind in ("boluses", "rates") for feed in getattr(own, kind)]
    rows = list(dict.fromkeys(named))
    figure = new_figure("Feeds", (7.0, 0.6 + 2.0 * max(1, len(rows))), c.simulated)
    last = max(start_time(x) for p, *_ in pairs for x in p.actions) / 24.0
    panels = figure.subplots(max(1, len(rows)), 1, squeeze=False, sharex=True)[:, 0]
    for a, (feed, kind) in zip(panels, rows, strict=False):
        for (process, colour, shift), own in zip(pairs, drawn, strict=True):
            if kind == "boluses":
                given = own.boluses.get(feed, [])
                days = [x.time_h / 24.0 + shift for x in given]
                a.bar(days, [x.volume_ml for x in given], 0.38, color=colour, label=process.name)
            elif feed in own.rates:
                t, rate = own.rates[feed]
                a.plot(t / 24.0, rate, color=colour, linewidth=1.6, label=process.name)
        a.set_ylabel(f"{feed}, {'mL per vessel' if kind == 'boluses' else 'mL/h'}", fontsize=STYLE["font"])
        a.set_xlim(-0.6, last + 0.6)
    for a in panels:
        tidy_axes(a)
    panels[0].legend(fontsize=STYLE["small"], frameon=False)
    panels[-1].set_xlabel("day", fontsize=STYLE["font"])
    return figure


def draw_cost(comparison: Comparison) -> Figure:
    """Waterfall of the cost of goods: platform process, what each category adds or saves, optimum."""
    released, cogs = (name_of_metric(key, comparison.best.metrics) for key in ("released", "cogs"))
    categories = list(dict.fromkeys(item.category for item in comparison.best.cost_items))
    before, after = (
        {c: sum(i.cost for i in p.cost_items if i.category == c) / p.metrics[released].p50 for c in categories}
        for p in (comparison.baseline, comparison.best)
    )
    figure = new_figure(f"Cost of goods [{comparison.best.metric_units[cogs]}]", (7.0, 3.0), comparison.simulated)
    a = figure.add_subplot(1, 1, 1)
    tidy_axes(a)
    names = [c for c in before if max(before[c], after[c]) > 0.0]
    level, labels = sum(before.values()), ["platform", *names, "optimum"]
    a.bar(0, level, 0.62, color=GREY)
    for x, name in enumerate(names, 1):
        change = after[name] - before[name]
        a.bar(x, abs(change), 0.62, bottom=min(level, level + change), color=ORANGE if change > 0.0 else GREEN)
        a.plot([x - 0.69, x + 0.31], [level, level], color=GREY, linewidth=0.6)
        a.text(x, max(level, level + change), f"{change:+.3g}", ha="center", va="bottom", fontsize=STYLE["small"])
        level += change
    a.bar(len(labels) - 1, level, 0.62, color=BLUE)
    for x, total in ((0, sum(before.values())), (len(labels) - 1, level)):
        a.text(x, total, f"{total:.3g}", ha="center", va="bottom", fontsize=STYLE["small"])
    a.set_xticks(np.arange(len(labels)), [n.replace(" ", "\n") for n in labels], fontsize=STYLE["small"])
    return figure
