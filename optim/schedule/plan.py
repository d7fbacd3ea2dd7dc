"""A plan: the actions to come on one vessel, checked and turned into a schedule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from optim.errors import ConfigError
from optim.kinetics.base import Environment
from optim.schedule.actions import Action, Addition, Exchange, Harvest, Removal, Setpoint, TopUp, used_feed
from optim.schedule.faults import plan_faults
from optim.schedule.lines import ML, SETPOINTS, Channel, Segment, action_times, channel_segments, round_time
from optim.schedule.schedule import FLOWS, Schedule


class Plan(NamedTuple):
    """The plan of one vessel. `optim.simulation.vessel.make_vessel` makes the vessel for it."""

    schedule: Schedule
    feeds: tuple[str, ...]  # names of the feeds in the order of the schedule's columns; ('',) without a feed
    topups: dict[str, str]  # name of a feed -> component of media, or species, that it tops up


def make_plan(
    actions: Iterable[Action],
    *,
    observed_h: Sequence[float] | np.ndarray = (),
    volume_ml: float | None = None,
    feeds: tuple[str, ...] | None = None,
) -> Plan:
    """Make the plan of a list of actions.

    Every time at which something begins or ends is a node. Times are rounded to 1e-9 h.

    Args:
        actions: the actions (`optim.schedule.actions`) in any order, with one `Harvest`.
        observed_h: further nodes, times (h) at which the simulation is observed.
        volume_ml: volume to which vessel volumes per day (vvd) and dilution rates refer.
        feeds: names of the feeds in the order of the columns. Plans of one batch must share them; by default the feeds
            come in order of first use.

    Returns:
        The plan.

    Raises:
        ConfigError: lists every fault of the plan.
    """
    actions = list(actions)
    faults = plan_faults(actions, observed_h=observed_h, volume_ml=volume_ml, feeds=feeds)
    if faults:
        raise ConfigError("\n  ".join(["this plan cannot be run", *(fault.text for fault in faults)]))
    (end,) = (round_time(a.time_h) for a in actions if isinstance(a, Harvest))
    columns = feeds or tuple(dict.fromkeys(used_feed(a) for a in actions if used_feed(a))) or ("",)
    observed = [round_time(t) for t in observed_h]
    lines = channel_segments(actions, end, volume_ml)
    breaks = {kind: _breaks(lines, kind, end) for kind in ("rate", "flow", "set")}
    happens = [t for a in actions for t in action_times(a, end)]
    nodes = sorted({t for t in (0.0, *observed, *happens, *itertools.chain(*breaks.values())) if t < end})
    rate = [_table(lines.get(("rate", feed), []), breaks["rate"], end) for feed in columns]
    flows = {f: lines["flow", f] for f in FLOWS if ("flow", f) in lines}
    first, last, _ = zip(*(_table(lines.get(("set", s), []), breaks["set"], end) for s in SETPOINTS), strict=True)
    stated = [("set", s) in lines for s in SETPOINTS]
    ramps = any(a.ramp_h for a in actions if isinstance(a, Setpoint))
    schedule = Schedule(
        times=np.array(nodes),
        end=np.asarray(end),
        **_node_arrays(actions, nodes, columns, end),
        rate_t=np.array(breaks["rate"]),
        rate_start=np.stack([r[0] for r in rate], axis=1),
        rate_end=np.stack([r[1] for r in rate], axis=1),
        rate_growth=np.stack([r[2] for r in rate], axis=1) if any(r[2].any() for r in rate) else None,
        setpoint_t=np.array(breaks["set"]),
        setpoints=_environment(first, stated),
        setpoints_end=_environment(last, stated) if ramps else None,
        flow_t=np.array(breaks["flow"]) if flows else None,
        # an infinite VCD is never exceeded: where no VCD is controlled, nothing is bled
        **{f: _table(flows[f], breaks["flow"], end, math.inf if f == "bleed_above" else 0.0)[0] for f in flows},
    )
    return Plan(schedule, columns, {a.feed: a.component for a in actions if isinstance(a, TopUp)})


def _environment(values: tuple[np.ndarray, ...], stated: list[bool]) -> Environment:
    """Setpoints as an environment; None for one that the plan does not state."""
    named = zip(SETPOINTS.values(), values, stated, strict=True)
    return Environment(**{name: v if is_stated else None for name, v, is_stated in named})


def _breaks(lines: dict[Channel, list[Segment]], kind: str, end: float) -> list[float]:
    """Breakpoints (h) of all channels of one kind."""
    own = [s for (k, _), segments in lines.items() if k == kind for s in segments]
    return sorted({t for t in (0.0, *(s.start for s in own), *(s.stop for s in own)) if t < end})


def _table(
    segments: list[Segment], breaks: list[float], end: float, nothing: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First value, last value and growth of one channel between the breakpoints of all channels of its kind."""
    first, last = np.full(len(breaks), nothing), np.full(len(breaks), nothing)
    growth = np.zeros(len(breaks))
    for s in segments:
        for k, (t, until) in enumerate(itertools.pairwise([*breaks, end])):
            if s.start <= t < s.stop:
                risen = math.exp(s.growth * (t - s.start))
                first[k], last[k], growth[k] = s.value_at(t) * risen, s.value_at(until) * risen, s.growth
    return first, last, growth


def _node_arrays(actions: list[Action], nodes: list[float], feeds: tuple[str, ...], end: float) -> dict[str, Any]:
    """Arrays of the instant actions at nodes, volumes in L. Actions that do not occur have no array."""
    node, column = {t: k for k, t in enumerate(nodes)}, {feed: j for j, feed in enumerate(feeds)}
    shape = (len(nodes), len(feeds))
    out = {"withdraw": np.zeros(shape[0]), "bolus": np.zeros(shape)}
    if any(isinstance(a, Exchange) for a in actions):
        out["remove"] = np.zeros(shape[0])
    if any(isinstance(a, TopUp) for a in actions):
        out |= {"topup_below": np.full(shape, -math.inf), "topup_to": np.zeros(shape)}
    for a in actions:
        for k in [node[t] for t in action_times(a, end) if t < end]:
            if isinstance(a, Removal):
                out["withdraw"][k] += a.volume_ml * ML
            if isinstance(a, Addition | Exchange):
                out["bolus"][k, column[a.feed]] += a.volume_ml * ML
            if isinstance(a, Exchange):
                out["remove"][k] += a.volume_ml * ML
            if isinstance(a, TopUp):
                out["topup_below"][k, column[a.feed]] = a.below
                out["topup_to"][k, column[a.feed]] = a.to
    return out
