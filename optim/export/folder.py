"""A result as a folder of files, one exporter for each format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from optim.errors import ConfigError, nearest
from optim.export.text_files import write_csv, write_html, write_json
from optim.report.view import View
from optim.storage import whole_folder

# a format is a function that writes what a view holds into a folder
EXPORTERS: dict[str, Callable[[View, Path], None]] = {
    "json": write_json,
    "csv": write_csv,
    "html": write_html,
}


def export_view(view: View, folder: Path, formats: Iterable[str] = tuple(EXPORTERS)) -> Path:
    """Write a view to `folder`, which is replaced if optim wrote all that it holds: it is complete or it is not there.

    Raises `ConfigError` for an unknown format and `OptimError` when the place cannot be written or holds other files.
    """
    wanted = tuple(formats)
    for name in wanted:
        if name not in EXPORTERS:
            raise ConfigError(f"unknown format '{name}'.{nearest(name, EXPORTERS)} Known: {', '.join(EXPORTERS)}")
    with whole_folder(folder) as draft:
        for name in wanted:
            EXPORTERS[name](view, draft)
    return folder
