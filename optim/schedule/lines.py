"""Actions on the time axis: the times of instant actions, and the segments of flows and setpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from optim.errors import ConfigError
from optim.schedule.actions import (
    Action,
    Addition,
    Aeration,
    Bleed,
    Chemostat,
    Evaporation,
    Exchange,
    Feed,
    Harvest,
    Perfusion,
    Removal,
    Setpoint,
    TopUp,
)

ML = 1e-3  # L
# setpoint of an action -> field of the environment
SETPOINTS = {"temperature_c": "temperature", "ph": "ph", "do_percent": "do", "kla_per_h": "kla"}
FEEDING = (Addition, Exchange, TopUp, Feed, Perfusion, Chemostat)
CONTINUOUS = (Feed, Perfusion, Chemostat, Bleed, Evaporation)


class Segment(NamedTuple):
    """One segment of a flow (L/h) or setpoint: a line from `first` to `last`, times exp(growth (t - start))."""

    start: float  # h
    stop: float  # h
    first: float
    last: float
    growth: float = 0.0  # 1/h

    def value_at(self, t: float) -> float:
        """The value of the line at time t (h), without the exponential factor."""
        if self.first == self.last:
            return self.first
        fraction = (t - self.start) / (self.stop - self.start)
        return self.first * (1.0 - fraction) + self.last * fraction


# what a segment belongs to: ('rate', feed), ('flow', field of Schedule) or ('set', field of Setpoint)
Channel = tuple[str, str]


def round_time(time: float) -> float:
    """A time in h, rounded to 1e-9 h: 3 times 0.1 h and 0.3 h are the same node."""
    return round(float(time), 9)


def action_times(action: Action, end: float) -> list[float]:
    """Times (h) of an instant action before the harvest at `end` (h); empty for a continuous action."""
    match action:
        case TopUp() if action.every_h is not None:
            until = end if action.stop_h is None else action.stop_h
            checks = math.floor((until - action.start_h) / action.every_h + 1e-9) + 1
            every = [round_time(action.start_h + i * action.every_h) for i in range(checks)]
            return [t for t in every if t < end]
        case TopUp():
            return [round_time(t) for t in action.times_h]
        case Addition() | Removal() | Exchange():
            return [round_time(action.time_h)]
        case Setpoint() | Aeration() | Harvest() | Feed() | Perfusion() | Chemostat() | Bleed() | Evaporation():
            return []
    raise ConfigError(f"no schedule can state a {type(action).__name__}")


def flow_segments(action: Action, end: float, volume_ml: float | None) -> Iterator[tuple[Channel, Segment]]:
    """The segments of a continuous action with their channels, in L/h.

    Args:
        action: any action; an instant one has no segments.
        end: h, time of the harvest.
        volume_ml: volume to which vessel volumes per day and dilution rates refer.
    """
    if not isinstance(action, CONTINUOUS):
        action_times(action, end)  # refuses an action that it does not know
        return
    start, stop = round_time(action.start_h), end if action.stop_h is None else round_time(action.stop_h)

    def _constant(value: float) -> Segment:
        return Segment(start, stop, value, value)

    match action:
        case Feed():
            rate, last = action.rate_ml_per_h * ML, action.end_rate_ml_per_h
            last = rate if last is None else last * ML
            yield ("rate", action.feed), Segment(start, stop, rate, last, action.growth_per_h or 0.0)
        case Perfusion():
            by_volume = (action.rate_vvd or 0.0) * (volume_ml or 0.0) / 24.0
            rate = by_volume if action.rate_ml_per_h is None else action.rate_ml_per_h
            yield ("rate", action.feed), _constant(rate * ML)
            yield ("flow", "level"), _constant(1.0)
        case Chemostat():
            rate = action.dilution_per_h * (volume_ml or 0.0) * ML
            yield ("rate", action.feed), _constant(rate)
            yield ("flow", "bleed"), _constant(rate)
        case Bleed():
            if action.rate_ml_per_h is not None:
                yield ("flow", "bleed"), _constant(action.rate_ml_per_h * ML)
            if action.above_vcd_1e6_per_ml is not None:
                yield ("flow", "bleed_above"), _constant(action.above_vcd_1e6_per_ml)  # 1e6/mL are 1e9/L
        case Evaporation():
            yield ("flow", "evaporation"), _constant(action.rate_ml_per_h * ML)
        case _:
            raise ConfigError(f"no schedule can state the flow of a {type(action).__name__}")


def setpoint_changes(actions: Sequence[Action], name: str) -> list[tuple[float, float, float]]:
    """Changes of a setpoint in order of time: (time in h, value, duration of the ramp in h)."""
    changes = [a for a in actions if isinstance(a, Setpoint) and getattr(a, name) is not None]
    return sorted((round_time(a.time_h), float(getattr(a, name)), float(a.ramp_h)) for a in changes)


def channel_segments(actions: Sequence[Action], end: float, volume_ml: float | None) -> dict[Channel, list[Segment]]:
    """All flows and setpoints as segments that do not overlap, by channel.

    Args:
        actions: actions without faults (see `plan_faults`).
        end: h, time of the harvest.
        volume_ml: volume to which vessel volumes per day and dilution rates refer.
    """
    lines: dict[Channel, list[Segment]] = {}
    for a in actions:
        for channel, segment in flow_segments(a, end, volume_ml):
            lines.setdefault(channel, []).append(segment)
    for name in SETPOINTS:
        changes = setpoint_changes(actions, name)
        before = changes[0][1] if changes else math.nan
        for i, (t, value, ramp) in enumerate(changes):
            reached, until = round_time(t + ramp), changes[i + 1][0] if i + 1 < len(changes) else end
            pieces = (Segment(t, reached, before, value), Segment(reached, until, value, value))
            lines.setdefault(("set", name), []).extend(s for s in pieces if s.stop > s.start)
            before = value
    return lines
