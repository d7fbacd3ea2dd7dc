"""The tidy CSV contract: which tables and columns a dataset folder has, and the rules every cell must meet."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from optim.data.csv_lines import read_lines, square_rows
from optim.data.dataset import Run
from optim.errors import BadCell, ConfigError, nearest
from optim.storage import LONGEST_NAME, name_fault
from optim.units import VARIABLES, Quantity, display_unit, to_canonical


@dataclass(frozen=True)
class Range:
    """The numbers that a cell may hold, in the unit of its column, and what those beyond are likely to be."""

    least: float = -1e15
    most: float = 1e15
    above: bool = False  # the least itself is refused
    unit: str = ""
    hint: str = ""

    def fault(self, value: float) -> str:
        """What is wrong with a value; '' when it may be."""
        unit = f" {self.unit}" if self.unit else ""
        if value < self.least:
            return f"must not be below {self.least:g}{unit}"
        if self.above and value == self.least:
            return f"must be above {self.least:g}{unit}"
        if value > self.most:
            return f"above {self.most:g}{unit}, which cannot be meant{self.hint}"
        return ""


ANY = Range()
POSITIVE = Range(least=0.0)
# what a vessel can have; far beyond what is usual, so that only slips are refused
TEMPERATURE = Range(0.0, 100.0, unit="°C", hint="; is it in kelvin or degrees Fahrenheit?")
ACIDITY = Range(0.0, 14.0)
START_VOLUME = Range(0.0, 1e9, above=True, unit="mL")
DURATION = Range(0.0, 10_000.0, above=True, unit="h", hint="; is it in minutes or seconds?")
SEED_DENSITY = Range(0.0, 1000.0, unit="1e6 cells/mL", hint="; is it in cells/mL?")
RESERVED_CLONES = ("population", "best")  # words of settings and results for a new clone, and for the first in rank
END_ROUNDED_H = 1e-3  # by which a time may exceed the end of its run, which is then rounded


@dataclass(frozen=True)
class Table:
    """A table of the contract. Optional columns may be absent; blank cells are allowed only where stated."""

    file: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


MEASUREMENTS = Table(
    "measurements.csv",
    ("run_id", "time_h", "variable", "value", "unit"),
    ("experiment_id", "vessel_id", "clone_id", "method", "replicate", "censored", "qc_flag", "when"),
)
EVENT_TABLE = Table(
    "events.csv",
    ("run_id", "time_h", "kind", "value", "unit"),
    ("feed_id", "value_end", "until_h", "ramp_h", "growth_per_h", "component"),
)
RUNS = Table(
    "runs.csv",
    ("run_id", "clone_id", "start_volume_ml", "medium_id", "temperature_c", "end_time_h"),
    ("experiment_id", "vessel_id", "ph", "inoculum_vcd_1e6_per_ml"),
)
MEDIA = Table("media.csv", ("medium_id", "component", "value", "unit"))
TRUTH = Table("truth.csv", ("owner", "parameter", "value"))


NOT_A_NUMBER = "not a number"
NOT_FINITE = "not a finite number; leave the row out when nothing was measured"


def _no_number(text: str) -> str:
    """Why a text is no number, and what to write instead."""
    if text == "":
        return "blank; expected a number"
    if re.fullmatch(r"[<>]=?\s*[\d.,]+", text):
        return f"not a number; write {text.lstrip('<>= ')} here, and {text[0]} in the column 'censored'"
    if re.fullmatch(r"-?[\d.]+\s*%", text):
        return f"not a number; write {text.rstrip('% ')} here, and % in the column 'unit'"
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+", text):
        joined, first = text.replace(",", ""), text.replace(",", ".", 1)
        if text.count(",") > 1:
            return f"not a number; write {joined}, without separators of thousands"
        return f"a comma is no part of a number: write {first} if it is decimal, {joined} if it parts thousands"
    if re.fullmatch(r"-?\d*,\d+([eE][-+]?\d+)?", text):
        return "decimal comma; write a decimal point"
    return NOT_A_NUMBER


@dataclass
class Checker:
    """Collects every fault of a dataset; nothing is raised before all tables have been read."""

    cells: list[BadCell] = field(default_factory=list)

    def note_fault(self, file: str, row: int | None, column: str, *, rule: str, value: object = None) -> None:
        self.cells.append(BadCell(file, row, column, "" if value is None else str(value), rule))

    def read_table(self, folder: Path, table: Table) -> pd.DataFrame:
        """The table as text, every required and optional column present; empty when it cannot be read."""
        empty = pd.DataFrame({c: pd.Series(dtype=str) for c in (*table.required, *table.optional)})
        lines, faults = read_lines(folder / table.file, expected=f"expected columns {', '.join(table.required)}")
        header, rows = square_rows(lines, faults) if lines else ([], [])
        for line, rule in faults:
            self.note_fault(table.file, line, "", rule=rule)
        if not lines:
            return empty
        for column in sorted({c for c in header if header.count(c) > 1}):
            self.note_fault(table.file, lines[0][0], column, rule="column is given twice")
        if len(set(header)) < len(header):
            return empty
        frame = pd.DataFrame([r for _, r in rows], columns=header, index=[n for n, _ in rows], dtype=str)
        allowed = (*table.required, *table.optional)
        for column in frame.columns:
            if column not in allowed:
                rule = f"unknown column.{nearest(column, allowed)} Allowed: {', '.join(allowed)}"
                self.note_fault(table.file, 1, column, rule=rule)
        missing = [c for c in table.required if c not in frame.columns]
        for column in missing:
            self.note_fault(table.file, 1, column, rule=f"column is missing.{nearest(column, frame.columns)}")
        if missing:
            return empty
        if frame.empty:
            self.note_fault(table.file, None, "", rule="no rows below the header")
        for column in table.optional:
            if column not in frame.columns:
                frame[column] = ""
        return frame

    def read_number(
        self, file: str, row: int, column: str, *, text: str, allowed: Range = ANY, blank: bool = False
    ) -> float:
        """The number in a cell, NaN after noting a fault (or for a blank cell where that is allowed)."""
        if text == "" and blank:
            return math.nan
        try:
            # Python would take an underscore between digits, and digits of other scripts
            value = float(text) if text.isascii() and "_" not in text else math.nan
            rule = "" if math.isfinite(value) else NOT_FINITE if text.isascii() and "_" not in text else NOT_A_NUMBER
        except ValueError:
            rule = _no_number(text)
        if not rule:
            rule = allowed.fault(value)
        if rule:
            self.note_fault(file, row, column, value=text, rule=rule)
            return math.nan
        return value

    def require_one_of(
        self, file: str, row: int, column: str, *, text: str, allowed: tuple[str, ...], what: str
    ) -> bool:
        if text in allowed:
            return True
        self.note_fault(
            file,
            row,
            column,
            value=text,
            rule=f"unknown {what}.{nearest(text, allowed)} Known: {', '.join(allowed[:20])}",
        )
        return False

    def convert_unit(self, file: str, row: int, value: float, *, unit: str, quantity: Quantity) -> float:
        """The value in its canonical unit, NaN after noting a unit that does not fit or a value that cannot be."""
        try:
            converted = to_canonical(value, unit, quantity)
        except ConfigError as err:
            self.note_fault(file, row, "unit", value=unit, rule=str(err))
            return math.nan
        if quantity.upper is not None and converted > quantity.upper * (1.0 + 1e-9):
            rule = f"above {quantity.upper:g} {display_unit(quantity.unit)}, which cannot be meant; is the unit right?"
            self.note_fault(file, row, "value", value=f"{value:g} {unit}", rule=rule)
            return math.nan
        return converted


def checked_variable(check: Checker, file: str, row: int, *, column: str, name: str) -> Quantity | None:
    """The quantity of a measured variable or medium component; None after noting an unknown name."""
    return (
        VARIABLES[name]
        if check.require_one_of(file, row, column, text=name, allowed=tuple(VARIABLES), what="variable")
        else None
    )


def known_run(check: Checker, file: str, row: int, *, run_id: str, runs: Mapping[str, Run]) -> Run | None:
    """The run that a row refers to; None after noting that there is no such run."""
    if not runs:
        return None  # the table of runs itself is at fault and has been reported
    if run_id in runs:
        return runs[run_id]
    check.note_fault(file, row, "run_id", value=run_id, rule=f"not in {RUNS.file}.{nearest(run_id, runs)}")
    return None


def event_time(check: Checker, file: str, row: int, *, cell: Mapping[str, str], run: Run | None) -> float:
    """The time of a row in h, NaN after noting a fault; within the run, where that is known."""
    time = check.read_number(file, row, "time_h", text=cell["time_h"], allowed=POSITIVE)
    if run is None or not run.end_time_h > 0.0:
        return time
    if time > run.end_time_h + END_ROUNDED_H:
        rule = f"after the end of run {run.run_id} ({run.end_time_h:.10g} h)"
        check.note_fault(file, row, "time_h", value=cell["time_h"], rule=rule)
    return min(time, run.end_time_h)


def check_name(check: Checker, file: str, row: int | None, *, column: str, text: str, blank: bool = True) -> None:
    """Note an identifier that no file, page or table could show, or one that is missing."""
    if not text and not blank:
        check.note_fault(file, row, column, value="", rule="blank; every row needs one")
    elif len(text) > LONGEST_NAME:
        rule = f"{len(text):,} characters; an identifier has at most {LONGEST_NAME}"
        check.note_fault(file, row, column, value=text[:20] + "...", rule=rule)
    elif not text.isprintable():
        check.note_fault(file, row, column, value=text, rule="holds a character that cannot be shown; retype it")
    elif text and (fault := name_fault(text)):
        check.note_fault(file, row, column, value=text, rule=fault)


RowVisitor = Callable[[int, dict[str, str]], None]


def visit_rows(frame: pd.DataFrame, visitor: RowVisitor) -> None:
    """Call `visitor(line, cells)` for each row; `line` is the line of the file, the header being line 1."""
    for line, cells in zip(frame.index, frame.to_dict("records"), strict=True):
        visitor(int(line), {str(k): str(v) for k, v in cells.items()})
