"""Reading a dataset folder: every fault of every file is found and reported at once; no file is ever changed."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from optim.data.contract import (
    MEASUREMENTS,
    MEDIA,
    RUNS,
    TRUTH,
    Checker,
    event_time,
    known_run,
    variable_quantity,
    visit,
)
from optim.data.dataset import Dataset, Measurements, Run
from optim.data.events import read_runs_with_events
from optim.errors import DatasetError, nearest

HEADER_KEYS = ("name", "description", "organism", "citation", "licence", "simulated", "notes")


def read_dataset(folder: Path) -> Dataset:
    """Read and validate a dataset folder (tables as in `optim.data.contract`, `dataset.yaml` as header).

    Raises `DatasetError` that lists every bad cell with file, row, column, value and rule.
    """
    if not folder.is_dir():
        raise DatasetError(f"dataset folder {folder} does not exist")
    check = Checker()
    header = _header(check, folder)
    media = _media(check, folder)
    runs = _runs(check, folder, media)
    finished = read_runs_with_events(check, folder, runs, media)
    measurements = _measurements(check, folder, runs)
    truth = _truth(check, folder) if (folder / TRUTH.file).exists() else None
    if check.cells:
        count = len(check.cells)
        raise DatasetError(f"dataset {folder} has {count} fault{'s' if count > 1 else ''}:", check.cells)
    return Dataset(
        name=str(header["name"]),
        description=str(header["description"]),
        organism=str(header["organism"]),
        citation=str(header["citation"]),
        licence=str(header["licence"]),
        simulated=bool(header["simulated"]),
        content_hash=content_hash(folder),
        runs=finished,
        measurements=measurements,
        media=media,
        truth=truth,
        notes=tuple(str(n) for n in header.get("notes") or ()),
    )


def content_hash(folder: Path) -> str:
    """SHA-256 over names and bytes of the dataset's files."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.suffix in (".csv", ".yaml")):
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _header(check: Checker, folder: Path) -> dict[str, Any]:
    file = "dataset.yaml"
    blank: dict[str, Any] = {key: "" for key in HEADER_KEYS} | {"simulated": False, "notes": []}
    try:
        header = yaml.safe_load((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        check.bad(file, None, "", None, f"file is missing; expected keys {', '.join(HEADER_KEYS[:-1])}")
        return blank
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        check.bad(file, None, "", None, f"not valid YAML: {' '.join(str(err).split())}")
        return blank
    if not isinstance(header, dict):
        check.bad(file, None, "", None, f"expected keys {', '.join(HEADER_KEYS)}")
        return blank
    for key in header:
        if key not in HEADER_KEYS:
            check.bad(file, None, str(key), None, f"unknown key.{nearest(str(key), HEADER_KEYS)}")
    for key in HEADER_KEYS[:-1]:
        if key not in header:
            check.bad(file, None, key, None, "key is missing")
    if not isinstance(header.get("simulated", False), bool):
        check.bad(file, None, "simulated", header["simulated"], "expected true or false")
    return blank | header


def _media(check: Checker, folder: Path) -> dict[str, dict[str, float]]:
    media: dict[str, dict[str, float]] = {}

    def row(line: int, cell: dict[str, str]) -> None:
        composition = media.setdefault(cell["medium_id"], {})
        if not (cell["component"] or cell["value"] or cell["unit"]):
            return  # a medium that holds nothing that is told apart: water, a base
        quantity = variable_quantity(check, MEDIA.file, line, "component", cell["component"])
        value = check.number(MEDIA.file, line, "value", cell["value"], lowest=0.0)
        if quantity is None:
            return
        if cell["component"] in composition:
            check.bad(MEDIA.file, line, "component", cell["component"], f"given twice for {cell['medium_id']}")
        composition[cell["component"]] = check.converted(MEDIA.file, line, value, cell["unit"], quantity)

    visit(check.read(folder, MEDIA), row)
    return media


def _runs(check: Checker, folder: Path, media: dict[str, dict[str, float]]) -> dict[str, Run]:
    runs: dict[str, Run] = {}

    def row(line: int, cell: dict[str, str]) -> None:
        file, run_id = RUNS.file, cell["run_id"]
        for column in ("run_id", "clone_id"):
            if not cell[column]:
                check.bad(file, line, column, "", "blank; every run needs one")
        if run_id in runs:
            check.bad(file, line, "run_id", run_id, "given twice")
        if media and cell["medium_id"] not in media:
            known = tuple(media)
            rule = f"not in {MEDIA.file}.{nearest(cell['medium_id'], known)} Known: {', '.join(known)}"
            check.bad(file, line, "medium_id", cell["medium_id"], rule)
        volume = check.number(file, line, "start_volume_ml", cell["start_volume_ml"], lowest=0.0)
        if volume == 0.0:
            check.bad(file, line, "start_volume_ml", cell["start_volume_ml"], "must be above 0")
        inoculum = check.number(
            file, line, "inoculum_vcd_1e6_per_ml", cell["inoculum_vcd_1e6_per_ml"], lowest=0.0, blank=True
        )
        ph = check.number(file, line, "ph", cell["ph"], lowest=0.0, blank=True)
        runs[run_id] = Run(
            run_id=run_id,
            experiment_id=cell["experiment_id"],
            vessel_id=cell["vessel_id"] or run_id,
            clone_id=cell["clone_id"],
            start_volume_l=volume / 1000.0,
            medium_id=cell["medium_id"],
            temperature_c=check.number(file, line, "temperature_c", cell["temperature_c"], lowest=0.0),
            ph=7.0 if math.isnan(ph) else ph,
            inoculum_vcd=None if math.isnan(inoculum) else inoculum,
            end_time_h=check.number(file, line, "end_time_h", cell["end_time_h"], lowest=0.0),
            actions=(),
        )

    visit(check.read(folder, RUNS), row)
    return runs


def _measurements(check: Checker, folder: Path, runs: dict[str, Run]) -> Measurements:
    kept: list[tuple[int, float, str, float, str, str]] = []
    seen: dict[tuple[str, float, str, str], int] = {}
    order = {run_id: i for i, run_id in enumerate(runs)}

    def row(line: int, cell: dict[str, str]) -> None:
        file = MEASUREMENTS.file
        run = known_run(check, file, line, cell["run_id"], runs)
        time = event_time(check, file, line, cell, run)
        quantity = variable_quantity(check, file, line, "variable", cell["variable"])
        value = check.number(file, line, "value", cell["value"], lowest=0.0)
        check.one_of(file, line, "censored", cell["censored"], ("", "<", ">"), "flag")
        check.one_of(file, line, "qc_flag", cell["qc_flag"], ("", "exclude"), "flag")
        if quantity is None:
            return
        value = check.converted(file, line, value, cell["unit"], quantity)
        if quantity.upper is not None and value > quantity.upper * (1.0 + 1e-9):
            rule = f"above {quantity.upper:g} (in {quantity.unit}); is the unit right?"
            check.bad(file, line, "value", cell["value"], rule)
        key = (cell["run_id"], time, cell["variable"], cell["replicate"])
        if key in seen:
            rule = f"same run, time, variable and replicate as row {seen[key]}; tell replicates apart"
            check.bad(file, line, "time_h", cell["time_h"], rule)
        elif not math.isnan(time):
            seen[key] = line
        if run is not None and cell["qc_flag"] != "exclude":
            censored, replicate = cell["censored"], cell["replicate"]
            kept.append((order[run.run_id], time, cell["variable"], value, censored, replicate))

    visit(check.read(folder, MEASUREMENTS), row)
    return Measurements(
        run=np.array([k[0] for k in kept], dtype=int),
        time_h=np.array([k[1] for k in kept], dtype=float),
        variable=tuple(k[2] for k in kept),
        value=np.array([k[3] for k in kept], dtype=float),
        censored=tuple(k[4] for k in kept),
        replicate=tuple(k[5] for k in kept),
    )


def _truth(check: Checker, folder: Path) -> dict[str, dict[str, float]]:
    truth: dict[str, dict[str, float]] = {}

    def row(line: int, cell: dict[str, str]) -> None:
        value = check.number(TRUTH.file, line, "value", cell["value"])
        truth.setdefault(cell["owner"], {})[cell["parameter"]] = value

    visit(check.read(folder, TRUTH), row)
    return truth
