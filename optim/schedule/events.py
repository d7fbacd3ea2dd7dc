"""Events: actions as the rows of a table, one kind of row for every number that an action can state.

This is how files of a dataset, lab sheets and tables for people write a plan. A new action that files can state is one
more record of `EVENT_KINDS`; an action without a record is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from optim.errors import ConfigError, nearest
from optim.schedule.actions import (
    Action,
    Aeration,
    Bleed,
    Bolus,
    Chemostat,
    Drain,
    Evaporation,
    Exchange,
    Feed,
    Harvest,
    Induce,
    Infect,
    Inoculate,
    Perfusion,
    Sample,
    Setpoint,
    TopUp,
    Transfect,
    start_time,
)
from optim.schedule.lines import action_times, round_time
from optim.units import VARIABLES


@dataclass(frozen=True)
class EventRow:
    """One event. `value` and `value_end` are in `unit`; '' or None where a kind has no such thing."""

    time_h: float
    kind: str
    value: float
    unit: str
    feed_id: str = ""
    value_end: float | None = None
    until_h: float | None = None  # None: until the next event of the same kind and feed, or the end of the run
    ramp_h: float = 0.0
    growth_per_h: float | None = None
    component: str = ""


@dataclass(frozen=True)
class EventKind:
    """A kind of event: the action it states, by which of its fields and in which unit, and what else it may state.

    A kind with `units` has a field for each of them, the usual one first. `uses` names further columns of a row;
    those of `needs` must be there.
    """

    name: str
    action: type
    units: dict[str, str]  # unit -> field of the action that is stated in it; '' = that of the component
    meaning: str
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    end_field: str = ""  # of the action, that value_end states


# column of a row -> field of an action
FIELDS = {
    "feed_id": "feed",
    "until_h": "stop_h",
    "ramp_h": "ramp_h",
    "growth_per_h": "growth_per_h",
    "component": "component",
}
VOLUME, RATE = {"mL": "volume_ml"}, {"mL/h": "rate_ml_per_h"}
FED = ("feed_id",)


def _addition(name: str, action: type, meaning: str) -> EventKind:
    return EventKind(name, action, VOLUME, meaning, needs=FED)


def _setpoint(name: str, unit: str, field: str, meaning: str) -> EventKind:
    return EventKind(name, Setpoint, {unit: field}, meaning, uses=("ramp_h",))


EVENT_KINDS: dict[str, EventKind] = {
    kind.name: kind
    for kind in (
        EventKind("sample", Sample, VOLUME, "broth taken for an assay"),
        EventKind("drain", Drain, VOLUME, "broth drawn off, to seed another vessel or to make room"),
        EventKind(
            "exchange", Exchange, VOLUME, "medium taken without its cells, and as much of a feed given", needs=FED
        ),
        _addition("bolus", Bolus, "feed given at once"),
        _addition("inoculation", Inoculate, "seed culture given at once"),
        _addition("transfection", Transfect, "DNA with its transfection agent, given at once"),
        _addition("infection", Infect, "stock of virus given at once"),
        _addition("induction", Induce, "inducer given at once"),
        EventKind(
            "top_up",
            TopUp,
            {"": "below"},
            "feed given if the component is below `value`, as much as brings it to `value_end`",
            needs=(*FED, "component", "value_end"),
            end_field="to",
        ),
        EventKind(
            "feed_rate",
            Feed,
            RATE,
            "feed that flows, constant, or linear to `value_end`, or times exp(growth_per_h * time)",
            needs=FED,
            uses=("value_end", "growth_per_h", "until_h"),
            end_field="end_rate_ml_per_h",
        ),
        EventKind(
            "perfusion",
            Perfusion,
            {"vvd": "rate_vvd"} | RATE,
            "feed that flows while as much leaves through the retention device, so that the volume holds",
            needs=FED,
            uses=("until_h",),
        ),
        EventKind(
            "chemostat",
            Chemostat,
            {"1/h": "dilution_per_h"},
            "feed that flows, in starting volumes per hour, while as much broth leaves",
            needs=FED,
            uses=("until_h",),
        ),
        EventKind("bleed", Bleed, RATE, "broth that flows out, cells and all", uses=("until_h",)),
        EventKind(
            "bleed_above",
            Bleed,
            {"1e6 cells/mL": "above_vcd_1e6_per_ml"},
            "as much broth flows out as holds this VCD, once it is reached",
            uses=("until_h",),
        ),
        EventKind("evaporation", Evaporation, RATE, "water that is lost", uses=("until_h",)),
        _setpoint("temperature", "degC", "temperature_c", "setpoint from now on"),
        _setpoint("ph", "1", "ph", "setpoint from now on"),
        _setpoint("do", "%", "do_percent", "dissolved oxygen that is held from now on, in % of air saturation"),
        _setpoint("kla", "1/h", "kla_per_h", "oxygen transfer from now on"),
        EventKind("gas_flow", Aeration, {"L/h": "gas_l_per_h"}, "gas supplied from now on, dry, at 0 degC and 1 atm"),
        EventKind("gas_oxygen", Aeration, {"%": "oxygen_percent"}, "oxygen in the gas supplied from now on, mol/mol"),
    )
}
LASTING_KINDS = tuple(name for name, kind in EVENT_KINDS.items() if "until_h" in kind.uses)
# order of rows at the same time, as a vessel does it
SETTINGS_FIRST = ("temperature", "ph", "do", "kla", "gas_flow", "gas_oxygen")
ORDER = {name: i for i, name in enumerate(dict.fromkeys((*SETTINGS_FIRST, *EVENT_KINDS)))}


def event_kind(name: str) -> EventKind:
    """A kind of event by name. Raises `ConfigError` with the nearest match."""
    if name in EVENT_KINDS:
        return EVENT_KINDS[name]
    if name == "harvest":
        raise ConfigError("harvest is no event of a file: it is the end of the run, end_time_h of runs.csv")
    raise ConfigError(f"unknown kind of event '{name}'.{nearest(name, EVENT_KINDS)} Known: {', '.join(EVENT_KINDS)}")


def component_unit(component: str) -> str:
    """The unit in which an event states a component of media. Raises `ConfigError` for one that files cannot state."""
    if component not in VARIABLES:
        raise ConfigError(
            f"no event of a file can state '{component}': it is no component of media.{nearest(component, VARIABLES)}"
        )
    return VARIABLES[component].unit


def event_rows(actions: Iterable[Action], end_h: float) -> tuple[EventRow, ...]:
    """The rows of a list of actions, in order of time; a harvest has none, since it ends the run at `end_h`.

    Where a flow runs on until the next of its kind, `until_h` is left out. Raises `ConfigError` for an action that no
    kind of event can state.
    """
    rows = [row for action in actions for row in _rows(action, end_h)]
    rows.sort(key=lambda row: (row.time_h, ORDER[row.kind], row.feed_id))
    starts = {(row.kind, row.feed_id, round_time(row.time_h)) for row in rows}
    return tuple(
        replace(row, until_h=None)
        if row.until_h is not None and (row.kind, row.feed_id, round_time(row.until_h)) in starts
        else row
        for row in rows
    )


def _rows(action: Action, end_h: float) -> Iterable[EventRow]:
    if isinstance(action, Harvest):
        return
    stated = False
    for kind in EVENT_KINDS.values():
        if kind.action is not type(action):
            continue
        for unit, field in kind.units.items():
            value = getattr(action, field)
            if value is None:
                continue
            stated = True
            named = {
                column: getattr(action, FIELDS[column]) for column in (*kind.needs, *kind.uses) if column in FIELDS
            }
            if kind.end_field:
                named["value_end"] = getattr(action, kind.end_field)
            times = action_times(action, end_h) if isinstance(action, TopUp) else (start_time(action),)
            unit = unit or component_unit(str(named.get("component")))
            yield from (EventRow(float(time), kind.name, float(value), unit, **named) for time in times)
    if not stated:
        raise ConfigError(f"no event of a file can state a {type(action).__name__}")


def event_actions(rows: Sequence[EventRow]) -> tuple[Action, ...]:
    """The actions of rows, one each and in the same order. Raises `ConfigError` for an unknown kind or unit."""
    follow: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        follow.setdefault((row.kind, row.feed_id), []).append(row.time_h)
    found = []
    for row in rows:
        later = [t for t in follow[row.kind, row.feed_id] if t > row.time_h]
        found.append(_action(row, min(later, default=None)))
    return tuple(found)


def _action(row: EventRow, next_h: float | None) -> Action:
    kind = event_kind(row.kind)
    if row.unit not in kind.units and "" not in kind.units:
        raise ConfigError(f"event '{row.kind}': unit '{row.unit}' is none of {', '.join(kind.units)}")
    named = {FIELDS[c]: getattr(row, c) for c in (*kind.needs, *kind.uses) if c in FIELDS}
    named[kind.units.get(row.unit) or kind.units[""]] = row.value
    if kind.end_field:
        named[kind.end_field] = row.value_end
    if row.kind in LASTING_KINDS:
        named["stop_h"] = next_h if row.until_h is None else row.until_h
        return kind.action(start_h=row.time_h, **named)  # type: ignore[no-any-return]
    if kind.action is TopUp:
        return TopUp(times_h=(row.time_h,), **named)
    return kind.action(time_h=row.time_h, **named)  # type: ignore[no-any-return]
