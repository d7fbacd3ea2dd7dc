"""Maximum a posteriori estimation: multi-start Levenberg-Marquardt on the arrow-shaped normal equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from optim.errors import FitError
from optim.fit.arrow import Arrow
from optim.fit.noise import MEASURED
from optim.fit.problem import Blocks, FitProblem

Progress = Callable[[str], None]


@dataclass(frozen=True)
class FitOptions:
    """Settings of a fit. `tolerance` is the relative decrease of the cost below which a start has converged."""

    starts: int = 4
    max_iterations: int = 60
    tolerance: float = 1e-6
    ensemble: int = 32
    start_spread: float = 1.0  # starts are drawn with this many prior standard deviations
    noise_rounds: int = 2  # how often the noise scale is found anew from the residuals


@dataclass
class Point:
    """Parameters of one start on the fitted scale: shared with population means [n], clone blocks [C, m]."""

    shared: np.ndarray
    block: np.ndarray
    weight: np.ndarray  # [B] 1, or 0 for a vessel that is left out
    cost: float = np.inf
    arrow: Arrow | None = None
    squares: float = np.nan
    damping: float = 1e-2
    iterations: int = 0
    reason: str = ""
    history: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Noise:
    """Standard deviation of every point, [B, M], and the factor found on the stated noise of each variable, [V]."""

    scale: np.ndarray
    sd: np.ndarray


class Estimator:
    """Posterior of a fit problem: cost and normal equations at a point, with priors and partial pooling.

    Shared vector: the shared parameters, then the population mean of each clone parameter. Block of a clone: its clone
    parameters, then the vessel parameters of each of its vessels.
    """

    def __init__(self, problem: FitProblem, noise: Noise | None = None):
        self.problem = problem
        self.noise = Noise(np.ones(len(problem.variables)), problem.vessels.sd) if noise is None else noise
        clone = problem.vessel_clone
        self.ns, self.nc, self.nv = len(problem.shared), len(problem.clone), len(problem.vessel)
        self.n_clones = int(clone.max()) + 1
        self.slot = np.array([int(np.sum(clone[:b] == clone[b])) for b in range(len(clone))])
        self.slots = int(self.slot.max()) + 1
        self.width = self.nc + self.nv * self.slots
        self.lower_s, self.upper_s, self.mean_s, self.precision_s = _columns((*problem.shared, *problem.clone))
        lower_c, upper_c, _, _ = _columns(problem.clone)
        lower_v, upper_v, mean_v, precision_v = _columns(problem.vessel)
        self.lower_c = np.concatenate([lower_c, np.tile(lower_v, self.slots)])
        self.upper_c = np.concatenate([upper_c, np.tile(upper_v, self.slots)])
        self.mean_v, self.precision_v = np.tile(mean_v, self.slots), np.tile(precision_v, self.slots)
        self.pool = np.array([1.0 / (row.spread or 1.0) ** 2 for row in problem.clone])
        # a vessel's parameters within the block of its clone
        own = np.arange(self.nv)[None, :] + self.nc + (self.slot * self.nv)[:, None]
        self.columns = np.concatenate([np.tile(np.arange(self.nc), (len(clone), 1)), own], axis=1).astype(int)

    def prior_point(self) -> Point:
        block = np.concatenate([self.mean_s[self.ns :], self.mean_v])
        return Point(self.mean_s.copy(), np.tile(block, (self.n_clones, 1)), np.ones(len(self.problem.vessel_clone)))

    def random_point(self, rng: np.random.Generator, spread: float) -> Point:
        """A start drawn from the prior (from the bounds, where there is no prior)."""
        point = self.prior_point()
        sd = np.where(self.precision_s > 0.0, 1.0 / np.sqrt(np.maximum(self.precision_s, 1e-300)), 0.0)
        sd = np.minimum(np.where(sd > 0.0, sd, 0.25 * (self.upper_s - self.lower_s)), 3.0)
        shared = point.shared + spread * sd * rng.standard_normal(len(sd))
        point.shared = np.clip(shared, self.lower_s, self.upper_s)
        point.block[:, : self.nc] = point.shared[self.ns :] + rng.standard_normal((self.n_clones, self.nc)) / np.sqrt(
            np.maximum(self.pool, 1e-300)
        )
        point.block = np.clip(point.block, self.lower_c, self.upper_c)
        return point

    def lanes(self, point: Point) -> np.ndarray:
        """Parameters of every vessel, [B, Q]."""
        clone = self.problem.vessel_clone
        own = np.take_along_axis(point.block[clone], self.columns, axis=1)
        shared = np.broadcast_to(point.shared[: self.ns], (len(clone), self.ns))
        return np.concatenate([shared, own], axis=1)

    def evaluate(self, points: list[Point]) -> None:
        """Fill cost, normal equations and squares of several points with one batched simulation."""
        n = len(self.problem.vessel_clone)
        u = np.concatenate([self.lanes(p) for p in points])
        found = self.problem.blocks(u, self.noise.sd, np.tile(np.arange(n), len(points)))
        for i, point in enumerate(points):
            self._assemble(point, Blocks(*(x[i * n : (i + 1) * n] for x in found)))

    def _assemble(self, point: Point, b: Blocks) -> None:
        ns, nc, clone, w = self.ns, self.nc, self.problem.vessel_clone, point.weight
        n = ns + nc
        ss, gs = np.zeros((n, n)), np.zeros(n)
        cs = np.zeros((self.n_clones, self.width, n))
        cc = np.zeros((self.n_clones, self.width, self.width))
        gc = np.zeros((self.n_clones, self.width))
        used = w > 0.0
        cost = float(np.sum(b.cost[used] * w[used]))
        hessian, gradient = b.hessian * w[:, None, None], b.gradient * w[:, None]
        ss[:ns, :ns] = hessian[:, :ns, :ns].sum(axis=0)
        gs[:ns] = gradient[:, :ns].sum(axis=0)
        rows, cols = clone[:, None], self.columns
        np.add.at(gc, (rows, cols), gradient[:, ns:])
        np.add.at(cc, (rows[..., None], cols[:, :, None], cols[:, None, :]), hessian[:, ns:, ns:])
        np.add.at(cs, (rows[..., None], cols[:, :, None], np.arange(ns)[None, None, :]), hessian[:, ns:, :ns])

        off = point.shared - self.mean_s
        cost += 0.5 * float(np.sum(self.precision_s * off**2))
        ss[np.arange(n), np.arange(n)] += self.precision_s
        gs += self.precision_s * off
        own, pop = np.arange(nc), ns + np.arange(nc)
        away = point.block[:, :nc] - point.shared[ns:]
        cost += 0.5 * float(np.sum(self.pool * away**2))
        cc[:, own, own] += self.pool
        gc[:, :nc] += self.pool * away
        ss[pop, pop] += self.n_clones * self.pool
        gs[ns:] -= (self.pool * away).sum(axis=0)
        cs[:, own, pop] -= self.pool
        drift = point.block[:, nc:] - self.mean_v
        cost += 0.5 * float(np.sum(self.precision_v * drift**2))
        rest = nc + np.arange(self.width - nc)
        cc[:, rest, rest] += self.precision_v
        gc[:, nc:] += self.precision_v * drift
        point.cost = cost if np.isfinite(cost) else np.inf
        point.arrow = Arrow(ss, cs, cc, gs, gc)
        point.squares = float(np.sum(b.squares * w))

    def propose(self, point: Point) -> Point | None:
        """The damped Gauss-Newton point, kept within bounds; None when the equations are singular."""
        assert point.arrow is not None
        a = point.arrow
        held_s = _held(point.shared, self.lower_s, self.upper_s, a.gs)
        held_c = _held(point.block, self.lower_c, self.upper_c, a.gc)
        try:
            step_s, step_c = a.damped(point.damping, held_s, held_c).solve()
        except np.linalg.LinAlgError:
            return None
        if not (np.isfinite(step_s).all() and np.isfinite(step_c).all()):
            return None
        return replace(
            point,
            shared=np.clip(point.shared + np.clip(step_s, -2.0, 2.0), self.lower_s, self.upper_s),
            block=np.clip(point.block + np.clip(step_c, -2.0, 2.0), self.lower_c, self.upper_c),
            history=point.history,
        )


def minimise(estimator: Estimator, points: list[Point], options: FitOptions, progress: Progress) -> list[Point]:
    """Levenberg-Marquardt on every point, all of them simulated together; a failed trial is a rejected step.

    Returns the points in the order given.
    """
    points = list(points)
    estimator.evaluate(points)
    for p in points:
        p.history = [p.cost]
        if not np.isfinite(p.cost):
            p.reason = "failed: the simulation of the start did not end well"
    while active := [i for i, p in enumerate(points) if not p.reason]:
        trials = {i: estimator.propose(points[i]) for i in active}
        ready = [t for t in trials.values() if t is not None]
        if ready:
            estimator.evaluate(ready)
        for i, trial in trials.items():
            points[i] = _accept(points[i], trial, options)
        best = min((p.cost for p in points), default=np.inf)
        rounds = max(p.iterations for p in points)
        progress(f"fit: {len(active)} of {len(points)} starts under way, iteration {rounds}, cost {best:.6g}")
    return points


def _accept(p: Point, trial: Point | None, options: FitOptions) -> Point:
    p.iterations += 1
    if trial is None or not trial.cost < p.cost:
        p.damping *= 6.0
        if p.damping > 1e10:
            p.reason = "converged"  # no direction lowers the cost any more
    else:
        relative = (p.cost - trial.cost) / max(trial.cost, 1e-12)
        trial.iterations, trial.damping, trial.history = p.iterations, max(p.damping * 0.2, 1e-12), p.history
        p = trial
        if relative < options.tolerance:
            p.reason = "converged"
    p.history.append(p.cost)
    if not p.reason and p.iterations >= options.max_iterations:
        p.reason = "max_iterations"
    return p


def multi_start(
    problem: FitProblem, options: FitOptions, seed: int, progress: Progress
) -> tuple[Estimator, list[Point]]:
    """Fit from the prior's centre and from random starts; then find the noise and fit again from the best.

    Returns the estimator with its noise and all points, best first. Raises `FitError` when every start failed.
    """
    estimator = Estimator(problem)
    rng = np.random.default_rng(seed)
    points = [estimator.prior_point()]
    points += [estimator.random_point(rng, options.start_spread) for _ in range(options.starts - 1)]
    ends = sorted(minimise(estimator, points, options, progress), key=lambda p: p.cost)
    if not np.isfinite(ends[0].cost):
        raise FitError("every start of the fit failed; check bounds and initial values of the parameters")
    if problem.noise.estimate_scale:
        for _ in range(options.noise_rounds):
            estimator = Estimator(problem, found_noise(estimator, ends[0]))
            again = replace(ends[0], damping=1e-4, reason="", iterations=0)
            history = ends[0].history
            ends[0] = minimise(estimator, [again], options, progress)[0]
            ends[0].history = history
    return estimator, ends


def found_noise(e: Estimator, point: Point) -> Noise:
    """Noise by the predictions of `point`, each assay's scaled so that its residuals are as large as they are.

    Noise by the measured values would give low readings more weight than high ones and pull every estimate. The factor
    stays within 1/5 to 5.
    """
    problem, v = e.problem, e.problem.vessels
    y, status = problem.predict(e.lanes(point))
    measured = (v.weight * point.weight[:, None] > 0.0) & (v.censored == MEASURED) & (status == 0)[:, None]
    sd, scale = v.sd.copy(), np.ones(len(problem.variables))
    for i, variable in enumerate(problem.variables):
        own = v.variable == i
        use = own & measured
        sd[use] = problem.noise.sd(variable, y[use])
        # a few points say little about their own scatter: two more with the stated noise keep the factor honest
        total = float(np.sum(((y - v.value)[use] / sd[use]) ** 2))
        scale[i] = np.clip(np.sqrt((total + 2.0) / (use.sum() + 2.0)), 0.2, 5.0)
        sd[own] *= scale[i]
    return Noise(scale, sd)


def _columns(rows: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    bounds = np.array([row.bounds() for row in rows]).reshape(-1, 2)
    mean = np.array([row.forward(row.value) for row in rows])
    precision = np.array([0.0 if row.prior_sd is None else 1.0 / row.prior_sd**2 for row in rows])
    return bounds[:, 0], bounds[:, 1], mean, precision


def _held(x: np.ndarray, lower: np.ndarray, upper: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    return ((x <= lower) & (gradient > 0.0)) | ((x >= upper) & (gradient < 0.0))
