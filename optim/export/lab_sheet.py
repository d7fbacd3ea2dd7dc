"""A suggestion as files: a dataset that lacks its measurements, in the contract that optim reads, and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from optim.data.dataset import Dataset
from optim.data.writer import event_rows, run_rows, write_dataset
from optim.doe.candidates import planned_readings
from optim.doe.result import Suggestion
from optim.units import VARIABLES, display_unit

TO_FILL = "measurements_to_fill.csv"


def write_plan(s: Suggestion, dataset: Dataset, variables: tuple[str, ...], folder: Path) -> Path:
    """Write runs.csv, events.csv, media.csv and a table of readings to fill in; replaces `folder`.

    Saved as measurements.csv, the filled table makes the folder a dataset; `append_runs` joins it to the old one.
    Raises `OptimError` when the place cannot be written.
    """
    runs = [row.run for row in s.runs]
    media = [
        {"medium_id": name, "component": component, "value": value, "unit": display_unit(VARIABLES[component].unit)}
        for name, composition in dataset.media.items()
        for component, value in composition.items()
    ]
    readings = [
        {
            "run_id": runs[b].run_id,
            "time_h": time,
            "variable": name,
            "value": "",
            "unit": display_unit(VARIABLES[name].unit),
            "replicate": "1",
            "censored": "",
            "qc_flag": "",
        }
        for b, time, name in planned_readings(variables, runs)
    ]
    header = {
        "name": f"{dataset.name}_{runs[0].experiment_id}",
        "description": f"runs suggested by optim after '{dataset.name}' ({s.by})",
        "organism": dataset.organism,
        "citation": dataset.citation,
        "licence": dataset.licence,
        "simulated": dataset.simulated,
        "notes": [f"fill in {TO_FILL} and save it as measurements.csv"],
    }
    tables = {"runs.csv": run_rows(runs), "events.csv": event_rows(runs), "media.csv": media, TO_FILL: readings}
    return write_dataset(folder, header, tables)


def suggestion_csv(s: Suggestion) -> str:
    """One row per run."""
    rows = []
    for run in s.runs:
        row: dict[str, Any] = {"run_id": run.run.run_id, "clone": run.run.clone_id, "new_clone": run.new_clone}
        row |= {f"{d.name} [{d.unit}]": d.value for d in run.decisions}
        row |= {
            "sample_days": " ".join(f"{d:g}" for d in run.sample_days),
            "expected_gain": run.gain,
            "gain_standard_error": run.gain_error,
            "information_nats": run.information,
            "expected_loss_after": run.loss,
            "chance_of_right_clone_after": run.chance,
            "probability_to_meet_limits": run.met,
            "reason": run.reason,
        }
        rows.append(row)
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
