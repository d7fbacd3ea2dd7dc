"""Text in the cells of tables: text that a spreadsheet would run as a formula gets an apostrophe, and loses it again.

Excel and LibreOffice take an apostrophe before such text as the sign of plain text.
"""

from __future__ import annotations

import re

FORMULA_SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"  # the last four are the wide forms, which spreadsheets take as well
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?( ?%)?|[+-]?(inf|nan)", re.IGNORECASE)


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may run a text; apostrophes before it do not count, and numbers are no formulas."""
    core = text.lstrip("'")
    if core[:1] in ("\t", "\r", "\n"):
        return True
    core = core.strip()
    return len(core) > 1 and core[0] in FORMULA_SIGNS and not NUMBER.fullmatch(core)


def safe_cell(value: object) -> object:
    """What is written for a cell: text that looks like a formula behind an apostrophe, anything else as it is."""
    return f"'{value}" if isinstance(value, str) and is_formula(value) else value


def read_cell(text: str) -> str:
    """The text that `safe_cell` was given."""
    return text[1:] if text.startswith("'") and is_formula(text) else text
