"""A primal-dual interior-point method with exact second derivatives, for many starts at once (one lane per start).

The barrier problem min f(w) - mu sum log(slacks, w, 1 - w) is solved for a sequence of decreasing mu (Fiacco &
McCormick 1968; steps and the fraction to the boundary as in Waechter & Biegler 2006, Math Program 106:25). The
decisions w are the only unknowns: the vessel is simulated at every trial point, so every iterate satisfies the material
balances, and a trial that cannot be simulated counts as a step that is too long. Directions of negative curvature are
followed downhill (Nocedal & Wright 2006, Numerical Optimization, 3.4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from optim.errors import Status
from optim.optimal_control.problem import ControlProblem, LanePath
from optim.settings.optimisation import OptimiseSettings

FIRST_BARRIER = 0.1
TRIAL_STEPS = 16  # halvings of a step before the line search ends
SMALLEST_CURVATURE = 1e-6  # eigenvalues below it count as negative curvature
STRETCH_FACTOR = 3.0  # by which a good step along a direction of negative curvature is longer the next time
INSIDE_FRACTION = 0.05  # a margin above this fraction of its former slack is inside its limit
DUAL_RANGE = 1e8  # largest factor between a multiplier and mu / slack
SUFFICIENT_DESCENT = 1e-4  # fraction of the descent predicted by the slope that a step must achieve (Armijo)
MERIT_ROUND_OFF = 1e-8  # relative change of the merit that is within the noise of adaptive simulation
LARGEST_KKT = 1e-3  # KKT residual above which a lane is never converged
MERGE_DISTANCE = 5e-3  # lanes whose decisions differ by less are continued as one
BARRIER_FACTOR = 0.2  # by which mu falls
BARRIER_PATIENCE = 15  # iterations at one mu, after which only the noise of the simulation is left
BARRIER_ACCURACY = 10.0  # mu falls when the barrier problem is solved to this multiple of mu


@dataclass
class LaneIterates:
    """The iterates of L lanes with D decisions and R margins."""

    w: np.ndarray  # [L, D] decisions, scaled to 0..1, strictly inside their bounds
    s: np.ndarray  # [L, R] slacks of the margins
    f: np.ndarray  # [L] the objective, which is minimised
    c: np.ndarray  # [L, R] margins
    paths: list[LanePath]
    nu: np.ndarray  # [L, R] multipliers of the margins
    low: np.ndarray  # [L, D] multipliers of the lower bounds
    high: np.ndarray  # [L, D] multipliers of the upper bounds
    mu: np.ndarray  # [L] barrier parameter
    rho: np.ndarray  # [L] penalty on infeasibility in the merit
    kkt: np.ndarray  # [L] KKT residual
    stretch: np.ndarray  # [L] factor on steps along directions of negative curvature
    iterations: np.ndarray  # [L]
    stay: np.ndarray  # [L] iterations at this mu
    failed: np.ndarray  # [L] status of the last trial, 0 if it could be simulated
    message: np.ndarray  # [L] why the lane ended; empty while it runs
    joined: np.ndarray  # [L] index of the lane that it was merged into, or its own


@dataclass(frozen=True)
class InteriorSolution:
    """The solutions of L starts."""

    w: np.ndarray  # [L, D] decisions, scaled to 0..1
    value: np.ndarray  # [L] value of the problem, NaN if it could not be simulated
    margins: np.ndarray  # [L, R] margins without the reserve
    kkt: np.ndarray  # [L] largest scaled residual of the KKT conditions
    iterations: np.ndarray  # [L]
    success: np.ndarray  # [L] whether the lane converged
    message: list[str]  # why each lane ended
    paths: list[LanePath]
    joined: np.ndarray  # [L] index of the start that it was merged into, or its own


def solve_interior_point(
    problem: ControlProblem,
    starts: np.ndarray,
    options: OptimiseSettings,
    *,
    scale: float,
    reserve: np.ndarray | None = None,
    barrier: np.ndarray | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> InteriorSolution:
    """Maximise the value of a problem from L starts.

    Args:
        problem: the optimal-control problem.
        starts: decisions [L, D], scaled to 0..1.
        options: the tolerance of the scaled KKT conditions, and the most iterations.
        scale: a typical size of the value.
        reserve: smallest allowed margin of every limit [L, R]; 0 by default.
        barrier: first mu of every start [L], relative to the size of the value: a large one forgets where it started, a
            small one stays near. FIRST_BARRIER by default.
        progress: called with a line of text before every iteration.

    Returns:
        The solution of every start. A start that cannot be simulated or does not converge has `success` False.
    """
    lanes = _initial_iterates(problem, starts, options, scale, reserve, barrier)
    reserve = np.zeros_like(lanes.c) if reserve is None else reserve
    for turn in range(options.max_iterations):
        active = np.flatnonzero(lanes.message == "")
        if not len(active):
            break
        progress(f"{len(active)} of {len(starts)} starts, iteration {turn + 1}")
        _iterate(problem, lanes, active, options, scale, reserve)
        _merge_lanes(lanes)
    lanes.message[lanes.message == ""] = "iterations used up"
    to = lanes.joined
    while (to[to] != to).any():
        to = to[to]
    return InteriorSolution(
        lanes.w[to],
        -lanes.f[to] * scale,
        lanes.c[to] + reserve,
        lanes.kkt[to],
        lanes.iterations,
        lanes.message[to] == "converged",
        [str(m) for m in lanes.message[to]],
        [lanes.paths[i] for i in to],
        to,
    )


def _merge_lanes(lanes: LaneIterates) -> None:
    """Merge lanes whose decisions have met into the one with the smallest mu."""
    ahead = np.flatnonzero((lanes.message == "") | (lanes.message == "converged"))
    for i in ahead[np.argsort(lanes.mu[ahead], kind="stable")]:
        if lanes.message[i] == "joined":
            continue
        others = np.flatnonzero((lanes.message == "") & (lanes.mu >= lanes.mu[i]))
        met = others[(np.abs(lanes.w[others] - lanes.w[i]).max(axis=1) < MERGE_DISTANCE) & (others != i)]
        lanes.joined[met] = i
        lanes.message[met] = "joined"


def _initial_iterates(
    problem: ControlProblem,
    starts: np.ndarray,
    options: OptimiseSettings,
    scale: float,
    reserve: np.ndarray | None,
    barrier: np.ndarray | None,
) -> LaneIterates:
    w = np.clip(starts, 0.01, 0.99)
    run = problem.simulate_decisions(w)
    count = len(w)
    mu = np.full(count, FIRST_BARRIER) if barrier is None else np.array(barrier, float)
    c = run.margins - (0.0 if reserve is None else reserve)
    s = np.where(c > 1e-4, c, 0.01)
    message = np.where(run.status == 0, "", "the start could not be simulated").astype(object)
    return LaneIterates(
        w, s, -run.value / scale, c, list(run.paths), mu[:, None] / s, mu[:, None] / w, mu[:, None] / (1.0 - w), mu,
        np.ones(count), np.full(count, np.nan), np.ones(count), np.zeros(count, int),
        np.zeros(count, int), np.zeros(count, int), message, np.arange(count),
    )  # fmt: skip


def _residual(
    lanes: LaneIterates, at: np.ndarray, gradient: np.ndarray, jacobian: np.ndarray, mu: np.ndarray
) -> np.ndarray:
    """Largest violation of the KKT conditions of the barrier problem, scaled by the multipliers."""
    w, s, nu, low, high = lanes.w[at], lanes.s[at], lanes.nu[at], lanes.low[at], lanes.high[at]
    stationarity = gradient - np.einsum("lr,lrd->ld", nu, jacobian) - low + high
    sizes = np.concatenate([nu, low, high], axis=1)
    by = np.maximum(1.0, np.abs(sizes).mean(axis=1))
    slack = np.concatenate([nu * s, low * w, high * (1.0 - w)], axis=1) - mu[:, None]
    optimality = np.maximum(np.abs(stationarity).max(axis=1), np.abs(slack).max(axis=1)) / by
    infeasible = np.abs(lanes.c[at] - s).max(axis=1, initial=0.0)
    return np.asarray(np.maximum(optimality, infeasible))


def _iterate(
    problem: ControlProblem,
    lanes: LaneIterates,
    at: np.ndarray,
    options: OptimiseSettings,
    scale: float,
    reserve: np.ndarray,
) -> None:
    paths = [lanes.paths[i] for i in at]
    slopes = problem.first_derivatives(lanes.w[at], paths)
    gradient, jacobian = -slopes.value / scale, slopes.margins
    lanes.kkt[at] = _residual(lanes, at, gradient, jacobian, np.zeros(len(at)))
    lanes.message[at[lanes.kkt[at] < options.tolerance]] = "converged"
    least = 0.1 * options.tolerance
    for _ in range(4):  # mu may fall several times at once
        mu = lanes.mu[at]
        accurate = _residual(lanes, at, gradient, jacobian, mu) < BARRIER_ACCURACY * mu
        solved = accurate | (lanes.stay[at] > BARRIER_PATIENCE)
        solved &= mu > least
        lanes.stay[at] = np.where(solved, 0, lanes.stay[at])
        lanes.mu[at] = np.where(solved, np.maximum(least, np.minimum(BARRIER_FACTOR * mu, mu**1.5)), mu)
    # Hessian of the Lagrangian, with the sign of the objective that is minimised
    curved = -problem.second_derivatives(lanes.w[at], paths, first=slopes, weights=lanes.nu[at] * scale) / scale
    on = lanes.message[at] == ""
    if not on.any():
        return
    at, gradient, jacobian, curved = at[on], gradient[on], jacobian[on], curved[on]
    lanes.iterations[at] += 1
    lanes.stay[at] += 1

    system = _NewtonSystem(lanes, at, gradient, jacobian, curved)
    slope = system.merit_slope(system.newton_steps())
    # the last barrier problem is solved when the predicted descent is within the noise of the simulation
    last = (lanes.mu[at] <= least) & (lanes.kkt[at] < LARGEST_KKT)
    done = last & (-slope < MERIT_ROUND_OFF * np.maximum(1.0, np.abs(lanes.f[at])))
    done |= last & (lanes.stay[at] > BARRIER_PATIENCE)
    lanes.message[at[done]] = "converged"
    _line_search(problem, lanes, at, system, scale, reserve, least)


class _NewtonSteps(NamedTuple):
    """Newton steps of L lanes."""

    w: np.ndarray  # [L, D] changes of the decisions
    s: np.ndarray  # [L, R] changes of the slacks
    longest: np.ndarray  # [L] largest fraction of the step that stays inside the bounds


class _NewtonSystem:
    """The Newton system of the barrier problem of some lanes, in its eigenbasis."""

    def __init__(
        self, lanes: LaneIterates, at: np.ndarray, gradient: np.ndarray, jacobian: np.ndarray, curved: np.ndarray
    ):
        names = ("w", "s", "nu", "low", "high", "c")
        self.w, self.s, self.nu, self.low, self.high, self.c = (getattr(lanes, name)[at] for name in names)
        self.mu, self.rho, self.jacobian = lanes.mu[at][:, None], lanes.rho[at], jacobian
        self.sigma = self.nu / self.s
        matrix = curved + np.swapaxes(jacobian * self.sigma[:, :, None], 1, 2) @ jacobian
        diagonal = np.arange(self.w.shape[1])
        matrix[:, diagonal, diagonal] += self.low / self.w + self.high / (1.0 - self.w)
        self.downhill = -(gradient - self.mu / self.w + self.mu / (1.0 - self.w))
        # in units in which the diagonal is one
        self.size = 1.0 / np.sqrt(np.maximum(np.abs(matrix[:, diagonal, diagonal]), 1e-8))
        scaled = 0.5 * (matrix + np.swapaxes(matrix, 1, 2)) * self.size[:, :, None] * self.size[:, None]
        self.value, self.vector = np.linalg.eigh(scaled)
        # directions of negative curvature are followed downhill; a quadratic model gives no length for them, so a step
        # is longer if the last such step was good
        self.negative = (self.value < SMALLEST_CURVATURE).any(axis=1)
        bend = np.maximum(np.abs(self.value), SMALLEST_CURVATURE)
        stretch = lanes.stretch[at][:, None]
        self.bend = np.where(self.value < SMALLEST_CURVATURE, bend / stretch, bend)

    def newton_steps(self, rows: np.ndarray | None = None, apart: np.ndarray | None = None) -> _NewtonSteps:
        """Full Newton steps of some rows (all by default) for the residuals `apart` of the slacks, c - s by default."""
        at = np.arange(len(self.w)) if rows is None else rows
        jacobian, s = self.jacobian[at], self.s[at]
        apart = self.c[at] - s if apart is None else apart
        pull = self.downhill[at] + np.einsum("lrd,lr->ld", jacobian, self.mu[at] / s - self.sigma[at] * apart)
        along = np.einsum("lde,ld->le", self.vector[at], self.size[at] * pull)
        w = self.size[at] * np.einsum("lde,le->ld", self.vector[at], along / self.bend[at])
        ds = np.einsum("lrd,ld->lr", jacobian, w) + apart
        keep = np.maximum(0.99, 1.0 - self.mu[at, 0])
        inside = [_longest(self.w[at], w, keep), _longest(1.0 - self.w[at], -w, keep), _longest(s, ds, keep)]
        return _NewtonSteps(w, ds, np.minimum.reduce(inside))

    def merit_slope(self, steps: _NewtonSteps) -> np.ndarray:
        """Directional derivative [L] of the merit along the steps; never above 0."""
        slope = -(self.downhill * steps.w).sum(axis=1) - (self.mu / self.s * steps.s).sum(axis=1)
        slope -= self.rho * np.abs(self.c - self.s).sum(axis=1)
        return np.asarray(np.minimum(slope, 0.0))

    def stepped_multipliers(self, steps: _NewtonSteps, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Multipliers of margins, lower and upper bounds after the steps of some rows."""
        w, s, mu = self.w[rows], self.s[rows], self.mu[rows]
        nu, low, high = self.nu[rows], self.low[rows], self.high[rows]
        d_nu = mu / s - nu - self.sigma[rows] * steps.s
        d_low = mu / w - low - low / w * steps.w
        d_high = mu / (1.0 - w) - high + high / (1.0 - w) * steps.w
        keep = np.maximum(0.99, 1.0 - mu[:, 0])
        dual = np.minimum.reduce([_longest(low, d_low, keep), _longest(high, d_high, keep), _longest(nu, d_nu, keep)])
        return nu + dual[:, None] * d_nu, low + dual[:, None] * d_low, high + dual[:, None] * d_high


def _longest(x: np.ndarray, change: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Fraction to the boundary: the largest fraction of a change, up to 1, that leaves 1 - keep of every x > 0."""
    if not x.shape[1]:
        return np.ones(len(x))
    fraction = np.where(change < 0.0, -x / np.where(change < 0.0, change, -1.0), np.inf)
    return np.asarray(np.minimum(1.0, keep * fraction.min(axis=1)))


def _merit(
    lanes: LaneIterates, at: np.ndarray, f: np.ndarray, c: np.ndarray, w: np.ndarray, s: np.ndarray
) -> np.ndarray:
    """Merit function of lanes `at`: barrier objective plus a penalty on infeasibility."""
    with np.errstate(divide="ignore", invalid="ignore"):  # the merit is infinite at a bound, so no step ends there
        barrier = np.log(w).sum(axis=1) + np.log(1.0 - w).sum(axis=1) + np.log(s).sum(axis=1)
    return np.asarray(f - lanes.mu[at] * barrier + lanes.rho[at] * np.abs(c - s).sum(axis=1))


def _line_search(
    problem: ControlProblem,
    lanes: LaneIterates,
    at: np.ndarray,
    system: _NewtonSystem,
    scale: float,
    reserve: np.ndarray,
    least: float,
) -> None:
    """Backtracking line search: halve the step of each lane until it improves the merit, and take it."""
    whole = system.newton_steps()
    alpha = whole.longest.copy()
    weights = np.abs(system.mu / system.s - system.sigma * whole.s).max(axis=1, initial=0.0)
    system.rho = lanes.rho[at] = np.maximum(lanes.rho[at], 1.5 * weights)
    before = _merit(lanes, at, lanes.f[at], lanes.c[at], lanes.w[at], lanes.s[at])
    slope = system.merit_slope(whole)

    def _try_fraction(rows: np.ndarray, steps: _NewtonSteps, fraction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take a fraction of the steps where that improves the merit; whether it did, and residuals of the slacks."""
        lane = at[rows]
        w = system.w[rows] + fraction[:, None] * steps.w
        run = problem.simulate_decisions(w)
        f, c, good = -run.value / scale, run.margins - reserve[lane], run.status == 0
        straight = system.s[rows] + fraction[:, None] * steps.s
        # a margin inside its limit is its own slack: feasible points stay feasible, whatever the linear model predicts
        s = np.where(good[:, None] & (c > INSIDE_FRACTION * system.s[rows]), c, straight)
        merit = _merit(lanes, lane, f, c, w, s)
        allowed = before[rows] + SUFFICIENT_DESCENT * fraction * slope[rows]
        allowed += MERIT_ROUND_OFF * np.maximum(1.0, np.abs(lanes.f[lane]))
        taken = good & np.isfinite(merit) & (merit <= allowed)
        new = system.stepped_multipliers(_NewtonSteps(*(x[taken] for x in steps)), rows[taken])
        for name, value in zip(("nu", "low", "high"), new, strict=True):
            getattr(lanes, name)[lane[taken]] = value
        for name, value in (("w", w), ("s", s), ("f", f), ("c", c)):
            getattr(lanes, name)[lane[taken]] = value[taken]
        for i in np.flatnonzero(taken):
            lanes.paths[lane[i]] = run.paths[i]
        lanes.failed[lane] = np.where(good, 0, run.status)
        return taken, np.where(good[:, None], c - straight, np.nan)

    waiting = np.ones(len(at), bool)
    for trial in range(TRIAL_STEPS):
        rows = np.flatnonzero(waiting)
        if not len(rows):
            break
        taken, apart = _try_fraction(rows, _NewtonSteps(*(x[rows] for x in whole)), alpha[rows])
        stretch = lanes.stretch[at[rows[taken]]]
        good_length = system.negative[rows[taken]] & (trial == 0)
        shorter = np.maximum(1.0, stretch / STRETCH_FACTOR**2)
        lanes.stretch[at[rows[taken]]] = np.where(good_length, STRETCH_FACTOR * stretch, shorter)
        waiting[rows[taken]] = False
        alpha[rows[~taken]] *= 0.5
        bent = ~taken & np.isfinite(apart).all(axis=1) & (np.abs(apart).max(axis=1, initial=0.0) > 0.0)
        if trial == 0 and bent.any():
            # second-order correction: a limit bends away from its tangent, so aim again with the margins just computed
            rows = rows[bent]
            left = alpha[rows, None] * 2.0 * (system.c[rows] - system.s[rows]) + apart[bent]
            second = system.newton_steps(rows, left)
            waiting[rows[_try_fraction(rows, second, second.longest)[0]]] = False
    _centre(lanes, at, np.where(waiting, 1.0, DUAL_RANGE))
    # where no step is good enough, the barrier problem is solved as well as the simulation allows
    stuck = at[waiting & (lanes.message[at] == "")]
    lanes.stretch[stuck] = 1.0
    for i in stuck[lanes.mu[stuck] <= least]:
        lanes.message[i] = "no step improves it any more"
        if lanes.failed[i]:
            code = Status(int(lanes.failed[i]))
            lanes.message[i] += f", and steps ahead cannot be simulated: {code.name.lower()}; {code.remedy}"
    lanes.mu[stuck] = np.maximum(least, 0.1 * lanes.mu[stuck])


def _centre(lanes: LaneIterates, at: np.ndarray, width: np.ndarray) -> None:
    """Clip multipliers to within a factor `width` of their value on the central path; 1 sets them to that value."""
    mu = lanes.mu[at][:, None]
    width = width[:, None]
    for name, x in (("low", lanes.w[at]), ("high", 1.0 - lanes.w[at]), ("nu", lanes.s[at])):
        getattr(lanes, name)[at] = np.clip(getattr(lanes, name)[at], mu / (width * x), mu * width / x)
