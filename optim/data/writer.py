"""Writing a dataset folder in the tidy contract: complete, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from optim.errors import OptimError

Rows = Sequence[Mapping[str, Any]]


def write_dataset(folder: Path, header: Mapping[str, Any], tables: Mapping[str, Rows]) -> Path:
    """Write `dataset.yaml` and one CSV per table (file name -> rows), replacing the folder when it exists.

    Raises `OptimError` when the place cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            text = yaml.safe_dump(dict(header), sort_keys=False, allow_unicode=True, width=110)
            (draft / "dataset.yaml").write_text(text, encoding="utf-8")
            for file, rows in tables.items():
                frame = pd.DataFrame(list(rows))
                frame.to_csv(draft / file, index=False, lineterminator="\n", float_format="%.8g")
            draft.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(draft, folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as err:
        raise OptimError(f"cannot write dataset {folder}: {err.strerror or err}") from err
    return folder
