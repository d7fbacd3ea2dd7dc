"""Plots of a fit, a ranking and a process. Every function takes an artefact and returns a matplotlib Figure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from optim.data.dataset import Dataset
from optim.estimation.result import FitResult, Observations
from optim.estimation.transfer.prediction import NewClonePrediction
from optim.optimisation.result import Optimum, Ranking, Series
from optim.process.metrics import name_of_metric, readable_name
from optim.units import VARIABLES, display

# Okabe-Ito colours: told apart by people with any common colour vision
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8a8f98", "#24292f"
STYLE = {"font": 9, "small": 7.5}
MOST_PANELS = 24
HALF_CHI2_90 = 1.3527717  # half the 90 % quantile of chi squared with one degree of freedom


def _figure(width: float, height: float, title: str, simulated: bool) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    _title(figure, title, simulated)
    return figure


def _title(figure: Figure, title: str, simulated: bool) -> None:
    text = title + ("   ·   SIMULATED DATA" if simulated else "")
    place = {} if figure.get_layout_engine() else {"y": 1.0 - 0.08 / figure.get_figheight(), "va": "top"}
    figure.suptitle(text, fontsize=11, color=INK, x=0.01, ha="left", **place)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=STYLE["small"], colors=INK)
    axes.grid(True, color="#e6e8eb", linewidth=0.6)
    axes.set_axisbelow(True)


def _unit(variable: str) -> str:
    known = {"product_per_biomass": "g/g", "volume": "mL", "temperature": "°C"}
    return known.get(variable) or display(VARIABLES[variable].unit)


def _grid(
    n: int, title: str, simulated: bool, width: float = 2.3, height: float = 1.7, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """n panels. Margins are in inches: a layout engine would measure every tick label, which takes seconds."""
    columns = min(6, max(1, math.ceil(math.sqrt(n * 1.4))))
    rows = math.ceil(n / columns)
    size = max(5.0, width * columns), 0.7 + height * rows
    figure = Figure(figsize=size, facecolor="white")
    _title(figure, title, simulated)
    gap = (0.12, 0.3) if share else (0.45, 0.55)
    figure.subplots_adjust(
        left=0.5 / size[0],
        right=1.0 - 0.15 / size[0],
        bottom=0.42 / size[1],
        top=1.0 - 0.6 / size[1],
        wspace=gap[0] * columns / (size[0] - gap[0] * columns),
        hspace=gap[1] * rows / (size[1] - 1.0 - gap[1] * rows),
    )
    panels = list(figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False).flat)
    for a in panels[n:]:
        a.remove()
    for i, a in enumerate(panels[:n]):
        _tidy(a)
        if share and i + columns >= n:
            a.tick_params(labelbottom=True)  # a removed panel below must not take the labels with it
    return figure, panels[:n]


def panel_pages(result: FitResult, variable: str, o: Observations) -> list[list[str]]:
    """What `fit_assay` shows a panel of (clones, or runs where there are few groups), as many as fit on a figure."""
    names = np.array(o.variable) == variable
    panels = [str(key) for key in dict.fromkeys(_panel_keys(result, o)[names])]
    return [panels[i : i + MOST_PANELS] for i in range(0, len(panels), MOST_PANELS)]


def _panel_keys(result: FitResult, o: Observations) -> np.ndarray:
    return np.array(o.vessel if len(result.clones) < 6 else o.clone)


def fit_assay(
    result: FitResult, variable: str, observations: Observations | None = None, panels: list[str] | None = None
) -> Figure:
    """Data, prediction and 90 % band of one assay; a panel per clone (per run where there are few groups)."""
    o = observations or result.observations
    names = np.array(o.variable) == variable
    keys = _panel_keys(result, o)
    panels = panels or panel_pages(result, variable, o)[0]
    kind = "fit" if observations is None else "prediction of runs left out"
    figure, axes = _grid(len(panels), f"{variable} [{_unit(variable)}]: {kind}", result.lineage.simulated, share=True)
    day = float(o.time_h.max()) > 72.0
    top = float(np.nanmax(np.maximum(o.value[names], o.predicted[names]))) * 1.1
    for panel, a in zip(panels, axes, strict=True):
        own = names & (keys == panel)
        for i, vessel in enumerate(dict.fromkeys(np.array(o.vessel)[own])):
            use = np.flatnonzero(own & (np.array(o.vessel) == vessel))
            use = use[np.argsort(o.time_h[use])]
            t = o.time_h[use] / (24.0 if day else 1.0)
            colour = (BLUE, ORANGE, GREEN)[i % 3]
            a.fill_between(t, np.maximum(o.lower90[use], 0.0), o.upper90[use], color=colour, alpha=0.15, linewidth=0)
            a.plot(t, o.predicted[use], color=colour, linewidth=1.2)
            below = np.array([o.censored[j] != "" for j in use])
            a.plot(t[~below], o.value[use][~below], "o", markersize=2.6, color=colour)
            a.plot(t[below], o.value[use][below], "v", markersize=3.0, color=colour, markerfacecolor="white")
        a.set_title(str(panel), fontsize=STYLE["small"], color=INK, pad=2)
        a.set_ylim(0.0, top)
    axes[0].set_ylabel(_unit(variable), fontsize=STYLE["small"])
    axes[-1].set_xlabel("day" if day else "h", fontsize=STYLE["small"])
    return figure


def parity(result: FitResult) -> Figure:
    """Predicted against measured, per assay; left-out predictions too where they exist."""
    o = result.observations
    variables = list(dict.fromkeys(o.variable))
    figure, axes = _grid(len(variables), "Predicted against measured", result.lineage.simulated, 2.6, 2.4)
    for variable, a in zip(variables, axes, strict=True):
        for source, colour, marker in ((o, BLUE, "o"), (result.left_out, ORANGE, "x")):
            if source is None:
                continue
            use = (np.array(source.variable) == variable) & (np.array(source.censored) == "")
            name = "fit" if source is o else "left out"
            a.plot(
                source.value[use], source.predicted[use], marker, color=colour, markersize=2.8, alpha=0.7, label=name
            )
        ends = [0.0, float(o.value[np.array(o.variable) == variable].max())]
        a.plot(ends, ends, color=GREY, linewidth=0.8)
        a.set_title(
            f"{variable} [{_unit(variable)}]  R² {result.r2.get(variable, math.nan):.3f}", fontsize=STYLE["font"]
        )
    axes[0].set_xlabel("measured", fontsize=STYLE["small"])
    axes[0].set_ylabel("predicted", fontsize=STYLE["small"])
    if result.left_out is not None:
        axes[0].legend(fontsize=STYLE["small"], frameon=False)
    return figure


def residuals(result: FitResult) -> Figure:
    """Standardised residuals over time, per assay: a trend says that the model lacks something."""
    o = result.observations
    variables = list(dict.fromkeys(o.variable))
    figure, axes = _grid(len(variables), "Standardised residuals", result.lineage.simulated, 2.6, 1.9)
    day = float(o.time_h.max()) > 72.0
    for variable, a in zip(variables, axes, strict=True):
        use = (np.array(o.variable) == variable) & (np.array(o.censored) == "")
        t = o.time_h[use] / (24.0 if day else 1.0)
        a.axhspan(-1.96, 1.96, color="#f0f2f5")
        a.plot(t, ((o.value - o.predicted) / o.sd)[use], "o", markersize=2.2, color=BLUE, alpha=0.6)
        a.axhline(0.0, color=GREY, linewidth=0.8)
        a.set_title(variable, fontsize=STYLE["font"])
    axes[0].set_ylabel("(measured − predicted) / sd", fontsize=STYLE["small"])
    axes[0].set_xlabel("day" if day else "h", fontsize=STYLE["small"])
    return figure


def starts(result: FitResult) -> Figure:
    """Waterfall: the cost at the end of every start, the best first, in steps above the best."""
    ends = sorted(s.cost for s in result.starts if np.isfinite(s.cost))
    figure = _figure(7.0, 2.6, "Cost at the end of every start", result.lineage.simulated)
    a = figure.add_subplot(1, 1, 1)
    _tidy(a)
    above = np.array(ends) - ends[0]
    a.plot(np.arange(1, len(ends) + 1), above, "o-", color=BLUE, markersize=4, linewidth=1.0)
    a.set_yscale("symlog", linthresh=0.1)
    a.set_ylim(-0.05, max(0.2, 1.5 * above[-1]))
    a.xaxis.set_major_locator(MaxNLocator(integer=True))
    a.set_xlabel("start, by cost", fontsize=STYLE["font"])
    a.set_ylabel("log-likelihood units above the best", fontsize=STYLE["small"])
    return figure


def profiles(result: FitResult) -> Figure:
    """Cost along each profiled parameter, all others fitted again; the line is where its 90 % interval ends."""
    shown = result.profiles[:MOST_PANELS]
    figure, axes = _grid(
        len(shown), "Profiles: rise of the cost along one parameter", result.lineage.simulated, 2.4, 2.0
    )
    for profile, a in zip(shown, axes, strict=True):
        order = np.argsort(profile.value)
        a.plot(profile.value[order], profile.rise[order], "o-", color=BLUE, markersize=2.6, linewidth=1.0)
        a.axhline(HALF_CHI2_90, color=ORANGE, linewidth=0.9, linestyle="--")
        a.set_ylim(-0.1, 3.0)
        if profile.value.min() > 0.0:
            a.set_xscale("log")
            a.xaxis.set_major_locator(LogLocator(numticks=4, subs=(1.0, 2.0, 5.0)))
            a.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            a.xaxis.set_minor_locator(NullLocator())
        name = f"{profile.name} {profile.owner}".strip()
        a.set_title(f"{name} [{profile.unit}]\n{profile.verdict}", fontsize=STYLE["small"])
    axes[0].set_ylabel("log-likelihood units", fontsize=STYLE["small"])
    return figure


def placement(result: NewClonePrediction, clone: str, dataset: Dataset) -> Figure:
    """Predictions of a new clone's runs after some days of samples; a row per day, a column per assay."""
    path = result.of_clone(clone)
    b = path[0].bands
    vessel = b.vessel[0]
    variables = list(dict.fromkeys(v for v, name in zip(b.variable, b.vessel, strict=True) if name == vessel))
    figure = Figure(figsize=(2.2 * len(variables), 0.9 + 1.6 * len(path)), layout="constrained", facecolor="white")
    _title(figure, f"{clone}, vessel {vessel}: what its first days say of the rest", result.lineage.simulated)
    m, run = dataset.measurements, dataset.vessels.index(vessel)
    axes = figure.subplots(len(path), len(variables), sharex=True, sharey="col", squeeze=False)
    for r, (row, placed) in enumerate(zip(axes, path, strict=True)):
        b = placed.bands
        for a, variable in zip(row, variables, strict=True):
            _tidy(a)
            own = np.array([v == variable and n == vessel for v, n in zip(b.variable, b.vessel, strict=True)])
            day = b.time_h[own] / 24.0
            a.fill_between(day, b.reading_lower90[own], b.reading_upper90[own], color=BLUE, alpha=0.12, linewidth=0)
            a.fill_between(day, b.lower90[own], b.upper90[own], color=BLUE, alpha=0.25, linewidth=0)
            a.plot(day, b.predicted[own], color=BLUE, linewidth=1.2)
            read = (m.run == run) & (np.array(m.variable) == variable)
            seen = read & (m.time_h <= 24.0 * placed.day)
            a.plot(m.time_h[read & ~seen] / 24.0, m.value[read & ~seen], "o", color=GREY, markersize=2.4, mfc="white")
            a.plot(m.time_h[seen] / 24.0, m.value[seen], "o", color=ORANGE, markersize=2.6)
            a.set_ylim(bottom=0.0)
            if r == 0:
                a.set_title(f"{variable} [{_unit(variable)}]", fontsize=STYLE["font"])
            if r == len(path) - 1:
                a.set_xlabel("day", fontsize=STYLE["small"])
        row[0].set_ylabel(f"after day {placed.day:g}", fontsize=STYLE["small"])
    return figure


def recovery(result: FitResult) -> Figure:
    """Estimate with 90 % interval against the truth of a simulated screen."""
    names = list(dict.fromkeys(r.name for r in result.recovery))
    figure, axes = _grid(len(names), "Recovery of the truth", result.lineage.simulated, 2.4, 2.1)
    for name, a in zip(names, axes, strict=True):
        rows = [r for r in result.recovery if r.name == name]
        x, y = np.array([r.truth for r in rows]), np.array([r.estimate for r in rows])
        low, high = np.array([r.lower90 for r in rows]), np.array([r.upper90 for r in rows])
        a.errorbar(x, y, yerr=[y - low, high - y], fmt="o", markersize=2.6, color=BLUE, elinewidth=0.8)
        ends = [min(x.min(), low.min()), max(x.max(), high.max())]
        a.plot(ends, ends, color=GREY, linewidth=0.8)
        a.xaxis.set_major_locator(MaxNLocator(3))
        a.yaxis.set_major_locator(MaxNLocator(4))
        a.set_title(name, fontsize=STYLE["font"])
    axes[0].set_xlabel("truth", fontsize=STYLE["small"])
    axes[0].set_ylabel("estimate", fontsize=STYLE["small"])
    return figure


def ranking(result: Ranking) -> Figure:
    """Clones by the maximised metric, each at its own optimum, with interval and probability of being the best."""
    rows = [r for r in result.rows if not r.message]
    figure = _figure(8.0, 0.9 + 0.26 * len(rows), "Clones, each at its own optimised process", result.lineage.simulated)
    a, b = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    y = np.arange(len(rows))[::-1]
    for axes in (a, b):
        _tidy(axes)
    mid = np.array([r.objective.p50 for r in rows])
    low, high = np.array([r.objective.p05 for r in rows]), np.array([r.objective.p95 for r in rows])
    a.errorbar(mid, y, xerr=[mid - low, high - mid], fmt="o", color=BLUE, markersize=4, label="own optimum (90 %)")
    a.plot([r.at_platform.p50 for r in rows], y, "|", color=GREY, markersize=8, label="platform process")
    if all(r.truth is not None for r in rows):
        truth = np.array([r.truth for r in rows], dtype=float)
        a.plot(truth, y, "x", color=ORANGE, markersize=5, label="truth, same process")
    a.set_yticks(y, [r.clone for r in rows])
    a.set_xlabel(f"{readable_name(result.objective)} [{result.unit}]", fontsize=STYLE["font"])
    a.legend(fontsize=STYLE["small"], frameon=False, loc="lower right")
    b.barh(y, [r.probability_best for r in rows], color=GREEN, height=0.6)
    b.set_xlim(0.0, 1.0)
    b.set_xlabel("probability of being the best", fontsize=STYLE["font"])
    return figure


def processes(optimum: Optimum) -> Figure:
    """Trajectories of optimum and platform process with 90 % bands."""
    s = optimum.optimum.trajectory
    names = list(s.names)
    figure, axes = _grid(
        len(names), f"Optimum and platform process, {optimum.clone}", optimum.lineage.simulated, 2.5, 1.9
    )
    day = float(s.time_h.max()) > 72.0
    for name, a in zip(names, axes, strict=True):
        for process, colour in ((optimum.baseline, GREY), (optimum.optimum, BLUE)):
            series = process.trajectory
            i = series.names.index(name)
            t = series.time_h / (24.0 if day else 1.0)
            if name == "temperature":
                a.step(t, series.p50[i], where="pre", color=colour, linewidth=1.4)
                continue
            a.fill_between(t, series.p05[i], series.p95[i], color=colour, alpha=0.2, linewidth=0)
            a.plot(t, series.p50[i], color=colour, linewidth=1.4, label=process.name)
        for c in optimum.optimum.constraints:
            if c.name.startswith(name) or (name == "volume" and c.name == "vessel_volume"):
                a.axhline(c.limit, color=ORANGE, linewidth=0.9, linestyle="--")
        a.set_title(f"{name.replace('_', ' ')} [{s.units[s.names.index(name)]}]", fontsize=STYLE["font"])
    axes[0].legend(fontsize=STYLE["small"], frameon=False)
    axes[-1].set_xlabel("day" if day else "h", fontsize=STYLE["small"])
    return figure


def simulated_process(s: Series, title: str) -> Figure:
    """All variables of a simulated process over time, each with its unit."""
    figure, axes = _grid(len(s.names), title, False, 2.5, 1.9)
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


def feeds(optimum: Optimum) -> Figure:
    """Feeds of optimum and platform process: a panel for the boluses and one for the rates of every feed."""
    pairs = ((optimum.baseline, GREY, -0.2), (optimum.optimum, BLUE, 0.2))
    wanted = [(x.what, x.kind) for p, *_ in pairs for x in p.actions if x.kind in ("bolus", "feed_rate")]
    rows = list(dict.fromkeys(wanted))
    figure = _figure(7.0, 0.6 + 2.0 * max(1, len(rows)), "Feeds", optimum.lineage.simulated)
    last = max(x.time_h for p, *_ in pairs for x in p.actions) / 24.0
    panels = figure.subplots(max(1, len(rows)), 1, squeeze=False, sharex=True)[:, 0]
    for a, (what, kind) in zip(panels, rows, strict=False):
        for process, colour, shift in pairs:
            own = [x for x in process.actions if (x.what, x.kind) == (what, kind)]
            if kind == "bolus":
                days = [x.time_h / 24.0 + shift for x in own]
                a.bar(days, [x.value for x in own], 0.38, color=colour, label=process.name)
                continue
            end = next(x.time_h for x in process.actions if x.kind == "harvest")
            until = [*(x.time_h for x in own[1:]), end]
            t = [at / 24.0 for x, stop in zip(own, until, strict=False) for at in (x.time_h, stop)]
            rate = [v for x in own for v in (x.value, x.value if x.value_end is None else x.value_end)]
            a.plot(t, rate, color=colour, linewidth=1.6, label=process.name)
        a.set_ylabel(f"{what}, {'mL per vessel' if kind == 'bolus' else 'mL/h'}", fontsize=STYLE["font"])
        a.set_xlim(-0.6, last + 0.6)
    for a in panels:
        _tidy(a)
    panels[0].legend(fontsize=STYLE["small"], frameon=False)
    panels[-1].set_xlabel("day", fontsize=STYLE["font"])
    return figure


def cost(optimum: Optimum) -> Figure:
    """Waterfall of the cost of goods: platform process, what each category adds or saves, optimum."""
    released, cogs = (name_of_metric(key, optimum.optimum.metrics) for key in ("released", "cogs"))
    before, after = (
        {
            c: sum(i.cost for i in p.cost_items if i.category == c) / p.metrics[released].p50
            for c in _categories(optimum)
        }
        for p in (optimum.baseline, optimum.optimum)
    )
    figure = _figure(7.0, 3.0, f"Cost of goods [{optimum.optimum.metric_units[cogs]}]", optimum.lineage.simulated)
    a = figure.add_subplot(1, 1, 1)
    _tidy(a)
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


def _categories(optimum: Optimum) -> list[str]:
    return list(dict.fromkeys(i.category for i in optimum.optimum.cost_items))


def convergence(result: FitResult, optimum: Optimum | None = None) -> Figure:
    """Cost per iteration of the best start, and where each start of fit and optimiser ended."""
    figure = _figure(11.0, 2.6, "Convergence", result.lineage.simulated)
    panels: list[tuple[str, Any]] = [("fit: cost per iteration", result.history)]
    panels.append(("fit: cost of each start", sorted(s.cost for s in result.starts)))
    if optimum is not None:
        panels.append((f"optimiser: {readable_name(optimum.objective)} per evaluation", optimum.history))
        ends = [s.objective for s in optimum.starts if s.max_violation <= 1e-6]
        panels.append(("optimiser: where each start ended", sorted(ends, reverse=True)))
    for i, (title, values) in enumerate(panels):
        a = figure.add_subplot(1, len(panels), i + 1)
        _tidy(a)
        a.plot(np.arange(len(values)), np.asarray(values), "o-", markersize=3, color=BLUE, linewidth=1)
        a.set_title(title, fontsize=STYLE["font"])
        if i == 0:
            a.set_yscale("log")
    return figure
