"""Shared parts of the adapters of public datasets: raw tables, a hash over the files, and the dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optim.data.dataset import Dataset, Measurements, Run
from optim.errors import DatasetError


def read_table(folder: Path, file: str, columns: set[str], *, index: bool = False) -> pd.DataFrame:
    """Read a raw CSV table, with its first column as index if `index`.

    Raises `DatasetError` when the file cannot be read, or lacks one of `columns`.
    """
    try:
        frame = pd.read_csv(folder / file, index_col=0 if index else None)
    except (OSError, ValueError) as err:
        raise DatasetError(f"{folder / file} cannot be read: {err}") from err
    missing = columns - set(frame.columns)
    if missing:
        raise DatasetError(f"{folder / file}: columns {', '.join(sorted(missing))} are missing")
    return frame


def files_hash(files: Mapping[str, object]) -> str:
    """SHA-256 over the names and checksums of the files of a source."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.encode() + b"\0" + str(files[file]).encode())
    return digest.hexdigest()


def dataset_of(
    source: Mapping[str, Any],
    runs: Sequence[Run],
    rows: Sequence[tuple[int, float, str, float]],
    *,
    media: dict[str, dict[str, float]],
    notes: tuple[str, ...],
) -> Dataset:
    """Build the measured dataset of a source; `rows` are (index of the run, time in h, variable, value)."""
    return Dataset(
        name=source["name"],
        description=source["description"],
        organism=source["organism"],
        citation=source["citation"],
        licence=source["licence"],
        simulated=False,
        content_hash=files_hash(source["files"]),
        runs=tuple(runs),
        measurements=Measurements(
            run=np.array([r[0] for r in rows], dtype=int),
            time_h=np.array([r[1] for r in rows]),
            variable=tuple(r[2] for r in rows),
            value=np.array([r[3] for r in rows]),
            censored=("",) * len(rows),
            replicate=("",) * len(rows),
        ),
        media=media,
        notes=notes,
    )
