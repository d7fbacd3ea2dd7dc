"""A primal-dual interior-point method for many starts at once, each a lane: exact second derivatives, feasible paths.

The barrier problem min f(w) - mu sum log(slacks, w, 1 - w) is followed to small mu (Fiacco & McCormick 1968; steps and
the fraction to the boundary as in Waechter & Biegler 2006, Math Program 106:25). Here it works on the decisions alone:
the vessel is simulated at every trial point, so no iterate breaks the balances, and a trial that cannot be simulated is
a step that is too long. Directions of negative curvature are followed downhill, not up (Nocedal & Wright 2006,
Numerical Optimization, 3.4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from optim.errors import Status
from optim.optimal_control.problem import ControlProblem, LanePath

TRIALS = 16  # halvings of a step before it is given up
SMALLEST_CURVATURE = 1e-6
STRETCH = 3.0
INSIDE = 0.05  # of the slack before: a margin above it is inside its limit
DUAL_RANGE = 1e8  # how far multipliers may be from mu / slack
SUFFICIENT = 1e-4  # of the descent that the slope promises
MERIT_ROUND_OFF = 1e-8  # relative change of the merit that adaptive simulation cannot tell from none
LOOSE = 1e-3  # KKT residual above which no small promise counts as an optimum
JOIN_DISTANCE = 5e-3  # lanes whose decisions differ by less go the same way from there on
FALL = 0.2
PATIENCE = 15  # iterations at one mu, after which what is left is the noise of simulation
BARRIER_SOLVED = 10.0  # mu falls when the barrier problem is solved to this multiple of it


@dataclass(frozen=True)
class InteriorOptions:
    """Settings of the method. `tolerance` is that of the scaled KKT conditions; `barrier` the first mu, relative to the
    size of the objective: a large one forgets where it started, a small one stays near."""

    tolerance: float = 1e-6
    barrier: float = 0.1
    max_iterations: int = 100


@dataclass
class LaneIterates:
    """Where every lane stands."""

    w: np.ndarray  # [L, D] decisions, 0..1, strictly inside
    s: np.ndarray  # [L, R] slacks of the margins
    f: np.ndarray  # [L] what is minimised
    c: np.ndarray  # [L, R] margins
    paths: list[LanePath]
    nu: np.ndarray  # [L, R] multipliers of the margins
    low: np.ndarray  # [L, D] of the lower bounds
    high: np.ndarray  # [L, D]
    mu: np.ndarray  # [L]
    rho: np.ndarray  # [L] weight of infeasibility in the merit
    kkt: np.ndarray  # [L]
    stretch: np.ndarray  # [L] of steps along directions of negative curvature
    iterations: np.ndarray
    stay: np.ndarray  # [L] iterations at this mu
    failed: np.ndarray  # [L] status of the last trial, 0 where it could be simulated
    message: np.ndarray  # empty while running
    joined: np.ndarray  # [L] the lane that it goes on as; itself as long as it goes by itself


@dataclass(frozen=True)
class InteriorSolution:
    """Where the lanes ended. `kkt` is the largest scaled residual of the conditions of optimality."""

    w: np.ndarray
    value: np.ndarray  # [L] of the problem, NaN where it could not be simulated
    margins: np.ndarray
    kkt: np.ndarray
    iterations: np.ndarray
    success: np.ndarray
    message: list[str]
    paths: list[LanePath]
    joined: np.ndarray  # [L] the start whose way it met and shares, or itself


def solve_interior_point(
    problem: ControlProblem,
    starts: np.ndarray,
    options: InteriorOptions,
    scale: float,
    reserve: np.ndarray | None = None,
    barrier: np.ndarray | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> InteriorSolution:
    """Maximise from scaled starts [L, D]. `scale` is a typical size of the value.

    `reserve` [L, R] is kept from every limit; `barrier` [L] replaces the first mu of the options.
    """
    lanes = _begin(problem, starts, options, scale, reserve, barrier)
    reserve = np.zeros_like(lanes.c) if reserve is None else reserve
    for turn in range(options.max_iterations):
        active = np.flatnonzero(lanes.message == "")
        if not len(active):
            break
        progress(f"{len(active)} of {len(starts)} starts, iteration {turn + 1}")
        _iterate(problem, lanes, active, options, scale, reserve)
        _join(lanes)
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


def _join(lanes: LaneIterates) -> None:
    """Lanes that have met go on as one: as the one that is ahead."""
    ahead = np.flatnonzero((lanes.message == "") | (lanes.message == "converged"))
    for i in ahead[np.argsort(lanes.mu[ahead], kind="stable")]:
        if lanes.message[i] == "joined":
            continue
        others = np.flatnonzero((lanes.message == "") & (lanes.mu >= lanes.mu[i]))
        met = others[(np.abs(lanes.w[others] - lanes.w[i]).max(axis=1) < JOIN_DISTANCE) & (others != i)]
        lanes.joined[met] = i
        lanes.message[met] = "joined"


def _begin(
    problem: ControlProblem,
    starts: np.ndarray,
    options: InteriorOptions,
    scale: float,
    reserve: np.ndarray | None,
    barrier: np.ndarray | None,
) -> LaneIterates:
    w = np.clip(starts, 0.01, 0.99)
    run = problem.simulate_decisions(w)
    count = len(w)
    mu = np.full(count, options.barrier) if barrier is None else np.array(barrier, float)
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
    """Largest violation of the conditions of optimality of the barrier problem, scaled by the multipliers."""
    w, s, nu, low, high = lanes.w[at], lanes.s[at], lanes.nu[at], lanes.low[at], lanes.high[at]
    still = gradient - np.einsum("lr,lrd->ld", nu, jacobian) - low + high
    sizes = np.concatenate([nu, low, high], axis=1)
    by = np.maximum(1.0, np.abs(sizes).mean(axis=1))
    slack = np.concatenate([nu * s, low * w, high * (1.0 - w)], axis=1) - mu[:, None]
    found = np.maximum(np.abs(still).max(axis=1), np.abs(slack).max(axis=1)) / by
    infeasible = np.abs(lanes.c[at] - s).max(axis=1, initial=0.0)
    return np.asarray(np.maximum(found, infeasible))


def _iterate(
    problem: ControlProblem,
    lanes: LaneIterates,
    at: np.ndarray,
    options: InteriorOptions,
    scale: float,
    reserve: np.ndarray,
) -> None:
    paths = [lanes.paths[i] for i in at]
    slopes = problem.first_derivatives(lanes.w[at], paths)
    gradient, jacobian = -slopes.value / scale, slopes.margins
    lanes.kkt[at] = _residual(lanes, at, gradient, jacobian, np.zeros(len(at)))
    lanes.message[at[lanes.kkt[at] < options.tolerance]] = "converged"
    least = 0.1 * options.tolerance
    for _ in range(4):  # mu may fall more than once
        mu = lanes.mu[at]
        solved = (_residual(lanes, at, gradient, jacobian, mu) < BARRIER_SOLVED * mu) | (lanes.stay[at] > PATIENCE)
        solved &= mu > least
        lanes.stay[at] = np.where(solved, 0, lanes.stay[at])
        lanes.mu[at] = np.where(solved, np.maximum(least, np.minimum(FALL * mu, mu**1.5)), mu)
    # value + weights margins, with the sign of what is minimised
    curved = -problem.hessian(lanes.w[at], paths, slopes, lanes.nu[at] * scale) / scale
    on = lanes.message[at] == ""
    if not on.any():
        return
    at, gradient, jacobian, curved = at[on], gradient[on], jacobian[on], curved[on]
    lanes.iterations[at] += 1
    lanes.stay[at] += 1

    system = _NewtonSystem(lanes, at, gradient, jacobian, curved)
    slope = system.merit_slope(system.newton_steps())
    # the last barrier problem is solved when the next step promises less than simulation can tell
    done = (
        (lanes.mu[at] <= least)
        & (-slope < MERIT_ROUND_OFF * np.maximum(1.0, np.abs(lanes.f[at])))
        & (lanes.kkt[at] < LOOSE)
    )
    done |= (lanes.stay[at] > PATIENCE) & (lanes.mu[at] <= least) & (lanes.kkt[at] < LOOSE)
    lanes.message[at[done]] = "converged"
    _search(problem, lanes, at, system, scale, reserve, least)


class _NewtonSteps(NamedTuple):
    """Changes of decisions and slacks, and the share of them that stays inside, of lanes L."""

    w: np.ndarray
    s: np.ndarray
    longest: np.ndarray


class _NewtonSystem:
    """The Newton system of the barrier problem of some lanes, in its eigenvectors."""

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
        # directions in which the function bends down are followed; along those a quadratic model knows no length:
        # where the last such step was good, the next is longer
        self.turned = (self.value < SMALLEST_CURVATURE).any(axis=1)
        bend = np.maximum(np.abs(self.value), SMALLEST_CURVATURE)
        stretch = lanes.stretch[at][:, None]
        self.bend = np.where(self.value < SMALLEST_CURVATURE, bend / stretch, bend)

    def newton_steps(self, rows: np.ndarray | None = None, apart: np.ndarray | None = None) -> _NewtonSteps:
        """Newton's, whole, of some rows; `apart` is how far margins and slacks are from each other."""
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
        """Of the merit along the steps; not above 0."""
        found = -(self.downhill * steps.w).sum(axis=1) - (self.mu / self.s * steps.s).sum(axis=1)
        found -= self.rho * np.abs(self.c - self.s).sum(axis=1)
        return np.asarray(np.minimum(found, 0.0))

    def stepped_multipliers(self, steps: _NewtonSteps, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of margins and bounds after the steps."""
        w, s, mu = self.w[rows], self.s[rows], self.mu[rows]
        nu, low, high = self.nu[rows], self.low[rows], self.high[rows]
        d_nu = mu / s - nu - self.sigma[rows] * steps.s
        d_low = mu / w - low - low / w * steps.w
        d_high = mu / (1.0 - w) - high + high / (1.0 - w) * steps.w
        keep = np.maximum(0.99, 1.0 - mu[:, 0])
        dual = np.minimum.reduce([_longest(low, d_low, keep), _longest(high, d_high, keep), _longest(nu, d_nu, keep)])
        return nu + dual[:, None] * d_nu, low + dual[:, None] * d_low, high + dual[:, None] * d_high


def _longest(x: np.ndarray, change: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Largest share of a change, up to 1, that leaves 1 - keep of every x > 0."""
    if not x.shape[1]:
        return np.ones(len(x))
    share = np.where(change < 0.0, -x / np.where(change < 0.0, change, -1.0), np.inf)
    return np.asarray(np.minimum(1.0, keep * share.min(axis=1)))


def _merit(
    lanes: LaneIterates, at: np.ndarray, f: np.ndarray, c: np.ndarray, w: np.ndarray, s: np.ndarray
) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # at a bound the merit is infinite, and no step goes there
        barrier = np.log(w).sum(axis=1) + np.log(1.0 - w).sum(axis=1) + np.log(s).sum(axis=1)
    return np.asarray(f - lanes.mu[at] * barrier + lanes.rho[at] * np.abs(c - s).sum(axis=1))


def _search(
    problem: ControlProblem,
    lanes: LaneIterates,
    at: np.ndarray,
    system: _NewtonSystem,
    scale: float,
    reserve: np.ndarray,
    least: float,
) -> None:
    """Halve each lane's step until it improves the merit, and take it with its multipliers."""
    whole = system.newton_steps()
    alpha = whole.longest.copy()
    weights = np.abs(system.mu / system.s - system.sigma * whole.s).max(axis=1, initial=0.0)
    system.rho = lanes.rho[at] = np.maximum(lanes.rho[at], 1.5 * weights)
    before = _merit(lanes, at, lanes.f[at], lanes.c[at], lanes.w[at], lanes.s[at])
    slope = system.merit_slope(whole)

    def _tried(rows: np.ndarray, steps: _NewtonSteps, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Go a share of the steps [rows], where that improves the merit; whether it did, and what is left apart."""
        lane = at[rows]
        w = system.w[rows] + share[:, None] * steps.w
        run = problem.simulate_decisions(w)
        f, c, good = -run.value / scale, run.margins - reserve[lane], run.status == 0
        straight = system.s[rows] + share[:, None] * steps.s
        # a margin that is inside is its own slack: what is feasible stays feasible, whatever the linear model said
        s = np.where(good[:, None] & (c > INSIDE * system.s[rows]), c, straight)
        merit = _merit(lanes, lane, f, c, w, s)
        allowed = before[rows] + SUFFICIENT * share * slope[rows]
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
    for trial in range(TRIALS):
        rows = np.flatnonzero(waiting)
        if not len(rows):
            break
        taken, apart = _tried(rows, _NewtonSteps(*(x[rows] for x in whole)), alpha[rows])
        stretch = lanes.stretch[at[rows[taken]]]
        good_length = system.turned[rows[taken]] & (trial == 0)
        lanes.stretch[at[rows[taken]]] = np.where(good_length, STRETCH * stretch, np.maximum(1.0, stretch / STRETCH**2))
        waiting[rows[taken]] = False
        alpha[rows[~taken]] *= 0.5
        bent = ~taken & np.isfinite(apart).all(axis=1) & (np.abs(apart).max(axis=1, initial=0.0) > 0.0)
        if trial == 0 and bent.any():
            # a limit that bends away from its tangent: aim again at where it was found to be
            rows = rows[bent]
            left = alpha[rows, None] * 2.0 * (system.c[rows] - system.s[rows]) + apart[bent]
            second = system.newton_steps(rows, left)
            waiting[rows[_tried(rows, second, second.longest)[0]]] = False
    _centre(lanes, at, np.where(waiting, 1.0, DUAL_RANGE))
    # where no step is good enough, the barrier problem is solved as well as it can be
    stuck = at[waiting & (lanes.message[at] == "")]
    lanes.stretch[stuck] = 1.0
    for i in stuck[lanes.mu[stuck] <= least]:
        lanes.message[i] = "no step improves it any more"
        if lanes.failed[i]:
            code = Status(int(lanes.failed[i]))
            lanes.message[i] += f", and steps ahead cannot be simulated: {code.name.lower()}; {code.remedy}"
    lanes.mu[stuck] = np.maximum(least, 0.1 * lanes.mu[stuck])


def _centre(lanes: LaneIterates, at: np.ndarray, width: np.ndarray) -> None:
    """Keep multipliers within a factor of what the barrier says they are; 1 sets them to it."""
    mu = lanes.mu[at][:, None]
    width = width[:, None]
    for name, x in (("low", lanes.w[at]), ("high", 1.0 - lanes.w[at]), ("nu", lanes.s[at])):
        getattr(lanes, name)[at] = np.clip(getattr(lanes, name)[at], mu / (width * x), mu * width / x)
