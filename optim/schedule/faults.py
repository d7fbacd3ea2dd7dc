"""Validation of a plan: its faults, each a sentence that names the action, its time and the remedy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from optim.errors import nearest
from optim.schedule.actions import (
    Action,
    Aeration,
    Bleed,
    Chemostat,
    Feed,
    Harvest,
    Perfusion,
    Sample,
    Setpoint,
    TopUp,
)
from optim.schedule.lines import (
    CONTINUOUS,
    FEEDING,
    SETPOINTS,
    action_times,
    flow_segments,
    round_time,
    setpoint_changes,
)

NEEDED = ("temperature_c", "ph")  # setpoints that every plan states at time 0
SIGNED = ("temperature_c", "growth_per_h")  # may be negative


class Fault(NamedTuple):
    """A fault of a plan in one sentence, and the action that is to be changed; None where that is no single one."""

    text: str
    action: Any = None


def plan_faults(
    actions: Sequence[Any],
    *,
    observed_h: Sequence[float] | np.ndarray,
    volume_ml: float | None,
    feeds: Sequence[str] | None,
) -> list[Fault]:
    """All faults of a list of actions. Conflicts between actions are checked once each action is sound by itself.

    Args:
        actions: the actions, in any order.
        observed_h: times (h) at which the simulation is observed.
        volume_ml: volume to which vessel volumes per day and dilution rates refer, if it is known.
        feeds: names of the feeds that the actions may use; None allows all.

    Returns:
        The faults, each with the action that is to be changed; empty for a sound plan.
    """
    faults = [Fault(text, action) for action in actions for text in _faults(action, volume_ml)]
    ends = [round_time(a.time_h) for a in actions if isinstance(a, Harvest)]
    if not faults and len(ends) != 1:
        when = ", ".join(f"{t:g} h" for t in ends)
        faults = [Fault(f"{len(ends)} harvests ({when}): keep one" if ends else "no harvest: add Harvest(time_h=...)")]
    if volume_ml is not None and not volume_ml > 0.0:
        faults.append(Fault(f"volume_ml is {volume_ml:g}; give the volume of the vessel's content"))
    if faults:
        return faults
    faults = [*_late(actions, ends[0]), *_clashes(actions, ends[0]), *_setpoint_faults(actions)]
    outside = [t for t in observed_h if not 0.0 <= round_time(t) <= ends[0]]
    faults += [Fault(f"observed_h: {t:g} h lies outside the run, 0 to {ends[0]:g} h") for t in outside]
    strange = {a.feed for a in actions if isinstance(a, FEEDING) and feeds and a.feed not in feeds}
    faults += [Fault(f"feed '{feed}' is not among feeds=.{nearest(feed, feeds or ())}") for feed in sorted(strange)]
    return list({fault.text: fault for fault in faults}.values())


def _name(action: Any) -> str:
    """The name of an action in a message."""
    time = action.start_h if isinstance(action, (*CONTINUOUS, TopUp)) else action.time_h
    of = f" of '{action.feed}'" if isinstance(action, FEEDING) else ""
    return f"{type(action).__name__}{of} at {time:g} h" if isinstance(time, Real) else f"{type(action).__name__}"


def _faults(action: Any, volume_ml: float | None) -> Iterator[str]:
    """Faults of a single action."""
    if not isinstance(action, Action):
        yield f"{action!r} is no action; see optim.schedule.actions"
        return
    who = _name(action)
    sound = True
    for f in fields(action):
        value = getattr(action, f.name)
        if f.name in ("feed", "component"):
            if not isinstance(value, str) or not value:
                yield f"{who}: {f.name} is {value!r}; give a name"
            continue
        for v in value if isinstance(value, (tuple, list)) else (value,):
            if v is None and f.default is None:
                continue
            if not isinstance(v, Real) or not math.isfinite(v):
                yield f"{who}: {f.name} is {v!r}; give a finite number"
                sound = False
            elif v < 0.0 and f.name not in SIGNED:
                yield f"{who}: {f.name} is {v:g}; it must not be negative"
    if sound:
        yield from (f"{who}: {fault}" for fault in _contradictions(action, volume_ml))


def _contradictions(action: Action, volume_ml: float | None) -> Iterator[str]:
    """Fields of one action that contradict each other."""
    if isinstance(action, (*CONTINUOUS, TopUp)):
        stop = math.inf if action.stop_h is None else action.stop_h
        if round_time(stop) <= round_time(action.start_h):
            yield f"stop_h {stop:g} is not after start_h; leave it out to run until harvest"
    no_volume = "refers to the vessel's volume; give volume_ml to make_plan"
    match action:
        case Feed() if action.end_rate_ml_per_h is not None and action.growth_per_h is not None:
            yield "end_rate_ml_per_h (linear) and growth_per_h (exponential) are both given; keep one"
        case Perfusion():
            if (action.rate_vvd is None) == (action.rate_ml_per_h is None):
                yield "give one of rate_vvd and rate_ml_per_h"
            elif action.rate_vvd is not None and volume_ml is None:
                yield f"rate_vvd {no_volume}"
        case Chemostat() if volume_ml is None:
            yield f"dilution_per_h {no_volume}"
        case Bleed():
            if (action.rate_ml_per_h is None) == (action.above_vcd_1e6_per_ml is None):
                yield "give one of rate_ml_per_h and above_vcd_1e6_per_ml; for both, write two bleeds"
            elif action.above_vcd_1e6_per_ml == 0.0:
                yield "above_vcd_1e6_per_ml is 0; give the VCD to hold"
        case TopUp():
            if bool(action.times_h) == (action.every_h is not None):
                yield "give one of times_h and every_h"
            elif action.every_h == 0.0:
                yield "every_h is 0; give the hours between two checks"
            if action.to < action.below:
                yield f"to {action.to:g} lies under below {action.below:g}; swap them"
        case Aeration() if action.gas_l_per_h is None and action.oxygen_percent is None:
            yield "give gas_l_per_h or oxygen_percent"
        case Aeration() if (action.oxygen_percent or 0.0) > 100.0:
            yield f"oxygen_percent is {action.oxygen_percent:g}; it is at most 100"
        case Setpoint() if all(getattr(action, name) is None for name in SETPOINTS):
            yield f"nothing is set; give one of {', '.join(SETPOINTS)}"
        case Harvest() if action.time_h == 0.0:
            yield "the run has no length; give a time after 0"


def _late(actions: Sequence[Action], end: float) -> Iterator[Fault]:
    """Actions that happen or end after the harvest at `end` (h)."""
    for a in actions:
        if isinstance(a, (*CONTINUOUS, TopUp)):
            begins, ends = (
                [round_time(a.start_h), *action_times(a, end)],
                end if a.stop_h is None else round_time(a.stop_h),
            )
        elif isinstance(a, Setpoint):
            begins, ends = [round_time(a.time_h)], round_time(a.time_h + a.ramp_h)
        elif isinstance(a, Harvest):
            continue
        else:
            begins, ends = action_times(a, end), end
        late = [t for t in begins if t > end or (t == end and not isinstance(a, Sample))]
        if late:
            text = f"{late[0]:g} h is not before the harvest at {end:g} h; move it or harvest later"
            yield Fault(f"{_name(a)}: {text}", a)
        elif ends > end:
            text = f"it ends at {ends:g} h, after the harvest at {end:g} h; end it sooner or harvest later"
            yield Fault(f"{_name(a)}: {text}", a)


def _clashes(actions: Sequence[Action], end: float) -> Iterator[Fault]:
    """Actions that use the same pump, valve or feed at the same time."""
    busy: dict[tuple[str, str], list[tuple[float, float, Action]]] = {}
    for a in actions:
        for channel, s in flow_segments(a, end, 1.0):
            busy.setdefault(channel, []).append((s.start, s.stop, a))
    for (kind, what), uses in busy.items():
        name = f"feed '{what}'" if kind == "rate" else what.replace("_", " ").replace("level", "level control")
        for (before, stop, a), (start, _, b) in itertools.pairwise(sorted(uses, key=lambda use: use[:2])):
            remedy = f"give that one stop_h={start:g}" if before < start else "keep one"
            if start < stop:
                yield Fault(f"{_name(b)}: {name} is in use until {stop:g} h by {_name(a)}; {remedy}", b)
    target: dict[str, str] = {}
    checked: set[tuple[str, float]] = set()
    for a in actions:
        if not isinstance(a, TopUp):
            continue
        if target.setdefault(a.feed, a.component) != a.component:
            yield Fault(f"{_name(a)}: the feed tops up {target[a.feed]} already, and can top up one thing only", a)
        times = {(a.feed, t) for t in action_times(a, end)}
        if checked & times:
            twice = min(t for _, t in checked & times)
            yield Fault(f"{_name(a)}: two top-ups of one feed at {twice:g} h; keep one", a)
        checked |= times


def _setpoint_faults(actions: Sequence[Action]) -> Iterator[Fault]:
    """Setpoints that are missing, set twice, or set during a ramp."""
    for name in SETPOINTS:
        changes = setpoint_changes(actions, name)
        own = {round_time(a.time_h): a for a in actions if isinstance(a, Setpoint) and getattr(a, name) is not None}
        if (changes and changes[0][0] > 0.0) or (not changes and name in NEEDED):
            yield Fault(
                f"no {name} at time 0; add Setpoint(time_h=0.0, {name}=...)", own[changes[0][0]] if changes else None
            )
        elif changes and changes[0][2] > 0.0:
            yield Fault(f"Setpoint at 0 h: {name} has nothing to ramp from; leave ramp_h out", own[0.0])
        for (t, _, ramp), (after, _, _) in itertools.pairwise(changes):
            if after == t:
                yield Fault(f"Setpoint at {t:g} h: {name} is set twice; keep one", own[t])
            elif after < round_time(t + ramp):
                text = f"{name} still ramps until {t + ramp:g} h; shorten that ramp"
                yield Fault(f"Setpoint at {after:g} h: {text}", own[after])
    for name in ("gas_l_per_h", "oxygen_percent"):
        times = [round_time(a.time_h) for a in actions if isinstance(a, Aeration) and getattr(a, name) is not None]
        twice = sorted({t for t in times if times.count(t) > 1})
        yield from (Fault(f"Aeration at {t:g} h: {name} is given twice; keep one") for t in twice)
