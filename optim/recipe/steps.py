"""Steps of a recipe: setpoints by phase and feeds by time, from the actions of a process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optim.errors import IncompatibleError
from optim.optimisation.result import DecisionValue
from optim.schedule.actions import (
    Action,
    Aeration,
    Bleed,
    Bolus,
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
    Transfect,
    used_feed,
)
from optim.schedule.lines import setpoint_changes

HOURS = 24.0
# setpoint of an action -> its name for people, its unit, and the kind of decision about it
PARAMETERS = {
    "temperature_c": ("temperature", "degC", "temperature"),
    "ph": ("pH", "-", "ph"),
    "do_percent": ("dissolved oxygen", "%", "do"),
    "kla_per_h": ("kLa", "1/h", "kla"),
}


@dataclass(frozen=True)
class SetpointPhase:
    """A setpoint over one phase. Its range is the range that was searched; it is no proven acceptable range."""

    parameter: str
    unit: str
    start_day: float
    end_day: float
    target: float
    target_end: float | None  # of a ramp
    model_suggested_low: float | None
    model_suggested_high: float | None
    rationale: str


@dataclass(frozen=True)
class FeedStep:
    """One feed action of one vessel, or one stretch of a continuous feed.

    Percent and production volume refer to the starting working volume; cumulative volume counts this feed;
    `vessel_volume_after_ml` is by bookkeeping: start + feeds - samples, bleed and evaporation, held while perfused.
    """

    day: int
    clock_h: float
    feed_id: str
    mode: str  # bolus | continuous | perfusion | exchange
    rate_start_ml_per_h: float | None
    rate_end_ml_per_h: float | None
    duration_h: float
    volume_ml: float
    percent_of_start_volume: float
    production_volume_l: float
    cumulative_ml: float
    vessel_volume_after_ml: float


def harvest_time(actions: Sequence[Action]) -> float:
    """The end of the run, h."""
    return next(a.time_h for a in actions if isinstance(a, Harvest))


def setpoint_phases(actions: Sequence[Action], decisions: Sequence[DecisionValue]) -> tuple[SetpointPhase, ...]:
    """Setpoints by phase, each with the range of its decision; parameter by parameter, temperature and pH first."""
    decided = {d.kind: d for d in decisions}  # of several times, any: the range is the same
    end = harvest_time(actions)
    found: dict[tuple[str, str, str], list[tuple[float, float, float, float | None]]] = {}
    for name, key in PARAMETERS.items():
        found[key] = _phases(setpoint_changes(actions, name), end)
    for a in actions:
        if not isinstance(a, Bleed):
            continue
        stop = end if a.stop_h is None else a.stop_h
        if a.rate_ml_per_h is not None:
            found.setdefault(("bleed", "mL/h", "bleed"), []).append((a.start_h, stop, a.rate_ml_per_h, None))
        if a.above_vcd_1e6_per_ml is not None:
            key = ("bleed above VCD", "1e6/mL", "bleed_above")
            found.setdefault(key, []).append((a.start_h, stop, a.above_vcd_1e6_per_ml, None))
    rows = []
    for (parameter, unit, kind), phases in sorted(found.items(), key=lambda item: _order(item[0][0])):
        for i, (start, stop, target, target_end) in enumerate(phases):
            d = (decided.get(f"shift_{kind}") if i else None) or decided.get(kind)
            rows.append(
                SetpointPhase(
                    parameter=parameter,
                    unit=unit,
                    start_day=start / HOURS,
                    end_day=stop / HOURS,
                    target=target,
                    target_end=target_end,
                    model_suggested_low=d.lower if d else None,
                    model_suggested_high=d.upper if d else None,
                    rationale="optimised" + (" (at the end of its range)" if d.at_bound else "")
                    if d
                    else "fixed by the platform",
                )
            )
    return tuple(rows)


def _order(parameter: str) -> tuple[bool, str]:
    return parameter not in ("temperature", "pH"), parameter


def _phases(changes: list[tuple[float, float, float]], end: float) -> list[tuple[float, float, float, float | None]]:
    """(start, stop, target, target at the end of a ramp) of one setpoint."""
    phases: list[tuple[float, float, float, float | None]] = []
    held = math.nan
    for i, (t, value, ramp) in enumerate(changes):
        until = changes[i + 1][0] if i + 1 < len(changes) else end
        there = t
        if ramp > 0.0:
            there = min(t + ramp, until)
            phases.append((t, there, held, value))
        if there < until:
            phases.append((there, until, value, None))
        held = value
    return phases


def feed_schedule(
    actions: Sequence[Action], start_volume_ml: float, production_volume_l: float
) -> tuple[FeedStep, ...]:
    """Feeds in order of time. At one time a sample is drawn before a bolus is given, as in the simulation.

    Raises `IncompatibleError` for an action that a recipe cannot state.
    """
    end = harvest_time(actions)
    held = [(a.start_h, end if a.stop_h is None else a.stop_h) for a in actions if isinstance(a, Perfusion)]
    changes: list[tuple[float, int, float, FeedStep | None]] = []  # (when counted, order, change of volume in mL, row)

    def _step(a: Action, start: float, mode: str, volume: float, rates: tuple[float, float] | None = None) -> FeedStep:
        day = int((start + 1e-6) // HOURS)
        return FeedStep(
            day=day,
            clock_h=round(start - HOURS * day, 4),
            feed_id=used_feed(a),
            mode=mode,
            rate_start_ml_per_h=None if rates is None else rates[0],
            rate_end_ml_per_h=None if rates is None else rates[1],
            duration_h=0.0 if rates is None else _length(a, end),
            volume_ml=volume,
            percent_of_start_volume=100.0 * volume / start_volume_ml,
            production_volume_l=volume / start_volume_ml * production_volume_l,
            cumulative_ml=0.0,
            vessel_volume_after_ml=0.0,
        )

    for a in actions:
        match a:
            case Sample() | Drain():
                changes.append((a.time_h, 1, -a.volume_ml, None))
            case Bolus() | Inoculate() | Transfect() | Infect() | Induce():
                changes.append((a.time_h, 2, a.volume_ml, _step(a, a.time_h, "bolus", a.volume_ml)))
            case Exchange():
                changes.append((a.time_h, 2, 0.0, _step(a, a.time_h, "exchange", a.volume_ml)))
            case Feed():
                length, (rates, volume) = _length(a, end), _fed(a, end)
                # a continuous feed is counted at the end of its stretch, before what happens there
                row = _step(a, a.start_h, "continuous", volume, rates)
                changes.append((a.start_h + length, 0, volume * _free(a, end, held), row))
            case Perfusion():
                rate = (a.rate_vvd or 0.0) * start_volume_ml / HOURS if a.rate_ml_per_h is None else a.rate_ml_per_h
                length = _length(a, end)
                row = _step(a, a.start_h, "perfusion", rate * length, (rate, rate))
                changes.append((a.start_h + length, 0, 0.0, row))  # as much leaves as is perfused
            case Bleed() | Evaporation():
                if a.rate_ml_per_h is not None:  # what holds a VCD is not known beforehand
                    length = _length(a, end)
                    changes.append((a.start_h + length, 0, -a.rate_ml_per_h * length * _free(a, end, held), None))
            case Setpoint() | Aeration() | Harvest():
                pass
            case _:
                raise IncompatibleError(f"a recipe cannot state a {type(a).__name__}")
    level, given, rows = start_volume_ml, dict[str, float](), list[FeedStep]()
    for _, _, added, draft in sorted(changes, key=lambda c: (*c[:2], c[3].feed_id if c[3] else "")):
        level += added
        if draft is not None:
            given[draft.feed_id] = given.get(draft.feed_id, 0.0) + draft.volume_ml
            rows.append(replace(draft, cumulative_ml=given[draft.feed_id], vessel_volume_after_ml=level))
    return tuple(sorted(rows, key=lambda r: (r.day, r.clock_h, r.feed_id)))


def _length(a: Action, end: float) -> float:
    start, stop = getattr(a, "start_h", 0.0), getattr(a, "stop_h", None)
    return float(end if stop is None else stop) - float(start)


def _fed(a: Feed, end: float) -> tuple[tuple[float, float], float]:
    """Rates at both ends of a feed in mL/h, and its volume in mL."""
    first, length = a.rate_ml_per_h, _length(a, end)
    if a.growth_per_h:
        last = first * math.exp(a.growth_per_h * length)
        return (first, last), (last - first) / a.growth_per_h
    last = first if a.end_rate_ml_per_h is None else a.end_rate_ml_per_h
    return (first, last), 0.5 * (first + last) * length


def _free(a: Action, end: float, held: list[tuple[float, float]]) -> float:
    """The part of a stretch in which the volume is not held by perfusion."""
    start, length = getattr(a, "start_h", 0.0), _length(a, end)
    within = sum(max(0.0, min(stop, start + length) - max(begin, start)) for begin, stop in held)
    return 1.0 - min(within / length, 1.0) if length > 0.0 else 1.0
