"""Truncation of a plan: what of it is done by some time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from optim.schedule.actions import (
    Action,
    Bleed,
    Chemostat,
    Evaporation,
    Feed,
    Harvest,
    Perfusion,
    Setpoint,
    TopUp,
    start_time,
)
from optim.schedule.lines import SETPOINTS, round_time, setpoint_changes


def actions_before(actions: Iterable[Action], time_h: float, end_h: float) -> tuple[Action, ...]:
    """What is done before `time_h` of a plan whose harvest is at `end_h`; the harvest itself is left out.

    What lasts longer runs until the new end: a linear feed and a ramp have come as far as they would by then.
    """
    actions = list(actions)
    return tuple(part for a in actions for part in _before(a, round_time(time_h), round_time(end_h), actions))


def _before(action: Action, time: float, end: float, actions: list[Action]) -> Iterator[Action]:
    if isinstance(action, Harvest) or round_time(start_time(action)) >= time:
        return
    match action:
        case TopUp() if action.every_h is None:
            yield replace(action, times_h=tuple(t for t in action.times_h if round_time(t) < time))
        case TopUp() | Feed() | Perfusion() | Chemostat() | Bleed() | Evaporation():
            stop = end if action.stop_h is None else round_time(action.stop_h)
            if stop <= time and action.stop_h is not None:
                yield action if stop < time else replace(action, stop_h=None)
                return
            if isinstance(action, Feed) and action.end_rate_ml_per_h is not None and stop > time:
                share = (time - action.start_h) / (stop - action.start_h)
                reached = action.rate_ml_per_h + (action.end_rate_ml_per_h - action.rate_ml_per_h) * share
                action = replace(action, end_rate_ml_per_h=reached)
            yield replace(action, stop_h=None)
        case Setpoint() if round_time(action.time_h + action.ramp_h) > time:
            for name in SETPOINTS:
                value = getattr(action, name)
                if value is None:
                    continue
                held = [v for t, v, _ in setpoint_changes(actions, name) if t < round_time(action.time_h)]
                begin = held[-1] if held else math.nan
                there = begin + (value - begin) * (time - action.time_h) / action.ramp_h
                yield Setpoint(action.time_h, **{name: there}, ramp_h=time - action.time_h)
        case _:
            yield action
