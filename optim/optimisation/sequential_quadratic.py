"""Sequential quadratic programming with many starts as lanes.

In every round each lane solves a quadratic model of its problem within a trust region, with elastic limits (Fletcher
1987, Practical Methods of Optimization, 14.4), and all new points are one batch of simulations. A refused step is
corrected once for limits that bend away from their tangents (second-order correction). The penalty of the model rises
only as far as the linearised limits ask for (steering rules: Byrd, Nocedal & Waltz 2008, Optim Methods Softw 23:197);
the merit weighs each limit by its multiplier. The Hessian of the Lagrangian is approximated by damped BFGS updates
(Powell 1978).

A lane's digits do not depend on the lanes beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from optim.optimisation.quadratic_program import Programs, Steps, multiply_lanes, multiply_transposed, solve_quadratic

FEASIBLE = 1e-6  # largest relative violation of a limit that counts as met
POOL = 32  # lanes that go on at once: full batches as long as lanes wait
RADIUS, LARGEST, SMALLEST = 0.5, 1.0, 1e-9  # of the trust region, in spans of the decisions
FLAT = 0.01  # slope, relative to objectives above 1, below which a start says nothing of the slopes to come
CURVATURE = 0.5  # of the model at the start, times the largest slope
PENALTY, LARGEST_PENALTY = 10.0, 1e7  # times the largest slope at the start
ELASTIC = 1e-7  # excess of the linearised limits that counts as none
STEERED = 0.1  # of the best possible linear progress to the limits must be made
HOPELESS = 0.01  # of what limits are broken by: less linear progress than this is none
ACCEPTED, GOOD, POOR = 1e-4, 0.75, 0.25  # actual gain over the gain that was promised
SAME = 1e-10  # relative change of the merit that rounding may make
NEAR = 0.5  # of FEASIBLE: what a solution is solved to
SNAP = 1e-9  # of a decision's span: nearer to its bound is at it
SETTLED = 1e-12  # step that is none
ROUNDS = 3  # per iteration that is allowed: refused and corrected steps count too

CONVERGED = "converged"
FAILED = "the process could not be simulated"


class Values(NamedTuple):
    """Of lanes L: what is minimised and its gradient, margins to keep at 0 or above and their Jacobian.

    `good` says whether a lane could be simulated.
    """

    f: np.ndarray  # [L]
    gradient: np.ndarray  # [L, D]
    margins: np.ndarray  # [L, R]
    jacobian: np.ndarray  # [L, R, D]
    good: np.ndarray  # [L]

    def rows(self, lanes: np.ndarray) -> Values:
        """Those of some lanes."""
        return Values(*(x[lanes] for x in self))


Evaluate = Callable[[np.ndarray, np.ndarray], Values]  # points [l, D], their lanes [l]


class Start(NamedTuple):
    """Where lanes begin: scaled decisions between `lower` and `upper` (within 0..1), all [L, D]."""

    z: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    curvature: np.ndarray | None = None  # [L, D, D] approximate Hessians of the Lagrangian; None: nothing is known


@dataclass(frozen=True)
class Stop:
    """When a lane ends: at a promised gain of `tolerance` (relative to objectives above 1), or after so many steps."""

    tolerance: float
    iterations: int


class Ends(NamedTuple):
    """Where lanes ended: the best point that keeps all limits, or the last one."""

    z: np.ndarray  # [L, D]
    values: Values
    iterations: np.ndarray  # [L]
    message: list[str]
    converged: np.ndarray  # [L]
    curvature: np.ndarray  # [L, D, D]
    history: list[tuple[float, ...]]  # the least feasible objective after every evaluation; nan before the first


@dataclass
class _Lanes:
    """Where every lane stands."""

    z: np.ndarray
    at: Values
    best_z: np.ndarray  # the best point that keeps all limits
    best: Values
    hessian: np.ndarray
    weights: np.ndarray  # [L, R] of limits in the merit
    penalty: np.ndarray
    most_penalty: np.ndarray
    radius: np.ndarray
    iterations: np.ndarray
    rounds: np.ndarray
    correcting: np.ndarray  # the last step was refused, and is corrected now
    aim: np.ndarray  # [L, R] margins that a corrected step starts from
    promised: np.ndarray  # gain that the refused step promised
    message: np.ndarray  # empty while running
    history: list[list[float]] = field(default_factory=list)


def minimise_lanes(
    evaluate: Evaluate, start: Start, stop: Stop, *, progress: Callable[[int, int], None] = lambda running, turn: None
) -> Ends:
    """Minimise in every lane. None is dropped: `message` says how each ended."""
    lanes, turn = _begin(evaluate, start), 0
    while len(running := np.flatnonzero(lanes.message == "")):
        turn += 1
        progress(len(running), turn)
        rows = running[:POOL]
        plan = _planned(lanes, rows, start)
        _stop(lanes, rows, plan, stop)
        go = lanes.message[rows] == ""
        if go.any():
            _try(evaluate, lanes, rows[go], _Plan(*(x[go] for x in plan)), start)
    return _ended(lanes)


def largest_violation(margins: np.ndarray) -> np.ndarray:
    """What margins lack to 0."""
    return np.maximum(-margins, 0.0)


def _begin(evaluate: Evaluate, start: Start) -> _Lanes:
    z = start.z.copy()
    n, d = z.shape
    at = evaluate(z, np.arange(n))
    unit = np.maximum(np.abs(at.gradient).max(axis=1), FLAT * np.maximum(1.0, np.where(at.good, np.abs(at.f), 0.0)))
    flat = CURVATURE * unit[:, None, None] * np.eye(d)
    hessian = flat if start.curvature is None else start.curvature.copy()
    nothing = np.zeros_like(at.margins)
    lanes = _Lanes(
        z=z,
        at=at,
        best_z=z.copy(),
        best=at._replace(f=np.full(n, np.inf)).rows(np.arange(n)),
        hessian=hessian,
        weights=nothing.copy(),
        penalty=PENALTY * unit,
        most_penalty=LARGEST_PENALTY * unit,
        radius=np.full(n, RADIUS),
        iterations=np.zeros(n, int),
        rounds=np.zeros(n, int),
        correcting=np.zeros(n, bool),
        aim=nothing.copy(),
        promised=np.zeros(n),
        message=np.where(at.good, "", FAILED).astype(object),
        history=[[] for _ in range(n)],
    )
    _remember(lanes, np.arange(n), z, at)
    return lanes


def _remember(lanes: _Lanes, rows: np.ndarray, z: np.ndarray, new: Values) -> None:
    """Keep the best points that keep all limits."""
    better = (
        new.good & (new.f < lanes.best.f[rows]) & (largest_violation(new.margins).max(axis=1, initial=0.0) <= FEASIBLE)
    )
    lanes.best_z[rows[better]] = z[better]
    _store(lanes.best, rows[better], new.rows(better))
    for row in rows:
        f = lanes.best.f[row]
        lanes.history[row].append(float(f) if np.isfinite(f) else float("nan"))


def _store(kept: Values, rows: np.ndarray, new: Values) -> None:
    for a, b in zip(kept, new, strict=True):
        a[rows] = b


# --- the step ---


class _Plan(NamedTuple):
    """The next step of some lanes."""

    step: np.ndarray  # [l, D]
    multipliers: np.ndarray  # [l, R]
    promised: np.ndarray  # [l] gain of the merit
    change: np.ndarray  # [l] of the objective, by the model


def _planned(lanes: _Lanes, rows: np.ndarray, start: Start) -> _Plan:
    at, z, radius = lanes.at.rows(rows), lanes.z[rows], lanes.radius[rows, None]
    margins = np.where(lanes.correcting[rows, None], lanes.aim[rows], at.margins)
    lower, upper = np.maximum(start.lower[rows] - z, -radius), np.minimum(start.upper[rows] - z, radius)
    programs = Programs(
        lanes.hessian[rows], at.gradient, margins, at.jacobian, lower, upper, lanes.penalty[rows].copy()
    )
    step = _steered(programs, lanes.most_penalty[rows])
    lanes.penalty[rows] = programs.penalty
    now = lanes.weights[rows]
    raised = np.maximum(step.multipliers, 0.5 * (now + step.multipliers))
    lanes.weights[rows] = np.where(lanes.correcting[rows, None], now, raised)
    model = (at.gradient * step.d).sum(axis=1) + 0.5 * (step.d * multiply_lanes(programs.hessian, step.d)).sum(axis=1)
    nearer = largest_violation(at.margins) - largest_violation(at.margins + multiply_lanes(at.jacobian, step.d))
    promised = (lanes.weights[rows] * nearer).sum(axis=1) - model
    promised = np.where(lanes.correcting[rows], lanes.promised[rows], promised)
    return _Plan(step.d, step.multipliers, promised, model)


def _steered(programs: Programs, most: np.ndarray) -> Steps:
    """Steps with a penalty that is high enough to bring the linearised limits nearer; it is raised in place."""
    step = solve_quadratic(programs)
    rows = np.flatnonzero(step.excess.sum(axis=1) > ELASTIC)
    if not len(rows):
        return step
    some = programs.rows(rows)
    # the nearest that the limits can be brought to
    limits_only = some._replace(
        gradient=0.0 * some.gradient, hessian=1e-6 * some.hessian, penalty=np.ones_like(some.penalty)
    )
    least = solve_quadratic(limits_only).excess.sum(axis=1)
    now = largest_violation(some.margins).sum(axis=1)
    while True:
        excess = step.excess[rows].sum(axis=1)
        slow = (now - excess < STEERED * (now - least)) & (now - least > HOPELESS * now)
        short = np.where(least <= ELASTIC, excess > ELASTIC, slow)
        short &= programs.penalty[rows] < most[rows]
        if not short.any():
            return step
        rows, least, now = rows[short], least[short], now[short]
        programs.penalty[rows] *= 10.0
        for kept, found in zip(step, solve_quadratic(programs.rows(rows)), strict=True):
            kept[rows] = found


def _stop(lanes: _Lanes, rows: np.ndarray, plan: _Plan, stop: Stop) -> None:
    """End lanes that have nothing to gain, or used up what is allowed."""
    at = lanes.at.rows(rows)
    size = np.abs(plan.step).max(axis=1)
    broken = largest_violation(at.margins)
    feasible = broken.max(axis=1, initial=0.0) <= NEAR * FEASIBLE
    nearer = broken.sum(axis=1) - largest_violation(at.margins + multiply_lanes(at.jacobian, plan.step)).sum(axis=1)
    gain = np.maximum(plan.promised, np.abs(plan.change))
    no_gain = (gain <= stop.tolerance * np.maximum(1.0, np.abs(at.f))) & (size < lanes.radius[rows])
    no_gain |= size < SETTLED
    hopeless = nearer <= HOPELESS * broken.sum(axis=1)
    no_gain &= ~lanes.correcting[rows] & (feasible | hopeless)
    short = lanes.radius[rows] < SMALLEST
    used_up = (lanes.iterations[rows] >= stop.iterations) | (lanes.rounds[rows] >= ROUNDS * stop.iterations)
    ends = ((no_gain & feasible, CONVERGED), (no_gain, "limits cannot be met from here"))
    for ended, text in (*ends, (short, "no step improves it any more"), (used_up, "iterations used up")):
        lanes.message[rows[ended & (lanes.message[rows] == "")]] = text


def _try(evaluate: Evaluate, lanes: _Lanes, rows: np.ndarray, plan: _Plan, start: Start) -> None:
    """Take the steps that gain what they promise; shorten or correct the others."""
    at, lower, upper = lanes.at.rows(rows), start.lower[rows], start.upper[rows]
    z = np.clip(lanes.z[rows] + plan.step, lower, upper)
    z = np.where(z < lower + SNAP, lower, np.where(z > upper - SNAP, upper, z))  # a volume of 1e-16 mL is no volume
    new = evaluate(z, rows)
    lanes.rounds[rows] += 1
    _remember(lanes, rows, z, new)
    weights = lanes.weights[rows]
    before = at.f + (weights * largest_violation(at.margins)).sum(axis=1)
    after = new.f + (weights * largest_violation(new.margins)).sum(axis=1)
    same = SAME * np.maximum(1.0, np.abs(at.f))
    ratio = np.where(new.good, before - after + same, -np.inf) / (plan.promised + same)
    taken = ratio >= ACCEPTED
    correcting = lanes.correcting[rows]
    farther = largest_violation(new.margins).max(axis=1, initial=0.0) > ELASTIC
    correct = new.good & ~taken & ~correcting & farther

    chosen, going = rows[taken], new.rows(taken)
    lanes.iterations[chosen] += 1
    nu = plan.multipliers[taken]
    change = (going.gradient - multiply_transposed(going.jacobian, nu)) - (
        at.gradient[taken] - multiply_transposed(at.jacobian[taken], nu)
    )
    lanes.hessian[chosen] = updated_hessian(lanes.hessian[chosen], z[taken] - lanes.z[chosen], change)
    lanes.z[chosen] = z[taken]
    _store(lanes.at, chosen, going)

    # where limits bend away from their tangents, aim again from where they were found to be
    lanes.aim[rows[correct]] = (new.margins - multiply_lanes(at.jacobian, plan.step))[correct]
    lanes.promised[rows[correct]] = plan.promised[correct]
    lanes.correcting[rows] = correct
    size, radius = np.abs(plan.step).max(axis=1), lanes.radius[rows]
    wider = taken & (ratio > GOOD) & (size >= 0.99 * radius) & ~correcting
    narrower, refused = taken & (ratio < POOR), ~taken & ~correct
    radius = np.where(wider, np.minimum(2.0 * radius, LARGEST), radius)
    radius = np.where(narrower, np.maximum(0.5 * size, 0.25 * radius), radius)
    lanes.radius[rows] = np.where(refused, 0.25 * np.minimum(size, radius), radius)


def updated_hessian(hessian: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Positive definite matrices [L, D, D] after a damped BFGS update: `change` [L, D] of the gradient along a step."""
    along = multiply_lanes(hessian, step)
    curved, seen = (step * along).sum(axis=1), (step * change).sum(axis=1)
    whole = seen >= 0.2 * curved
    share = np.where(whole, 1.0, 0.8 * curved / np.where(whole, 1.0, curved - seen))[:, None]
    damped = share * change + (1.0 - share) * along
    rise = (step * damped).sum(axis=1)
    usable = (curved > 0.0) & (rise > 0.0)
    curved, rise = np.where(usable, curved, 1.0)[:, None, None], np.where(usable, rise, 1.0)[:, None, None]
    new = hessian - along[:, :, None] * along[:, None] / curved + damped[:, :, None] * damped[:, None] / rise
    return np.where(usable[:, None, None], new, hessian)


def _ended(lanes: _Lanes) -> Ends:
    """The best feasible point of every lane, or the last where there is none."""
    feasible = largest_violation(lanes.at.margins).max(axis=1, initial=0.0) <= FEASIBLE
    final = lanes.at.good & feasible & (lanes.message == CONVERGED)
    # an earlier point may be better by what FEASIBLE leaves to the limits
    final &= lanes.at.f <= lanes.best.f + 10.0 * FEASIBLE * np.maximum(1.0, np.abs(lanes.at.f))
    earlier = ~final & np.isfinite(lanes.best.f)
    at = Values(*(_where(earlier, a, b) for a, b in zip(lanes.best, lanes.at, strict=True)))
    return Ends(
        z=_where(earlier, lanes.best_z, lanes.z),
        values=at,
        iterations=lanes.iterations,
        message=[str(m) for m in lanes.message],
        converged=final,
        curvature=lanes.hessian,
        history=[tuple(h) for h in lanes.history],
    )


def _where(rows: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    return np.where(rows.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)
