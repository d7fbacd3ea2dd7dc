"""The posterior of one clone as a mixture: one normal distribution per ensemble member, weighted by its probability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.errors import FitError
from optim.estimation.estimate import estimate_noise
from optim.estimation.levenberg_marquardt import Progress, Search, minimise
from optim.estimation.posterior import Noise, Point, Posterior
from optim.estimation.problem import FitProblem
from optim.estimation.transfer.ensemble_members import EnsembleMembers

# the effective number of members is at least this fraction of the ensemble, however much better a few of them fit
LEAST_EFFECTIVE_FRACTION = 1.0 / 3.0
# tolerance relative to the cost: a thirtieth of a standard deviation
CONDITIONING_SEARCH = Search(max_iterations=40, tolerance=1e-5)
# first damping of a search, and of one that starts near the end of another
COLD_DAMPING, WARM_DAMPING = 1e-2, 1e-4


def condition_members(
    members: EnsembleMembers, problem: FitProblem, points: list[Point], *, search: Search, progress: Progress
) -> tuple[Posterior, list[Point]]:
    """Fit the clone's parameters under every member to the readings in use of `problem`.

    `points` are the starts, one per member. The noise is first taken from the readings, then from the predictions.
    Returns the posterior and the modes. Raises `FitError` when no member can be simulated.
    """
    scale = members.earlier.noise_scale(problem)
    noise = Noise(scale, problem.vessels.sd * scale[problem.vessels.variable])
    posterior = Posterior(problem, noise, members.spread)
    points = minimise(posterior, _restarted(points, COLD_DAMPING), search, progress=progress)
    posterior = Posterior(problem, estimate_noise(posterior, points[0], scale), members.spread)
    points = minimise(posterior, _restarted(points, WARM_DAMPING), search, progress=progress)
    if not np.isfinite([p.cost for p in points[1:]]).any():
        raise FitError("no member of the fit's ensemble can be simulated on the new runs")
    return posterior, points


def _restarted(points: list[Point], damping: float) -> list[Point]:
    return [replace(p, damping=damping, needs_acceleration=False, reason="", iterations=0, history=[]) for p in points]


def member_probabilities(members: EnsembleMembers, points: list[Point]) -> np.ndarray:
    """Posterior probability of every member given the readings [E], the clone's parameters integrated out (Laplace).

    Member 0 is the point estimate, not a draw: its probability is 0. An ensemble is small: where a few members would
    dominate, the likelihood is raised to a power below 1 (tempered) until the effective number of members is
    `LEAST_EFFECTIVE_FRACTION` of the ensemble.
    """
    inherited = np.flatnonzero(members.inherited)
    score = np.full(len(points), -np.inf)
    for m, point in enumerate(points):
        if m == 0 or not np.isfinite(point.cost) or point.arrow is None:
            continue
        # the members are draws from the earlier posterior, which already holds the priors of inherited parameters
        stated = sum(float(members.shared_rows[i].prior_score(point.shared[i])[0]) for i in inherited)
        score[m] = stated - point.cost - 0.5 * point.arrow.restricted_to(~members.inherited).log_determinant()
    score = score - score.max()
    wanted = LEAST_EFFECTIVE_FRACTION * np.isfinite(score).sum()
    low, high = 0.0, 1.0
    probability = _normalised(score, high)
    if effective_members(probability) < wanted:
        for _ in range(30):
            middle = 0.5 * (low + high)
            probability = _normalised(score, middle)
            low, high = (low, middle) if effective_members(probability) < wanted else (middle, high)
        probability = _normalised(score, low)
    return probability


def _normalised(score: np.ndarray, power: float) -> np.ndarray:
    weight = np.where(np.isfinite(score), np.exp(power * np.where(np.isfinite(score), score, 0.0)), 0.0)
    return weight / weight.sum()


def effective_members(probability: np.ndarray) -> float:
    """Effective number of members: the inverse of the sum of squared probabilities [E]."""
    return float(1.0 / np.sum(probability**2))


def draw_mixture(
    posterior: Posterior,
    points: list[Point],
    probability: np.ndarray,
    *,
    free: np.ndarray,
    draws: int,
    rng: np.random.Generator,
) -> list[Point]:
    """Draws from the mixture: members by systematic resampling, and a normal draw about the mode of each.

    `probability` [E] belongs to `points`; of the shared part only the entries `free` [n] are drawn.
    """
    steps = (np.arange(draws) + rng.uniform()) / draws
    times = np.bincount(np.searchsorted(np.cumsum(probability)[:-1], steps, side="right"), minlength=len(points))
    drawn = []
    for m in np.flatnonzero(times):
        arrow = points[m].arrow
        assert arrow is not None
        shared, block = arrow.restricted_to(free).draw_normal(rng, int(times[m]))
        for k in range(times[m]):
            step = np.zeros(len(free))
            step[free] = shared[k]
            drawn.append(posterior.move_point(points[m], step, block[k]))
    return drawn
