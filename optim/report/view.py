"""The view of a result: lines for a terminal, metrics for tracking, tables and figures by name, and a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from optim.report.style import picture_of
from optim.result import Result

Page = Callable[[str, Mapping[str, bytes]], str]  # of a title and the pictures, by name


@dataclass(frozen=True)
class View:
    """The presentation of a result for people and for files.

    Columns of `tables` have their unit in their name, or in a column beside. `figures` are drawn on demand.
    `doubts` speak against the result as a whole and are told first. `series` are numbers per iteration. `document` is
    the result as plain data, where other software reads it.
    """

    kind: str
    title: str
    lines: Sequence[str] = ()
    doubts: Sequence[str] = ()
    notes: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    page: Page | None = None
    document: Mapping[str, Any] | None = None

    @cached_property
    def pictures(self) -> dict[str, bytes]:
        """Every figure as PNG, painted once."""
        return {name: picture_of(draw()) for name, draw in self.figures.items()}

    def html(self, title: str = "") -> str:
        """The page, with its pictures; '' where the result has none."""
        return self.page(title or self.title, self.pictures) if self.page else ""


def view_of(result: Result) -> View:
    """The view of a result: that of `optim.report.KIND`, a function `KIND_view`."""
    kind = result.kind()
    found: View = getattr(import_module(f"optim.report.{kind}"), f"{kind}_view")(result)
    return found
