"""Tables as comma-separated values, in which no cell is taken for a formula."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from optim.cells import read_cell, safe_cell


def csv_text(table: pd.DataFrame) -> str:
    """A table as comma-separated values: every number to the last digit, no text that a spreadsheet would run."""
    columns = [table.iloc[:, place] for place in range(table.shape[1])]
    columns = [c if is_numeric_dtype(c.dtype) else c.astype(object).map(safe_cell) for c in columns]
    safe = pd.concat(columns, axis=1) if columns else table.copy()
    safe.columns = pd.Index([safe_cell(name) for name in table.columns])
    return str(safe.to_csv(index=False, lineterminator="\n"))


def read_text_table(file: Path) -> pd.DataFrame:
    """A CSV file with every cell as the text that `csv_text` was given; blank cells are ''."""
    frame = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    return frame.map(read_cell).rename(columns=read_cell)
