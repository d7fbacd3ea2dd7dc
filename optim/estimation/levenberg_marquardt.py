"""Levenberg-Marquardt with bounds on the arrow-shaped normal equations, for many starts at once.

Of a trial step the cost alone is found first; derivatives follow where it was accepted. A start that is far away, or
whose simulation fails, costs the others nothing but its own trials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from optim.estimation.normal_equations import Arrow
from optim.estimation.posterior import Point, Posterior

Progress = Callable[[str], None]
LEAST_DAMPING, MOST_DAMPING = 1e-12, 1e10  # damping
LONGEST_STEP = 2.0  # step of a parameter on its fitted scale: beyond, the linear model is worth nothing
PROBE_FRACTION = 0.1  # share of a step after which the way is looked at again
MOST_BENDING = 0.75  # of a step's length, by which it may bend at most


@dataclass(frozen=True)
class Search:
    """When a start has converged: its cost, and what the model promises, fall by less than `tolerance` of the cost.

    `startup` first-order steps (Adam, on the fitted scale) go before, for starts from which Gauss-Newton steps fail.
    """

    max_iterations: int
    tolerance: float
    startup: int = 0
    startup_rate: float = 0.05


def minimise(posterior: Posterior, points: list[Point], search: Search, progress: Progress) -> list[Point]:
    """The ends of all points, in the order given; `reason` says how each ended."""
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
        _curve(posterior, [s for s in steps if s is not None and s.point.needs_acceleration])
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
    """A damped Gauss-Newton step, and how the way bends that it should follow."""

    point: Point
    equations: Arrow  # damped
    shared: np.ndarray
    block: np.ndarray
    bend_s: np.ndarray | float = 0.0
    bend_c: np.ndarray | float = 0.0
    fraction: float = 1.0  # of the step that is taken
    promised_decrease: float = 0.0

    def trial_point(self, posterior: Posterior) -> Point:
        """The end of the step, within bounds."""
        assert self.point.arrow is not None
        t = self.fraction
        step_s, step_c = (
            np.clip(t * step + 0.5 * t * t * bend, -LONGEST_STEP, LONGEST_STEP)
            for step, bend in ((self.shared, self.bend_s), (self.block, self.bend_c))
        )
        found = posterior.move_point(self.point, step_s, step_c)
        straight = posterior.move_point(self.point, t * self.shared, t * self.block)
        self.promised_decrease = self.point.arrow.predicted_decrease(
            straight.shared - self.point.shared, straight.block - self.point.block
        )
        return found


def _step(posterior: Posterior, point: Point) -> _Step | None:
    """The step from a point; None: the equations are singular."""
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


def _curve(posterior: Posterior, steps: list[_Step]) -> None:
    """Find how the way bends where linear steps fail: geodesic acceleration (Transtrum & Sethna 2012, arXiv:1201.5885).

    In a narrow curved valley it lets a step go several times further, for the price of one more cost.
    """
    if not steps:
        return
    ahead = [
        posterior.move_point(s.point, PROBE_FRACTION * s.fraction * s.shared, PROBE_FRACTION * s.fraction * s.block)
        for s in steps
    ]
    posterior.evaluate_cost(ahead)
    for s, there in zip(steps, ahead, strict=True):
        if not np.isfinite(there.cost):
            continue
        straight_s, straight_c = there.shared - s.point.shared, there.block - s.point.block
        share = PROBE_FRACTION * s.fraction
        second = posterior.acceleration_equations(s.point, straight_s / share, straight_c / share, there, share)
        try:
            bend_s, bend_c = replace(s.equations, gs=second.gs, gc=second.gc).newton_step()
        except np.linalg.LinAlgError:
            continue
        if not (np.isfinite(bend_s).all() and np.isfinite(bend_c).all()):
            continue
        s.bend_s, s.bend_c = bend_s, bend_c
        # beyond, the parabola says no more than the line
        length, bent = s.equations.step_norm(s.shared, s.block), s.equations.step_norm(bend_s, bend_c)
        s.fraction = min(s.fraction, MOST_BENDING * length / bent) if bent > 0.0 else s.fraction


def _judge(p: Point, trial: Point | None, promised: float, search: Search) -> Point:
    """The trial where it is better, else the point with more damping; with a reason where the search ends."""
    p.iterations += 1
    enough = search.tolerance * (1.0 + abs(p.cost))
    if trial is None or not trial.cost < p.cost:
        # the end, when nothing was promised; nothing that is left to be found otherwise
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
    """Adam (Kingma & Ba 2015), which needs no model of the cost to get closer; the best point met on the way."""
    import optax  # takes half a second to load, and few searches begin like this

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
