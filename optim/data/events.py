"""Reading events.csv: its rows become actions on vessels, and every fault is noted with its line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from optim.data.contract import (
    ACIDITY,
    ANY,
    DURATION,
    EVENT_TABLE,
    MEDIA,
    POSITIVE,
    TEMPERATURE,
    Checker,
    Range,
    checked_variable,
    event_time,
    known_run,
    visit_rows,
)
from optim.data.dataset import Run
from optim.errors import ConfigError, nearest
from optim.schedule.actions import Action, Addition, Feed, Perfusion, Removal, start_time
from optim.schedule.events import EVENT_KINDS, EventKind, EventRow, event_actions, event_kind
from optim.schedule.faults import plan_faults
from optim.units import Quantity, parse_unit, to_canonical

OPTIONAL = ("feed_id", "value_end", "until_h", "ramp_h", "growth_per_h", "component")
FILE = EVENT_TABLE.file
Lined = list[tuple[int, EventRow]]  # rows with their lines
# of the settings of a vessel, in the unit of their kind
RANGES = {
    "temperature": TEMPERATURE,
    "ph": ACIDITY,
    "do": Range(0.0, 1000.0, unit="%"),
    "kla": Range(0.0, 1e5, unit="1/h"),
}
MOST_MOVED = 20.0  # starting volumes of a vessel that are given or taken at once, or in an hour


def read_runs_with_events(
    check: Checker, folder: Path, runs: Mapping[str, Run], *, media: Mapping[str, Mapping[str, float]]
) -> tuple[Run, ...]:
    """The runs with their actions, from the rows of events.csv.

    Args:
        check: collects the faults.
        folder: the dataset folder.
        runs: runs without actions, by id.
        media: compositions by id, which the feeds must be among.
    """
    rows: dict[str, Lined] = {}
    frame = check.read_table(folder, EVENT_TABLE)
    broken: set[str] = set()  # runs of which a row could not be read: their plans are not judged

    seen: dict[tuple[str, ...], int] = {}

    def visit_row(line: int, cell: dict[str, str]) -> None:
        run = known_run(check, FILE, line, run_id=cell["run_id"], runs=runs)
        row = _row(check, line, cell, run, media)
        first = seen.setdefault(tuple(cell.values()), line)
        if first != line:
            check.note_fault(
                FILE, line, "kind", value=cell["kind"], rule=f"same event as row {first}; keep one of them"
            )
            row = None
        if row is None:
            broken.add(cell["run_id"])
        else:
            rows.setdefault(cell["run_id"], []).append((line, row))

    visit_rows(frame, visit_row)
    finished = []
    for run in runs.values():
        own = sorted(rows.get(run.run_id, []), key=lambda item: item[1].time_h)
        if not own and run.run_id not in broken and not frame.empty:
            check.note_fault(
                FILE, None, "run_id", value=run.run_id, rule="this run has no event; list at least its samples"
            )
        finished.append(run if run.run_id in broken else _run_with(check, run, own))
    return tuple(finished)


def _row(
    check: Checker, line: int, cell: Mapping[str, str], run: Run | None, media: Mapping[str, Mapping[str, float]]
) -> EventRow | None:
    """One row in the unit of its kind; None after noting its faults."""
    before = len(check.cells)
    time = event_time(check, FILE, line, cell=cell, run=run)
    value = check.read_number(FILE, line, "value", text=cell["value"], allowed=POSITIVE)
    try:
        kind = event_kind(cell["kind"])
    except ConfigError as err:
        check.note_fault(FILE, line, "kind", value=cell["kind"], rule=str(err))
        return None
    _columns(check, line, cell, kind)
    feed = cell["feed_id"]
    if "feed_id" in kind.needs and feed and media and feed not in media:
        rule = f"not in {MEDIA.file}.{nearest(feed, media)} Known: {', '.join(media)}"
        check.note_fault(FILE, line, "feed_id", value=feed, rule=rule)
    ranges = {"growth_per_h": ANY, "until_h": replace(DURATION, above=False), "ramp_h": replace(DURATION, above=False)}
    extra = {
        column: check.read_number(
            FILE, line, column, text=cell[column], allowed=ranges.get(column, POSITIVE), blank=True
        )
        for column in ("value_end", "until_h", "ramp_h", "growth_per_h")
    }
    component = cell["component"]
    if component and "component" in kind.needs:
        checked_variable(check, FILE, line, column="component", name=component)
    if len(check.cells) > before:
        return None
    unit, scale = _unit(check, line, cell["unit"], kind, component)
    if len(check.cells) > before:
        return None
    number = {
        column: None if math.isnan(v) else to_canonical(v, cell["unit"], scale) if column == "value_end" else v
        for column, v in extra.items()
    }
    amount = to_canonical(value, cell["unit"], scale)
    for column, stated in (("value", amount), ("value_end", number["value_end"])):
        allowed = RANGES.get(kind.name, ANY if scale.upper is None else Range(most=scale.upper, unit=unit))
        rule = "" if stated is None else allowed.fault(stated)
        if rule:
            check.note_fault(FILE, line, column, value=f"{cell[column]} {cell['unit']}", rule=rule)
            return None
    return EventRow(
        time_h=time,
        kind=kind.name,
        value=amount,
        unit=unit,
        feed_id=feed,
        value_end=number["value_end"],
        until_h=number["until_h"],
        ramp_h=number["ramp_h"] or 0.0,
        growth_per_h=number["growth_per_h"],
        component=component,
    )


def _columns(check: Checker, line: int, cell: Mapping[str, str], kind: EventKind) -> None:
    """Columns that a kind must have, or cannot have."""
    words = {"feed_id": "feed"}
    for column in OPTIONAL:
        if column in kind.needs and not cell[column]:
            check.note_fault(FILE, line, column, value="", rule=f"blank; a {kind.name} event needs it ({kind.meaning})")
        elif cell[column] and column not in (*kind.needs, *kind.uses):
            having = ", ".join(name for name, other in EVENT_KINDS.items() if column in (*other.needs, *other.uses))
            rule = f"a {kind.name} event has no {words.get(column, column)}; leave it blank. Those that have: {having}"
            check.note_fault(FILE, line, column, value=cell[column], rule=rule)


def _unit(check: Checker, line: int, text: str, kind: EventKind, component: str) -> tuple[str, Quantity]:
    """The unit of the kind that a text fits, with its quantity."""
    if "" in kind.units:
        quantity = checked_variable(check, FILE, line, column="component", name=component)
        assert quantity is not None
        check.convert_unit(FILE, line, 0.0, unit=text, quantity=quantity)
        return quantity.unit, quantity
    try:
        parse_unit(text)
    except ConfigError as err:
        check.note_fault(FILE, line, "unit", value=text, rule=str(err))
        return "", Quantity("")
    for unit in kind.units:
        quantity = Quantity(unit)
        try:
            to_canonical(0.0, text, quantity)
        except ConfigError:
            continue
        return unit, quantity
    expected = " or ".join(f"'{unit}'" for unit in kind.units)
    check.note_fault(
        FILE,
        line,
        "unit",
        value=text,
        rule=f"unit '{text}' does not fit a {kind.name} event; expected one like {expected}",
    )
    return "", Quantity("")


def _run_with(check: Checker, run: Run, own: Lined) -> Run:
    """The run with its actions, once they make sense together."""
    actions = event_actions([row for _, row in own])
    found = replace(run, actions=actions)
    if not (run.end_time_h > 0.0 and run.start_volume_l > 0.0) or math.isnan(run.temperature_c):
        return found  # faults of runs.csv, which have been reported
    lines = {id(action): line for (line, _), action in zip(own, actions, strict=True)}
    alike = {(type(action), start_time(action)): line for (line, _), action in zip(own, actions, strict=True)}
    for fault in plan_faults(found.plan(), observed_h=(), volume_ml=1000.0 * run.start_volume_l, feeds=None):
        # a cut action is a new object; then its kind and time tell which it is
        key = (type(fault.action), start_time(fault.action)) if fault.action is not None else None
        line = lines.get(id(fault.action)) or (alike.get(key) if key else None)
        check.note_fault(
            FILE,
            line,
            "kind",
            value=type(fault.action).__name__ if fault.action else "",
            rule=f"run {run.run_id}: {fault.text}",
        )
    _volume(check, run, actions, lines)
    return found


def _volume(check: Checker, run: Run, actions: tuple[Action, ...], lines: Mapping[int, int]) -> None:
    """Whether a vessel can hold what is given at once, and without continuous feeds keeps some volume."""
    start = 1000.0 * run.start_volume_l
    for a in actions:
        rates = (getattr(a, "rate_ml_per_h", None), getattr(a, "end_rate_ml_per_h", None))
        most = max(getattr(a, "volume_ml", 0.0), *(rate or 0.0 for rate in rates))
        if most > MOST_MOVED * start:
            unit = "mL" if hasattr(a, "volume_ml") else "mL/h"
            rule = f"{most / start:,.0f} times the volume with which run {run.run_id} starts; is the unit right?"
            check.note_fault(FILE, lines[id(a)], "value", value=f"{most:g} {unit}", rule=rule)
            return
    if any(isinstance(a, Feed | Perfusion) for a in actions):
        return
    volume = 1000.0 * run.start_volume_l
    for a in actions:
        if isinstance(a, Addition):
            volume += a.volume_ml
        elif isinstance(a, Removal):
            volume -= a.volume_ml
            if volume <= 0.0:
                rule = f"run {run.run_id} has no volume left after this {type(a).__name__.lower()}"
                check.note_fault(FILE, lines[id(a)], "value", value=f"{a.volume_ml:g} mL", rule=rule)
                return
