"""Views of actions on a vessel: as a table, as lines, and as feeds to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd

from optim.schedule.actions import Action, Addition, Harvest
from optim.schedule.events import event_rows
from optim.schedule.lines import ML, channel_segments

CURVE_POINTS = 21  # of an exponential feed


def actions_frame(actions: Sequence[Action]) -> pd.DataFrame:
    """Actions as the events of a dataset, one row each, and the harvest as the last row."""
    ends = [a.time_h for a in actions if isinstance(a, Harvest)]
    rows = [asdict(row) for row in event_rows(actions, max(ends, default=0.0))]
    return pd.DataFrame([*rows, *({"time_h": t, "kind": "harvest"} for t in ends)])


def action_texts(action: Action, end_h: float) -> list[str]:
    """One action as lines, one for each event of it."""
    if isinstance(action, Harvest):
        return [f"{_when(action.time_h)}: harvest"]
    lines = []
    for row in event_rows((action,), end_h):
        what = f"{row.kind.replace('_', ' ')} {row.feed_id}".rstrip()
        to = "" if row.value_end is None else f" to {row.value_end:.4g}"
        ramp = f" within {row.ramp_h:g} h" if row.ramp_h else ""
        until = "" if row.until_h is None else f", until {row.until_h:g} h"
        lines.append(f"{_when(row.time_h)}: {what} {row.value:.4g}{to} {row.unit}{ramp}{until}")
    return lines


def _when(time_h: float) -> str:
    return f"{time_h:g} h (day {time_h / 24.0:.3g})"


class DrawnFeeds(NamedTuple):
    """Additions at one time, by feed, and the rates of every feed: arrays of times in h and of rates in mL/h."""

    boluses: dict[str, list[Addition]]
    rates: dict[str, tuple[np.ndarray, np.ndarray]]


def drawn_feeds(actions: Sequence[Action]) -> DrawnFeeds:
    """The feeds of a process for a figure: boluses, and rates over time; an exponential rate is sampled at points."""
    end = next(x.time_h for x in actions if isinstance(x, Harvest))
    boluses: dict[str, list[Addition]] = {}
    for x in actions:
        if isinstance(x, Addition):
            boluses.setdefault(x.feed, []).append(x)
    rates = {}
    for (kind, feed), segments in channel_segments(actions, end, None).items():
        if kind != "rate":
            continue
        t, rate = list[float](), list[float]()
        for s in sorted(segments):
            if t and s.start > t[-1]:
                t, rate = [*t, t[-1], s.start], [*rate, 0.0, 0.0]
            for at in np.linspace(s.start, s.stop, CURVE_POINTS if s.growth else 2):
                t.append(float(at))
                rate.append(s.value_at(float(at)) * np.exp(s.growth * (at - s.start)) / ML)
        rates[feed] = np.array(t), np.array(rate)
    return DrawnFeeds(boluses, rates)
