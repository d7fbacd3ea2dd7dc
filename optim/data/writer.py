"""Writing a dataset folder in the tidy contract: complete, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from optim.data.contract import EVENT_TABLE, MEASUREMENTS, MEDIA, RUNS, TRUTH
from optim.data.csv_table import csv_text, read_text_table
from optim.data.dataset import Run
from optim.errors import DatasetError
from optim.schedule.events import event_rows
from optim.storage import whole_folder
from optim.units import VARIABLES, display_unit

Rows = Sequence[Mapping[str, Any]]


def write_dataset(folder: Path, header: Mapping[str, Any], tables: Mapping[str, Rows]) -> Path:
    """Write `dataset.yaml` and one CSV per table (file name -> rows).

    Numbers are written with as many digits as it takes to read them back exactly. A folder that exists is replaced if
    optim wrote all that it holds.

    Raises `OptimError` when the place cannot be written, or holds what optim did not write.
    """
    with whole_folder(folder) as draft:
        text = yaml.safe_dump(dict(header), sort_keys=False, allow_unicode=True, width=110)
        (draft / "dataset.yaml").write_text(text, encoding="utf-8")
        for file, rows in tables.items():
            (draft / file).write_text(csv_text(pd.DataFrame(list(rows))), encoding="utf-8")
    return folder


def run_table(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Rows of runs.csv."""
    return [
        {
            "run_id": run.run_id,
            "experiment_id": run.experiment_id,
            "vessel_id": run.vessel_id,
            "clone_id": run.clone_id,
            "start_volume_ml": _to_ml(run.start_volume_l),
            "medium_id": run.medium_id,
            "temperature_c": run.temperature_c,
            "ph": run.ph,
            "inoculum_vcd_1e6_per_ml": run.inoculum_vcd,
            "end_time_h": run.end_time_h,
        }
        for run in runs
    ]


def event_table(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Rows of events.csv; columns that no event uses are left out.

    Raises `ConfigError` for an action that no event can state.
    """
    stated = [(run.run_id, row) for run in runs for row in event_rows(run.actions, run.end_time_h)]
    optional = {"value_end": None, "until_h": None, "ramp_h": 0.0, "growth_per_h": None, "component": ""}
    used = [name for name, nothing in optional.items() if any(getattr(row, name) != nothing for _, row in stated)]
    return [
        {"run_id": run_id, "time_h": row.time_h, "kind": row.kind, "feed_id": row.feed_id}
        | {"value": row.value, "unit": row.unit}
        | {name: None if getattr(row, name) == optional[name] else getattr(row, name) for name in used}
        for run_id, row in stated
    ]


def media_table(media: Mapping[str, Mapping[str, float]]) -> list[dict[str, object]]:
    """Rows of media.csv; a medium that holds nothing has one row without a component."""
    rows: list[dict[str, object]] = []
    for name, composition in media.items():
        rows += [
            {"medium_id": name, "component": c, "value": value, "unit": display_unit(VARIABLES[c].unit)}
            for c, value in composition.items()
        ] or [{"medium_id": name, "component": "", "value": None, "unit": ""}]
    return rows


def append_runs(folder: str | Path, more: str | Path, target: str | Path) -> Path:
    """Write a dataset that joins the runs of two.

    Args:
        folder: the first dataset; its description and its media count where both state one.
        more: the second dataset, for example new runs.
        target: where the joined dataset goes; may be `folder` itself, and then other files in it stay. Another folder
            that exists is replaced if optim wrote all that it holds.

    Raises:
        DatasetError: a table or a column is missing, or a run is in both. Values are checked when the dataset is read.
        OptimError: the target cannot be written, or holds what optim did not write.
    """
    folder, more, target = Path(folder), Path(more), Path(target)
    tables: dict[str, pd.DataFrame] = {}
    for table in (RUNS, EVENT_TABLE, MEASUREMENTS, MEDIA, TRUTH):
        parts = [place / table.file for place in (folder, more)]
        there = [part for part in parts if part.exists()]
        for missing in (part for part in parts if part not in there and table not in (MEDIA, TRUTH)):
            raise DatasetError(f"{missing} is missing; fill in what was measured, and save it under this name")
        if there:
            tables[table.file] = pd.concat([_text_table(part) for part in there], ignore_index=True).fillna("")
    # a medium that both know is the first one's
    for table, key in ((MEDIA, ["medium_id", "component"]), (TRUTH, ["owner", "parameter"])):
        if table.file in tables:
            tables[table.file] = _with_columns(tables[table.file], key, table.file).drop_duplicates(key)
    ids = _with_columns(tables["runs.csv"], ["run_id"], "runs.csv")["run_id"]
    if twice := sorted(set(ids[ids.duplicated()])):
        raise DatasetError(f"{more}: runs {', '.join(twice)} are already in {folder}; give the new ones other ids")
    try:
        header = (folder / "dataset.yaml").read_bytes()
    except OSError as err:
        raise DatasetError(f"{folder / 'dataset.yaml'} cannot be read: {err.strerror or err}") from err
    with whole_folder(target, keep_others=target.resolve() == folder.resolve()) as draft:
        (draft / "dataset.yaml").write_bytes(header)
        for file, frame in tables.items():
            (draft / file).write_text(csv_text(frame), encoding="utf-8")
    return target


def _text_table(file: Path) -> pd.DataFrame:
    try:
        return read_text_table(file)
    except (OSError, ValueError) as err:  # pandas' errors of reading are ValueErrors
        raise DatasetError(f"{file} cannot be read as CSV: {' '.join(str(err).split())}") from err


def _with_columns(frame: pd.DataFrame, columns: list[str], file: str) -> pd.DataFrame:
    if missing := [c for c in columns if c not in frame.columns]:
        raise DatasetError(f"{file}: column {', '.join(missing)} is missing; {', '.join(columns)} tell rows apart")
    return frame


def _to_ml(litres: float) -> float:
    """The shortest number of mL that the reader turns into just so many litres."""
    value = litres * 1000.0
    return next((x for x in (float(f"{value:.{n}g}") for n in (12, 15, 16)) if x / 1000.0 == litres), value)
