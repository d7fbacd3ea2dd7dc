"""The tidy CSV contract: which tables and columns a dataset folder has, and the rules every cell must meet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

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

    def bad(self, file: str, row: int | None, column: str, value: object, rule: str) -> None:
        self.cells.append(BadCell(file, row, column, "" if value is None else str(value), rule))

    def read(self, folder: Path, table: Table) -> pd.DataFrame:
        """The table as text, every required and optional column present; empty when it cannot be read."""
        empty = pd.DataFrame({c: pd.Series(dtype=str) for c in (*table.required, *table.optional)})
        path = folder / table.file
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            self.bad(table.file, None, "", None, f"file is missing; expected columns {', '.join(table.required)}")
            return empty
        if raw[:4] == b"PK\x03\x04":
            self.bad(table.file, None, "", None, "this is an Excel workbook, not CSV; save it as 'CSV UTF-8'")
            return empty
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as err:
            self.bad(table.file, None, "", None, f"not UTF-8 (byte {err.start}); save it as 'CSV UTF-8'")
            return empty
        if not text.strip():
            self.bad(table.file, None, "", None, f"file is empty; expected columns {', '.join(table.required)}")
            return empty
        first = text.splitlines()[0]
        if ";" in first and "," not in first:
            self.bad(table.file, 1, "", None, "columns are separated by ';'; save it with ',' and decimal points")
            return empty
        # read by hand, not by pandas: it would skip blank lines (and miscount rows) and shift rows with too many cells
        reader = csv.reader(io.StringIO(text), skipinitialspace=True)
        lines = [(reader.line_num, [c.strip() for c in cells]) for cells in reader if any(c.strip() for c in cells)]
        header = lines[0][1]
        for column in sorted({c for c in header if header.count(c) > 1}):
            self.bad(table.file, lines[0][0], column, None, "column is given twice")
        if len(set(header)) < len(header):
            return empty
        rows = []
        for line, cells in lines[1:]:
            if len(cells) != len(header):
                rule = f"{len(cells)} cells where the header has {len(header)}; is a text with a comma not in quotes?"
                self.bad(table.file, line, "", None, rule)
            rows.append((line, (cells + [""] * len(header))[: len(header)]))
        frame = pd.DataFrame([r for _, r in rows], columns=header, index=[n for n, _ in rows], dtype=str)
        allowed = (*table.required, *table.optional)
        for column in frame.columns:
            if column not in allowed:
                rule = f"unknown column.{nearest(column, allowed)} Allowed: {', '.join(allowed)}"
                self.bad(table.file, 1, column, None, rule)
        missing = [c for c in table.required if c not in frame.columns]
        for column in missing:
            self.bad(table.file, 1, column, None, f"column is missing.{nearest(column, frame.columns)}")
        if missing:
            return empty
        if frame.empty:
            self.bad(table.file, None, "", None, "no rows below the header")
        for column in table.optional:
            if column not in frame.columns:
                frame[column] = ""
        return frame

    def number(
        self, file: str, row: int, column: str, text: str, lowest: float | None = None, blank: bool = False
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
            self.bad(file, row, column, text, rule)
            return math.nan
        if not math.isfinite(value):
            self.bad(file, row, column, text, "not a finite number; leave the row out when nothing was measured")
            return math.nan
        if lowest is not None and value < lowest:
            self.bad(file, row, column, text, f"must not be below {lowest:g}")
            return math.nan
        return value

    def one_of(self, file: str, row: int, column: str, text: str, allowed: tuple[str, ...], what: str) -> bool:
        if text in allowed:
            return True
        self.bad(file, row, column, text, f"unknown {what}.{nearest(text, allowed)} Known: {', '.join(allowed[:20])}")
        return False

    def converted(self, file: str, row: int, value: float, unit: str, quantity: Quantity) -> float:
        """The value in its canonical unit, NaN after noting a unit that does not fit."""
        try:
            return to_canonical(value, unit, quantity)
        except ConfigError as err:
            self.bad(file, row, "unit", unit, str(err))
            return math.nan


def variable_quantity(check: Checker, file: str, row: int, column: str, name: str) -> Quantity | None:
    """The quantity of a measured variable or medium component."""
    return VARIABLES[name] if check.one_of(file, row, column, name, tuple(VARIABLES), "variable") else None


def known_run(check: Checker, file: str, row: int, run_id: str, runs: Mapping[str, Run]) -> Run | None:
    """The run that a row speaks of, None after noting that there is none."""
    if not runs:
        return None  # the table of runs itself is at fault and has been reported
    if run_id in runs:
        return runs[run_id]
    check.bad(file, row, "run_id", run_id, f"not in {RUNS.file}.{nearest(run_id, runs)}")
    return None


def event_time(check: Checker, file: str, row: int, cell: Mapping[str, str], run: Run | None) -> float:
    """The time of a row in h, NaN after noting a fault; within the run, where that is known."""
    time = check.number(file, row, "time_h", cell["time_h"], lowest=0.0)
    if run is not None and time > run.end_time_h + 1e-9:
        check.bad(file, row, "time_h", cell["time_h"], f"after the end of run {run.run_id} ({run.end_time_h:g} h)")
    return time


RowVisitor = Callable[[int, dict[str, str]], None]


def visit(frame: pd.DataFrame, visitor: RowVisitor) -> None:
    """Call `visitor(line, cells)` for each row; `line` is the line of the file, the header being line 1."""
    for line, cells in zip(frame.index, frame.to_dict("records"), strict=True):
        visitor(int(line), {str(k): str(v) for k, v in cells.items()})
