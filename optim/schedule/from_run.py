"""What was really done to a run of a dataset, as a schedule."""

from __future__ import annotations

import numpy as np

from optim.data.dataset import Run
from optim.kinetics.base import Environment
from optim.schedule.schedule import Schedule, merge_nodes


def feeds_of(run: Run) -> tuple[str, ...]:
    """Feeds of a run in order of first use; at least one name, so that arrays never have a zero axis."""
    used = dict.fromkeys(e.feed_id for e in run.events if e.feed_id)
    return tuple(used) or ("",)


def schedule_of(run: Run, observed_h: np.ndarray, feeds: tuple[str, ...]) -> Schedule:
    """The schedule of a run, with a node at every observed time. Volumes in L, rates in L/h."""
    place = {feed: j for j, feed in enumerate(feeds)}
    times, withdraw, bolus = [0.0, *observed_h], [0.0] * (1 + len(observed_h)), []
    bolus = [np.zeros(len(feeds)) for _ in times]
    setpoints: dict[float, dict[str, float]] = {0.0: {"temperature": run.temperature_c, "ph": run.ph}}
    rates: dict[float, dict[int, tuple[float, float]]] = {0.0: {}}
    for event in run.events:
        times.append(event.time_h)
        withdraw.append(event.value if event.kind == "sample" else 0.0)
        dose = np.zeros(len(feeds))
        if event.kind == "bolus":
            dose[place[event.feed_id]] = event.value
        bolus.append(dose)
        if event.kind in ("temperature", "ph"):
            setpoints.setdefault(event.time_h, {})[event.kind] = event.value
        if event.kind == "feed_rate":
            rates.setdefault(event.time_h, {})[place[event.feed_id]] = (event.value, event.value_end)
    t, out, fed = merge_nodes(np.array(times), np.array(withdraw), np.array(bolus))
    inside = t < run.end_time_h
    rate_t, start, end = _rate_table(rates, len(feeds), run.end_time_h)
    setpoint_t = sorted(setpoints)
    held = {"temperature": run.temperature_c, "ph": run.ph}
    table = []
    for time in setpoint_t:
        held = held | setpoints[time]
        table.append((held["temperature"], held["ph"]))
    return Schedule(
        times=t[inside],
        withdraw=out[inside],
        bolus=fed[inside],
        end=np.asarray(run.end_time_h),
        rate_t=rate_t,
        rate_start=start,
        rate_end=end,
        setpoint_t=np.array(setpoint_t),
        setpoints=Environment(np.array([row[0] for row in table]), np.array([row[1] for row in table])),
    )


def _rate_table(
    rates: dict[float, dict[int, tuple[float, float]]], n_feeds: int, end: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Breakpoints of all feeds together: each feed's line is cut where another feed has a breakpoint."""
    times = np.array(sorted(rates))
    start = np.zeros((len(times), n_feeds))
    stop = np.zeros((len(times), n_feeds))
    upto = np.append(times[1:], end)
    for j in range(n_feeds):
        own = [i for i, time in enumerate(times) if j in rates[float(time)]]
        for n, i in enumerate(own):
            until = own[n + 1] if n + 1 < len(own) else len(times)
            first, last = rates[float(times[i])][j]
            span = upto[until - 1] - times[i]
            slope = (last - first) / span if span > 0.0 else 0.0
            for k in range(i, until):
                start[k, j] = first + slope * (times[k] - times[i])
                stop[k, j] = first + slope * (upto[k] - times[i])
    return times, start, stop
