"""What adapters of public sets share: reading a raw table, and one hash over its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from optim.errors import DatasetError


def read_table(folder: Path, file: str, columns: set[str], index: bool = False) -> pd.DataFrame:
    """A raw CSV table, its first column as index if `index`. Raises `DatasetError` when it lacks one of `columns`."""
    try:
        frame = pd.read_csv(folder / file, index_col=0 if index else None)
    except (OSError, ValueError) as err:
        raise DatasetError(f"{folder / file} cannot be read: {err}") from err
    missing = columns - set(frame.columns)
    if missing:
        raise DatasetError(f"{folder / file}: columns {', '.join(sorted(missing))} are missing")
    return frame


def files_hash(files: Mapping[str, object]) -> str:
    """SHA-256 over names and checksums of the files of a source."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.encode() + b"\0" + str(files[file]).encode())
    return digest.hexdigest()
