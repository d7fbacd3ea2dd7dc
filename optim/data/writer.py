"""Writing a dataset folder in the tidy contract: complete, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from optim.artefact import whole_folder

Rows = Sequence[Mapping[str, Any]]


def write_dataset(folder: Path, header: Mapping[str, Any], tables: Mapping[str, Rows]) -> Path:
    """Write `dataset.yaml` and one CSV per table (file name -> rows), replacing the folder when it exists.

    Raises `OptimError` when the place cannot be written.
    """
    with whole_folder(folder) as draft:
        text = yaml.safe_dump(dict(header), sort_keys=False, allow_unicode=True, width=110)
        (draft / "dataset.yaml").write_text(text, encoding="utf-8")
        for file, rows in tables.items():
            frame = pd.DataFrame(list(rows))
            frame.to_csv(draft / file, index=False, lineterminator="\n", float_format="%.8g")
    return folder
