"""What the terminal shows of a running batch planned anew; and the same as metrics for tracking."""

from __future__ import annotations

import math

from optim.process.metrics import find_metric
from optim.replanning.result import Replan
from optim.schedule.actions import Action, Harvest
from optim.schedule.events import event_rows


def replan_lines(r: Replan) -> list[str]:
    """What was seen, what to do until the next sample, every decision with its reason, and both plans' prospects."""
    a, b = r.plan.metrics[r.objective], r.replanned.metrics[r.objective]
    unit, text = r.plan.metric_units[r.objective], find_metric(r.objective).text
    clone = r.clone if r.known_clone else f"{r.clone}, new to the fit"
    lines = [f"run {r.run} ({clone}) on day {r.now_h / 24.0:.3g}: {len(r.readings)} readings"]
    lines += [f"  seen: {text}" for text in r.seen] or ["  seen: nothing out of line with the plan"]
    lines.append(f"  next, until the sample on day {r.next_sample_h / 24.0:.3g}:")
    lines += [f"    {text}" for x in r.next_actions for text in action_texts(x, r.next_sample_h)] or ["    nothing"]
    if r.kept:
        lines.append("  the plan is kept: no change is worth it")
    lines.append(f"  {'decision':<24}{'planned':>10}{'now':>10}   reason")
    for d in r.decisions:
        now = "-" if math.isnan(d.now) else f"{d.now:.4g}"
        lines.append(f"  {d.name:<24}{d.planned:>10.4g}{now:>10} {d.unit}   {d.reason}")
    lines.append(
        f"  {r.objective}: plan {text(a.p50)} {unit} [{text(a.p05)}, {text(a.p95)}], anew {text(b.p50)} "
        f"[{text(b.p05)}, {text(b.p95)}], {r.gain:+.1%} at the estimate, better with probability {r.chance_better:.2f}"
    )
    for c in r.limits:
        lines.append(
            f"    {c.name} ({c.kind} {c.limit:g} {c.unit}): met with probability {c.planned_chance:.2f} by the plan, "
            f"{c.chance:.2f} anew"
        )
    fit = ", ".join(f"{x.variable} {x.rms:.1f}" for x in r.agreement)
    if fit:
        lines.append(f"  readings against the updated model, rms of standardised residuals: {fit}")
    lines.append(f"  {r.members:.0f} of the fit's parameter sets have a say")
    return lines


def action_texts(action: Action, end_h: float) -> list[str]:
    """One action as lines, one for each event of it."""
    if isinstance(action, Harvest):
        return [f"{_when(action.time_h)}: harvest"]
    lines = []
    for row in event_rows((action,), end_h):
        what = f"{row.kind.replace('_', ' ')} {row.feed_id}".rstrip()
        to = "" if row.value_end is None else f" to {row.value_end:.4g}"
        ramp = f" within {row.ramp_h:g} h" if row.ramp_h else ""
        until = "" if row.until_h is None else f", until {row.until_h:g} h"
        lines.append(f"{_when(row.time_h)}: {what} {row.value:.4g}{to} {row.unit}{ramp}{until}")
    return lines


def _when(time_h: float) -> str:
    return f"{time_h:g} h (day {time_h / 24.0:.3g})"


def replan_metrics(r: Replan) -> dict[str, float]:
    """Prospects by name."""
    found = {
        "replan/now_h": r.now_h,
        "replan/gain": r.gain,
        "replan/chance_better": r.chance_better,
        f"replan/{r.objective}": r.replanned.metrics[r.objective].p50,
        f"replan_plan/{r.objective}": r.plan.metrics[r.objective].p50,
    }
    found |= {f"replan/met_{c.name}": c.chance for c in r.limits}
    return found | {f"replan_plan/met_{c.name}": c.planned_chance for c in r.limits}
