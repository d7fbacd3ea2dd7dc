"""A finding about data, in words: what was seen, by how much, and what to check at the bench."""

from __future__ import annotations

from dataclasses import dataclass

from optim.errors import ConfigError
from optim.units import VARIABLES, display_unit

SEVERITIES = ("error", "warning", "note")
# a run longer than this is told in days, as its people do
DAYS_FROM_H = 96.0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or odd, in the data.

    error: leave the readings out or correct them before a decision is taken; warning: look at it; note: know it.
    `vessel` and `variable` are '' where more than one is meant; `time_h` is where it is seen or begins, or None.
    """

    kind: str
    severity: str
    vessel: str
    variable: str
    time_h: float | None
    statement: str

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ConfigError(f"severity '{self.severity}' is not one of {', '.join(SEVERITIES)}")


def order_findings(findings: list[Finding]) -> tuple[Finding, ...]:
    """The gravest first; otherwise as they were found, each said once."""
    different = list(dict.fromkeys(findings))
    return tuple(sorted(different, key=lambda f: SEVERITIES.index(f.severity)))


def time_text(time_h: float, end_h: float) -> str:
    """A time as the people of a run tell it: in days where it takes days."""
    return f"day {time_h / 24.0:.3g}" if end_h >= DAYS_FROM_H else f"{time_h:.3g} h"


def value_text(variable: str, value: float) -> str:
    """A reading with its unit."""
    unit = display_unit(VARIABLES[variable].unit)
    return f"{value:.3g}" if unit in ("-", "1") else f"{value:.3g} {unit}"


def join_names(names: list[str], most: int = 6) -> str:
    """Names in a sentence; the rest is counted."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
