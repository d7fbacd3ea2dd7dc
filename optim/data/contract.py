"""The tidy CSV contract: which tables and columns a dataset folder has, and the rules every cell must meet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from optim.cells import read_cell
from optim.data.dataset import Run
from optim.errors import BadCell, ConfigError, nearest
from optim.units import VARIABLES, Quantity, to_canonical


@dataclass(frozen=True)
class Table:
    """A table of the contract. Optional columns may be absent; blank cells are allowed only where stated."""

    file: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


MEASUREMENTS = Table(
    "measurements.csv",
    ("run_id", "time_h", "variable", "value", "unit"),
    ("experiment_id", "vessel_id", "clone_id", "method", "replicate", "censored", "qc_flag"),
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


@dataclass
class Checker:
    """Collects every fault of a dataset; nothing is raised before all tables have been read."""

    cells: list[BadCell] = field(default_factory=list)

    def note_fault(self, file: str, row: int | None, column: str, *, rule: str, value: object = None) -> None:
        self.cells.append(BadCell(file, row, column, "" if value is None else str(value), rule))

    def read_table(self, folder: Path, table: Table) -> pd.DataFrame:
        """The table as text, every required and optional column present; empty when it cannot be read."""
        empty = pd.DataFrame({c: pd.Series(dtype=str) for c in (*table.required, *table.optional)})
        path = folder / table.file
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            self.note_fault(table.file, None, "", rule=f"file is missing; expected columns {', '.join(table.required)}")
            return empty
        if raw[:4] == b"PK\x03\x04":
            self.note_fault(table.file, None, "", rule="this is an Excel workbook, not CSV; save it as 'CSV UTF-8'")
            return empty
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as err:
            self.note_fault(table.file, None, "", rule=f"not UTF-8 (byte {err.start}); save it as 'CSV UTF-8'")
            return empty
        if not text.strip():
            self.note_fault(table.file, None, "", rule=f"file is empty; expected columns {', '.join(table.required)}")
            return empty
        first = text.splitlines()[0]
        if ";" in first and "," not in first:
            self.note_fault(table.file, 1, "", rule="columns are separated by ';'; save it with ',' and decimal points")
            return empty
        # read by hand, not by pandas: it would skip blank lines (and miscount rows) and shift rows with too many cells
        reader = csv.reader(io.StringIO(text), skipinitialspace=True)
        lines = [
            (reader.line_num, [read_cell(c.strip()) for c in cells])
            for cells in reader
            if any(c.strip() for c in cells)
        ]
        header = lines[0][1]
        for column in sorted({c for c in header if header.count(c) > 1}):
            self.note_fault(table.file, lines[0][0], column, rule="column is given twice")
        if len(set(header)) < len(header):
            return empty
        rows = []
        for line, cells in lines[1:]:
            if len(cells) != len(header):
                rule = f"{len(cells)} cells where the header has {len(header)}; is a text with a comma not in quotes?"
                self.note_fault(table.file, line, "", rule=rule)
            rows.append((line, (cells + [""] * len(header))[: len(header)]))
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
        self, file: str, row: int, column: str, *, text: str, lowest: float | None = None, blank: bool = False
    ) -> float:
        """The number in a cell, NaN after noting a fault (or for a blank cell where that is allowed)."""
        if text == "" and blank:
            return math.nan
        try:
            value = float(text)
        except ValueError:
            decimal = "," in text and text.replace(",", "", 1).replace("-", "", 1).isdigit()
            rule = "decimal comma; write a decimal point" if decimal else "not a number"
            rule = "blank; expected a number" if text == "" else rule
            self.note_fault(file, row, column, value=text, rule=rule)
            return math.nan
        if not math.isfinite(value):
            self.note_fault(
                file, row, column, value=text, rule="not a finite number; leave the row out when nothing was measured"
            )
            return math.nan
        if lowest is not None and value < lowest:
            self.note_fault(file, row, column, value=text, rule=f"must not be below {lowest:g}")
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
        """The value in its canonical unit, NaN after noting a unit that does not fit."""
        try:
            return to_canonical(value, unit, quantity)
        except ConfigError as err:
            self.note_fault(file, row, "unit", value=unit, rule=str(err))
            return math.nan


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
    time = check.read_number(file, row, "time_h", text=cell["time_h"], lowest=0.0)
    if run is not None and time > run.end_time_h + 1e-9:
        check.note_fault(
            file, row, "time_h", value=cell["time_h"], rule=f"after the end of run {run.run_id} ({run.end_time_h:g} h)"
        )
    return time


RowVisitor = Callable[[int, dict[str, str]], None]


def visit_rows(frame: pd.DataFrame, visitor: RowVisitor) -> None:
    """Call `visitor(line, cells)` for each row; `line` is the line of the file, the header being line 1."""
    for line, cells in zip(frame.index, frame.to_dict("records"), strict=True):
        visitor(int(line), {str(k): str(v) for k, v in cells.items()})
