"""When people are there: the days and hours at which what is done by hand may be done."""

from __future__ import annotations

import numpy as np

from optim.errors import ConfigError, nearest
from optim.process.design import Design
from optim.settings.process import WEEKDAYS, CalendarSettings
from optim.units import HOURS_PER_DAY


def working_windows(calendar: CalendarSettings, start_day: str, until_h: float) -> list[tuple[float, float]]:
    """Hours of a run that begins on a day, in which people are there: (from, to), in order."""
    first = WEEKDAYS.index(start_day)
    found = []
    for day in range(int(until_h // HOURS_PER_DAY) + 2):
        if WEEKDAYS[(first + day) % 7] in calendar.working_days:
            midnight = day * HOURS_PER_DAY - calendar.start_hour
            found.append((max(0.0, midnight + calendar.first_hour), midnight + calendar.last_hour))
    return [(a, b) for a, b in found if a <= until_h and b >= 0.0]


def idle_decisions(calendar: CalendarSettings, design: Design, start_day: str) -> list[int]:
    """Decisions that would be carried out when nobody is there: they are left out."""
    windows = working_windows(calendar, start_day, design.longest_h())
    return [
        i
        for i, d in enumerate(design.decisions)
        if d.kind in calendar.by_hand and not d.what.is_time and not any(a <= d.time_h <= b for a, b in windows)
    ]


def timed_decisions(calendar: CalendarSettings, design: Design, start_day: str) -> dict[int, list[tuple[float, float]]]:
    """Decisions about when something is done by hand, with the parts of their range in which it can be."""
    windows = working_windows(calendar, start_day, design.longest_h())
    found = {}
    for i in _timed(calendar, design):
        d = design.decisions[i]
        parts = [(max(a, d.lower), min(b, d.upper)) for a, b in windows]
        found[i] = [(a, b) for a, b in parts if b - a > -1e-9]
    return found


def hours_allow(calendar: CalendarSettings, design: Design, start_day: str, *, fixed: dict[int, float]) -> bool:
    """Whether what is done by hand at a time that is no choice (any more) falls into working hours."""
    windows = working_windows(calendar, start_day, design.longest_h())
    times = [v for i, v in fixed.items() if i in _timed(calendar, design)]
    if "harvest" in calendar.by_hand and not any(d.kind == "harvest" for d in design.decisions):
        times.append(design.end_h)
    return all(any(a - 1e-9 <= t <= b + 1e-9 for a, b in windows) for t in times)


def _timed(calendar: CalendarSettings, design: Design) -> list[int]:
    return [i for i, d in enumerate(design.decisions) if d.kind in calendar.by_hand and d.what.is_time]


def fixed_decisions(design: Design, values: dict[str, float], key: str) -> dict[int, float]:
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
