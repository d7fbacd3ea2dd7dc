"""Explains a re-plan: readings against the plan, parameters that moved, and the reason for each changed decision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from optim.artefact import Lineage
from optim.estimation.noise import MEASURED
from optim.estimation.problem import FitProblem
from optim.optimisation.result import ProcessOutcome
from optim.process.lanes import Lanes
from optim.process.problem import ProcessProblem, Trace
from optim.replanning.remaining import SAME_H, Passed
from optim.replanning.result import (
    AssayAgreement,
    DecisionChange,
    LimitForecast,
    MovedParameter,
    Replan,
    SeenReading,
)
from optim.replanning.running_batch import BatchForecast, BatchRecord, FollowedPlan, RunningBatch
from optim.schedule.actions import Action, Bolus, Sample, Setpoint, start_time, used_feed
from optim.schedule.lines import SETPOINTS
from optim.units import VARIABLES, display_unit

OFF = 1e-3  # chance below which the readings of an assay are said not to agree
CLEARLY = 2.0  # standard deviations of noise: a reading that far from the plan is told of
MOVED_SD = 1.0  # standard deviations: a parameter that has moved so far is told of
RARE = 0.05  # share of parameter sets that break a limit, below which no time of it is given
MATTERS = 1e-4  # of the objective
BROKEN = -1e-3  # relative margin: a limit missed by less is not told of


@dataclass(frozen=True)
class ReplannedProcess:
    """The rest of a batch as it was re-optimised, beside the plan."""

    x: np.ndarray  # [D] open decisions
    before: ProcessOutcome  # under the plan's values of the open decisions
    after: ProcessOutcome  # under x
    eased: dict[str, float]  # limits that had to be eased: name -> to what
    closed: frozenset[str]  # decisions that nobody is there to carry out as planned


def explain_replan(o: BatchForecast, running: RunningBatch, new: ReplannedProcess, *, lineage: Lineage) -> Replan:
    """The re-plan as an artefact: re-optimised decisions beside the plan's, with the reason for each change.

    `o` is the forecast of the batch, `new` its re-optimised rest; `lineage` says what the re-plan was made from.
    """
    batch, plan, fitting = running.record, running.plan, running.fitting
    x, after = new.x, new.after
    here, lanes = o.problem, o.lanes
    traces = [here.trace(np.tile(at, (lanes.number, 1)), lanes) for at in (o.planned, x)]
    values = [_objective(here, t) for t in traces]
    both = (traces[0].status == 0) & (traces[1].status == 0)
    better = (here.objective.to_solver(traces[1].metrics) - here.objective.to_solver(traces[0].metrics))[both]
    kept = bool(np.array_equal(x, o.planned))
    limits = _limits(here, batch.now_h, new, traces)
    readings = _readings(o, fitting, plan)
    agreement = _agreement(readings)
    moved = _moved(o, fitting)
    gain = _gained(here, values[1][0], values[0][0])
    ahead = _ahead(after.actions, batch)
    samples = [a.time_h for a in ahead if isinstance(a, Sample) and a.time_h > batch.now_h + SAME_H]
    next_sample = min(samples, default=start_time(after.actions[-1]))
    failed = after.failed_members
    notes = [a.statement for a in agreement if a.off] + _eased_notes(here, new.eased)
    if failed:
        notes.append(f"{failed} of {lanes.number} parameter sets could not be simulated; left out")
    return Replan(
        lineage=lineage.with_notes(*notes),
        run=batch.run.run_id,
        clone=batch.run.clone_id,
        known_clone=fitting.groups[0] in running.old.groups,
        now_h=batch.now_h,
        next_sample_h=next_sample,
        objective=here.metric,
        kept=kept,
        next_actions=tuple(a for a in ahead if start_time(a) < next_sample - SAME_H),
        actions=ahead,
        done=tuple(a for a in after.actions if a not in ahead),
        decisions=_decisions(o, plan, x, kept, new.closed),
        plan=new.before,
        replanned=after,
        chance_better=float(np.mean(np.where(np.abs(better) < 1e-9, 0.5, better > 0.0))),
        gain=gain,
        limits=limits,
        readings=readings,
        agreement=agreement,
        parameters=moved,
        members=o.followed.members,
        ensemble=np.asarray(lanes.parameters),
        start=_starts(lanes),
        seen=_seen(o, fitting, plan, readings, moved, limits),
    )


def _starts(lanes: Lanes) -> np.ndarray:
    """Concentrations and volume at inoculation, [E, N+1]."""
    assert lanes.start is not None
    return np.concatenate([lanes.start.concentrations, np.asarray(lanes.start.volume_l)[:, None]], axis=1)


def day_text(time_h: float) -> str:
    """'day 5', as laboratories count."""
    return f"day {time_h / 24.0:.3g}"


def _objective(problem: ProcessProblem, trace: Trace) -> np.ndarray:
    return np.asarray(trace.metrics[:, list(problem.metrics).index(problem.metric)])


def _ahead(actions: tuple[Action, ...], batch: BatchRecord) -> tuple[Action, ...]:
    """What is still to be done; at this very moment, what was not done yet."""
    just = {_subject(a) for a in batch.run.actions if abs(start_time(a) - batch.now_h) <= SAME_H}

    def is_open(a: Action) -> bool:
        begun = isinstance(a, Setpoint) and a.time_h == 0.0
        at_once = abs(start_time(a) - batch.now_h) <= SAME_H and _subject(a) not in just and not begun
        return at_once or start_time(a) > batch.now_h + SAME_H

    return tuple(a for a in actions if is_open(a))


def _subject(action: Action) -> tuple[str, ...]:
    """What an action is about: its kind with its feed, or the setpoints that it sets."""
    if isinstance(action, Setpoint):
        return tuple(name for name in SETPOINTS if getattr(action, name) is not None)
    return type(action).__name__, used_feed(action)


# --- limits ---


@dataclass(frozen=True)
class _Course:
    """A limited quantity over time, lanes first."""

    margin: np.ndarray  # [E, T] relative, of times to come
    t: np.ndarray  # [E, T]


def _courses(problem: ProcessProblem, trace: Trace, now: float) -> list[_Course]:
    found, at = [], 0
    for c in problem.constraints:
        width = trace.t.shape[1] if c.where == "path" else 1
        margin = trace.margins[:, at : at + width]
        at += width
        if c.where == "end":
            found.append(_Course(margin, trace.t[:, -1:]))
            continue
        past = trace.t < now if c.variable == "volume" else trace.t <= now
        found.append(_Course(np.where(past, np.inf, margin), trace.t))
    return found


def _broken_h(course: _Course, good: np.ndarray) -> float:
    """When a limit is broken: at the estimate, else in the middle of the parameter sets that break it; NaN: rarely."""
    broken = (course.margin < BROKEN) & good[:, None]
    if not (broken[0].any() or broken.any(axis=1).mean() > RARE):
        return float("nan")
    first = np.where(broken.any(axis=1), course.t[np.arange(len(broken)), broken.argmax(axis=1)], np.nan)
    return float(first[0] if broken[0].any() else np.nanmedian(first))


def _limits(
    problem: ProcessProblem, now_h: float, replanned: ReplannedProcess, traces: list[Trace]
) -> tuple[LimitForecast, ...]:
    courses = [_courses(problem, t, now_h) for t in traces]
    rows = []
    for i, c in enumerate(problem.constraints):
        old, new = replanned.before.constraints[i], replanned.after.constraints[i]
        broken = [_broken_h(course[i], t.status == 0) for course, t in zip(courses, traces, strict=True)]
        past_h, past_value = _past(problem, i, traces[1], now_h)
        rows.append(
            LimitForecast(
                name=c.name,
                unit=c.unit,
                kind=c.kind,
                where=c.where,
                limit=c.limit,
                planned_value=old.value,
                value=new.value,
                planned_chance=old.probability_met,
                chance=new.probability_met,
                planned_broken_h=broken[0],
                broken_h=broken[1],
                past_h=past_h,
                past_value=past_value,
                eased_to=replanned.eased.get(c.name, float("nan")),
            )
        )
    return tuple(rows)


def _past(problem: ProcessProblem, i: int, trace: Trace, now: float) -> tuple[float, float]:
    """When a path limit was broken worst until now, at the estimate, and its value then; NaN where it was not."""
    c = problem.constraints[i]
    t = trace.t[0]
    assay = c.variable != "volume"
    value = trace.observed[0, problem.observed.index(c.variable)] if assay else 1000.0 * trace.volume[0]
    use = (t <= now + SAME_H) & np.isfinite(value)
    room = ((c.limit - value) if c.kind == "max" else (value - c.limit)) / abs(c.limit)
    k = int(np.argmin(np.where(use, room, np.inf)))
    if c.where == "end" or not use.any() or room[k] >= BROKEN:
        return float("nan"), float("nan")
    return float(t[k]), float(value[k])


def _eased_notes(problem: ProcessProblem, eased: dict[str, float]) -> list[str]:
    limits = {c.name: c for c in problem.constraints}
    return [
        f"nothing that can still be done keeps {name} {_side(limits[name].kind)} {limits[name].limit:g} "
        f"{limits[name].unit}; planned with {value:.4g} instead"
        for name, value in eased.items()
    ]


def _side(kind: str) -> str:
    return "below" if kind == "max" else "above"


# --- readings and parameters ---


def _readings(o: BatchForecast, fitting: FitProblem, plan: FollowedPlan) -> tuple[SeenReading, ...]:
    v, s = fitting.vessels, plan.trajectory
    u = o.followed.lanes
    y, status = fitting.predict(u, np.zeros(len(u), int))
    good = status == 0
    rows = []
    noise = np.where(v.weight[0] > 0.0, o.followed.sd, 1.0)
    on_scale = np.stack([fitting.scaled_deviation(row[None])[0] for row in y])  # predicted less read
    spread = on_scale[good].std(axis=0)
    for m in np.flatnonzero(v.weight[0] > 0.0):
        name, time = fitting.variables[v.variable[0, m]], float(v.grid.t[0, v.node[0, m]])
        known = s.names.index(name) if name in s.names else None
        censored = int(v.censored[0, m]) != MEASURED
        rows.append(
            SeenReading(
                variable=name,
                time_h=time,
                value=float(v.value[0, m]),
                censored=censored,
                planned=float("nan") if known is None else float(np.interp(time, s.time_h, s.p50[known])),
                explained=float(y[0, m]),
                z=float("nan") if censored else float(-on_scale[0, m] / np.hypot(noise[m], spread[m])),
            )
        )
    return tuple(sorted(rows, key=lambda r: (r.time_h, r.variable)))


def _agreement(readings: tuple[SeenReading, ...]) -> tuple[AssayAgreement, ...]:
    """Chi-square of what is left, by assay: an assay that no plausible parameter set explains is named."""
    rows = []
    for name in dict.fromkeys(r.variable for r in readings):
        own = [r for r in readings if r.variable == name and not r.censored]
        if not own:
            continue
        z = np.array([r.z for r in own])
        chance = float(chi2.sf(np.sum(z**2), len(z)))
        off = chance < OFF
        text = ""
        if off:
            worst = own[int(np.argmax(np.abs(z)))]
            ways = "too high" if z.mean() > 0.0 else "too low"
            text = (
                f"{name} does not agree with any plausible parameter set: {len(z)} readings are off by "
                f"{np.sqrt(np.mean(z**2)):.1f} standard deviations, {ways} on the whole, worst on "
                f"{day_text(worst.time_h)} ({worst.value:.4g} read, {worst.explained:.4g} explained). Check the "
                "assay and what was done before acting on this plan"
            )
        rows.append(AssayAgreement(name, len(z), float(np.sqrt(np.mean(z**2))), chance, off, text))
    return tuple(rows)


def _moved(o: BatchForecast, fitting: FitProblem) -> tuple[MovedParameter, ...]:
    specs = {row.name: row for row in fitting.table.rows}
    found = []
    for i, (name, *_) in enumerate(fitting.layout.free):
        row, before, now = specs[name], o.followed.before[:, i], o.followed.lanes[:, i]
        sd = float(before[1:].std())
        if sd <= 0.0:
            continue
        ends = row.to_natural(np.array([before[0], now[0]]))
        found.append(
            MovedParameter(
                name=name,
                level=row.level,
                unit=row.unit,
                before=float(ends[0]),
                now=float(ends[1]),
                moved=float((now[0] - before[0]) / sd),
                width=float(now[1:].std() / sd),
            )
        )
    return tuple(sorted(found, key=lambda p: -abs(p.moved)))


def _gained(problem: ProcessProblem, new: float, old: float) -> float:
    """Relative change of the metric for the better."""
    return problem.objective.target.relative_gain(new, old)


# --- words ---


def _decisions(
    o: BatchForecast, plan: FollowedPlan, x: np.ndarray, kept: bool, closed: frozenset[str]
) -> tuple[DecisionChange, ...]:
    """Every decision of the design in its order: passed ones as done, open ones with what a change is for."""
    rows = {passed.decision.name: _passed(passed, plan) for passed in o.passed}
    here, lane = o.problem, o.lanes.rows(np.array([0]))
    d = len(x)
    # one at a time as planned, the others as they are now
    tried = np.where(np.eye(d, dtype=bool), o.planned, x)
    trace = here.trace(np.concatenate([x[None], tried]), lane.tiled(d + 1))
    value = _objective(here, trace)
    courses = _courses(here, trace, o.design.checked_from_h)
    for i, row in enumerate(here.design.decisions):
        planned, now = plan.decisions[row.name], float(x[i])
        if row.name in closed:
            reason = f"the planned {planned:.4g} {row.unit} falls outside working hours"
        elif kept or abs(now - planned) < max(0.5 * row.resolution, 1e-6 * (row.upper - row.lower)):
            reason = (
                "as planned" if abs(now - planned) <= max(row.resolution, 1e-6) else "as near to the plan as possible"
            )
        else:
            reason = _reason(here, courses, i + 1, f"{planned:.4g} {row.unit}", _gained(here, value[i + 1], value[0]))
        rows[row.name] = DecisionChange(row.name, row.unit, True, planned, now, reason)
    return tuple(rows[name] for name in plan.decisions if name in rows)


def _passed(passed: Passed, plan: FollowedPlan) -> DecisionChange:
    d, planned = passed.decision, plan.decisions[passed.decision.name]
    if passed.done is None:
        return DecisionChange(d.name, d.unit, False, planned, float("nan"), "its time has passed, and it was not done")
    near = abs(passed.done - planned) <= max(0.5 * d.resolution, 1e-6 * (d.upper - d.lower)) + 1e-9
    left_out = passed.done == 0.0 and d.what.action is Bolus
    reason = "done as planned" if near else "left out" if left_out else "done otherwise"
    return DecisionChange(d.name, d.unit, False, planned, passed.done, reason)


def _reason(problem: ProcessProblem, courses: list[_Course], lane: int, planned: str, loss: float) -> str:
    """What the planned value would bring with everything else as it is now."""
    for c, course in zip(problem.constraints, courses, strict=True):
        own, base = course.margin[lane], course.margin[0]
        broken = own < np.minimum(BROKEN, base.min() + BROKEN)
        if broken.any():
            when = float(course.t[lane][int(broken.argmax())])
            way = "over" if c.kind == "max" else "under"
            limit = f"{c.name.replace('_', ' ')} {way} {c.limit:g} {c.unit}"
            return f"the planned {planned} would bring {limit} on {day_text(when)}"
    if loss < -MATTERS:
        return f"the planned {planned} would lose {-loss:.2%} of {problem.metric}"
    if loss > MATTERS:
        return f"gains with the other changes; alone, the planned {planned} would do {loss:.2%} better"
    return f"hardly matters: the planned {planned} would change {problem.metric} by {loss:+.3%}"


def _seen(
    o: BatchForecast,
    fitting: FitProblem,
    plan: FollowedPlan,
    readings: tuple[SeenReading, ...],
    moved: tuple[MovedParameter, ...],
    limits: tuple[LimitForecast, ...],
) -> tuple[str, ...]:
    text = []
    for name in dict.fromkeys(r.variable for r in readings):
        own = [r for r in readings if r.variable == name and not r.censored and np.isfinite(r.planned)]
        if not own:
            continue
        last = own[-1]
        sd = fitting.noise.reading_sd(
            name, np.array(last.planned), fitting.noise.sd_on_scale(name, np.array(last.planned))
        )
        if abs(last.value - last.planned) > CLEARLY * float(sd) and last.planned > 0.0:
            share, unit = last.value / last.planned - 1.0, display_unit(VARIABLES[name].unit)
            text.append(
                f"{name} on {day_text(last.time_h)} reads {last.value:.3g} {unit}, {abs(share):.0%} "
                f"{'above' if share > 0.0 else 'below'} the plan ({last.planned:.3g})"
            )
    text += [
        f"{row.name} was {row.now:.3g} {row.unit}, planned {row.planned:.3g}"
        + (" (left out)" if row.now == 0.0 else "")
        for row in (_passed(passed, plan) for passed in o.passed)
        if np.isfinite(row.now) and "as planned" not in row.reason
    ]
    for m in moved:
        if abs(m.moved) > MOVED_SD:
            text.append(
                f"{m.name} is now {m.now:.3g} {m.unit.strip('-')}".rstrip()
                + f", {abs(m.moved):.1f} sd {'above' if m.moved > 0.0 else 'below'} what was expected ({m.before:.3g})"
            )
    for c in limits:
        words = c.name.replace("_", " ")
        if np.isfinite(c.past_h):
            text.append(
                f"{words} was {'over' if c.kind == 'max' else 'under'} its limit of {c.limit:g} {c.unit} already "
                f"({c.past_value:.3g} on {day_text(c.past_h)}); that cannot be undone, and counts no more"
            )
        if np.isfinite(c.planned_broken_h):
            text.append(
                f"{words}: the limit of {c.limit:g} {c.unit} would be broken on {day_text(c.planned_broken_h)} under "
                f"the old plan (probability {1.0 - c.planned_chance:.2f}; planned anew {1.0 - c.chance:.2f})"
            )
    return tuple(text)
