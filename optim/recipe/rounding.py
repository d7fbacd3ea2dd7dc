"""Decisions as pumps and controllers can carry them out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from optim.optimisation.result import DecisionValue, ProcessOutcome

MET = -1e-6  # of a limit: a margin above this meets it
# a step above or below counts as the value itself within this
STEP_ROUND_OFF = 1e-9

ROUNDING_RULES: dict[str, Callable[[float], int]] = {
    "nearest": lambda steps: math.floor(steps + 0.5),
    "above": lambda steps: math.ceil(steps - STEP_ROUND_OFF),
    "below": lambda steps: math.floor(steps + STEP_ROUND_OFF),
}


def rounded_decisions(decisions: tuple[DecisionValue, ...]) -> tuple[float, ...]:
    """Every decision at the multiple of its resolution nearest to it, within bounds.

    A decision without resolution, or with no multiple between its bounds, stays unrounded.
    """
    return tuple(_value(d, ROUNDING_RULES["nearest"](_steps(d))) for d in decisions)


def rounding_choices(decisions: tuple[DecisionValue, ...]) -> np.ndarray:
    """Alternative roundings of the decisions to pump steps, [W, D]; the first rounds each decision to its nearest step.

    The next three round the running total of a feed's volumes: to the nearest step, up, or down. The last two round
    every volume up, or every volume down.
    """
    found = [rounded_decisions(decisions)]
    found += [_by_total(decisions, ROUNDING_RULES[way]) for way in ("nearest", "above", "below")]
    for way in ("above", "below"):
        chosen = (ROUNDING_RULES[way] if d.unit.startswith("mL") else ROUNDING_RULES["nearest"] for d in decisions)
        found.append(tuple(_value(d, to(_steps(d))) for d, to in zip(decisions, chosen, strict=True)))
    return np.array(list(dict.fromkeys(found)))


def kept_best(worst: np.ndarray, exact: float) -> int:
    """Index of the first rounding that meets limits as well as the exact process does, else of the least violation.

    Args:
        worst: smallest relative margin of each rounding, [W].
        exact: smallest relative margin of the process before rounding.
    """
    keeps = np.flatnonzero(worst >= min(exact, 0.0) + MET)
    return int(keeps[0]) if len(keeps) else int(np.argmax(np.nan_to_num(worst, nan=-np.inf)))


def _by_total(decisions: tuple[DecisionValue, ...], way: Callable[[float], int]) -> tuple[float, ...]:
    totals: dict[tuple[str, float], tuple[float, int]] = {}
    found = []
    for d in decisions:
        if not d.unit.startswith("mL") or d.resolution <= 0.0 or d.value <= STEP_ROUND_OFF * d.resolution:
            found.append(_value(d, ROUNDING_RULES["nearest"](_steps(d))))
            continue
        key = re.sub(r"_?\d[\d.]*$", "", d.name), d.resolution
        wanted, given = totals.get(key, (0.0, 0))
        wanted += _steps(d)
        value = _value(d, max(0, way(wanted) - given))
        totals[key] = wanted, given + round(value / d.resolution)
        found.append(value)
    return tuple(found)


def _steps(d: DecisionValue) -> float:
    return d.value / d.resolution if d.resolution > 0.0 else 0.0


def _value(d: DecisionValue, k: int) -> float:
    """k steps, within bounds."""
    lowest = math.ceil(d.lower / d.resolution - STEP_ROUND_OFF) if d.resolution > 0.0 else 0
    highest = math.floor(d.upper / d.resolution + STEP_ROUND_OFF) if d.resolution > 0.0 else -1
    if lowest > highest:
        return d.value
    # twelve digits keep 3 * 0.1 from reading 0.30000000000000004
    return float(f"{min(max(k, lowest), highest) * d.resolution:.12g}")


def broken_limits(process: ProcessOutcome) -> tuple[str, ...]:
    """Names of the limits that the process does not meet at the estimate."""
    return tuple(c.name for c in process.constraints if c.margin < MET * abs(c.limit))
