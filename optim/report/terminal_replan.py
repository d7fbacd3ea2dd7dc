"""What the terminal shows of a running batch planned anew; and the same as metrics for tracking."""

from __future__ import annotations

import math

from optim.optimisation.result import Action
from optim.process.metrics import find_metric
from optim.replanning.result import Replan


def replan_lines(r: Replan) -> list[str]:
    """What was seen, what to do until the next sample, every decision with its reason, and both plans' prospects."""
    a, b = r.plan.metrics[r.objective], r.replanned.metrics[r.objective]
    unit, text = r.plan.metric_units[r.objective], find_metric(r.objective).text
    clone = r.clone if r.known_clone else f"{r.clone}, new to the fit"
    lines = [f"run {r.run} ({clone}) on day {r.now_h / 24.0:.3g}: {len(r.readings)} readings"]
    lines += [f"  seen: {text}" for text in r.seen] or ["  seen: nothing out of line with the plan"]
    lines.append(f"  next, until the sample on day {r.next_sample_h / 24.0:.3g}:")
    lines += [f"    {action_text(x)}" for x in r.next_actions] or ["    nothing"]
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


def action_text(a: Action) -> str:
    """One action as a line."""
    when = f"{a.time_h:g} h (day {a.time_h / 24.0:.3g})"
    if a.kind == "harvest":
        return f"{when}: harvest"
    to = f" to {a.value_end:.4g}" if a.value_end is not None and abs(a.value_end - a.value) > 1e-9 else ""
    return f"{when}: {a.kind.replace('_', ' ')} {a.what} {a.value:.4g}{to} {a.unit}"


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
