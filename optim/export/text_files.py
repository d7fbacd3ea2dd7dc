"""Text files of a view: its tables as CSV, its document as JSON, its page as HTML."""

from __future__ import annotations

import json
from pathlib import Path

from optim.data.csv_table import csv_text
from optim.report.view import View


def write_csv(view: View, folder: Path) -> None:
    """Write each table of a view as a CSV file."""
    for name, table in view.tables.items():
        (folder / f"{name}.csv").write_text(csv_text(table), encoding="utf-8")


def write_json(view: View, folder: Path) -> None:
    """Write the document of a view as JSON, where it has one."""
    if view.document is not None:
        text = json.dumps(view.document, indent=1, allow_nan=False)
        (folder / f"{view.kind}.json").write_text(text + "\n", encoding="utf-8")


def write_html(view: View, folder: Path) -> None:
    """Write the page of a view as HTML, where it has one."""
    if view.page is not None:
        (folder / f"{view.kind}.html").write_text(view.html(), encoding="utf-8")
