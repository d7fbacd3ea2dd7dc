"""When people are there: the days and hours at which what is done by hand may be done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optim.errors import ConfigError, nearest
from optim.process.design import Design

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
BY_HAND = ("bolus", "addition_time", "harvest")
DAY = 24.0


@dataclass(frozen=True)
class Calendar:
    """Working hours of a plant. A run begins at `start_hour` on one of `start_days`; which is best, is a choice.

    What is `by_hand` happens on a working day between `first_hour` and `last_hour`; controllers and pumps work always.
    """

    start_days: tuple[str, ...]
    start_hour: float = 9.0
    working_days: tuple[str, ...] = WEEKDAYS[:5]
    first_hour: float = 6.0
    last_hour: float = 18.0
    by_hand: tuple[str, ...] = BY_HAND

    def __post_init__(self) -> None:
        for key in ("start_days", "working_days"):
            for day in getattr(self, key):
                if day not in WEEKDAYS:
                    raise ConfigError(
                        f"calendar.{key}: unknown '{day}'.{nearest(day, WEEKDAYS)} Known: {', '.join(WEEKDAYS)}"
                    )
        for kind in self.by_hand:
            if kind not in BY_HAND:
                raise ConfigError(
                    f"calendar.by_hand: unknown '{kind}'.{nearest(kind, BY_HAND)} Known: {', '.join(BY_HAND)}"
                )
        if not 0.0 <= self.first_hour < self.last_hour <= DAY:
            raise ConfigError(f"calendar: hours {self.first_hour:g} to {self.last_hour:g} are no part of a day")
        if not self.start_days or not self.working_days:
            raise ConfigError("calendar: start_days and working_days need a day each")
        if not self.first_hour <= self.start_hour <= self.last_hour:
            raise ConfigError(f"calendar.start_hour: {self.start_hour:g} is outside the working hours")
        for day in self.start_days:
            if day not in self.working_days:
                raise ConfigError(f"calendar.start_days: {day} is no working day")

    def windows(self, start_day: str, until_h: float) -> list[tuple[float, float]]:
        """Hours of a run that begins on a day, in which people are there: (from, to), in order."""
        first = WEEKDAYS.index(start_day)
        found = []
        for day in range(int(until_h // DAY) + 2):
            if WEEKDAYS[(first + day) % 7] in self.working_days:
                midnight = day * DAY - self.start_hour
                found.append((max(0.0, midnight + self.first_hour), midnight + self.last_hour))
        return [(a, b) for a, b in found if a <= until_h and b >= 0.0]

    def idle(self, design: Design, start_day: str) -> list[int]:
        """Decisions that would be carried out when nobody is there: they are left out."""
        windows = self.windows(start_day, design.longest_h())
        return [
            i
            for i, d in enumerate(design.decisions)
            if d.kind == "bolus" and "bolus" in self.by_hand and not any(a <= d.time_h <= b for a, b in windows)
        ]

    def timed(self, design: Design, start_day: str) -> dict[int, list[tuple[float, float]]]:
        """Decisions about when something is done by hand, with the parts of their range in which it can be."""
        windows = self.windows(start_day, design.longest_h())
        found = {}
        for i in self._timed(design):
            d = design.decisions[i]
            parts = [(max(a, d.lower), min(b, d.upper)) for a, b in windows]
            found[i] = [(a, b) for a, b in parts if b - a > -1e-9]
        return found

    def allows(self, design: Design, start_day: str, fixed: dict[int, float]) -> bool:
        """Whether what is done by hand at a time that is no choice (any more) falls into working hours."""
        windows = self.windows(start_day, design.longest_h())
        times = [v for i, v in fixed.items() if i in self._timed(design)]
        if "harvest" in self.by_hand and not any(d.kind == "harvest" for d in design.decisions):
            times.append(design.end_h)
        return all(any(a - 1e-9 <= t <= b + 1e-9 for a, b in windows) for t in times)

    def _timed(self, design: Design) -> list[int]:
        return [i for i, d in enumerate(design.decisions) if d.kind in self.by_hand and d.kind != "bolus"]


def held(design: Design, values: dict[str, float], key: str) -> dict[int, float]:
    """Decisions held at a value, by place; a name stands for one decision or for all that begin with it.

    Raises `ConfigError` for a name that is none, or a value outside the bounds.
    """
    names = [d.name for d in design.decisions]
    stems = {n.rsplit("_day_", 1)[0] for n in names} | set(names)
    found: dict[int, float] = {}
    for name, value in values.items():
        places = [i for i, n in enumerate(names) if n == name] or [
            i for i, n in enumerate(names) if n.startswith(f"{name}_")
        ]
        if not places:
            raise ConfigError(f"{key}: no decision '{name}'.{nearest(name, sorted(stems))} Known: {', '.join(names)}")
        for i in places:
            d = design.decisions[i]
            if not d.lower <= value <= d.upper:
                raise ConfigError(
                    f"{key}.{name}: {value:g} lies outside the bounds {d.lower:g} to {d.upper:g} {d.unit}"
                )
            found[i] = float(value)
    return found


def bounds_with(design: Design, fixed: dict[int, float], within: dict[int, tuple[float, float]]) -> np.ndarray:
    """Lower and upper bounds, [2, D], with some decisions held and some kept within a part of their range."""
    both = np.stack([design.lower, design.upper])
    for i, (a, b) in within.items():
        both[:, i] = a, max(a, b)
    for i, value in fixed.items():
        both[:, i] = value
    return both
