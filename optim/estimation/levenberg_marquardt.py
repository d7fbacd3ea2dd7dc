"""Levenberg-Marquardt with bounds on the arrow-shaped normal equations, for many starts at once.

The cost alone is computed for a trial step; derivatives follow where the step is accepted. A start that is far away,
or whose simulation fails, costs the other starts only its own trials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from optim.estimation.normal_equations import Arrow
from optim.estimation.posterior import Point, Posterior

Progress = Callable[[str], None]
LEAST_DAMPING, MOST_DAMPING = 1e-12, 1e10
LONGEST_STEP = 2.0  # of a parameter on its fitted scale: beyond it the linear model is worth nothing
PROBE_FRACTION = 0.1  # fraction of a step at which the second derivative along it is measured
MOST_BENDING = 0.75  # largest acceleration term, as a fraction of the length of the step


@dataclass(frozen=True)
class Search:
    """Settings of a search.

    A start has converged when its cost, and the decrease that the linear model promises, fall by less than `tolerance`
    relative to the cost. `startup` first-order steps (Adam with learning rate `startup_rate`, on the fitted scale) go
    before, for starts from which Gauss-Newton steps fail.
    """

    max_iterations: int
    tolerance: float
    startup: int = 0
    startup_rate: float = 0.05


def minimise(posterior: Posterior, points: list[Point], search: Search, *, progress: Progress) -> list[Point]:
    """Minimise the cost of a posterior from many starting points at once.

    `points` are the starts, evaluated in place; `progress` is called with a line of text in every iteration. Returns
    the end of each start in the same order, evaluated: `Point.reason` states how it ended (converged, max_iterations,
    stalled: ..., failed: ...), `Point.history` has the cost of every iteration. Nothing is raised: a start that cannot
    be simulated ends with cost inf.
    """
    points = list(points)
    posterior.evaluate(points)
    for p in points:
        p.history = [p.cost]
        if not np.isfinite(p.cost):
            p.reason = "failed: the simulation of the start did not end well"
    if search.startup:
        points = _startup(posterior, points, search)
    while active := [i for i, p in enumerate(points) if not p.reason]:
        steps = [_step(posterior, points[i]) for i in active]
        _accelerate(posterior, [s for s in steps if s is not None and s.point.needs_acceleration])
        trials = [None if s is None else s.trial_point(posterior) for s in steps]
        if ready := [t for t in trials if t is not None]:
            posterior.evaluate_cost(ready)
        for i, step, trial in zip(active, steps, trials, strict=True):
            points[i] = _judge(points[i], trial, step.promised_decrease if step else 0.0, search)
        if fresh := [points[i] for i in active if points[i].arrow is None]:
            posterior.evaluate(fresh)
        best = min((p.cost for p in points), default=np.inf)
        rounds = max(p.iterations for p in points)
        progress(f"fit: {len(active)} of {len(points)} starts under way, iteration {rounds}, cost {best:.6g}")
    return points


@dataclass
class _Step:
    """A damped Gauss-Newton step with its geodesic acceleration."""

    point: Point
    equations: Arrow  # damped
    shared: np.ndarray
    block: np.ndarray
    acceleration_s: np.ndarray | float = 0.0
    acceleration_c: np.ndarray | float = 0.0
    fraction: float = 1.0  # of the step, to be taken
    promised_decrease: float = 0.0

    def trial_point(self, posterior: Posterior) -> Point:
        """The end of the step, within bounds; notes the decrease of the linear model."""
        assert self.point.arrow is not None
        t = self.fraction
        step_s, step_c = (
            np.clip(t * step + 0.5 * t * t * acceleration, -LONGEST_STEP, LONGEST_STEP)
            for step, acceleration in ((self.shared, self.acceleration_s), (self.block, self.acceleration_c))
        )
        trial = posterior.move_point(self.point, step_s, step_c)
        straight = posterior.move_point(self.point, t * self.shared, t * self.block)
        self.promised_decrease = self.point.arrow.predicted_decrease(
            straight.shared - self.point.shared, straight.block - self.point.block
        )
        return trial


def _step(posterior: Posterior, point: Point) -> _Step | None:
    """The damped step from a point; None where the equations are singular."""
    assert point.arrow is not None
    equations = point.arrow.with_damping(point.damping, *posterior.immovable_parameters(point))
    try:
        step_s, step_c = equations.newton_step()
    except np.linalg.LinAlgError:
        return None
    if not (np.isfinite(step_s).all() and np.isfinite(step_c).all()):
        return None
    longest = max(np.abs(step_s).max(initial=0.0), np.abs(step_c).max(initial=0.0))
    return _Step(point, equations, step_s, step_c, fraction=min(1.0, LONGEST_STEP / max(longest, 1e-300)))


def _accelerate(posterior: Posterior, steps: list[_Step]) -> None:
    """Add geodesic acceleration to steps where the linear model fails (Transtrum & Sethna 2012, arXiv:1201.5885).

    In a narrow curved valley a step then goes several times further, for the price of one more cost.
    """
    if not steps:
        return
    ahead = [
        posterior.move_point(s.point, PROBE_FRACTION * s.fraction * s.shared, PROBE_FRACTION * s.fraction * s.block)
        for s in steps
    ]
    posterior.evaluate_cost(ahead)
    for s, probe in zip(steps, ahead, strict=True):
        if not np.isfinite(probe.cost):
            continue
        straight_s, straight_c = probe.shared - s.point.shared, probe.block - s.point.block
        fraction = PROBE_FRACTION * s.fraction
        second = posterior.acceleration_equations(
            s.point, straight_s / fraction, straight_c / fraction, ahead=probe, fraction=fraction
        )
        try:
            acceleration_s, acceleration_c = replace(s.equations, gs=second.gs, gc=second.gc).newton_step()
        except np.linalg.LinAlgError:
            continue
        if not (np.isfinite(acceleration_s).all() and np.isfinite(acceleration_c).all()):
            continue
        s.acceleration_s, s.acceleration_c = acceleration_s, acceleration_c
        # beyond this fraction the parabola predicts no better than the line
        length, bending = (
            s.equations.step_norm(s.shared, s.block),
            s.equations.step_norm(acceleration_s, acceleration_c),
        )
        s.fraction = min(s.fraction, MOST_BENDING * length / bending) if bending > 0.0 else s.fraction


def _judge(p: Point, trial: Point | None, promised: float, search: Search) -> Point:
    """Accept the trial where its cost is lower, else return the point with more damping; set `reason` at the end."""
    p.iterations += 1
    enough = search.tolerance * (1.0 + abs(p.cost))
    if trial is None or not trial.cost < p.cost:
        # at the optimum the linear model promises no decrease
        if trial is not None and abs(promised) < enough and p.damping < 1.0:
            p.reason = "converged"
        p.damping *= 8.0
        p.needs_acceleration = True
        if not p.reason and p.damping > MOST_DAMPING:
            p.reason = "stalled: no step lowers the cost"
    else:
        gained = p.cost - trial.cost
        agreement = gained / promised if promised > 0.0 else 1.0
        factor = 0.1 if agreement > 0.75 else 0.4 if agreement > 0.25 else 2.0
        trial.iterations, trial.damping, trial.history = p.iterations, max(p.damping * factor, LEAST_DAMPING), p.history
        trial.needs_acceleration = not 0.75 < agreement < 1.5
        done = gained < enough and promised < enough and p.damping < 1.0
        p = trial
        if done:
            p.reason = "converged"
    p.history.append(p.cost)
    if not p.reason and p.iterations >= search.max_iterations:
        p.reason = "max_iterations"
    return p


def _startup(posterior: Posterior, points: list[Point], search: Search) -> list[Point]:
    """First-order steps by Adam (Kingma & Ba 2015); returns the best point of each start."""
    import optax  # takes half a second to load, and few searches need it

    adam = optax.adam(search.startup_rate)
    states = [adam.init(jnp.concatenate([p.shared, p.block.ravel()])) for p in points]
    at, best = list(points), list(points)
    for _ in range(search.startup):
        ready = [i for i, p in enumerate(at) if not p.reason and p.arrow is not None and np.isfinite(p.cost)]
        for i in ready:
            arrow = at[i].arrow
            assert arrow is not None
            move, states[i] = adam.update(jnp.concatenate([arrow.gs, arrow.gc.ravel()]), states[i])
            step = np.asarray(move)
            n = len(arrow.gs)
            at[i] = posterior.move_point(at[i], step[:n], step[n:].reshape(arrow.gc.shape))
        if ready:
            posterior.evaluate([at[i] for i in ready])
        for i in ready:
            if at[i].cost < best[i].cost:
                best[i] = replace(at[i])
            best[i].history.append(best[i].cost)
    return best
