"""The design: which numbers of a process may be chosen, and the schedule that a choice of them means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from optim.errors import ConfigError, nearest
from optim.kinetics.base import Environment
from optim.schedule.schedule import Schedule
from optim.types import Array

# kind -> unit that its numbers are given in
KINDS = {
    "bolus": "mL",
    "feed_start": "mL/h",
    "feed_exponent": "1/h",
    "feed_rate": "mL/h",
    "temperature": "degC",
    "shift_time": "h",
    "shift_temperature": "degC",
    "harvest": "h",
}
BOLUS_COVERS_H = 24.0


@dataclass(frozen=True)
class Decision:
    """One number to choose. `platform` is its value in the platform process, `time_h` when a bolus or rate acts."""

    name: str
    kind: str
    lower: float
    upper: float
    platform: float
    resolution: float
    time_h: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"design.decisions.{self.name}.kind: unknown '{self.kind}'.{nearest(self.kind, KINDS)} "
                f"Known: {', '.join(KINDS)}"
            )
        if not self.lower < self.upper:
            raise ConfigError(f"design.decisions.{self.name}: lower {self.lower} must be below upper {self.upper}")
        if not self.lower <= self.platform <= self.upper:
            raise ConfigError(f"design.decisions.{self.name}: platform {self.platform} lies outside its bounds")
        if self.resolution < 0.0:
            raise ConfigError(f"design.decisions.{self.name}: resolution must not be negative")

    @property
    def unit(self) -> str:
        return KINDS[self.kind]


@dataclass(frozen=True)
class Design:
    """A family of fed-batch processes in one vessel.

    A bolus is meant to feed the coming day: when harvest comes sooner, a proportionate part of it is given, so that a
    process depends continuously on its harvest time. `second_feed_ratio` litres of the second feed (base) go with every
    litre of the first.
    """

    decisions: tuple[Decision, ...]
    start_volume_l: float
    temperature_c: float
    ph: float
    end_h: float  # harvest, where it is no decision
    node_step_h: float  # distance of nodes at which constraints are checked and trajectories reported
    sample_times_h: tuple[float, ...]
    sample_volume_l: float
    n_feeds: int = 1
    second_feed_ratio: float = 0.0
    checked_from_h: float = -math.inf  # limits along the path count after this time; what was before cannot be changed

    def __post_init__(self) -> None:
        names = [d.name for d in self.decisions]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ConfigError(f"design.decisions: {', '.join(twice)} given twice")
        if not names:
            raise ConfigError("design.decisions: empty; there is nothing to optimise")

    @property
    def lower(self) -> np.ndarray:
        return np.array([d.lower for d in self.decisions])

    @property
    def upper(self) -> np.ndarray:
        return np.array([d.upper for d in self.decisions])

    @property
    def platform(self) -> np.ndarray:
        return np.array([d.platform for d in self.decisions])

    def _places(self, kind: str) -> list[int]:
        return [i for i, d in enumerate(self.decisions) if d.kind == kind]

    def _value(self, x: Array, kind: str, default: float) -> Array:
        place = self._places(kind)
        return x[place[0]] if place else jnp.asarray(default, x.dtype)

    def longest_h(self) -> float:
        """The latest possible harvest."""
        place = self._places("harvest")
        return self.decisions[place[0]].upper if place else self.end_h

    def schedule(self, x: Array) -> Schedule:
        """The schedule of decisions x [D] in their own units. Traceable, and differentiable in every decision."""
        end = self._value(x, "harvest", self.end_h)
        shift = self._value(x, "shift_time", 0.0)
        regular = np.arange(0.0, self.longest_h() - 1e-9, self.node_step_h)
        given = [self.decisions[i].time_h for i in (*self._places("bolus"), *self._places("feed_rate"))]
        fixed = np.unique(np.round([*regular, *given, *self.sample_times_h], 9))
        times = jnp.concatenate([jnp.asarray(fixed), shift[None]])
        n = len(times)
        withdraw = np.zeros(n)
        for t in self.sample_times_h:
            withdraw[int(np.searchsorted(fixed, round(t, 9)))] += self.sample_volume_l
        bolus = jnp.zeros((n, self.n_feeds), x.dtype)
        for i in self._places("bolus"):
            t = self.decisions[i].time_h
            part = jnp.clip((end - t) / BOLUS_COVERS_H, 0.0, 1.0)
            bolus = bolus.at[int(np.searchsorted(fixed, round(t, 9))), 0].add(x[i] * part / 1000.0)
        rate_t, start, stop = self._rates(x, regular)
        first = self._value(x, "temperature", self.temperature_c)
        second = self._value(x, "shift_temperature", 0.0) if self._places("shift_temperature") else first
        zero = jnp.zeros((), x.dtype)
        return Schedule(
            times=times,
            withdraw=jnp.asarray(withdraw),
            bolus=bolus,
            end=end,
            rate_t=rate_t,
            rate_start=start,
            rate_end=stop,
            setpoint_t=jnp.stack([zero, shift]),
            setpoints=Environment(jnp.stack([first, second]), jnp.full(2, self.ph)),
        )

    def _rates(self, x: Array, regular: np.ndarray) -> tuple[Array, Array, Array]:
        def with_second(rate: Array) -> Array:
            columns = [rate, rate * self.second_feed_ratio] if self.n_feeds > 1 else [rate]
            return jnp.stack(columns, axis=1) / 1000.0

        pieces = self._places("feed_rate")
        if pieces:
            order = sorted(pieces, key=lambda i: self.decisions[i].time_h)
            t = jnp.asarray([self.decisions[i].time_h for i in order])
            rate = jnp.stack([x[i] for i in order])
            return t, with_second(rate), with_second(rate)
        if self._places("feed_start"):
            t = jnp.asarray(regular)
            grow = self._value(x, "feed_exponent", 0.0)
            initial = self._value(x, "feed_start", 0.0)
            # linear between nodes: over 0.5 h at 0.2 1/h the chord is 0.1 % above the exponential
            until = jnp.append(t[1:], self.longest_h())
            return t, with_second(initial * jnp.exp(grow * t)), with_second(initial * jnp.exp(grow * until))
        t = jnp.zeros(1)
        return t, jnp.zeros((1, self.n_feeds)), jnp.zeros((1, self.n_feeds))
