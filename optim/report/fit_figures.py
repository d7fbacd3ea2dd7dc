"""Figures of a fit: every assay, parity, residuals, starts, profiles, recovery of a simulated truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from optim.estimation.result import FitResult, Observations
from optim.report.style import BLUE, GREEN, GREY, INK, ORANGE, STYLE, new_figure, panel_grid, tidy_axes, unit_of

MOST_PANELS = 24
HALF_CHI2_90 = 1.3527717  # half the 90 % quantile of chi squared with one degree of freedom


def fit_figures(r: FitResult) -> dict[str, Callable[[], Figure]]:
    """Every figure of a fit by name: `fit_vcd` and, where panels fill more than a figure, `fit_vcd_2`, ..."""
    found: dict[str, Callable[[], Figure]] = {}
    for kind, o in (("fit", r.observations), ("left_out", r.left_out)):
        for variable in dict.fromkeys(o.variable) if o is not None else ():
            for i, panels in enumerate(panel_pages(r, variable, o), 1):  # type: ignore[arg-type]
                name = f"{kind}_{variable}" + (f"_{i}" if i > 1 else "")
                found[name] = partial(draw_assay, r, variable, None if kind == "fit" else o, panels=panels)
    found |= {name: partial(draw, r) for name, draw in DRAWN.items()}
    if r.recovery:
        found["recovery"] = partial(draw_recovery, r)
    if r.profiles:
        found["profiles"] = partial(draw_profiles, r)
    return found


def panel_pages(result: FitResult, variable: str, o: Observations) -> list[list[str]]:
    """Names of the panels of `draw_assay`, figure by figure: clones, or runs where there are few clones."""
    names = np.array(o.variable) == variable
    panels = [str(key) for key in dict.fromkeys(_panel_keys(result, o)[names])]
    return [panels[i : i + MOST_PANELS] for i in range(0, len(panels), MOST_PANELS)]


def _panel_keys(result: FitResult, o: Observations) -> np.ndarray:
    return np.array(o.vessel if len(result.clones) < 6 else o.clone)


def draw_assay(
    result: FitResult, variable: str, observations: Observations | None = None, *, panels: list[str] | None = None
) -> Figure:
    """Draw data, prediction and 90 % band of one assay, with a panel per clone (per run where there are few clones).

    Args:
        result: the fit.
        variable: the assay.
        observations: readings with their predictions; by default those of the fit itself.
        panels: names of the panels; by default the first figure of `panel_pages`.
    """
    o = observations or result.observations
    names = np.array(o.variable) == variable
    keys = _panel_keys(result, o)
    panels = panels or panel_pages(result, variable, o)[0]
    kind = "fit" if observations is None else "prediction of runs left out"
    figure, axes = panel_grid(
        len(panels), f"{variable} [{unit_of(variable)}]: {kind}", result.lineage.simulated, share=True
    )
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
    axes[0].set_ylabel(unit_of(variable), fontsize=STYLE["small"])
    axes[-1].set_xlabel("day" if day else "h", fontsize=STYLE["small"])
    return figure


def draw_parity(result: FitResult) -> Figure:
    """Parity plot of every assay: predicted against measured, with predictions of left-out runs where they exist."""
    o = result.observations
    variables = list(dict.fromkeys(o.variable))
    figure, axes = panel_grid(len(variables), "Predicted against measured", result.lineage.simulated, size=(2.6, 2.4))
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
            f"{variable} [{unit_of(variable)}]  R² {result.r2.get(variable, math.nan):.3f}", fontsize=STYLE["font"]
        )
    axes[0].set_xlabel("measured", fontsize=STYLE["small"])
    axes[0].set_ylabel("predicted", fontsize=STYLE["small"])
    if result.left_out is not None:
        axes[0].legend(fontsize=STYLE["small"], frameon=False)
    return figure


def draw_residuals(result: FitResult) -> Figure:
    """Standardised residuals over time, per assay. A trend is a sign of a mechanism that the model lacks."""
    o = result.observations
    variables = list(dict.fromkeys(o.variable))
    figure, axes = panel_grid(len(variables), "Standardised residuals", result.lineage.simulated, size=(2.6, 1.9))
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


def draw_starts(result: FitResult) -> Figure:
    """Waterfall plot: the final cost of every start above the lowest cost, in increasing order."""
    ends = sorted(s.cost for s in result.starts if np.isfinite(s.cost))
    figure = new_figure("Cost at the end of every start", (7.0, 2.6), result.lineage.simulated)
    a = figure.add_subplot(1, 1, 1)
    tidy_axes(a)
    above = np.array(ends) - ends[0]
    a.plot(np.arange(1, len(ends) + 1), above, "o-", color=BLUE, markersize=4, linewidth=1.0)
    a.set_yscale("symlog", linthresh=0.1)
    a.set_ylim(-0.05, max(0.2, 1.5 * above[-1]))
    a.xaxis.set_major_locator(MaxNLocator(integer=True))
    a.set_xlabel("start, by cost", fontsize=STYLE["font"])
    a.set_ylabel("log-likelihood units above the best", fontsize=STYLE["small"])
    return figure


def draw_profiles(result: FitResult) -> Figure:
    """Profile likelihoods: cost along one parameter, all others refitted; dashed: the bound of its 90 % interval."""
    shown = result.profiles[:MOST_PANELS]
    figure, axes = panel_grid(
        len(shown), "Profiles: rise of the cost along one parameter", result.lineage.simulated, size=(2.4, 2.0)
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


def draw_recovery(result: FitResult) -> Figure:
    """Estimate with 90 % interval against the truth of a simulated screen."""
    names = list(dict.fromkeys(r.name for r in result.recovery))
    figure, axes = panel_grid(len(names), "Recovery of the truth", result.lineage.simulated, size=(2.4, 2.1))
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


def draw_search(result: FitResult) -> Figure:
    """Cost per iteration of the best start."""
    figure = new_figure("Cost per iteration", (5.0, 2.6), result.lineage.simulated)
    a = figure.add_subplot(1, 1, 1)
    tidy_axes(a)
    a.plot(np.arange(len(result.history)), np.asarray(result.history), "o-", markersize=3, color=BLUE, linewidth=1)
    a.set_yscale("log")
    a.set_xlabel("iteration", fontsize=STYLE["font"])
    return figure


DRAWN = {"parity": draw_parity, "residuals": draw_residuals, "starts": draw_starts, "search": draw_search}
