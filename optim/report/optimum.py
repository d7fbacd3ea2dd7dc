"""The view of an optimum: gain over the platform process, decisions, binding limits, choices, robustness."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.figure import Figure

from optim.optimisation.result import Optimum, Robustness, VariantReport
from optim.process.metrics import find_metric, readable_name, relative_change
from optim.report.process import Comparison, draw_cost, draw_feeds, draw_processes, process_tables
from optim.report.style import BLUE, GREY, INK, ORANGE, STYLE, new_figure, tidy_axes
from optim.report.view import View

RISK_PHRASES = {
    "nominal": "at the estimate",
    "expectation": "mean",
    "cvar": "mean of the worst {tail:.0%}",
    "quantile": "{tail:.0%} quantile",
}


def optimum_view(o: Optimum) -> View:
    """The view of an optimum."""
    compared = Comparison(o.clone, o.baseline, o.optimum, o.lineage.simulated)
    figures = {
        "processes": lambda: draw_processes(compared),
        "feeds": lambda: draw_feeds(compared),
        **({"cost": lambda: draw_cost(compared)} if o.optimum.cost_items else {}),
        "convergence": lambda: draw_convergence(o),
    }
    if o.robustness:
        figures["robustness"] = lambda: draw_robustness(o)
    return View(
        kind=o.kind(),
        title=f"Optimum of {readable_name(o.objective)} for {o.clone}",
        lines=optimum_lines(o),
        doubts=o.lineage.doubts,
        notes=o.lineage.notes,
        metrics=optimum_metrics(o),
        series={"optimum/objective_per_evaluation": o.history},
        tables=process_tables(o.optimum),
        figures=figures,
    )


def optimum_metrics(o: Optimum) -> dict[str, float]:
    """Metrics of the optimum and of the platform process, the smallest margin of a limit, and robustness."""
    metrics = {f"optimum/{name}": m.p50 for name, m in o.optimum.metrics.items()}
    metrics |= {f"optimum_platform/{name}": m.p50 for name, m in o.baseline.metrics.items()}
    metrics["optimum/worst_margin"] = min([c.margin for c in o.optimum.constraints], default=0.0)
    if o.robustness:
        last = o.robustness.rows[-1]
        metrics |= {"optimum/limits_met": last.met_seen, "optimum/limits_met_held_out": last.met_held_out}
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


def risk_phrase(r: Robustness) -> str:
    """The measure of risk in words."""
    return RISK_PHRASES[r.measure].format(tail=r.tail)


def robustness_lines(r: Robustness, unit: str) -> list[str]:
    """The risk measure of each process over the scenarios of the search, and over held-out scenarios."""
    asked = f"; all limits in {r.chance:.0%} of them" if r.chance else ""
    lines = [
        f"    under uncertainty: {risk_phrase(r)} of {r.members} scenarios{asked}",
        f"      {'':<16} {'searched':>10} {'held out':>10} {unit:<8} {'limits met':>12} {'held out':>10}",
    ]
    for row in r.rows:
        lines.append(
            f"      {row.process:<16} {row.seen:>10.4g} {row.held_out:>10.4g} {'':<8} {row.met_seen:>12.0%} "
            f"{row.met_held_out:>10.0%}"
        )
    return lines


def variant_lines(rows: tuple[VariantReport, ...], unit: str, most: int = 8) -> list[str]:
    """Discrete choices with their objective, the best first."""
    lines = [f"    choices, each at its best at the estimate ({unit}):"]
    lines += [f"      {v.name:<40} {v.message or format(v.objective, '.4g')}" for v in rows[:most]]
    return lines + ([f"      and {len(rows) - most} more"] if len(rows) > most else [])


def draw_robustness(optimum: Optimum) -> Figure:
    """Draw platform, nominal and robust process: the metric over the scenarios, and how often all limits are met."""
    r = optimum.robustness
    assert r is not None
    figure = new_figure(
        f"Value of robustness, {optimum.clone}: {risk_phrase(r)}", (8.5, 2.3), optimum.lineage.simulated
    )
    a, b = figure.subplots(1, 2, sharey=True)
    for axes in (a, b):
        tidy_axes(axes)
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


def draw_convergence(o: Optimum) -> Figure:
    """Draw the best feasible metric after each evaluation, and the objective at the end of each start."""
    figure = new_figure("Convergence of the optimiser", (7.0, 2.6), o.lineage.simulated)
    ends = sorted((s.objective for s in o.starts if s.max_violation <= 1e-6), reverse=True)
    panels = ((f"{readable_name(o.objective)} per evaluation", o.history), ("objective at the end of each start", ends))
    for i, (title, values) in enumerate(panels, 1):
        a = figure.add_subplot(1, len(panels), i)
        tidy_axes(a)
        a.plot(np.arange(len(values)), np.asarray(values), "o-", markersize=3, color=BLUE, linewidth=1)
        a.set_title(title, fontsize=STYLE["font"])
    return figure
