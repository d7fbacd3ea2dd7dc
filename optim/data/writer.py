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
from optim.schedule.events import event_rows
from optim.units import VARIABLES, display_unit

Rows = Sequence[Mapping[str, Any]]


def write_dataset(folder: Path, header: Mapping[str, Any], tables: Mapping[str, Rows]) -> Path:
    """Write `dataset.yaml` and one CSV per table (file name -> rows), replacing the folder when it exists.

    Numbers are written with as many digits as it takes to read them back exactly.

    Raises `OptimError` when the place cannot be written.
    """
    with whole_folder(folder) as draft:
        text = yaml.safe_dump(dict(header), sort_keys=False, allow_unicode=True, width=110)
        (draft / "dataset.yaml").write_text(text, encoding="utf-8")
        for file, rows in tables.items():
            frame = pd.DataFrame(list(rows))
            frame.to_csv(draft / file, index=False, lineterminator="\n")
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
        target: where the joined dataset goes; may be `folder` itself.

    Raises:
        DatasetError: a table is missing, or a run is in both. Values are checked when the dataset is read.
    """
    folder, more, target = Path(folder), Path(more), Path(target)
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


def _to_ml(litres: float) -> float:
    """The shortest number of mL that the reader turns into just so many litres."""
    value = litres * 1000.0
    return next((x for x in (float(f"{value:.{n}g}") for n in (12, 15, 16)) if x / 1000.0 == litres), value)
