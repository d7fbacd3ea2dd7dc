"""A plan: a list of actions, checked and turned into the schedule of one vessel."""

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
    """What a simulation needs of a list of actions; `optim.simulation.vessel` makes the vessel that goes with it."""

    schedule: Schedule
    feeds: tuple[str, ...]  # in the order of the schedule's columns; ('',) where nothing is fed
    topups: dict[str, str]  # feed -> component of media, or species, that it tops up


def make_plan(
    actions: Iterable[Action],
    observed_h: Sequence[float] | np.ndarray = (),
    *,
    volume_ml: float | None = None,
    feeds: tuple[str, ...] | None = None,
) -> Plan:
    """The plan of a list of actions in any order, with a node at every time of `observed_h` before harvest.

    Everything that begins or ends is a node, so nothing is lost between nodes. Times are rounded to 1e-9 h: 3 times
    0.1 h and 0.3 h are one node. `volume_ml` is what vvd and dilution rates refer to; `feeds` fixes the columns where
    plans share them, else they come in order of first use. Raises `ConfigError` with all that is wrong.
    """
    actions = list(actions)
    wrong = plan_faults(actions, observed_h, volume_ml=volume_ml, feeds=feeds)
    if wrong:
        raise ConfigError("\n  ".join(["this plan cannot be run", *(fault.text for fault in wrong)]))
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
    given = [("set", s) in lines for s in SETPOINTS]
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
        setpoints=_environment(first, given),
        setpoints_end=_environment(last, given) if ramps else None,
        flow_t=np.array(breaks["flow"]) if flows else None,
        # no cells are as many as infinitely many: where no VCD is held, nothing is bled
        **{f: _table(flows[f], breaks["flow"], end, math.inf if f == "bleed_above" else 0.0)[0] for f in flows},
    )
    return Plan(schedule, columns, {a.feed: a.component for a in actions if isinstance(a, TopUp)})


def _environment(values: tuple[np.ndarray, ...], given: list[bool]) -> Environment:
    named = zip(SETPOINTS.values(), values, given, strict=True)
    return Environment(**{name: v if there else None for name, v, there in named})


def _breaks(lines: dict[Channel, list[Segment]], kind: str, end: float) -> list[float]:
    own = [s for (k, _), stretches in lines.items() if k == kind for s in stretches]
    return sorted({t for t in (0.0, *(s.start for s in own), *(s.stop for s in own)) if t < end})


def _table(
    stretches: list[Segment], breaks: list[float], end: float, nothing: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First value, last value and growth between breakpoints, of which some are another line's."""
    first, last = np.full(len(breaks), nothing), np.full(len(breaks), nothing)
    growth = np.zeros(len(breaks))
    for s in stretches:
        for k, (t, until) in enumerate(itertools.pairwise([*breaks, end])):
            if s.start <= t < s.stop:
                risen = math.exp(s.growth * (t - s.start))
                first[k], last[k], growth[k] = s.value_at(t) * risen, s.value_at(until) * risen, s.growth
    return first, last, growth


def _node_arrays(actions: list[Action], nodes: list[float], feeds: tuple[str, ...], end: float) -> dict[str, Any]:
    """What is done at nodes, volumes in L; what nobody does is None."""
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
