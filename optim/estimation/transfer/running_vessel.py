"""The posterior of one running vessel, from its readings so far and an earlier fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from optim.errors import IncompatibleError
from optim.estimation.levenberg_marquardt import Progress, Search
from optim.estimation.problem import FitProblem
from optim.estimation.result import FitResult
from optim.estimation.transfer.earlier_fit import EarlierFit
from optim.estimation.transfer.ensemble_members import EnsembleMembers
from optim.estimation.transfer.mixture import (
    CONDITIONING_SEARCH,
    condition_members,
    draw_mixture,
    effective_members,
    member_probabilities,
)
from optim.runtime import require_float64


@dataclass(frozen=True)
class VesselPosterior:
    """Posterior of the parameters of one running vessel given its readings so far.

    Lanes hold its parameters on the fitted scale in the order of `FitProblem.layout`: `lanes` [1 + D, Q], the first is
    the estimate, the others are draws. `before` [1 + D, Q] is the same without its readings. `sd` [M]: noise of the
    readings. `members`: effective number of members of the fit's ensemble.
    """

    lanes: np.ndarray
    before: np.ndarray
    members: float
    readings: int
    sd: np.ndarray


def follow_vessel(
    old: FitResult,
    problem: FitProblem,
    *,
    draws: int = 63,
    seed: int = 0,
    search: Search = CONDITIONING_SEARCH,
    progress: Progress = lambda text: None,
) -> VesselPosterior:
    """Posterior of one vessel from its readings, under the population of a fit or the posterior of its own clone.

    Members of the ensemble of `old` are conditioned and weighted as in `predict_clones`. Raises `IncompatibleError`
    when fit and problem are not of one model, or `problem` has more than one vessel; `FitError` when no member can be
    simulated.
    """
    require_float64("follow_vessel")
    earlier = EarlierFit(old)
    earlier.check_parameters(problem)
    if len(problem.vessel_group) != 1:
        raise IncompatibleError(f"one vessel is followed at a time, not {len(problem.vessel_group)}")
    members = EnsembleMembers(earlier, problem, np.random.default_rng(seed))
    free = ~members.inherited
    both = []
    for data in (problem.readings_until(-1.0), problem):
        posterior, points = condition_members(members, data, members.start_points(), search=search, progress=progress)
        probability = member_probabilities(members, points)
        lanes = np.stack([posterior.lane_parameters(p)[0] for p in points])
        # the estimate of the fit, shifted by as much as the readings move the mean of the members
        even = np.where(np.isfinite([p.cost for p in points]), 1.0, 0.0)
        even[0] = 0.0
        estimate = lanes[0] + (probability - even / even.sum()) @ lanes
        rng = np.random.default_rng(seed + 1)
        drawn = draw_mixture(posterior, points, probability, free=free, draws=draws, rng=rng)
        rows = np.concatenate([estimate[None], *(posterior.lane_parameters(p) for p in drawn)])
        ends = ((posterior.lower_shared, posterior.lower_block), (posterior.upper_shared, posterior.upper_block))
        low, high = (posterior.lane_parameters(replace(points[0], shared=a, block=b[None]))[0] for a, b in ends)
        both.append(np.clip(rows, low, high))
    return VesselPosterior(
        lanes=both[1],
        before=both[0],
        members=effective_members(probability),
        readings=int(problem.vessels.weight.sum()),
        sd=posterior.noise.sd[0],
    )
