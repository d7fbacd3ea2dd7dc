"""Writing a dataset folder in the tidy contract: complete, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from optim.artefact import whole_folder
from optim.data.dataset import Run
from optim.errors import DatasetError

Rows = Sequence[Mapping[str, Any]]
# kind of event -> unit that is written, and what a canonical value is multiplied with
EVENT_UNITS = {
    "bolus": ("mL", 1000.0),
    "sample": ("mL", 1000.0),
    "feed_rate": ("mL/h", 1000.0),
    "temperature": ("degC", 1.0),
    "ph": ("1", 1.0),
}


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


def run_rows(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Rows of runs.csv."""
    return [
        {
            "run_id": run.run_id,
            "experiment_id": run.experiment_id,
            "vessel_id": run.vessel_id,
            "clone_id": run.clone_id,
            "start_volume_ml": run.start_volume_l * 1000.0,
            "medium_id": run.medium_id,
            "temperature_c": run.temperature_c,
            "ph": run.ph,
            "inoculum_vcd_1e6_per_ml": run.inoculum_vcd,
            "end_time_h": run.end_time_h,
        }
        for run in runs
    ]


def event_rows(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Rows of events.csv; the column `value_end` is there where a rate changes between two events."""
    rows: list[dict[str, object]] = []
    for run in runs:
        for e in run.events:
            unit, times = EVENT_UNITS[e.kind]
            row = {"run_id": run.run_id, "time_h": e.time_h, "kind": e.kind, "feed_id": e.feed_id}
            row |= {"value": e.value * times, "unit": unit}
            if e.kind == "feed_rate" and e.value_end != e.value:
                row["value_end"] = e.value_end * times
            rows.append(row)
    return rows


def append_runs(folder: Path, more: Path, target: Path) -> Path:
    """Write the dataset in `folder` with the runs of that in `more` to `target`, which may be `folder` itself.

    Media are told by id, and `folder`'s description stands. Raises `DatasetError` for a missing table or a run that is
    in both; what is in the tables is judged by the reader.
    """
    tables: dict[str, pd.DataFrame] = {}
    for file in sorted(p.name for p in folder.glob("*.csv")):
        parts = [folder / file] + [more / file] * (more / file).exists()
        if len(parts) == 1 and file in ("runs.csv", "events.csv", "measurements.csv"):
            raise DatasetError(f"{more / file} is missing; fill in what was measured, and save it under this name")
        frames = [pd.read_csv(part, dtype=str, keep_default_na=False, encoding="utf-8-sig") for part in parts]
        tables[file] = pd.concat(frames, ignore_index=True).fillna("")
    # a medium that both know is the first one's
    media = tables["media.csv"]
    tables["media.csv"] = media.drop_duplicates(["medium_id", "component"])
    if "truth.csv" in tables:
        tables["truth.csv"] = tables["truth.csv"].drop_duplicates(["owner", "parameter"])
    ids = tables["runs.csv"]["run_id"]
    if twice := sorted(set(ids[ids.duplicated()])):
        raise DatasetError(f"{more}: runs {', '.join(twice)} are already in {folder}; give the new ones other ids")
    header = (folder / "dataset.yaml").read_bytes()
    with whole_folder(target) as draft:
        (draft / "dataset.yaml").write_bytes(header)
        for file, frame in tables.items():
            frame.to_csv(draft / file, index=False, lineterminator="\n")
    return target
