"""Maximum a posteriori estimation: multi-start search, then noise and spread between groups from the residuals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.errors import FitError
from optim.estimation.levenberg_marquardt import Progress, Search, minimise
from optim.estimation.noise import LEAST_NOISE, MEASURED, MOST_NOISE
from optim.estimation.posterior import Noise, Point, Posterior
from optim.estimation.problem import FitProblem
from optim.settings.estimation import FitSettings

# the stated spread between groups counts as much as this many groups
SPREAD_WEIGHT = 4.0
# rounds end when no noise scale and no spread changes by more, in logarithms
LEAST_NOISE_CHANGE = 0.02


def search_of(options: FitSettings) -> Search:
    """The Levenberg-Marquardt search with the settings of a fit."""
    return Search(options.max_iterations, options.tolerance, options.startup)


def multi_start(
    problem: FitProblem, options: FitSettings, seed: int, *, progress: Progress
) -> tuple[Posterior, list[Point]]:
    """Multi-start search: fit from the prior's centre and from random starts, and refine the best end.

    Noise and spread between groups are estimated from the best end only. Returns the posterior with both, and the ends
    of all starts, best first. Raises `FitError` when every start failed.
    """
    posterior = Posterior(problem)
    rng = np.random.default_rng(seed)
    points = [posterior.prior_point()]
    points += [posterior.random_point(rng, options.start_spread) for _ in range(options.starts - 1)]
    ends = sorted(minimise(posterior, points, search_of(options), progress=progress), key=lambda p: p.cost)
    if not np.isfinite(ends[0].cost):
        raise FitError("every start of the fit failed; check bounds and initial values of the parameters")
    history = ends[0].history
    posterior, ends[0] = estimate_noise_and_spread(posterior, ends[0], options, progress=progress)
    ends[0].history = history
    return posterior, ends


def estimate_noise_and_spread(
    posterior: Posterior, point: Point, options: FitSettings, *, progress: Progress = lambda text: None
) -> tuple[Posterior, Point]:
    """Estimate noise and spread between groups from a fit, and fit again with them, in turn until they converge."""
    problem = posterior.problem
    for _ in range(options.noise_rounds):
        noise, spread = posterior.noise, posterior.spread
        if problem.noise.estimate_scale:
            noise = estimate_noise(posterior, point)
        if options.estimate_spread and posterior.n_per_group:
            spread = estimate_spread(posterior, point)
        if noise is posterior.noise and spread is posterior.spread:
            break
        before = np.log(np.concatenate([posterior.noise.scale, posterior.spread]))
        posterior = Posterior(problem, noise, spread)
        point = replace(point, damping=1e-4, reason="", iterations=0, history=[])
        point = minimise(posterior, [point], search_of(options), progress=progress)[0]
        if np.max(np.abs(np.log(np.concatenate([noise.scale, spread])) - before)) < LEAST_NOISE_CHANGE:
            break
    return posterior, point


def estimate_noise(posterior: Posterior, point: Point, scale: np.ndarray | None = None) -> Noise:
    """Noise of every reading from the predictions at `point`, scaled by one factor per assay to match the residuals.

    `scale` [V] gives the factors; default: estimated, within `LEAST_NOISE` to
    `MOST_NOISE`. Noise computed from the readings instead would
    give low readings more weight than high ones and bias every estimate.
    """
    problem, v = posterior.problem, posterior.problem.vessels
    u = posterior.lane_parameters(point)
    y, status = problem.predict(u)
    measured = (v.weight * point.weight[:, None] > 0.0) & (v.censored == MEASURED) & (status == 0)[:, None]
    sd, factor = v.sd.copy(), np.ones(len(problem.variables))
    deviation = problem.scaled_deviation(y)
    for i, variable in enumerate(problem.variables):
        own = v.variable == i
        use = own & measured
        sd[use] = problem.noise.sd_on_scale(variable, y[use])
        assay = problem.noise.assay_noise(variable)
        if scale is not None:
            factor[i] = scale[i]
            sd[own] *= factor[i]
            continue
        if not assay.estimate:
            continue
        square = (deviation[use] / sd[use]) ** 2
        if assay.robust:
            # weighted as in Student's t: an outlier says little about the scatter of the other readings
            square = square * (assay.robust + 1.0) / (assay.robust + square)
        # a few readings say little about their scatter: two pseudo-readings with the stated noise are added
        factor[i] = np.clip(np.sqrt((float(np.sum(square)) + 2.0) / (use.sum() + 2.0)), LEAST_NOISE, MOST_NOISE)
        sd[own] *= factor[i]
    return Noise(factor, sd)


def estimate_spread(posterior: Posterior, point: Point) -> np.ndarray:
    """Standard deviation between groups [n_per_group] on the fitted scale, by one step of expectation-maximisation.

    The expected squared distance of a group from the mean is that of its estimate plus its variance (Dempster et al.
    1977, J R Stat Soc B 39:1), so that shrunk estimates do not shrink the spread further. The stated spread counts as
    much as `SPREAD_WEIGHT` groups.
    """
    assert point.arrow is not None
    ns, nc = posterior.n_shared, posterior.n_per_group
    used = np.unique(posterior.problem.vessel_group[point.weight > 0.0])
    inverse = np.linalg.inv(point.arrow.cc[used])
    variance = np.einsum("cii->ci", inverse)[:, :nc]
    away = point.block[used][:, :nc] - point.shared[ns : ns + nc]
    stated = np.array([row.spread or 1.0 for row in posterior.problem.group_specs])
    square = (SPREAD_WEIGHT * stated**2 + np.sum(away**2 + variance, axis=0)) / (SPREAD_WEIGHT + len(used))
    return np.asarray(np.sqrt(square))
