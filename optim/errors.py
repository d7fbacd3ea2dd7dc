"""The error tree and the status codes of a simulation.

An `OptimError` is the user's to mend: the command line prints it as one message and exits with 2.
Anything else that escapes is a fault of this package.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class OptimError(Exception):
    """Base of every error that a user can mend."""


MOST_CAUSES = 50  # that a message shows
MOST_ROWS_NAMED = 6  # of one cause


@dataclass(frozen=True)
class BadCell:
    """One refused value of a table: where it stands, what it is, and the rule it breaks."""

    file: str
    row: int | None  # 1-based line of the file, header = line 1; None when the whole file is meant
    column: str
    value: str
    rule: str

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file}:{self.row}"
        column = f" column '{self.column}'" if self.column else ""
        value = f" value {self.value!r}" if self.value != "" else ""
        return f"{where}{column}{value}: {self.rule}"


class DatasetError(OptimError):
    """A dataset that cannot be used; carries every bad cell found, not only the first."""

    def __init__(self, message: str, cells: Sequence[BadCell] = ()):
        self.cells = tuple(cells)
        shown = [f"  {line}" for line in _by_cause(self.cells)]
        if len(shown) > MOST_CAUSES:
            shown[MOST_CAUSES:] = [f"  ... and {len(shown) - MOST_CAUSES} more"]
        super().__init__("\n".join([message, *shown]))


def _by_cause(cells: Sequence[BadCell]) -> list[str]:
    """One line per cause: rows that break one rule by one value are named together."""
    causes: dict[tuple[str, str, str, str], list[BadCell]] = {}
    for cell in cells:
        causes.setdefault((cell.file, cell.column, cell.value, cell.rule), []).append(cell)
    lines = []
    for same in causes.values():
        rows = [str(cell.row) for cell in same[1:MOST_ROWS_NAMED]]
        more = f" and {len(same) - MOST_ROWS_NAMED} rows more" if len(same) > MOST_ROWS_NAMED else ""
        lines.append(f"{same[0]}" + (f" (also in rows {', '.join(rows)}{more})" if rows else ""))
    return lines


class ConfigError(OptimError):
    """A configuration key or value that is not allowed."""


class IncompatibleError(OptimError):
    """Two artefacts that do not fit together (other model, other schema version, other data)."""


class SimulationError(OptimError):
    """A simulation ended early; names the vessel, the time and the remedy."""


class FitError(OptimError):
    """Estimation could not produce an answer."""


class MisfitError(OptimError):
    """A fit that does not describe an assay on which a decision would rest; names assay and remedy."""


class InfeasibleError(OptimError):
    """No process meets the constraints; names those in conflict."""


class OptimWarning(UserWarning):
    """Base of every named warning."""


class UnidentifiableWarning(OptimWarning):
    """The data do not determine a parameter."""


class BoundActiveWarning(OptimWarning):
    """An estimate or decision lies on its bound."""


class ExtrapolationWarning(OptimWarning):
    """A process lies outside the range that was screened."""


class UnverifiedWarning(OptimWarning):
    """A result rests on numbers that no source supports."""


class DisagreementWarning(OptimWarning):
    """Readings of a running batch that no plausible parameter set explains."""


class IntegratorWarning(OptimWarning):
    """Another stepper would take less time."""


class ApproximationWarning(OptimWarning):
    """Two approximations of the uncertainty of a parameter do not agree, so that at least one of them is wrong."""


class TrackingWarning(OptimWarning):
    """Tracking is unavailable or has stopped; the results are in the output folder all the same."""


class CacheWarning(OptimWarning):
    """Compiled programs cannot be kept; every command compiles them anew, which takes time."""


class Status(enum.IntEnum):
    """Status code of one simulated vessel: the worst (largest) code of all its steps."""

    OK = 0
    MAX_STEPS = 1
    STEP_TOO_SMALL = 2
    NON_FINITE = 3
    VOLUME_EXHAUSTED = 4
    OUT_OF_RANGE = 5

    @property
    def remedy(self) -> str:
        return {
            Status.OK: "",
            Status.MAX_STEPS: "raise integrator.max_steps, or use integrator=stiff",
            Status.STEP_TOO_SMALL: "the system is stiff or discontinuous here: check the rate laws, "
            "loosen integrator.rtol, or use integrator=stiff",
            Status.NON_FINITE: "a rate became infinite or NaN: check parameters and initial state",
            Status.VOLUME_EXHAUSTED: "samples and withdrawals exceed the vessel's content: check volumes",
            Status.OUT_OF_RANGE: "a species became clearly negative: a rate law consumes what is not there; gate it",
        }[self]


def nearest(word: str, allowed: Iterable[str]) -> str:
    """' Did you mean x?' for the closest allowed word, or '' when nothing is close."""
    match = get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""
