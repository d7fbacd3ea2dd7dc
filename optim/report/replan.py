"""The view of a re-planned batch: next actions, current and new plan, readings, and limits ahead."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from optim.process.metrics import find_metric
from optim.replanning.result import Replan
from optim.report.actions import action_texts, actions_frame, drawn_feeds
from optim.report.process import frame_of, trajectory_frame
from optim.report.style import BLUE, GREY, INK, ORANGE, STYLE, panel_grid
from optim.report.view import View


def replan_view(r: Replan) -> View:
    """The view of a re-planned batch."""
    return View(
        kind=r.kind(),
        title=f"Run {r.run}: current plan and new plan",
        lines=replan_lines(r),
        doubts=r.lineage.doubts,
        notes=r.lineage.notes,
        metrics=replan_metrics(r),
        tables={
            "replan_actions": actions_frame(r.actions),
            "replan_decisions": frame_of(r.decisions),
            "replan_trajectory": trajectory_frame(r.replanned.trajectory),
        },
        figures={"replan": lambda: draw_replan(r)},
    )


def replan_lines(r: Replan) -> list[str]:
    """Observations, actions until the next sample, every decision with its reason, and the forecast of both plans."""
    a, b = r.plan.metrics[r.objective], r.replanned.metrics[r.objective]
    unit, text = r.plan.metric_units[r.objective], find_metric(r.objective).text
    clone = r.clone if r.known_clone else f"{r.clone}, new to the fit"
    lines = [f"run {r.run} ({clone}) on day {r.now_h / 24.0:.3g}: {len(r.readings)} readings"]
    lines += [f"  observed: {text}" for text in r.seen] or ["  observed: no deviation from the plan"]
    lines.append(f"  next, until the sample on day {r.next_sample_h / 24.0:.3g}:")
    lines += [f"    {text}" for x in r.next_actions for text in action_texts(x, r.next_sample_h)] or ["    nothing"]
    if r.kept:
        lines.append("  the current plan stays: no change gains enough")
    lines.append(f"  {'decision':<24}{'planned':>10}{'now':>10}   reason")
    for d in r.decisions:
        now = "-" if math.isnan(d.now) else f"{d.now:.4g}"
        lines.append(f"  {d.name:<24}{d.planned:>10.4g}{now:>10} {d.unit}   {d.reason}")
    lines.append(
        f"  {r.objective}: current plan {text(a.p50)} {unit} [{text(a.p05)}, {text(a.p95)}], new plan {text(b.p50)} "
        f"[{text(b.p05)}, {text(b.p95)}], {r.gain:+.1%} at the estimate, better with probability {r.chance_better:.2f}"
    )
    for c in r.limits:
        lines.append(
            f"    {c.name} ({c.kind} {c.limit:g} {c.unit}): met with probability {c.planned_chance:.2f} by the current "
            f"plan, {c.chance:.2f} by the new plan"
        )
    fit = ", ".join(f"{x.variable} {x.rms:.1f}" for x in r.agreement)
    if fit:
        lines.append(f"  root mean square of standardised residuals of the updated model: {fit}")
    lines.append(f"  effective number of parameter sets: {r.members:.0f}")
    return lines


def replan_metrics(r: Replan) -> dict[str, float]:
    """Metrics of both plans by name: objective, gain, and probability to meet each limit."""
    found = {
        "replan/now_h": r.now_h,
        "replan/gain": r.gain,
        "replan/chance_better": r.chance_better,
        f"replan/{r.objective}": r.replanned.metrics[r.objective].p50,
        f"replan_plan/{r.objective}": r.plan.metrics[r.objective].p50,
    }
    found |= {f"replan/met_{c.name}": c.chance for c in r.limits}
    return found | {f"replan_plan/met_{c.name}": c.planned_chance for c in r.limits}


def draw_replan(r: Replan) -> Figure:
    """Draw both plans: a panel per assay, volume and temperature, and one for the feed; hours for a short process."""
    s = r.replanned.trajectory
    days = float(s.time_h.max()) > 72.0
    scale = 24.0 if days else 1.0
    names = list(s.names)
    title = f"Run {r.run}, {'day' if days else 'hour'} {r.now_h / scale:.3g}: current plan and new plan"
    figure, axes = panel_grid(len(names) + 2, title, r.lineage.simulated, size=(2.6, 1.9))
    for name, a in zip(names, axes, strict=False):
        _course(r, name, a, scale)
    _feed(r, axes[-2], scale)
    axes[-2].set_xlim(axes[0].get_xlim())
    _legend(axes[-1])
    for a in axes[:-1]:
        a.axvline(r.now_h / scale, color=INK, linewidth=0.8, linestyle=":")
    axes[len(names)].set_xlabel("day" if days else "h", fontsize=STYLE["small"])
    return figure


def _course(r: Replan, name: str, a: Axes, scale: float) -> None:
    for process, colour, front in ((r.plan, GREY, 2), (r.replanned, BLUE, 3)):
        s = process.trajectory
        i = s.names.index(name)
        t = s.time_h / scale
        if name == "temperature":
            a.step(t, s.p50[i], where="pre", color=colour, linewidth=1.4, zorder=front)
            continue
        a.fill_between(t, s.p05[i], s.p95[i], color=colour, alpha=0.2, linewidth=0, zorder=front)
        a.plot(t, s.p50[i], color=colour, linewidth=1.4, zorder=front)
    own = [x for x in r.readings if x.variable == name]
    for hollow in (False, True):
        some = [x for x in own if x.censored == hollow]
        face = "white" if hollow else ORANGE
        a.plot([x.time_h / scale for x in some], [x.value for x in some], "o", ms=3.0, color=ORANGE, mfc=face, zorder=4)
    for c in r.limits:
        if c.name.startswith(name) or (name == "volume" and c.name == "vessel_volume"):
            a.axhline(c.limit, color=ORANGE, linewidth=0.9, linestyle="--")
    s = r.replanned.trajectory
    a.set_title(f"{name.replace('_', ' ')} [{s.units[s.names.index(name)]}]", fontsize=STYLE["font"])


def _feed(r: Replan, a: Axes, scale: float) -> None:
    """Boluses as bars: given, ahead in the current plan, and ahead in the new plan; continuous feeds as lines."""
    after, before = (drawn_feeds(p.actions) for p in (r.replanned, r.plan))
    done = set(r.done)
    if after.boluses or before.boluses:
        given = [x for own in after.boluses.values() for x in own]
        ahead = [x for x in given if x not in done]
        rest = [x for own in before.boluses.values() for x in own if x not in done and x.time_h >= r.now_h - 1e-6]
        rows = (([x for x in given if x in done], INK, 0.0), (rest, GREY, -0.2), (ahead, BLUE, 0.2))
        for own, colour, shift in rows:
            at, volumes = [x.time_h / scale + shift for x in own], [x.volume_ml for x in own]
            a.bar(at, volumes, 0.5 if shift == 0.0 else 0.38, color=colour)
        a.set_title("bolus [mL]", fontsize=STYLE["font"])
        return
    for process, colour in ((before, GREY), (after, BLUE)):
        for feed in list(process.rates)[:1]:
            t, rate = process.rates[feed]
            a.plot(t / scale, rate, color=colour, linewidth=1.4)
    a.set_title("feed [mL/h]", fontsize=STYLE["font"])


def _legend(a: Axes) -> None:
    a.axis("off")
    rows = [
        (Line2D([], [], color=ORANGE, marker="o", linestyle="", markersize=4), "reading"),
        (Line2D([], [], color=GREY, linewidth=1.6), "current plan (90 % band)"),
        (Line2D([], [], color=BLUE, linewidth=1.6), "new plan (90 % band)"),
        (Patch(color=INK), "bolus given"),
        (Line2D([], [], color=ORANGE, linewidth=0.9, linestyle="--"), "limit"),
        (Line2D([], [], color=INK, linewidth=0.8, linestyle=":"), "now"),
    ]
    a.legend([h for h, _ in rows], [t for _, t in rows], fontsize=STYLE["small"], frameon=False, loc="center left")
