"""Reading a dataset folder: every fault of every file is found and reported at once; no file is ever changed."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from optim.data.contract import (
    EVENT_TABLE,
    MEASUREMENTS,
    MEDIA,
    RUNS,
    TRUTH,
    Checker,
    checked_variable,
    event_time,
    known_run,
    visit_rows,
)
from optim.data.dataset import Dataset, Measurements, Run
from optim.data.events import read_runs_with_events
from optim.errors import DatasetError, nearest
from optim.storage import name_fault

HEADER_FILE = "dataset.yaml"
DATASET_FILES = (HEADER_FILE, *(table.file for table in (RUNS, EVENT_TABLE, MEASUREMENTS, MEDIA, TRUTH)))
HEADER_KEYS = ("name", "description", "organism", "citation", "licence", "simulated", "notes")


def read_folder(folder: Path) -> Dataset:
    """Read and validate a dataset folder (tables as in `optim.data.contract`, `dataset.yaml` as header).

    Raises `DatasetError` that lists every bad cell with file, row, column, value and rule.
    """
    if not folder.is_dir():
        raise DatasetError(f"dataset folder {folder} does not exist")
    check = Checker()
    header = _header(check, folder)
    media = _media(check, folder)
    runs = _runs(check, folder, media)
    finished = read_runs_with_events(check, folder, runs, media=media)
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
    """SHA-256 over names and bytes of the dataset's files; other files in its folder do not count."""
    digest = hashlib.sha256()
    for file in (folder / name for name in sorted(DATASET_FILES)):
        if file.exists():
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _header(check: Checker, folder: Path) -> dict[str, Any]:
    file = HEADER_FILE
    blank: dict[str, Any] = {key: "" for key in HEADER_KEYS} | {"simulated": False, "notes": []}
    try:
        header = yaml.safe_load((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        check.note_fault(file, None, "", rule=f"file is missing; expected keys {', '.join(HEADER_KEYS[:-1])}")
        return blank
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        check.note_fault(file, None, "", rule=f"not valid YAML: {' '.join(str(err).split())}")
        return blank
    if not isinstance(header, dict):
        check.note_fault(file, None, "", rule=f"expected keys {', '.join(HEADER_KEYS)}")
        return blank
    for key in header:
        if key not in HEADER_KEYS:
            check.note_fault(file, None, str(key), rule=f"unknown key.{nearest(str(key), HEADER_KEYS)}")
    for key in HEADER_KEYS[:-1]:
        if key not in header:
            check.note_fault(file, None, key, rule="key is missing")
    _check_name(check, file, None, column="name", name=str(header.get("name", "")))
    if not isinstance(header.get("simulated", False), bool):
        check.note_fault(file, None, "simulated", value=header["simulated"], rule="expected true or false")
    return blank | header


def _check_name(check: Checker, file: str, line: int | None, *, column: str, name: str) -> None:
    """Note an id that can be no part of the name of a file; a blank one is noted where one is needed."""
    if name and (fault := name_fault(name)):
        check.note_fault(file, line, column, value=name[:60], rule=fault)


def _media(check: Checker, folder: Path) -> dict[str, dict[str, float]]:
    media: dict[str, dict[str, float]] = {}

    def _read_row(line: int, cell: dict[str, str]) -> None:
        if cell["medium_id"] not in media:
            _check_name(check, MEDIA.file, line, column="medium_id", name=cell["medium_id"])
        composition = media.setdefault(cell["medium_id"], {})
        if not (cell["component"] or cell["value"] or cell["unit"]):
            return  # a medium without a listed component: water, a base
        quantity = checked_variable(check, MEDIA.file, line, column="component", name=cell["component"])
        value = check.read_number(MEDIA.file, line, "value", text=cell["value"], lowest=0.0)
        if quantity is None:
            return
        if cell["component"] in composition:
            check.note_fault(
                MEDIA.file, line, "component", value=cell["component"], rule=f"given twice for {cell['medium_id']}"
            )
        composition[cell["component"]] = check.convert_unit(
            MEDIA.file, line, value, unit=cell["unit"], quantity=quantity
        )

    visit_rows(check.read_table(folder, MEDIA), _read_row)
    return media


def _runs(check: Checker, folder: Path, media: dict[str, dict[str, float]]) -> dict[str, Run]:
    runs: dict[str, Run] = {}

    def _read_row(line: int, cell: dict[str, str]) -> None:
        file, run_id = RUNS.file, cell["run_id"]
        for column in ("run_id", "clone_id"):
            if not cell[column]:
                check.note_fault(file, line, column, value="", rule="blank; every run needs one")
        for column in ("run_id", "clone_id", "vessel_id", "experiment_id"):
            _check_name(check, file, line, column=column, name=cell[column])
        if run_id in runs:
            check.note_fault(file, line, "run_id", value=run_id, rule="given twice")
        if media and cell["medium_id"] not in media:
            known = tuple(media)
            rule = f"not in {MEDIA.file}.{nearest(cell['medium_id'], known)} Known: {', '.join(known)}"
            check.note_fault(file, line, "medium_id", value=cell["medium_id"], rule=rule)
        volume = check.read_number(file, line, "start_volume_ml", text=cell["start_volume_ml"], lowest=0.0)
        if volume == 0.0:
            check.note_fault(file, line, "start_volume_ml", value=cell["start_volume_ml"], rule="must be above 0")
        inoculum = check.read_number(
            file, line, "inoculum_vcd_1e6_per_ml", text=cell["inoculum_vcd_1e6_per_ml"], lowest=0.0, blank=True
        )
        ph = check.read_number(file, line, "ph", text=cell["ph"], lowest=0.0, blank=True)
        runs[run_id] = Run(
            run_id=run_id,
            experiment_id=cell["experiment_id"],
            vessel_id=cell["vessel_id"] or run_id,
            clone_id=cell["clone_id"],
            start_volume_l=volume / 1000.0,
            medium_id=cell["medium_id"],
            temperature_c=check.read_number(file, line, "temperature_c", text=cell["temperature_c"], lowest=0.0),
            ph=7.0 if math.isnan(ph) else ph,
            inoculum_vcd=None if math.isnan(inoculum) else inoculum,
            end_time_h=check.read_number(file, line, "end_time_h", text=cell["end_time_h"], lowest=0.0),
            actions=(),
        )

    visit_rows(check.read_table(folder, RUNS), _read_row)
    return runs


def _measurements(check: Checker, folder: Path, runs: dict[str, Run]) -> Measurements:
    kept: list[tuple[int, float, str, float, str, str]] = []
    seen: dict[tuple[str, float, str, str], int] = {}
    order = {run_id: i for i, run_id in enumerate(runs)}

    def _read_row(line: int, cell: dict[str, str]) -> None:
        file = MEASUREMENTS.file
        run = known_run(check, file, line, run_id=cell["run_id"], runs=runs)
        time = event_time(check, file, line, cell=cell, run=run)
        quantity = checked_variable(check, file, line, column="variable", name=cell["variable"])
        value = check.read_number(file, line, "value", text=cell["value"], lowest=0.0)
        check.require_one_of(file, line, "censored", text=cell["censored"], allowed=("", "<", ">"), what="flag")
        check.require_one_of(file, line, "qc_flag", text=cell["qc_flag"], allowed=("", "exclude"), what="flag")
        if quantity is None:
            return
        value = check.convert_unit(file, line, value, unit=cell["unit"], quantity=quantity)
        if quantity.upper is not None and value > quantity.upper * (1.0 + 1e-9):
            rule = f"above {quantity.upper:g} (in {quantity.unit}); is the unit right?"
            check.note_fault(file, line, "value", value=cell["value"], rule=rule)
        key = (cell["run_id"], time, cell["variable"], cell["replicate"])
        if key in seen:
            rule = f"same run, time, variable and replicate as row {seen[key]}; tell replicates apart"
            check.note_fault(file, line, "time_h", value=cell["time_h"], rule=rule)
        elif not math.isnan(time):
            seen[key] = line
        if run is not None and cell["qc_flag"] != "exclude":
            censored, replicate = cell["censored"], cell["replicate"]
            kept.append((order[run.run_id], time, cell["variable"], value, censored, replicate))

    visit_rows(check.read_table(folder, MEASUREMENTS), _read_row)
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

    def _read_row(line: int, cell: dict[str, str]) -> None:
        value = check.read_number(TRUTH.file, line, "value", text=cell["value"])
        truth.setdefault(cell["owner"], {})[cell["parameter"]] = value

    visit_rows(check.read_table(folder, TRUTH), _read_row)
    return truth
