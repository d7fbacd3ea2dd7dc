"""The decision that data serve: which clone, in which process; and how the value of each depends on the parameters.

The value of a clone is that of its best process within the limits. What better knowledge of a parameter changes there
is the derivative of the Lagrangian (envelope theorem), since the process is chosen anew once more is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from optim.errors import InfeasibleError
from optim.fit.problem import FitProblem
from optim.optimise.belief import Belief, parameters
from optim.optimise.choose import Alternatives
from optim.optimise.solve import ACTIVE, OptimiseOptions, Progress, Solution, best, solve, start_points
from optim.process.problem import ProcessProblem

# of a posterior standard deviation, and at most (on the fitted scale): the step of finite differences
STEP, LONGEST = 0.5, 0.1
# of a decision's span: processes that differ by less count as one
DISTINCT = 0.1
# clones whose value is farther from the best than this many standard deviations of the difference are out of question
HOPELESS = 4.0


@dataclass(frozen=True)
class Decision:
    """Alternatives A with their processes. Values are logarithms of the maximised metric."""

    alternatives: Alternatives
    x: np.ndarray  # [A, D]

    @property
    def chosen(self) -> int:
        """The alternative that would be decided for now."""
        return int(np.argmax(self.alternatives.mean))


def best_processes(
    process: ProcessProblem,
    fit: FitProblem,
    belief: Belief,
    options: OptimiseOptions,
    seed: int,
    known: Mapping[str, np.ndarray] | None = None,
    progress: Progress = lambda text: None,
) -> dict[int, Solution]:
    """The best process of every clone (by place in the belief) at the estimate; those that have none are left out.

    `known` processes by clone are started from, where there are some; else the best that many starts find for one
    promising clone. Raises `InfeasibleError` when no clone has a process within the limits.
    """
    clones = np.arange(len(belief.clones))
    p = parameters(fit, belief, np.tile(belief.mean, (len(clones), 1)), clones)
    starts: dict[int, list[np.ndarray]] = {int(c): [] for c in clones}
    for c, name in enumerate(belief.clones):
        if known and name in known:
            starts[c] = [known[name]]
    missing = [c for c in starts if not starts[c]]
    if missing:
        at_platform = process.evaluate(np.tile(process.design.platform, (len(clones), 1)), p)
        promising = int(np.argmax(np.where(at_platform.status == 0, at_platform.objective, -np.inf)))
        many = start_points(process, options.starts, seed)
        found = solve(process, many, np.tile(p[promising], (len(many), 1)), options, progress)
        good = [s for s in found if np.isfinite(s.objective) and s.max_violation <= ACTIVE]
        some = _distinct(process, [s.x for s in sorted(good, key=lambda s: -s.objective)])[: options.rank_starts]
        for c in missing:
            starts[c] = some or list(many[: options.rank_starts])
    owner = np.array([c for c, own in starts.items() for _ in own])
    solved = solve(process, np.array([x for own in starts.values() for x in own]), p[owner], options, progress)
    chosen = {int(c): best([s for s, o in zip(solved, owner, strict=True) if o == c]) for c in clones}
    able = {c: s for c, s in chosen.items() if s is not None}
    if not able:
        raise InfeasibleError("no clone has a process within all limits; run `optim rank` to see which limits conflict")
    return able


def decision(
    process: ProcessProblem,
    fit: FitProblem,
    belief: Belief,
    own: Mapping[int, Solution],
    options: OptimiseOptions,
    members: int,
    top: int,
    seed: int,
    progress: Progress = lambda text: None,
) -> Decision:
    """Every clone at its best process at the estimate; the `top` ones also at what is best for `members` draws."""
    clones = np.array(sorted(own))
    x = np.array([own[c].x for c in clones])
    at = np.tile(belief.mean, (len(clones), 1))
    price = _prices(process, x, parameters(fit, belief, at, clones))
    value, slope = _values(process, fit, belief, clones, x, price)
    leading = _leading(belief, value, slope)[:top]
    if members and len(leading):
        rng = np.random.default_rng(seed)
        drawn = belief.draws(members, rng)
        which = np.repeat(leading, members)
        theta = np.tile(drawn, (len(leading), 1))
        p = parameters(fit, belief, theta, clones[which])
        found = solve(process, x[which], p, options, progress)
        kept: dict[int, list[np.ndarray]] = {int(i): [x[i]] for i in leading}
        rows = []
        for k, (s, i) in enumerate(zip(found, which, strict=True)):
            if best([s]) is not None and len(_distinct(process, [*kept[int(i)], s.x])) > len(kept[int(i)]):
                kept[int(i)].append(s.x)
                rows.append(k)
        if rows:
            i, more = which[rows], np.array([found[k].x for k in rows])
            # a limit that does not bind in the clone's best process but is broken here has the price that it has where
            # this process is best
            broken = process.evaluate(more, parameters(fit, belief, at[i], clones[i])).margins < 0.0
            there = _prices(process, more, p[rows])
            prices = np.where(broken & (price[i] == 0.0), there, price[i])
            more_value, more_slope = _values(process, fit, belief, clones[i], more, prices)
            # at the estimate nothing is better than what is best there
            more_value = np.minimum(more_value, value[i])
            value, slope = np.concatenate([value, more_value]), np.concatenate([slope, more_slope])
            clones, x = np.concatenate([clones, clones[i]]), np.concatenate([x, more])
    return Decision(Alternatives(value, slope, clones), x)


def _prices(process: ProcessProblem, x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """What a unit of every margin is worth [A, R] in processes x that are best for parameters p."""
    e, gradient, jacobian = process.derivatives(x, p)
    low, span = process.design.lower, process.design.upper - process.design.lower
    z = (x - low) / span
    rows = zip(z, gradient * span, e.margins, jacobian * span, strict=True)
    return np.stack([_multipliers(*row) for row in rows])


def _values(
    process: ProcessProblem, fit: FitProblem, belief: Belief, clone: np.ndarray, x: np.ndarray, price: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lagrangian at the belief's mean [A] and its slope [A, D] of clones [A] in processes x [A, D] at prices [A, R]."""
    places = belief.places(clone)  # [A, Q]
    step = np.minimum(STEP * np.sqrt(np.diag(belief.covariance)), LONGEST)
    centre, n, q = np.tile(belief.mean, (len(clone), 1)), len(clone), places.shape[1]
    moved = np.tile(centre[:, None, None], (1, q, 2, 1))
    for k in range(q):
        h = step[places[:, k]]
        moved[np.arange(n), k, 0, places[:, k]] += h
        moved[np.arange(n), k, 1, places[:, k]] -= h
    theta = np.concatenate([centre, moved.reshape(n * q * 2, -1)])
    who = np.concatenate([np.arange(n), np.repeat(np.arange(n), 2 * q)])
    found = process.evaluate(x[who], parameters(fit, belief, theta, clone[who]))
    lagrangian = found.objective + np.sum(price[who] * found.margins, axis=1)
    lagrangian = np.where(found.status == 0, lagrangian, np.nan)
    pairs = lagrangian[n:].reshape(n, q, 2)
    slope = np.zeros((n, len(belief.mean)))
    rise = np.nan_to_num((pairs[..., 0] - pairs[..., 1]) / (2.0 * step[places]))
    np.put_along_axis(slope, places, rise, axis=1)
    return np.where(np.isfinite(lagrangian[:n]), lagrangian[:n], -np.inf), slope


def _multipliers(z: np.ndarray, gradient: np.ndarray, margins: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """What a unit of each margin is worth at an optimum [R]: non-negative, and zero where a limit does not bind."""
    active = np.flatnonzero(margins <= ACTIVE)
    rows = np.concatenate([jacobian[active], np.eye(len(z))[z <= ACTIVE], -np.eye(len(z))[z >= 1.0 - ACTIVE]])
    price = np.zeros(len(margins))
    if len(active):
        # the gradient of the objective is balanced by those of active limits: -gradient = jacobian^T price
        price[active] = nnls(rows.T, -gradient)[0][: len(active)]
    return price


def _leading(belief: Belief, value: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Alternatives that may be the best, the likeliest first."""
    lead = int(np.argmax(value))
    contrast = slope - slope[lead]
    sd = np.sqrt(np.einsum("ad,de,ae->a", contrast, belief.covariance, contrast))
    distance = (value[lead] - value) / np.maximum(sd, 1e-12)
    distance[lead] = 0.0
    order = np.argsort(distance, kind="stable")
    return order[distance[order] < HOPELESS]


def _distinct(process: ProcessProblem, points: list[np.ndarray]) -> list[np.ndarray]:
    span = process.design.upper - process.design.lower
    chosen: list[np.ndarray] = []
    for x in points:
        if all(np.abs((x - other) / span).max() > DISTINCT for other in chosen):
            chosen.append(x)
    return chosen
