"""Actions of a schedule: the way back from arrays to what is done to a vessel.

A schedule that was made of actions gives a plan that is simulated alike. What no action can state is refused. Names are
not in the arrays: what is given at once is a `Bolus`, broth taken is a `Sample`, and medium fed while broth is bled
is a `Feed` beside a `Bleed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from optim.errors import ConfigError
from optim.kinetics.base import Environment
from optim.schedule.actions import (
    Action,
    Bleed,
    Bolus,
    Evaporation,
    Exchange,
    Feed,
    Harvest,
    Perfusion,
    Sample,
    Setpoint,
    TopUp,
    start_time,
)
from optim.schedule.lines import ML, SETPOINTS, round_time
from optim.schedule.schedule import FLOWS, Schedule

SAME_LINE = 1e-9  # relative: pieces of a line that differ by less are one
# order of what happens at the same time, as a vessel does it
ACTION_ORDER = (Setpoint, Sample, Exchange, Bolus, TopUp)


class _Piece(NamedTuple):
    """A quantity from `start` to `stop` (h): a line from `first` to `last`, times exp(growth (t - start))."""

    start: float
    stop: float
    first: float
    last: float
    growth: float = 0.0


def actions_of(
    schedule: Schedule,
    feeds: Sequence[str],
    *,
    topups: Mapping[str, str] | None = None,
    perfused: Sequence[str] = (),
) -> tuple[Action, ...]:
    """What is done to a vessel, in order of time, from its initial setpoints to its harvest.

    feeds [J]: names of the schedule's columns. topups: feed -> component that it tops up. perfused: feeds that are
    meant where the volume is held; otherwise the first that flows then. Raises `ConfigError` that names what cannot be
    stated as an action.
    """
    s: Any = Schedule(*[None if part is None else _array(part) for part in schedule])  # type: ignore[arg-type]
    end = float(s.end)
    found: list[Action] = [
        *_setpoints(s, end),
        *_instants(s, feeds, end, topups or {}),
        *_flows(s, feeds, end, perfused),
    ]
    found.append(Harvest(end))
    return tuple(sorted(found, key=lambda a: (start_time(a), isinstance(a, Harvest), _rank(a))))


def to_ml(litres: float) -> float:
    """Millilitres that are exactly so many litres where there are any: the shortest such number."""
    value = float(litres) / ML
    tries = tuple(float(f"{value:.{digits}g}") for digits in (12, 15, 16))
    near = (value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf))
    return next((x for x in (*tries, *near) if x * ML == litres), float(f"{value:.15g}"))


def _array(part: Any) -> Any:
    if isinstance(part, tuple):  # setpoints
        return Environment(*[None if x is None else np.asarray(x, float) for x in part])
    return np.asarray(part, float)


def _rank(action: Action) -> int:
    return ACTION_ORDER.index(type(action)) if type(action) in ACTION_ORDER else len(ACTION_ORDER)


# --- what happens at once ---


def _instants(s: Any, feeds: Sequence[str], end: float, topups: Mapping[str, str]) -> Iterator[Action]:
    checks: dict[tuple[str, float, float], list[float]] = {}
    for k, t in enumerate(s.times):
        if not t < end:
            continue
        time = float(t)
        if s.withdraw[k] > 0.0:
            yield Sample(time, to_ml(s.withdraw[k]))
        given = [float(v) for v in s.bolus[k]]
        taken = 0.0 if s.remove is None else float(s.remove[k])
        # one feed that is given as much as is taken is what the medium is exchanged for
        order = sorted(range(len(feeds)), key=lambda j: (given[j] != taken, j))
        for j in order if taken > 0.0 else ():
            part = min(given[j], taken)
            if part > 0.0:
                yield Exchange(time, to_ml(part), feeds[j])
                given[j], taken = given[j] - part, taken - part
        if taken > SAME_LINE * max(1.0, float(s.bolus[k].sum())):
            raise ConfigError(
                f"at {time:g} h, {1000.0 * taken:g} mL of medium are taken and not replaced: no action can state that"
            )
        yield from (Bolus(time, feeds[j], to_ml(v)) for j, v in enumerate(given) if v > 0.0)
        if s.topup_below is None or s.topup_to is None:
            continue
        for j, feed in enumerate(feeds):
            if math.isfinite(s.topup_below[k, j]):
                checks.setdefault((feed, float(s.topup_below[k, j]), float(s.topup_to[k, j])), []).append(time)
    for (feed, below, to), times in checks.items():
        if feed not in topups:
            raise ConfigError(f"what '{feed}' tops up is not known; name its component in topups=")
        yield TopUp(feed, topups[feed], below, to, tuple(times))


# --- what flows ---


def _flows(s: Any, feeds: Sequence[str], end: float, perfused: Sequence[str]) -> Iterator[Action]:
    none = np.zeros_like(s.rate_start)
    growth = none if s.rate_growth is None else s.rate_growth
    rates = {}
    for j in range(len(feeds)):
        rates[j] = _joined(_pieces(s.rate_t, end, s.rate_start[:, j], s.rate_end[:, j], growth[:, j]))
    lines = {name: _steps(s, name, end) for name in FLOWS}
    for piece in lines["harvest"]:
        if piece.first > 0.0:
            raise ConfigError(f"at {piece.start:g} h, a harvest at a rate of its own: no action can state that")
    held = [piece for piece in lines["level"] if piece.first != 0.0]
    for piece in held:
        if piece.first != 1.0:
            raise ConfigError(f"at {piece.start:g} h, {piece.first:g} of the inflow leaves: no action can state that")
        j = _perfused(piece, rates, feeds, perfused)
        yield from _perfusions(piece, rates[j], feeds[j], end)
        rates[j] = [part for own in rates[j] for part in _outside(own, piece)]
    for j, feed in enumerate(feeds):
        for p in rates[j]:
            if p.first == 0.0 and p.last == 0.0:
                continue
            if p.growth and p.first != p.last:
                raise ConfigError(
                    f"feed '{feed}' at {p.start:g} h changes linearly and exponentially at once: "
                    "no action can state that"
                )
            yield Feed(
                feed,
                p.start,
                to_ml(p.first),
                end_rate_ml_per_h=None if p.first == p.last else to_ml(p.last),
                growth_per_h=p.growth or None,
                stop_h=_stop(p, end),
            )
    stated: tuple[tuple[str, Callable[[float, float | None, float], Action], float], ...] = (
        ("bleed", lambda t, stop, v: Bleed(t, rate_ml_per_h=to_ml(v), stop_h=stop), 0.0),
        ("bleed_above", lambda t, stop, v: Bleed(t, above_vcd_1e6_per_ml=v, stop_h=stop), math.inf),
        ("evaporation", lambda t, stop, v: Evaporation(t, to_ml(v), stop_h=stop), 0.0),
    )
    for name, action, nothing in stated:
        yield from (action(p.start, _stop(p, end), p.first) for p in lines[name] if p.first != nothing)


def _stop(piece: _Piece, end: float) -> float | None:
    return None if piece.stop >= end else piece.stop


def _pieces(times: Any, end: float, first: Any, last: Any, growth: Any) -> list[_Piece]:
    """Stretches between breakpoints before the end, the last one cut there."""
    found = []
    for k, start in enumerate(times):
        start, until = float(start), float(times[k + 1]) if k + 1 < len(times) else end
        if start >= end or until <= max(start, 0.0):
            continue
        a, b, grow = float(first[k]), float(last[k]), float(growth[k])
        slope = (b - a) / (until - start) if a != b else 0.0
        if until > end and slope:
            b = a + slope * (end - start)
        if start < 0.0:
            a, b = (v * math.exp(-grow * start) for v in (a - slope * start, b))
        found.append(_Piece(max(start, 0.0), min(until, end), a, b, grow))
    return found


def _steps(s: Any, name: str, end: float) -> list[_Piece]:
    values = getattr(s, name)
    if values is None or s.flow_t is None:
        return []
    return _joined(_pieces(s.flow_t, end, values, values, np.zeros(len(values))))


def _joined(pieces: list[_Piece]) -> list[_Piece]:
    """Pieces of one line as one: a line is cut where another one has a breakpoint."""
    found: list[_Piece] = []
    for p in pieces:
        if found and _continues(found[-1], p):
            before = found.pop()
            p = _Piece(before.start, p.stop, before.first, before.first if p.growth else p.last, p.growth)
        elif p.growth:
            p = p._replace(last=p.first) if math.isclose(p.last, p.first, rel_tol=SAME_LINE) else p
        found.append(p)
    return found


def _continues(a: _Piece, b: _Piece) -> bool:
    if a.stop != b.start or a.growth != b.growth:
        return False
    if a.growth:
        grown = a.first * math.exp(a.growth * (b.start - a.start))
        return a.first == a.last and math.isclose(grown, b.first, rel_tol=SAME_LINE) and b.first == b.last
    if a.first == a.last == b.first == b.last:
        return True
    if a.first == a.last or b.first == b.last or not math.isclose(a.last, b.first, rel_tol=SAME_LINE):
        return False
    slopes = [(p.last - p.first) / (p.stop - p.start) for p in (a, b)]
    return math.isclose(*slopes, rel_tol=SAME_LINE)


# --- perfusion ---


def _perfused(held: _Piece, rates: dict[int, list[_Piece]], feeds: Sequence[str], perfused: Sequence[str]) -> int:
    """The feed that is meant by a stretch in which the volume is held."""
    named = [j for j, feed in enumerate(feeds) if feed in perfused]
    flowing = [j for j, own in rates.items() if any(p.first > 0.0 and _overlap(p, held) for p in own)]
    return next((j for j in (*(j for j in named if j in flowing), *flowing, *named)), 0)


def _overlap(a: _Piece, b: _Piece) -> bool:
    return a.start < b.stop and b.start < a.stop


def _perfusions(held: _Piece, own: list[_Piece], feed: str, end: float) -> Iterator[Action]:
    """The stretches of one feed while the volume is held; one without flow where there is none."""
    time = held.start
    for p in [p for p in own if _overlap(p, held)]:
        if p.first != p.last or p.growth:
            raise ConfigError(f"perfusion of '{feed}' at {p.start:g} h changes steadily: no action can state that")
        start, stop = max(p.start, held.start), min(p.stop, held.stop)
        yield Perfusion(start, feed, rate_ml_per_h=to_ml(p.first), stop_h=stop if stop < end else None)
        time = stop
    if time < held.stop:
        yield Perfusion(time, feed, rate_ml_per_h=0.0, stop_h=_stop(held, end))


def _outside(own: _Piece, held: _Piece) -> Iterator[_Piece]:
    if not _overlap(own, held):
        yield own
        return
    # what overlaps is constant: it was stated as perfusion
    if own.start < held.start:
        yield own._replace(stop=held.start)
    if own.stop > held.stop:
        yield own._replace(start=held.stop)


# --- setpoints ---


def _setpoints(s: Any, end: float) -> Iterator[Action]:
    """Steps and ramps of every setpoint, those of one time and ramp together."""
    together: dict[tuple[float, float], dict[str, float]] = {}
    for name, field in SETPOINTS.items():
        values = getattr(s.setpoints, field)
        if values is None:
            continue
        ends = values if s.setpoints_end is None else getattr(s.setpoints_end, field)
        held = math.nan
        pieces = _joined(_pieces(s.setpoint_t, end, values, ends, np.zeros(len(values))))
        for k, p in enumerate(pieces):
            p = p._replace(start=0.0) if k == 0 else p  # what is set first holds from the start
            ramp = p.stop - p.start if p.last != p.first else 0.0
            jump = k == 0 or not math.isclose(p.first, held, rel_tol=SAME_LINE, abs_tol=1e-12)
            if jump and ramp:
                raise ConfigError(
                    f"{name} steps and ramps at once at {p.start:g} h: no action can state that; "
                    "let the ramp begin later"
                )
            if jump or ramp:
                together.setdefault((p.start, ramp), {})[name] = p.last
            held = p.last
    for (time, ramp), values in together.items():
        yield Setpoint(time, **values, ramp_h=_ramp(time, ramp))


def _ramp(time: float, ramp: float) -> float:
    """The shortest number of hours that ends at the same time."""
    short = float(f"{ramp:.12g}")
    return short if round_time(time + short) == round_time(time + ramp) else ramp
