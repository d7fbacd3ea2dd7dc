"""The text of a CSV file as rows of cells. What is odd about a whole file is told once, with the remedy."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from optim.cells import read_cell

Lines = list[tuple[int, list[str]]]  # lines of the file, the first being 1, with their cells


class TableFault(NamedTuple):
    """What is wrong with a file or one of its lines (None: the file as a whole)."""

    line: int | None
    rule: str


SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
SAVE_AGAIN = "save it as 'CSV UTF-8', with ',' between columns and decimal points"


def read_lines(path: Path, *, expected: str) -> tuple[Lines, list[TableFault]]:
    """The lines of a CSV file that are not blank, header first.

    Args:
        path: the file.
        expected: what the file should hold, for the messages.

    Returns:
        The lines, none where the file is no table; and the faults.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return [], [TableFault(None, f"file is missing; {expected}")]
    except OSError as err:
        return [], [TableFault(None, f"cannot be read: {err.strerror}")]
    if raw[:4] == b"PK\x03\x04":
        return [], [TableFault(None, f"this is an Excel workbook, not CSV; {SAVE_AGAIN}")]
    if raw[:2] in ENCODINGS:
        return [], [TableFault(None, f"this is {ENCODINGS[raw[:2]]}, not UTF-8; {SAVE_AGAIN}")]
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        return [], [TableFault(None, f"not UTF-8 (byte {err.start}); {SAVE_AGAIN}")]
    if not text.strip():
        return [], [TableFault(None, f"file is empty; {expected}")]
    if "\0" in text:
        return [], [TableFault(None, f"holds bytes of value 0, so it is no text; {SAVE_AGAIN}")]
    numbered = list(enumerate(re.split(r"\r\n|\r|\n", text), start=1))
    stated = re.fullmatch(r'"?sep=(.)"?,*', numbered[0][1].strip(), re.IGNORECASE)
    if stated:  # a line of Excel's own
        numbered = numbered[1:]
    first = next((line for _, line in numbered if line.strip()), "")
    for separator, name in SEPARATORS.items():
        if separator in first and "," not in first:
            return [], [TableFault(1, f"columns are separated by {name}; {SAVE_AGAIN}")]
    faults: list[TableFault] = []
    return list(_cells(numbered, faults)), faults


def _cells(numbered: list[tuple[int, str]], faults: list[TableFault]) -> Iterator[tuple[int, list[str]]]:
    """Cells of every line by itself: no cell of the contract holds a line break, so an open quote is a fault there."""
    for number, line in numbered:
        try:
            cells = [read_cell(c.strip()) for c in next(csv.reader([line], skipinitialspace=True, strict=True), [])]
        except csv.Error as err:
            if "field larger" in str(err):
                rule = f"a cell of more than {csv.field_size_limit():,} characters"
            elif "unexpected end" in str(err):
                rule = (
                    'a quotation mark (") opens a cell that does not end on this line; no cell may hold a line break, '
                    "and a ditto mark is no value: write the text in full"
                )
            else:
                rule = 'a quotation mark (") in the middle of a cell; write it twice, and the cell in quotes'
            faults.append(TableFault(number, rule))
            continue
        if any(cells):
            yield number, cells


def square_rows(lines: Lines, faults: list[TableFault]) -> tuple[list[str], Lines]:
    """The header and the rows below it, each as long as the header; empty columns without a name are left out.

    Args:
        lines: from `read_lines`, header first.
        faults: what is found wrong is added.
    """
    (line, header), rows = lines[0], lines[1:]
    width = len(header)
    used = [any(i < len(cells) and cells[i] for _, cells in rows) for i in range(width)]
    for i in (i for i in range(width) if not header[i] and used[i]):
        faults.append(TableFault(line, f"column {i + 1} has values and no name; name it, or clear it"))
    square = []
    for number, cells in rows:
        if any(cells[width:]) or len(cells) < width:
            rule = f"{len(cells)} cells where the header has {width}; is a text with a comma not in quotes?"
            faults.append(TableFault(number, rule))
        square.append((number, (cells + [""] * width)[:width]))
    kept = [i for i in range(width) if header[i]]
    return [header[i] for i in kept], [(number, [cells[i] for i in kept]) for number, cells in square]
