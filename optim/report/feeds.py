"""The feed schedule: what goes into the vessel and when, with the volume it leaves, scaled to production."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from optim.optimise.result import Action

_ORDER = {"sample": 0, "bolus": 1, "feed_rate": 2, "harvest": 3}


@dataclass(frozen=True)
class FeedRow:
    """One feed action of one vessel. `day` is the whole culture day, `clock_h` the hour within it.

    Percent and production volume are by the starting working volume. For a continuous feed, volume, cumulative volume
    and vessel volume hold at the end of its interval of `duration_h`.
    """

    elapsed_h: float
    day: int
    clock_h: float
    feed_id: str
    mode: str  # bolus | continuous
    volume_ml: float
    volume_pct_of_start_working_volume: float
    production_volume_l: float
    rate_start_ml_per_h: float | None
    rate_end_ml_per_h: float | None
    duration_h: float
    cumulative_ml: float  # of this feed
    vessel_volume_after_ml: float


@dataclass(frozen=True)
class SampleRow:
    """One sample taken from the vessel, mL."""

    elapsed_h: float
    day: int
    clock_h: float
    volume_ml: float


def harvest_h(actions: Sequence[Action]) -> float:
    """Time of harvest, or of the last action where none is stated, in h."""
    ends = [a.time_h for a in actions if a.kind == "harvest"]
    return ends[0] if ends else max((a.time_h for a in actions), default=0.0)


def clock(time_h: float) -> tuple[int, float]:
    """(culture day, hour within that day); day 0 begins at inoculation."""
    day = int((time_h + 1e-6) // 24.0)
    return day, round(max(0.0, time_h - 24.0 * day), 4)


def samples(actions: Sequence[Action]) -> tuple[SampleRow, ...]:
    """Samples in order of time."""
    rows = sorted((a for a in actions if a.kind == "sample"), key=lambda a: a.time_h)
    return tuple(SampleRow(a.time_h, *clock(a.time_h), a.value) for a in rows)


def feed_schedule(
    actions: Sequence[Action], start_volume_ml: float, production_volume_l: float
) -> tuple[FeedRow, ...]:
    """Feeds in order of time, with the vessel's volume by bookkeeping: start + feeds - samples.

    At one time a sample is drawn before a bolus is given, as in the simulation.
    """
    end = harvest_h(actions)
    scale = production_volume_l / start_volume_ml  # L in production per mL here
    events: list[tuple[float, int, float, FeedRow | None]] = []
    for action in actions:
        day, hour = clock(action.time_h)
        if action.kind == "sample":
            events.append((action.time_h, 0, -action.value, None))
        elif action.kind == "bolus":
            row = FeedRow(
                elapsed_h=action.time_h,
                day=day,
                clock_h=hour,
                feed_id=action.what,
                mode="bolus",
                volume_ml=action.value,
                volume_pct_of_start_working_volume=100.0 * action.value / start_volume_ml,
                production_volume_l=action.value * scale,
                rate_start_ml_per_h=None,
                rate_end_ml_per_h=None,
                duration_h=0.0,
                cumulative_ml=0.0,
                vessel_volume_after_ml=0.0,
            )
            events.append((action.time_h, _ORDER["bolus"], action.value, row))
        elif action.kind == "feed_rate":
            later = [a.time_h for a in actions if a.kind == "feed_rate" and a.what == action.what]
            until = min((t for t in later if t > action.time_h), default=end)
            length = max(0.0, min(until, end) - action.time_h)
            stop = action.value if action.value_end is None else action.value_end
            volume = 0.5 * (action.value + stop) * length
            row = FeedRow(
                elapsed_h=action.time_h,
                day=day,
                clock_h=hour,
                feed_id=action.what,
                mode="continuous",
                volume_ml=volume,
                volume_pct_of_start_working_volume=100.0 * volume / start_volume_ml,
                production_volume_l=volume * scale,
                rate_start_ml_per_h=action.value,
                rate_end_ml_per_h=stop,
                duration_h=length,
                cumulative_ml=0.0,
                vessel_volume_after_ml=0.0,
            )
            # counted at the end of its interval, before what happens there
            events.append((action.time_h + length, -1, volume, row))
    events.sort(key=lambda e: e[:2])
    level, given, rows = start_volume_ml, dict[str, float](), list[FeedRow]()
    for _, _, change, draft in events:
        level += change
        if draft is None:
            continue
        given[draft.feed_id] = given.get(draft.feed_id, 0.0) + change
        rows.append(_finished(draft, given[draft.feed_id], level))
    rows.sort(key=lambda r: r.elapsed_h)
    return tuple(rows)


def _finished(row: FeedRow, cumulative: float, level: float) -> FeedRow:
    return replace(row, cumulative_ml=cumulative, vessel_volume_after_ml=level)


def totals(rows: Sequence[FeedRow], edges_h: Sequence[float]) -> dict[str, list[float]]:
    """Volume of each feed within each bin of time, mL. A continuous feed is shared over the bins that it spans."""
    found: dict[str, list[float]] = {}
    for row in rows:
        bins = found.setdefault(row.feed_id, [0.0] * (len(edges_h) - 1))
        for i, (left, right) in enumerate(zip(edges_h[:-1], edges_h[1:], strict=True)):
            if row.mode == "bolus":
                bins[i] += row.volume_ml if left - 1e-6 <= row.elapsed_h < right - 1e-6 else 0.0
                continue
            a, b = max(left, row.elapsed_h), min(right, row.elapsed_h + row.duration_h)
            if b > a and row.duration_h > 0.0:
                start, stop = row.rate_start_ml_per_h or 0.0, row.rate_end_ml_per_h or 0.0
                slope = (stop - start) / row.duration_h
                middle = 0.5 * (a + b) - row.elapsed_h
                bins[i] += (start + slope * middle) * (b - a)
    return found
