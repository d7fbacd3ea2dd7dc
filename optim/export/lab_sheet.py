"""The lab sheet of suggested experiments: a dataset without its measurements, and a table to fill in."""

from __future__ import annotations

from pathlib import Path

from optim.data.dataset import Dataset
from optim.data.writer import event_table, media_table, run_table, write_dataset
from optim.doe.candidates import planned_readings
from optim.doe.result import Suggestion
from optim.units import VARIABLES, display_unit

TO_FILL = "measurements_to_fill.csv"


def write_plan(s: Suggestion, dataset: Dataset, variables: tuple[str, ...], *, folder: Path) -> Path:
    """Write runs.csv, events.csv, media.csv and a table of readings to fill in.

    A folder that exists is replaced only as optim wrote it: with measurements or notes in it, it is a laboratory's.

    Saved as measurements.csv, the filled table makes the folder a dataset; `append_runs` joins it to the old one.
    Raises `OptimError` when the place cannot be written, or when somebody has worked in it.
    """
    runs = [row.run for row in s.runs]
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
    tables = {
        "runs.csv": run_table(runs),
        "events.csv": event_table(runs),
        "media.csv": media_table(s.media),
        TO_FILL: readings,
    }
    return write_dataset(folder, header, tables)
