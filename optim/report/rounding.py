"""Rounding of decisions to what pumps and controllers can set."""

from __future__ import annotations

import math
from collections.abc import Collection

from optim.optimise.result import DecisionValue

_SLACK = 1e-9  # of a step: a value this near a multiple lies on it


def round_decisions(decisions: tuple[DecisionValue, ...], down: Collection[str] = ()) -> dict[str, float]:
    """Every decision at the nearest multiple of its resolution that lies within its bounds, in its own unit.

    Those named in `down` are rounded down: for volumes where the nearest step would overfill the vessel. A decision
    without resolution, or with no multiple between its bounds, is only kept within the bounds.
    """
    return {d.name: _rounded(d, d.name in down) for d in decisions}


def _rounded(d: DecisionValue, down: bool) -> float:
    value = min(max(d.value, d.lower), d.upper)
    if d.resolution <= 0.0:
        return value
    steps = value / d.resolution
    k = math.floor(steps + _SLACK) if down else math.floor(steps + 0.5)
    lowest = math.ceil(d.lower / d.resolution - _SLACK)
    highest = math.floor(d.upper / d.resolution + _SLACK)
    if lowest > highest:
        return value
    # 12 digits keep 0.1 * 3 from reading 0.30000000000000004
    return min(max(float(f"{min(max(k, lowest), highest) * d.resolution:.12g}"), d.lower), d.upper)
