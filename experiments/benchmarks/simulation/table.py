"""Rows of results as tables of fixed width, and ratios within a run."""

import math
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]

FORMATS: dict[str, str] = {
    "ms/vessel": ".4g",
    "least": ".4g",
    "steps": ".0f",
    "error": ".1e",
    "off finite diff.": ".1e",
    "MiB": ".0f",
    "us/step": ".3g",
    "rtol": ".0e",
}


def number(column: str, value: Any) -> str:
    """A cell; what does not exist is a dash, seconds have two digits after the point, ratios two that count."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, str | int):
        return str(value)
    if column in FORMATS:
        return format(value, FORMATS[column])
    return f"{value:.2f}" if value < 10.0 else f"{value:.1f}" if value < 100.0 else f"{value:.0f}"


def add_ratio(
    rows: Sequence[Row],
    column: str,
    to: Callable[[Row], bool],
    within: Sequence[str],
    of: str = "ms/vessel",
    inverse: bool = False,
) -> None:
    """Set `column` of every row: its `of` over the least `of` among the rows `to` is true for, with equal `within`.

    `inverse` turns it around: how many times less. Without anything to compare with it is None.
    """
    for row in rows:
        group = [r for r in rows if all(r[key] == row[key] for key in within) and to(r)]
        values = [r[of] for r in group if r[of] is not None and math.isfinite(r[of])]
        own = row[of]
        if not values or own is None or not math.isfinite(own):
            row[column] = None
        else:
            row[column] = min(values) / own if inverse else own / min(values)


def text(title: str, rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A title, a line of names, and a line per row; words to the left, numbers to the right."""
    cells = [[number(column, row.get(column)) for column in columns] for row in rows]
    left = [any(isinstance(row.get(column), str) for row in rows) for column in columns]
    widths = [max(len(c), *(len(line[i]) for line in cells), 0) for i, c in enumerate(columns)]

    def line(words: Sequence[str]) -> str:
        padded = (w.ljust(n) if flush else w.rjust(n) for w, n, flush in zip(words, widths, left, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([title, line(columns), *map(line, cells)])
