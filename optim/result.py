"""A result: what a command leaves and a function returns, with a view for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from optim.errors import OptimError, nearest

SHORT_ID = 12  # digits of an id that people are shown
MOST_LINES = 20  # of a view that a repr shows


class Result:
    """Base of fits, rankings, optima, recipes, ...: tables, figures, and a short description.

    Views and exporters lie floors above the results. They are found by the kind of the result, as models and commands
    are found by the name of their file, so that no result imports them.
    """

    schema: ClassVar[str]  # 'optim.KIND/VERSION'
    made_by: ClassVar[str]  # the command that makes one

    @property
    def id(self) -> str:
        """SHA-256 of the content."""
        raise NotImplementedError

    @classmethod
    def kind(cls) -> str:
        """The noun of the schema: fit, ranking, optimum, ..."""
        return cls.schema.removeprefix("optim.").split("/")[0]

    @cached_property
    def view(self) -> Any:
        """The `optim.report.view.View`: lines, notes, metrics, tables, figures and a page."""
        return import_module("optim.report.view").view_of(self)

    @property
    def tables(self) -> Mapping[str, Any]:
        """The tables by name, as pandas frames. Units are in the names of columns, or in a column beside."""
        tables: Mapping[str, Any] = self.view.tables
        return tables

    def figure(self, name: str = "") -> Any:
        """Draw a figure.

        Args:
            name: one of `view.figures`; by default the first.

        Returns:
            A Matplotlib figure.

        Raises:
            OptimError: there is no figure of this name.
        """
        figures = self.view.figures
        name = name or next(iter(figures), "")
        if name not in figures:
            raise OptimError(f"no figure '{name}'.{nearest(name, figures)} Known: {', '.join(figures) or 'none'}")
        return figures[name]()

    def write(self, folder: str | Path, formats: Iterable[str] = ("json", "csv", "html")) -> Path:
        """Write the tables, the page and the document into a folder, which is replaced as a whole.

        Args:
            folder: where the files go.
            formats: any of those in `optim.export.folder`.

        Raises:
            ConfigError: an unknown format.
            OptimError: the folder cannot be written.
        """
        written: Path = import_module("optim.export.folder").export_view(self.view, Path(folder), formats)
        return written

    def __repr__(self) -> str:
        view = self.view
        lines = [f"{type(self).__name__} {self.id[:SHORT_ID]}: {view.title}"]
        lines += [*(f"  warning: {doubt}" for doubt in view.doubts), *view.lines[:MOST_LINES]]
        if len(view.lines) > MOST_LINES:
            lines.append(f"  ... and {len(view.lines) - MOST_LINES} lines more")
        return "\n".join([*lines, f"  tables: {', '.join(view.tables)}", f"  figures: {', '.join(view.figures)}"])

    def _repr_html_(self) -> str:
        """The lines, and the head of every table, as a notebook shows them."""
        html: str = import_module("optim.report.notebook").html_of(self)
        return html
