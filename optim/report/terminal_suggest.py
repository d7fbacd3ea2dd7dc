"""What the terminal shows of a suggestion; and the same as metrics for tracking."""

from __future__ import annotations

import re

from optim.doe.result import Suggestion
from optim.optimisation.result import DecisionValue

WAYS = {
    "decision": "what they are worth to the decision",
    "d_optimal": "information on all parameters",
    "space_filling": "how they fill the design",
    "random": "chance",
}


def suggestion_lines(s: Suggestion, top: int = 5) -> list[str]:
    """The clones in question, the runs, and what they are expected to change."""
    new = sum(run.new_clone for run in s.runs)
    lines = [
        f"{len(s.runs)} runs with {s.samples} samples, chosen by {WAYS[s.by]} out of {s.considered} that meet all "
        f"limits with a probability of at least {s.least_met:g}" + (f"; {new} of clones not seen yet" if new else ""),
        f"  now: {s.clones[0].clone} is the likeliest best clone by {s.objective} ({s.unit})",
    ]
    for c in [c for c in s.clones if c.chance >= 0.01][:top]:
        lines.append(f"    {c.clone:<8} {c.value:.4g} ± {100 * c.relative_sd:.2g} %   P(best) {c.chance:.2f}")
    wide = max(len(run.run.run_id) for run in s.runs)
    for run in s.runs:
        days = ", ".join(f"{d:g}" for d in run.sample_days)
        lines.append(f"  {run.run.run_id:<{wide}}  {run.run.clone_id:<8} {process_text(run.decisions)}")
        lines.append(f"  {'':<{wide}}  samples on days {days}; meets all limits with a probability of {run.met:.2f}")
        lines.append(f"  {'':<{wide}}  worth {100 * run.gain:.2g} %: {run.reason}")
    lines.append(
        f"  expected: the right clone is chosen with a probability of {s.chance_after:.2f} instead of "
        f"{s.chance_before:.2f}; shortfall for not knowing the best {100 * s.loss_after:.2g} % instead of "
        f"{100 * s.loss_before:.2g} %"
    )
    return lines


def process_text(decisions: tuple[DecisionValue, ...]) -> str:
    """Decisions in one line; a profile by its range and mean."""
    profiles: dict[str, list[DecisionValue]] = {}
    parts = []
    for d in decisions:
        timed = re.fullmatch(r"(.*)_(day_[\d.]+|[\d.]+h)", d.name)
        if timed:
            profiles.setdefault(timed.group(1), []).append(d)
        else:
            parts.append(f"{d.name.replace('_', ' ')} {d.value:.4g} {d.unit}")
    for name, own in profiles.items():
        values = [d.value for d in own]
        mean = sum(values) / len(values)
        parts.insert(
            0, f"{name.replace('_', ' ')} {min(values):.3g} to {max(values):.3g} (mean {mean:.3g}) {own[0].unit}"
        )
    return "; ".join(parts)


def suggestion_metrics(s: Suggestion) -> dict[str, float]:
    """Scores by name."""
    return {
        "suggest/chance_before": s.chance_before,
        "suggest/chance_after": s.chance_after,
        "suggest/loss_before": s.loss_before,
        "suggest/loss_after": s.loss_after,
        "suggest/gain": sum(run.gain for run in s.runs),
        "suggest/samples": float(s.samples),
    }
