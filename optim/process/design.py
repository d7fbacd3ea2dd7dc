"""The design: which numbers of a process may be chosen, and the schedule that a choice of them means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from optim.errors import ConfigError, nearest
from optim.kinetics.base import Environment
from optim.process.decision import SETPOINT_KINDS, TIMED_KINDS, Decision
from optim.schedule.schedule import Schedule
from optim.settings.process import DesignSettings
from optim.types import Array

BOLUS_COVERS_H = 24.0


class Component(NamedTuple):
    """What a component of a medium is to a model: species number `place` holds base + per * (what the medium holds)."""

    name: str
    place: int
    base: float
    per: float


class _Line(NamedTuple):
    """A quantity over time: from t[i] it runs straight from start[i] to end[i], which it has at t[i+1]. All [m]."""

    t: Array
    start: Array
    end: Array


@dataclass(frozen=True)
class Design:
    """A family of processes in one vessel.

    A bolus is meant to feed the coming day: when harvest comes sooner, a proportionate part of it is given, so that a
    process depends continuously on its harvest time. Where `second_feed_ratio` is above 0, that many litres of
    `second_feed` (such as base) flow with every litre of the first feed.
    """

    decisions: tuple[Decision, ...]
    start_volume_l: float
    temperature_c: float
    ph: float
    end_h: float  # harvest, where it is no decision
    node_step_h: float  # distance of nodes at which constraints are checked and trajectories reported
    sample_times_h: tuple[float, ...]
    sample_volume_l: float
    feeds: tuple[str, ...] = ("feed",)
    second_feed: str = ""
    second_feed_ratio: float = DesignSettings.second_feed_ratio
    do_percent: float | None = DesignSettings.do_percent
    kla_per_h: float | None = DesignSettings.kla_per_h
    inoculum_vcd: float | None = None  # 1e6/mL of the platform, where cells are a decision
    inoculum_species: tuple[int, ...] = ()  # those that scale with it
    components: tuple[Component, ...] = ()
    look_after_h: float = 0.0  # a node so long after every bolus; 0: none
    checked_from_h: float = -math.inf  # limits along the path count after this time; what was before cannot be changed

    def __post_init__(self) -> None:
        names = [d.name for d in self.decisions]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ConfigError(f"design.decisions: {', '.join(twice)} given twice")
        if not names:
            raise ConfigError("design.decisions: empty; there is nothing to optimise")
        for d in self.decisions:
            if d.feed and d.feed not in self.feeds:
                known = ", ".join(self.feeds)
                raise ConfigError(
                    f"design.decisions.{d.name}.feed: no feed '{d.feed}'.{nearest(d.feed, self.feeds)} Known: {known}"
                )
        if self.second_feed_ratio > 0.0 and self.second_feed not in self.feeds[1:]:
            raise ConfigError(
                "design.second_feed_ratio: name the feed that flows with the first one in design.second_feed_id; "
                f"'{self.second_feed}' is none of {', '.join(self.feeds[1:]) or 'no further feeds'}"
            )
        if math.isfinite(self.checked_from_h):
            return  # of a process that runs, some decisions have passed
        kinds = {d.kind for d in self.decisions}
        for kind in (k for k in kinds if k.startswith("shift_") and k != "shift_time"):
            if "shift_time" not in kinds:
                raise ConfigError(f"design.decisions: {kind} needs a shift_time (hold it, if it is not free)")
        for kind in SETPOINT_KINDS:
            if f"shift_{kind}" in kinds and len(self._places(kind)) > 1:
                raise ConfigError(f"design.decisions: {kind} at several times and a shift of it; keep one of them")
        when, much = (
            sorted(d.feed for d in self.decisions if d.kind == k) for k in ("addition_time", "addition_volume")
        )
        if when != much or len(set(when)) < len(when):
            raise ConfigError(
                "design.decisions: addition_time and addition_volume belong together, one of each per stock; hold one, "
                "if it is known"
            )
        if "inoculum" in kinds and self.inoculum_vcd is None:
            raise ConfigError("design.inoculum_vcd_1e6_per_ml: missing; it is what an inoculum decision starts from")

    @property
    def lower(self) -> np.ndarray:
        return np.array([d.lower for d in self.decisions])

    @property
    def upper(self) -> np.ndarray:
        return np.array([d.upper for d in self.decisions])

    @property
    def platform(self) -> np.ndarray:
        return np.array([d.platform for d in self.decisions])

    @property
    def perfused(self) -> bool:
        """Whether medium flows through the vessel, so that it needs a retention device."""
        return bool(self._places("perfusion"))

    @property
    def perfusion_feeds(self) -> tuple[int, ...]:
        """Feeds that are perfused."""
        return tuple(sorted({self._feed(i) for i in self._places("perfusion")}))

    def _places(self, kind: str) -> list[int]:
        """Decisions of a kind, in order of time."""
        return sorted(
            (i for i, d in enumerate(self.decisions) if d.kind == kind), key=lambda i: self.decisions[i].time_h
        )

    def _times(self, *kinds: str) -> list[float]:
        return [self.decisions[i].time_h for kind in kinds for i in self._places(kind)]

    def _value(self, x: Array, kind: str, default: float) -> Array:
        place = self._places(kind)
        return x[place[0]] if place else jnp.asarray(default, x.dtype)

    def _feed(self, i: int) -> int:
        return self.feeds.index(self.decisions[i].feed or self.feeds[0])

    @property
    def past(self) -> Any:
        """Numbers of what was done already, that a compiled program takes as arguments; none before inoculation."""
        return None

    def with_past(self, past: Any) -> Design:
        """The same design after another past of the same shape, which may be traced."""
        return self

    def longest_h(self) -> float:
        """The latest possible harvest."""
        place = self._places("harvest")
        return self.decisions[place[0]].upper if place else self.end_h

    def initial(self, x: Array, base: Array) -> Array:
        """Concentrations at the start, [N], from those of the platform medium."""
        for i in self._places("medium_component"):
            c = self._component(i)
            base = base.at[c.place].set(c.base + c.per * x[i])
        for i in self._places("inoculum"):
            rows = jnp.asarray(self.inoculum_species)
            base = base.at[rows].set(base[rows] * x[i] / self.inoculum_vcd)
        return base

    def stocks(self, x: Array, base: Array) -> Array:
        """Concentrations in every feed, [J, N], from those of the platform."""
        for i in self._places("feed_component"):
            c = self._component(i)
            base = base.at[self._feed(i), c.place].set(c.base + c.per * x[i])
        return base

    def _component(self, i: int) -> Component:
        return next(c for c in self.components if c.name == self.decisions[i].component)

    def schedule(self, x: Array) -> Schedule:
        """The schedule of decisions x [D] in their own units. Traceable, and differentiable in every decision."""
        end = self._value(x, "harvest", self.end_h)
        regular = np.arange(0.0, self.longest_h() - 1e-9, self.node_step_h)
        given = self._times(*TIMED_KINDS)
        if self.look_after_h:
            given += [t + self.look_after_h for t in self._times("bolus")]
        fixed = np.unique(np.round([*regular, *given, *self.sample_times_h], 9))
        lines = self._levels(x)
        moving = [x[i] for i in self._places("addition_time")]
        if self._places("shift_time"):
            moving.append(self._value(x, "shift_time", 0.0))
            if self._places("shift_ramp"):
                moving.append(moving[-1] + self._value(x, "shift_ramp", 0.0))
        times = jnp.concatenate([jnp.asarray(fixed), *(t[None] for t in moving)])
        n = len(times)
        withdraw = np.zeros(n)
        for t in self.sample_times_h:
            withdraw[int(np.searchsorted(fixed, round(t, 9)))] += self.sample_volume_l
        bolus = jnp.zeros((n, len(self.feeds)), x.dtype)
        for i in self._places("bolus"):
            t = self.decisions[i].time_h
            part = jnp.clip((end - t) / BOLUS_COVERS_H, 0.0, 1.0)
            bolus = bolus.at[int(np.searchsorted(fixed, round(t, 9))), self._feed(i)].add(x[i] * part / 1000.0)
        stocks = [self.decisions[i].feed for i in self._places("addition_time")]
        for i in self._places("addition_volume"):
            node = len(fixed) + stocks.index(self.decisions[i].feed)
            bolus = bolus.at[node, self._feed(i)].add(x[i] / 1000.0)
        rate_t, start, stop = self._rates(x, regular)
        setpoint_t = jnp.sort(jnp.concatenate([line.t for line in lines.values()]))
        until = jnp.append(setpoint_t[1:], jnp.maximum(end, setpoint_t[-1]))
        held = {name: _read(line, setpoint_t, until) for name, line in lines.items()}
        ramped = bool(self._places("shift_ramp"))
        return Schedule(
            times=times,
            withdraw=jnp.asarray(withdraw),
            bolus=bolus,
            end=end,
            rate_t=rate_t,
            rate_start=start,
            rate_end=stop,
            setpoint_t=setpoint_t,
            setpoints=Environment(**{name: a for name, (a, _) in held.items()}),
            setpoints_end=Environment(**{name: b for name, (_, b) in held.items()}) if ramped else None,
            **self._flows(x),
        )

    def _levels(self, x: Array) -> dict[str, _Line]:
        """Every setpoint over time. What nobody controls is left out."""
        steady = {"temperature": self.temperature_c, "ph": self.ph, "do": self.do_percent, "kla": self.kla_per_h}
        lines = {}
        for kind, level in steady.items():
            places = self._places(kind)
            if level is None and not places:
                continue
            first = x[places[0]] if places else jnp.asarray(level, x.dtype)
            times = [jnp.zeros((), x.dtype)]
            values = [first]
            for i in places[1:]:
                times.append(jnp.asarray(self.decisions[i].time_h, x.dtype))
                values.append(x[i])
            ends = list(values)
            if self._places(f"shift_{kind}"):
                shift, then = self._value(x, "shift_time", 0.0), self._value(x, f"shift_{kind}", 0.0)
                if self._places("shift_ramp"):
                    times.append(shift)
                    values.append(first)
                    ends.append(then)
                    shift = shift + self._value(x, "shift_ramp", 0.0)
                times.append(shift)
                values.append(then)
                ends.append(then)
            lines[kind] = _Line(jnp.stack(times), jnp.stack(values), jnp.stack(ends))
        return lines

    def _rates(self, x: Array, regular: np.ndarray) -> tuple[Array, Array, Array]:
        """Breakpoints [r] and the rates of all feeds from and to them, [r, J] in L/h."""
        flowing: dict[int, list[_Line]] = {}
        for j in range(len(self.feeds)):
            lines = [
                self._steps(x, [i for i in self._places("feed_rate") if self._feed(i) == j], 1e-3),
                self._steps(
                    x, [i for i in self._places("perfusion") if self._feed(i) == j], self.start_volume_l / 24.0
                ),
                self._nodes(x, [i for i in self._places("feed_node") if self._feed(i) == j]),
            ]
            if self._places("feed_start") and self._feed(self._places("feed_start")[0]) == j:
                grow = self._value(x, "feed_exponent", 0.0)
                initial = self._value(x, "feed_start", 0.0) / 1000.0
                # linear between nodes: over 0.5 h at 0.2 1/h the chord is 0.1 % above the exponential
                risen = jnp.exp(grow * jnp.asarray([*regular, self.longest_h()]))
                lines.append(_Line(regular, initial * risen[:-1], initial * risen[1:]))
            flowing[j] = [line for line in lines if line is not None]
        every = [np.asarray(line.t) for lines in flowing.values() for line in lines]
        starts = np.unique(np.round(np.concatenate([[0.0], *every]), 9))
        stops = _until(starts, self.longest_h())
        start, stop = [], []
        for j in range(len(self.feeds)):
            parts = [_read(line, jnp.asarray(starts), jnp.asarray(stops)) for line in flowing[j]]
            start.append(sum((a for a, _ in parts), jnp.zeros(len(starts), x.dtype)))
            stop.append(sum((b for _, b in parts), jnp.zeros(len(starts), x.dtype)))
        if self.second_feed_ratio > 0.0:
            j = self.feeds.index(self.second_feed)
            start[j] = start[j] + self.second_feed_ratio * start[0]
            stop[j] = stop[j] + self.second_feed_ratio * stop[0]
        none = jnp.zeros((len(starts), 0), x.dtype)  # a design without feeds
        return (
            jnp.asarray(starts),
            jnp.stack(start, axis=1) if start else none,
            jnp.stack(stop, axis=1) if stop else none,
        )

    def _steps(self, x: Array, places: list[int], unit: float) -> _Line | None:
        if not places:
            return None
        times = [self.decisions[i].time_h for i in places]
        values = [x[i] * unit for i in places]
        if times[0] > 0.0:
            times, values = [0.0, *times], [jnp.zeros((), x.dtype), *values]
        return _Line(np.array(times), jnp.stack(values), jnp.stack(values))

    def _nodes(self, x: Array, places: list[int]) -> _Line | None:
        if not places:
            return None
        times = [self.decisions[i].time_h for i in places]
        values = [x[i] / 1000.0 for i in places]
        ends = [*values[1:], values[-1]]
        if times[0] > 0.0:
            zero = jnp.zeros((), x.dtype)
            times, values, ends = [0.0, *times], [zero, *values], [zero, *ends]
        return _Line(np.array(times), jnp.stack(values), jnp.stack(ends))

    def _flows(self, x: Array) -> dict[str, Array]:
        """What leaves the vessel while it runs; nothing for a batch or fed-batch."""
        bleeds = {"bleed": 1e-3, "bleed_above": 1.0}
        lines = {kind: self._steps(x, self._places(kind), unit) for kind, unit in bleeds.items()}
        found = {kind: line for kind, line in lines.items() if line is not None}
        if not found and not self.perfused:
            return {}
        t = np.unique(np.concatenate([[0.0], *(line.t for line in found.values())]))
        until = _until(t, self.longest_h())
        flows = {kind: _read(line, t, until)[0] for kind, line in found.items()}
        if "bleed_above" in flows:  # nothing is bled before it is first named
            begin = self.decisions[self._places("bleed_above")[0]].time_h
            flows["bleed_above"] = jnp.where(t < begin, jnp.inf, flows["bleed_above"])
        if self.perfused:
            flows["level"] = jnp.ones(len(t), x.dtype)
        return {"flow_t": jnp.asarray(t), **flows}


def _until(t: np.ndarray, end: float) -> np.ndarray:
    """Where the segments that begin at t end."""
    return np.concatenate([t[1:], [max(end, float(t[-1]) + 1e-9)]])


def _read(line: _Line, left: Array, right: Array) -> tuple[Array, Array]:
    """Values of a line at both ends of segments within which it has no breakpoint."""
    i = jnp.clip(jnp.searchsorted(jnp.asarray(line.t), 0.5 * (left + right), side="right") - 1, 0)
    t = jnp.asarray(line.t)
    until = jnp.append(t[1:], t[-1] + 1.0)  # the last piece is level, or ends where its last segment does
    begin, span = t[i], jnp.where(until > t, until - t, 1.0)[i]
    last = i == t.shape[0] - 1
    span = jnp.where(last, jnp.max(right) - begin, span)
    span = jnp.where(span > 0.0, span, 1.0)
    slope = (line.end[i] - line.start[i]) / span
    return line.start[i] + slope * (left - begin), line.start[i] + slope * (right - begin)
