"""Reading a dataset folder: every fault of every file is found and reported at once; no file is ever changed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from optim.data.contract import (
    ACIDITY,
    DURATION,
    EVENT_TABLE,
    MEASUREMENTS,
    MEDIA,
    POSITIVE,
    RESERVED_CLONES,
    RUNS,
    SEED_DENSITY,
    START_VOLUME,
    TEMPERATURE,
    TRUTH,
    Checker,
    Range,
    check_name,
    checked_variable,
    event_time,
    known_run,
    visit_rows,
)
from optim.data.dataset import Dataset, Measurements, Run
from optim.data.events import read_runs_with_events
from optim.errors import DatasetError, nearest

HEADER_FILE = "dataset.yaml"
DATASET_FILES = (HEADER_FILE, *(table.file for table in (RUNS, EVENT_TABLE, MEASUREMENTS, MEDIA, TRUTH)))
TEXT_KEYS = ("name", "description", "organism", "citation", "licence")
HEADER_KEYS = (*TEXT_KEYS, "simulated", "notes")
FLAGS = {"censored": ("", "<", ">"), "qc_flag": ("", "exclude"), "when": ("", "before", "after")}
AFTER_H = 1e-3  # a reading after the actions of its time lies so much later
MOST_UNLIKE = 1000.0  # start volumes of one dataset differ by less


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
    truth = _truth(check, folder, {r.clone_id for r in runs.values()}) if (folder / TRUTH.file).exists() else None
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
    except OSError as err:
        check.note_fault(file, None, "", rule=f"cannot be read: {err.strerror}")
        return blank
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as err:
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
    if isinstance(header.get("name"), str):
        check_name(check, file, None, column="name", text=header["name"])
    for key in TEXT_KEYS:
        if isinstance(header.get(key), (dict, list)):
            check.note_fault(file, None, key, value=header[key], rule="expected a text")
    notes = header.get("notes")
    if isinstance(notes, str):
        header["notes"] = [notes]
    elif notes is not None and not (isinstance(notes, list) and all(isinstance(n, str) for n in notes)):
        check.note_fault(file, None, "notes", value=notes, rule="expected a list of texts")
        header["notes"] = []
    if not isinstance(header.get("simulated", False), bool):
        check.note_fault(file, None, "simulated", value=header["simulated"], rule="expected true or false")
    return blank | header


def _media(check: Checker, folder: Path) -> dict[str, dict[str, float]]:
    media: dict[str, dict[str, float]] = {}

    def _read_row(line: int, cell: dict[str, str]) -> None:
        composition = media.setdefault(cell["medium_id"], {})
        if not (cell["component"] or cell["value"] or cell["unit"]):
            return  # a medium without a listed component: water, a base
        quantity = checked_variable(check, MEDIA.file, line, column="component", name=cell["component"])
        check_name(check, MEDIA.file, line, column="medium_id", text=cell["medium_id"], blank=False)
        value = check.read_number(MEDIA.file, line, "value", text=cell["value"], allowed=POSITIVE)
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
        for column in ("run_id", "clone_id", "vessel_id", "experiment_id"):
            blank = column in ("vessel_id", "experiment_id")
            check_name(check, file, line, column=column, text=cell[column], blank=blank)
        if cell["clone_id"] in RESERVED_CLONES:
            rule = f"a word of optim's own; give the clone another id, such as '{cell['clone_id']} 1'"
            check.note_fault(file, line, "clone_id", value=cell["clone_id"], rule=rule)
        if run_id in runs:
            check.note_fault(file, line, "run_id", value=run_id, rule="given twice")
        if media and cell["medium_id"] not in media:
            known = tuple(media)
            rule = f"not in {MEDIA.file}.{nearest(cell['medium_id'], known)} Known: {', '.join(known)}"
            check.note_fault(file, line, "medium_id", value=cell["medium_id"], rule=rule)

        def number(column: str, allowed: Range, *, blank: bool = False) -> float:
            return check.read_number(file, line, column, text=cell[column], allowed=allowed, blank=blank)

        volume = number("start_volume_ml", START_VOLUME)
        inoculum = number("inoculum_vcd_1e6_per_ml", SEED_DENSITY, blank=True)
        ph = number("ph", ACIDITY, blank=True)
        runs[run_id] = Run(
            run_id=run_id,
            experiment_id=cell["experiment_id"],
            vessel_id=cell["vessel_id"] or run_id,
            clone_id=cell["clone_id"],
            start_volume_l=volume / 1000.0,
            medium_id=cell["medium_id"],
            temperature_c=number("temperature_c", TEMPERATURE),
            ph=7.0 if math.isnan(ph) else ph,
            inoculum_vcd=None if math.isnan(inoculum) else inoculum,
            end_time_h=number("end_time_h", DURATION),
            actions=(),
        )
        lines[run_id] = line

    lines: dict[str, int] = {}
    visit_rows(check.read_table(folder, RUNS), _read_row)
    usual = median([r.start_volume_l for r in runs.values() if r.start_volume_l > 0.0] or [1.0])
    for run_id, run in runs.items():
        if run.start_volume_l > MOST_UNLIKE * usual or run.start_volume_l < usual / MOST_UNLIKE:
            times = run.start_volume_l / usual
            rule = f"{times:g} times the usual volume of these runs, {1000.0 * usual:g} mL; is the unit right?"
            check.note_fault(
                RUNS.file, lines[run_id], "start_volume_ml", value=f"{1000.0 * run.start_volume_l:g}", rule=rule
            )
    return runs


def _measurements(check: Checker, folder: Path, runs: dict[str, Run]) -> Measurements:
    kept: list[tuple[int, float, str, float, str, str]] = []
    seen: dict[tuple[str, float, str, str, str], int] = {}
    order = {run_id: i for i, run_id in enumerate(runs)}

    def _read_row(line: int, cell: dict[str, str]) -> None:
        file = MEASUREMENTS.file
        run = known_run(check, file, line, run_id=cell["run_id"], runs=runs)
        time = event_time(check, file, line, cell=cell, run=run)
        quantity = checked_variable(check, file, line, column="variable", name=cell["variable"])
        value = check.read_number(file, line, "value", text=cell["value"], allowed=POSITIVE)
        for column, flags in FLAGS.items():
            check.require_one_of(file, line, column, text=cell[column], allowed=flags, what="flag")
        if run is not None:
            # a vessel that runs.csv does not state is called as its run
            stated = {"clone_id": run.clone_id, "experiment_id": run.experiment_id, "vessel_id": run.vessel_id}
            for column, theirs in stated.items():
                if cell[column] and theirs not in ("", run.run_id, cell[column]):
                    rule = f"run {run.run_id} has {column} '{theirs}' in {RUNS.file}; one of the two is wrong"
                    check.note_fault(file, line, column, value=cell[column], rule=rule)
        if quantity is None:
            return
        value = check.convert_unit(file, line, value, unit=cell["unit"], quantity=quantity)
        key = (cell["run_id"], time, cell["variable"], cell["replicate"], cell["when"])
        if key in seen:
            rule = (
                f"same run, time, variable and replicate as row {seen[key]}; tell replicates apart (column replicate), "
                "and readings before and after the feed of that time (column when: before or after)"
            )
            check.note_fault(file, line, "time_h", value=cell["time_h"], rule=rule)
        elif not math.isnan(time):
            seen[key] = line
        if cell["when"] == "after":
            if run is not None and time >= run.end_time_h:
                check.note_fault(file, line, "when", value="after", rule="nothing is done at the end of a run")
            time += AFTER_H
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


def _truth(check: Checker, folder: Path, clones: Collection[str]) -> dict[str, dict[str, float]]:
    truth: dict[str, dict[str, float]] = {}

    def _read_row(line: int, cell: dict[str, str]) -> None:
        owner, parameter = cell["owner"], cell["parameter"]
        check_name(check, TRUTH.file, line, column="parameter", text=parameter, blank=False)
        value = check.read_number(TRUTH.file, line, "value", text=cell["value"])
        if owner and clones and owner not in clones:
            rule = f"no clone of {RUNS.file}.{nearest(owner, clones)}"
            check.note_fault(TRUTH.file, line, "owner", value=owner, rule=rule)
        if parameter in truth.setdefault(owner, {}):
            rule = f"given twice for '{owner}'" if owner else "given twice"
            check.note_fault(TRUTH.file, line, "parameter", value=parameter, rule=rule)
        truth[owner][parameter] = value

    visit_rows(check.read_table(folder, TRUTH), _read_row)
    return truth
