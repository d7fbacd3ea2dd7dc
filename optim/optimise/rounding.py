"""Decisions as pumps and controllers can carry them out."""

from __future__ import annotations

import math

from optim.optimise.result import DecisionValue, ProcessOutcome

MET = -1e-6  # of a limit: a margin above this meets it


def rounded_decisions(decisions: tuple[DecisionValue, ...], feeds_down: bool = False) -> tuple[float, ...]:
    """Every decision at the multiple of its resolution nearest to it (for feeds on request: below it), within bounds.

    A decision without resolution, or with no multiple between its bounds, is kept as it is.
    """
    return tuple(_rounded(d, feeds_down and d.unit.startswith("mL")) for d in decisions)


def _rounded(d: DecisionValue, down: bool) -> float:
    lowest = math.ceil(d.lower / d.resolution - 1e-9) if d.resolution > 0.0 else 0
    highest = math.floor(d.upper / d.resolution + 1e-9) if d.resolution > 0.0 else -1
    if lowest > highest:
        return d.value
    steps = d.value / d.resolution
    k = math.floor(steps + 1e-9) if down else math.floor(steps + 0.5)
    # twelve digits keep 3 * 0.1 from reading 0.30000000000000004
    return float(f"{min(max(k, lowest), highest) * d.resolution:.12g}")


def broken_limits(process: ProcessOutcome) -> tuple[str, ...]:
    """Names of the limits that the process does not meet at the estimate."""
    return tuple(c.name for c in process.constraints if c.margin < MET * abs(c.limit))
