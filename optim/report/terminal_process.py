"""What the terminal shows of a process under uncertainty: risk, influences, drifts and trade-offs."""

from __future__ import annotations

import numpy as np

from optim.optimisation.pareto import Front
from optim.optimisation.result import Robustness, VariantReport
from optim.optimisation.sensitivity import Stress
from optim.process.metrics import find_metric, relative_change

MEASURED = {
    "nominal": "at the estimate",
    "expectation": "mean",
    "cvar": "mean of the worst {tail:.0%}",
    "quantile": "{tail:.0%} quantile",
}


def measured(r: Robustness) -> str:
    """The measure of risk in words."""
    return MEASURED[r.measure].format(tail=r.tail)


def robustness_lines(r: Robustness, unit: str) -> list[str]:
    """Each process over the scenarios that the search used, and over those that it did not."""
    asked = f"; all limits in {r.chance:.0%} of them" if r.chance else ""
    lines = [
        f"    under uncertainty: {measured(r)} of {r.members} scenarios{asked}",
        f"      {'':<16} {'searched':>10} {'held out':>10} {unit:<8} {'limits met':>12} {'held out':>10}",
    ]
    for row in r.rows:
        lines.append(
            f"      {row.process:<16} {row.seen:>10.4g} {row.held_out:>10.4g} {'':<8} {row.met_seen:>12.0%} "
            f"{row.met_held_out:>10.0%}"
        )
    return lines


def variant_lines(rows: tuple[VariantReport, ...], unit: str, most: int = 8) -> list[str]:
    """Discrete choices, the best first."""
    lines = [f"    choices, each at its best at the estimate ({unit}):"]
    lines += [f"      {v.name:<40} {v.message or format(v.objective, '.4g')}" for v in rows[:most]]
    return lines + ([f"      and {len(rows) - most} more"] if len(rows) > most else [])


def stress_lines(s: Stress, most: int = 8) -> list[str]:
    """What moves the metric most, what would change the process, and what drifts do."""
    value = f"{s.objective} {find_metric(s.objective).text(s.value)} {s.unit}"
    lines = [f"stress on the process of {s.clone}: {value}, all limits met in {s.met:.0%}"]
    lines.append(f"  {'parameter or price':<24} {'range':<22} {'as it is':>18} {'optimised anew':>18}")
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
        why = "the limits ask for" if np.isnan(side.gain) else f"{100.0 * side.gain:.1f}% are to be had with"
        lines.append(f"    {name} at its {end} end: {why} {side.moved}")
    lines.append(
        f"  {len(ends)} of {2 * len(s.influences)} ends ask for another process{' than the best' if ends else ''}"
    )
    lines.append(f"  {'drift':<30} {'change, 90 %':>26} {'limits met':>12}")
    for d in s.drifts:
        band = f"{100.0 * d.change:+.1f}% [{100.0 * d.change_p05:+.1f}, {100.0 * d.change_p95:+.1f}]"
        failed = f", {d.failed} could not be simulated" if d.failed else ""
        lines.append(f"  {d.name:<30} {band:>26} {d.met:>12.0%} {d.breaks}{failed}")
    return lines


def front_lines(f: Front) -> list[str]:
    """The front, point by point."""
    lines = [
        f"front of {f.first} ({f.first_unit}) against {f.second} ({f.second_unit}) for {f.clone}: "
        f"{len(f.points)} processes, hypervolume {f.hypervolume:.3f} of its rectangle"
    ]
    lines += [f"  {p.second:>12.5g} {p.first:>12.5g}" for p in f.points]
    lines.append(f"  {f.platform[1]:>12.5g} {f.platform[0]:>12.5g}  platform process")
    if f.lost:
        lines.append(f"  {f.lost} levels could not be reached within all limits")
    return lines
