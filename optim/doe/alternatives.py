"""The alternatives of a decision (clone and process), their values linear in the uncertain parameters.

Alternatives are clones in processes that are the best at the estimate or for other plausible parameters. Their values
are simulated over draws of the parameters, and told by their mean and the best line through them (statistical
linearisation): what lies on a cliff is worth less than it looks at the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from optim.doe.posterior_normal import GaussianPosterior
from optim.doe.selection import LinearValues
from optim.doe.uncertain_process import UncertainProcess
from optim.errors import SimulationError
from optim.optimisation.optimise import DISTINCT_SPAN
from optim.optimisation.process_program import ProcessProgram
from optim.optimisation.rank import best_of_each
from optim.optimisation.solve import Progress, SequentialQuadratic, Solution, silent, solve
from optim.process.problem import ProcessProblem
from optim.settings.doe import SuggestSettings
from optim.settings.optimisation import OptimiseSettings

# what the line through values leaves to chance, in draws: keeps slopes small that few draws tell
RIDGE = 2.0
COMMON = 5  # processes of leading clones that are tried for all
OFTEN = 0.03  # of the draws, in which a process must be the best to be kept
LEAST_DRAWS = 8  # draws that can be simulated for all alternatives


@dataclass(frozen=True)
class Alternatives:
    """The alternatives A of the decision: clones, each in its process, and their values.

    Values are shares of `scale`, the metric of the best clone at the estimate; a limit that is broken by one percent
    costs one percent.
    """

    values: LinearValues
    x: np.ndarray  # [A, D]
    scale: float
    at_estimate: np.ndarray  # [A]

    @property
    def leading(self) -> int:
        """Index of the alternative with the highest expected value."""
        return int(np.argmax(self.values.mean))


def best_processes(
    uncertain: UncertainProcess,
    options: OptimiseSettings,
    *,
    seed: int,
    known: Mapping[str, np.ndarray] | None = None,
    progress: Progress = silent,
) -> dict[int, Solution]:
    """The optimal process of every clone (by its index) at the posterior mean.

    Clones without a feasible process are left out.

    `known` processes by clone are started from, where there are some; else the best that many starts find for one
    promising clone. Raises `InfeasibleError` when no clone has a process within the limits.
    """
    belief = uncertain.belief
    lanes = uncertain.at_mean(np.arange(len(belief.clones)))
    places = {c: known[name] for c, name in enumerate(belief.clones) if known and name in known}
    found = best_of_each(uncertain.process, lanes, options, seed=seed, known=places, progress=progress)
    return {c: s for c, s in enumerate(found) if s is not None}


def find_alternatives(
    uncertain: UncertainProcess,
    own: Mapping[int, Solution],
    options: SuggestSettings,
    *,
    solving: OptimiseSettings,
    seed: int,
    progress: Progress = silent,
) -> Alternatives:
    """Every clone at its best process at the estimate; the leading `options.top` in others, too, where they are best.

    Those others are the best for `options.optima` draws of the parameters, those of clones beside it, and more cautious
    ones, half way to the platform. Raises `SimulationError` when too few of the `options.scenarios` draws can be
    simulated.
    """
    process, belief, members = uncertain.process, uncertain.belief, options.optima
    clones = np.array(sorted(own))
    x = np.array([own[c].x for c in clones])
    theta = np.concatenate([belief.mean[None], _filling(belief, options.scenarios, seed)])
    scale = float(np.exp(max(own[c].objective for c in clones)))
    value = _values(uncertain, clones, x, theta=theta, scale=scale)
    sampled = _Sampled(clones, x, value, theta, scale)
    leading = _nearest(value)[: options.top]
    if members and len(leading):
        which, drawn = np.repeat(leading, members), np.tile(theta[1 : 1 + members], (len(leading), 1))
        program = ProcessProgram(process, uncertain.lanes(drawn, clones[which]))
        near = SequentialQuadratic.near([own[int(c)] for c in clones[which]])
        found = solve(program, x[which], solving, method=near, progress=progress)
        more = [s.x for s in found if s.feasible]
        cautious = [0.5 * (y + process.design.platform) for y in (*x[leading], *more)]
        pool = np.array(_distinct(process, [*x[leading], *more, *cautious]))
        rows, won = _others(uncertain, sampled, leading, [pool] * len(leading))
        # what is best for them is tried for all: a process that only the estimate recommends is no fair match for it
        rest = np.setdiff1d(np.arange(len(clones)), leading)
        liked = pool[np.argsort(-won, kind="stable")[:COMMON]]
        tried = [np.concatenate([liked, 0.5 * (x[i] + process.design.platform)[None]]) for i in rest]
        rows += _others(uncertain, sampled, rest, tried)[0]
        clones = np.concatenate([clones, [r.clone for r in rows]]).astype(int)
        x = np.concatenate([x, *(r.x[None] for r in rows)])
        value = np.concatenate([value, *(r.value[None] for r in rows)])
    mean, slope = _line(belief, clones, theta[1:], value[:, 1:])
    return Alternatives(LinearValues(mean, slope, clones), x, scale, value[:, 0])


@dataclass(frozen=True)
class _Other:
    """A clone in another process, and its values over draws."""

    clone: int
    x: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class _Sampled:
    """Clones [A], each in its own process, and their values over draws of the parameters, in units of `scale`."""

    clones: np.ndarray
    x: np.ndarray  # [A, D]
    value: np.ndarray  # [A, M]
    theta: np.ndarray  # [M, D]
    scale: float


def _others(
    uncertain: UncertainProcess, sampled: _Sampled, some: np.ndarray, tried: list[np.ndarray]
) -> tuple[list[_Other], np.ndarray]:
    """Of the processes `tried` for some clones, those that are the best in some draw or on the whole; and how often
    each place among them was."""
    if not len(some):
        return [], np.zeros(0)
    who, there = (
        np.concatenate([np.full(len(t), sampled.clones[i]) for i, t in zip(some, tried, strict=True)]),
        np.concatenate(tried),
    )
    found = _values(uncertain, who, there, theta=sampled.theta, scale=sampled.scale)
    rows, won, at = list[_Other](), np.zeros(max(len(t) for t in tried)), 0
    for i, t in zip(some, tried, strict=True):
        every = np.concatenate([sampled.value[i][None], found[at : at + len(t)]])
        first = np.argmax(np.nan_to_num(every, nan=-np.inf), axis=0)
        times = np.bincount(first[first > 0] - 1, minlength=len(t))
        whole = int(_mean(every).argmax())
        kept = np.flatnonzero(times >= OFTEN * len(sampled.theta))
        if whole:
            kept = np.union1d(kept, [whole - 1])
        rows += [_Other(int(sampled.clones[i]), t[k], found[at + k]) for k in kept]
        won[: len(t)] += times
        at += len(t)
    return rows, won


def _filling(belief: GaussianPosterior, n: int, seed: int) -> np.ndarray:
    """Draws [n, D] of the belief that fill space, in pairs about the mean: curvature then does not pass for slope."""
    half = qmc.Sobol(len(belief.mean), rng=np.random.default_rng((seed, 7))).random(max(1, n // 2))
    z = ndtri(np.clip(half, 1e-9, 1.0 - 1e-9))
    return np.clip(belief.mean + np.concatenate([z, -z]) @ belief.root.T, *belief.bounds)


def _values(
    uncertain: UncertainProcess, clone: np.ndarray, x: np.ndarray, *, theta: np.ndarray, scale: float
) -> np.ndarray:
    """Values [A, M] of clones in processes x [A, D] at parameters theta [M, D]; NaN where a simulation failed."""
    m = len(theta)
    p = uncertain.model_parameters(np.tile(theta, (len(clone), 1)), np.repeat(clone, m))
    e = uncertain.process.evaluate(np.repeat(x, m, axis=0), p)
    broken = np.maximum(-e.margins.min(axis=1, initial=0.0), 0.0)
    value = np.where(e.status == 0, np.exp(e.objective - broken) / scale, np.nan)
    return value.reshape(len(clone), m)


def _mean(value: np.ndarray) -> np.ndarray:
    """Mean over draws, [A]; where none could be simulated, worse than any other."""
    n = np.isfinite(value).sum(axis=1)
    return np.where(n > 0, np.nansum(value, axis=1) / np.maximum(n, 1), -np.inf)


def _nearest(value: np.ndarray) -> np.ndarray:
    """Alternatives by how likely they are the best: by the distance from the best in standard deviations of it."""
    mean = _mean(value)
    lead = int(np.argmax(mean))
    away = value[lead] - value
    sd = np.array([np.nanstd(row) if np.isfinite(row).any() else 0.0 for row in away])
    distance = np.where(sd > 0.0, (mean[lead] - mean) / np.maximum(sd, 1e-12), np.inf)
    distance[lead] = -1.0
    return np.argsort(distance, kind="stable")


def _line(
    belief: GaussianPosterior, clone: np.ndarray, theta: np.ndarray, value: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [A] and slope [A, D] of values [A, M] over draws [M, D]: ridge regression on a clone's own parameters."""
    whole = np.isfinite(value).all(axis=0)
    if whole.sum() < LEAST_DRAWS:
        raise SimulationError(
            f"only {int(whole.sum())} of {len(theta)} draws of the parameters can be simulated in every process; "
            "the fit is too uncertain to plan by: give it more data or narrower priors"
        )
    sd = np.sqrt(np.diag(belief.covariance))
    slope = np.zeros((len(clone), len(belief.mean)))
    mean: np.ndarray = value[:, whole].mean(axis=1)
    for a, c in enumerate(clone):
        at = belief.clone_columns(int(c))
        z = (theta[whole][:, at] - belief.mean[at]) / np.maximum(sd[at], 1e-12)
        z = z - z.mean(axis=0)
        normal = z.T @ z + RIDGE * np.eye(len(at))
        slope[a, at] = np.linalg.solve(normal, z.T @ (value[a, whole] - mean[a])) / np.maximum(sd[at], 1e-12)
    return mean, slope


def _distinct(process: ProcessProblem, points: list[np.ndarray]) -> list[np.ndarray]:
    span = process.design.upper - process.design.lower
    chosen: list[np.ndarray] = []
    for x in points:
        if all(np.abs((x - other) / span).max() > DISTINCT_SPAN for other in chosen):
            chosen.append(x)
    return chosen
