"""Shrinking-horizon design of a running batch: the past as it was really done, the future by open decisions.

The structure (what is still open, and how many things were done) is part of the compiled program; the numbers (when,
and how much) are not, so that batches at the same time share one program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from optim.data.dataset import Run
from optim.data.schedules import schedule_of
from optim.errors import ConfigError
from optim.kinetics.base import Environment
from optim.process.decision import DECISION_KINDS, Decision
from optim.process.design import BOLUS_COVERS_H, Design
from optim.schedule.actions import Addition, Sample, start_time
from optim.schedule.schedule import Schedule
from optim.types import Array

# an action this much before its planned time is that of the plan, and is not done twice
EARLY_H = 6.0
# a change of temperature by less is no shift
SHIFTED_C = 0.5
# harvest is at least so long after the last thing done, so that it counts
HARVEST_AFTER_H = 0.01
SAME_H = 1e-6


class Past(NamedTuple):
    """What was done to a running batch: n samples and boluses, r stretches of J rates, s setpoints."""

    time_h: Array  # [n] samples and boluses, those at one time together
    withdrawn: Array  # [n] L
    bolus: Array  # [n, J] L
    rate_h: Array  # [r] from which on a rate holds
    rate_start: Array  # [r, J] L/h
    rate_end: Array  # [r, J]
    rate_now: Array  # [J]
    setpoint_h: Array  # [s]
    temperature: Array  # [s] degC
    ph: Array  # [s]


@dataclass(frozen=True)
class Remaining(Design):
    """A design from `checked_from_h` on; `decisions` are those still open, `done` is what was done before.

    Two batches of which as much was done have equal designs, and share a compiled program.
    """

    shift_h: float | None = None  # when a shift comes whose time is no decision any more
    done: Past | None = field(default=None, compare=False)

    @property
    def past(self) -> Past:
        """What was done until now."""
        assert self.done is not None
        return self.done

    def with_past(self, past: Past) -> Remaining:
        """The same design after another past of the same shape, which may be traced."""
        return replace(self, done=past)

    def schedule(self, x: Array) -> Schedule:
        """The whole schedule, from inoculation on. Traceable in the open decisions [D] and in what was done."""
        now, past = self.checked_from_h, self.past
        before = len(past.time_h)
        end = self._value(x, "harvest", self.end_h)
        regular = np.arange(0.0, self.longest_h() - SAME_H, self.node_step_h)
        ahead = [self.decisions[i].time_h for i in (*self._places("bolus"), *self._places("feed_rate"))]
        if self.look_after_h:
            ahead += [self.decisions[i].time_h + self.look_after_h for i in self._places("bolus")]
        fixed = np.unique(np.round([*regular, *ahead, *self.sample_times_h, now], 9))
        shift = self._value(x, "shift_time", now if self.shift_h is None else self.shift_h)
        # what was done stands first: at equal times it goes before what is decided
        times = jnp.concatenate([past.time_h, jnp.asarray(fixed), shift[None]])
        rest = len(times) - before
        withdraw = jnp.append(past.withdrawn, jnp.zeros(rest))
        bolus = jnp.concatenate([past.bolus, jnp.zeros((rest, len(self.feeds)))])
        for t in self.sample_times_h:
            withdraw = withdraw.at[before + int(np.searchsorted(fixed, round(t, 9)))].add(self.sample_volume_l)
        for i in self._places("bolus"):
            t = self.decisions[i].time_h
            part = jnp.clip((end - t) / BOLUS_COVERS_H, 0.0, 1.0)
            bolus = bolus.at[before + int(np.searchsorted(fixed, round(t, 9))), 0].add(x[i] * part / 1000.0)
        rate_t, start, stop = self._all_rates(x, past, regular)
        warmth = jnp.asarray(past.temperature)
        second = self._value(x, "shift_temperature", 0.0) if self._places("shift_temperature") else warmth[-1]
        return Schedule(
            times=times,
            withdraw=withdraw,
            bolus=bolus,
            end=end,
            rate_t=rate_t,
            rate_start=start,
            rate_end=stop,
            setpoint_t=jnp.append(past.setpoint_h, shift),
            setpoints=Environment(jnp.append(warmth, second), jnp.append(past.ph, past.ph[-1])),
        )

    def _all_rates(self, x: Array, past: Past, regular: np.ndarray) -> tuple[Array, Array, Array]:
        """Rates as they were; from now on those of the decisions, or what flows now goes on."""
        now, level = self.checked_from_h, jnp.asarray(past.rate_now)
        t = np.array([now])
        start = stop = level[None]
        pieces = sorted(self._places("feed_rate"), key=lambda i: self.decisions[i].time_h)
        if pieces:
            piece_t = np.array([self.decisions[i].time_h for i in pieces])
            own = self._with_others(jnp.stack([x[i] for i in pieces]), level)
            t, start = np.append(t, piece_t), jnp.concatenate([start, own])
            stop = start
        elif self._places("feed_start"):
            t = np.append(now, regular[regular > now + SAME_H])
            grow = self._value(x, "feed_exponent", 0.0)
            until = np.append(t[1:], self.longest_h())
            initial = self._value(x, "feed_start", 0.0)
            start, stop = (self._with_others(initial * jnp.exp(grow * jnp.asarray(at)), level) for at in (t, until))
        return (
            jnp.append(past.rate_h, t),
            jnp.concatenate([past.rate_start, start]),
            jnp.concatenate([past.rate_end, stop]),
        )

    def _with_others(self, rate: Array, level: Array) -> Array:
        """Rates [r] in mL/h of the first feed, the second in its ratio, and what else flows as it does now: [r, J]."""
        columns = [jnp.full(rate.shape[0], level[j]) for j in range(len(self.feeds))]
        columns[0] = rate / 1000.0
        if self.second_feed_ratio > 0.0:
            columns[self.feeds.index(self.second_feed)] = rate * self.second_feed_ratio / 1000.0
        return jnp.stack(columns, axis=1)


@dataclass(frozen=True)
class Passed:
    """A decision of the design that is no longer open: what the plan was, what was done (None: nothing, or unclear)."""

    decision: Decision
    done: float | None


def remaining_design(
    design: Design, run: Run, *, now_h: float, feeds: Sequence[str]
) -> tuple[Remaining, tuple[Passed, ...]]:
    """Shrinking-horizon design: what is left of a design at `now_h`, and what has passed.

    `run` says what was done to the vessel, and `feeds` [J] names the columns of feeds, the design's first. Boluses and
    rates whose time is before now are done or left out; one for now is open unless it was given. A shift is done where
    the temperature now differs from that at the start. Raises `ConfigError` when nothing is left to decide.
    """
    latest = design.longest_h()
    if now_h >= latest - HARVEST_AFTER_H:
        raise ConfigError(
            f"replan: run '{run.run_id}' stands at {now_h:g} h, and the latest harvest of the design is {latest:g} h: "
            "nothing is left to decide; give a later harvest in design.decisions, or check replan.now_h"
        )
    past = [a for a in run.actions if start_time(a) <= now_h + SAME_H]
    run = replace(run, actions=tuple(past), end_time_h=max(run.end_time_h, now_h + HARVEST_AFTER_H))
    s = schedule_of(run, np.zeros(0), tuple(feeds))
    _check_past(s, run.run_id)
    use = np.asarray(s.times) <= now_h + SAME_H
    level = _now(s.rate_t, s.rate_start, s.rate_end, now_h, run.end_time_h)
    r = np.asarray(s.rate_t)
    # the last stretch is still under way
    last = np.concatenate([s.rate_end[:-1], level[None]])
    given: dict[float, float] = {}
    for a in past:
        if isinstance(a, Addition) and a.feed == feeds[0]:
            given[round(a.time_h, 9)] = given.get(round(a.time_h, 9), 0.0) + a.volume_ml
    temperature = np.asarray(s.setpoints.temperature)
    shifted = abs(temperature[-1] - run.temperature_c) > SHIFTED_C
    open_, passed, shift_h = list[Decision](), list[Passed](), None
    _check_known(design, feeds[0])
    planned = [d.time_h for d in design.decisions if d.kind == "bolus"]
    matched = _matched(planned, sorted(given))
    for d in design.decisions:
        ahead = d.time_h >= now_h - SAME_H
        if d.kind == "bolus":
            doses = [given[t] for t in matched.get(d.time_h, ())]
            if ahead and not doses:
                open_.append(d)
            else:
                passed.append(Passed(d, sum(doses)))
        elif d.kind == "feed_rate":
            if ahead:
                open_.append(d)
            else:
                passed.append(Passed(d, 1000.0 * float(_now(r, s.rate_start, s.rate_end, d.time_h, now_h)[0])))
        elif d.what.replanned == "start":
            passed.append(Passed(d, float(temperature[0]) if d.kind == "temperature" else None))
        elif d.kind in ("shift_time", "shift_temperature") and shifted:
            when = float(
                np.asarray(s.setpoint_t)[np.flatnonzero(np.abs(temperature - run.temperature_c) > SHIFTED_C)[0]]
            )
            passed.append(Passed(d, when if d.kind == "shift_time" else float(temperature[-1])))
        elif d.kind == "shift_time" and d.upper <= now_h + HARVEST_AFTER_H:
            shift_h = now_h
            passed.append(Passed(d, None))
        elif d.kind == "shift_time":
            open_.append(_from(d, now_h))
        elif d.kind == "harvest":
            open_.append(_from(d, now_h + HARVEST_AFTER_H))
        else:
            open_.append(d)
    if not open_:
        raise ConfigError(f"replan: at {now_h:g} h no decision of the design is left for run '{run.run_id}'")
    sampled = [a.time_h for a in past if isinstance(a, Sample)]
    drawn = _matched([t for t in design.sample_times_h if t >= now_h - SAME_H], sampled)
    done = Past(
        time_h=np.asarray(s.times)[use],
        withdrawn=np.asarray(s.withdraw)[use],
        bolus=np.asarray(s.bolus)[use],
        rate_h=r,
        rate_start=np.asarray(s.rate_start),
        rate_end=last,
        rate_now=level,
        setpoint_h=np.asarray(s.setpoint_t),
        temperature=temperature,
        ph=np.asarray(s.setpoints.ph),
    )
    left = Remaining(
        decisions=tuple(open_),
        start_volume_l=run.start_volume_l,
        temperature_c=run.temperature_c,
        ph=run.ph,
        end_h=design.end_h,
        node_step_h=design.node_step_h,
        sample_times_h=tuple(t for t in design.sample_times_h if t >= now_h - SAME_H and not drawn.get(t)),
        sample_volume_l=design.sample_volume_l,
        feeds=tuple(feeds),
        second_feed=design.second_feed,
        second_feed_ratio=design.second_feed_ratio,
        checked_from_h=now_h,
        shift_h=shift_h,
        done=done,
    )
    return left, tuple(passed)


def _check_past(s: Schedule, run_id: str) -> None:
    """Refuses a batch to which something was done that cannot be continued."""
    undone = {
        "an exchange of medium": s.remove,
        "a top-up": s.topup_to,
        "an exponential feed": s.rate_growth,
        "perfusion, bleed or evaporation": s.flow_t,
        "a ramp of a setpoint": s.setpoints_end,
        "a setpoint of dissolved oxygen": s.setpoints.do,
        "a setpoint of kLa": s.setpoints.kla,
    }
    found = [what for what, part in undone.items() if part is not None]
    if found:
        raise ConfigError(
            f"replan: run '{run_id}' was given {', '.join(found)}, after which no plan can be made anew yet"
        )


def _check_known(design: Design, feed: str) -> None:
    for d in design.decisions:
        if not d.what.replanned or d.feed not in ("", feed) or (d.what.setpoint and d.time_h):
            known = ", ".join(name for name, kind in DECISION_KINDS.items() if kind.replanned == "open")
            raise ConfigError(
                f"replan: design.decisions.{d.name} is a {d.kind}{f' of {d.feed}' if d.feed else ''}, which cannot be "
                f"planned anew; what can is {known} of the design's own feed. Hold it, or leave it out"
            )


def _from(d: Decision, earliest: float) -> Decision:
    """A decision on a time, not before `earliest`."""
    lower = max(d.lower, earliest)
    return replace(d, lower=lower, platform=max(d.platform, lower))


def _matched(planned: Sequence[float], done: Sequence[float]) -> dict[float, list[float]]:
    """What was done, by the planned time next to it; nothing where none is as near as `EARLY_H`."""
    found: dict[float, list[float]] = {}
    for t in done:
        near = sorted((abs(p - t), p) for p in planned)
        if near and near[0][0] <= EARLY_H:
            found.setdefault(near[0][1], []).append(t)
    return found


def _now(times: np.ndarray, start: np.ndarray, stop: np.ndarray, at: float, end: float) -> np.ndarray:
    """Rates [J] at a time."""
    i = max(int(np.searchsorted(times, at + SAME_H, side="right")) - 1, 0)
    until = times[i + 1] if i + 1 < len(times) else max(end, at)
    share = (at - times[i]) / (until - times[i]) if until > times[i] else 0.0
    value: np.ndarray = start[i] + min(share, 1.0) * (stop[i] - start[i])
    return value
