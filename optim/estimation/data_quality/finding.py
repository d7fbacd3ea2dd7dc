"""A finding about the data in words: which fault, its size, and what to check at the bench."""

from __future__ import annotations

from dataclasses import dataclass

from optim.errors import ConfigError
from optim.units import VARIABLES, display_unit

SEVERITIES = ("error", "warning", "note")
# times of a run that is longer than this are written in days, as laboratories do
DAYS_FROM_H = 96.0


@dataclass(frozen=True)
class Finding:
    """One fault or oddity of the data.

    Severity error: correct the readings or leave them out before a decision is taken; warning: look at them; note: for
    information. `vessel` and `variable` are '' where the finding is about several; `time_h` is when it begins, or None.
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
    """Findings without repetitions, the gravest first, otherwise in their order."""
    different = list(dict.fromkeys(findings))
    return tuple(sorted(different, key=lambda f: SEVERITIES.index(f.severity)))


def time_text(time_h: float, end_h: float) -> str:
    """A time in words: in days for a run that takes days, else in hours."""
    return f"day {time_h / 24.0:.3g}" if end_h >= DAYS_FROM_H else f"{time_h:.3g} h"


def value_text(variable: str, value: float) -> str:
    """A reading in words, with the unit of its variable."""
    unit = display_unit(VARIABLES[variable].unit)
    return f"{value:.3g}" if unit in ("-", "1") else f"{value:.3g} {unit}"


def join_names(names: list[str], most: int = 6) -> str:
    """Names as part of a sentence, at most `most` of them, the others counted."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
