"""Maximum a posteriori estimation: multi-start search, then noise and spread between clones from what is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.errors import FitError
from optim.estimation.levenberg_marquardt import Progress, Search, minimise
from optim.estimation.noise import MEASURED
from optim.estimation.posterior import Noise, Point, Posterior
from optim.estimation.problem import FitProblem
from optim.settings.estimation import FitSettings

# the stated spread between clones counts as much as this many clones
SPREAD_WEIGHT = 4.0
# rounds end when no scale of noise and no spread changes by more
LEAST_NOISE_CHANGE = 0.02


def search_of(options: FitSettings) -> Search:
    """The Levenberg-Marquardt search that a fit's settings ask for."""
    return Search(options.max_iterations, options.tolerance, options.startup)


def multi_start(
    problem: FitProblem, options: FitSettings, seed: int, progress: Progress
) -> tuple[Posterior, list[Point]]:
    """Fit from the prior's centre and from random starts; then find noise and spread, and fit again from the best.

    Returns the posterior with its noise and spread, and all points, best first. Raises `FitError` when every start
    failed.
    """
    posterior = Posterior(problem)
    rng = np.random.default_rng(seed)
    points = [posterior.prior_point()]
    points += [posterior.random_point(rng, options.start_spread) for _ in range(options.starts - 1)]
    ends = sorted(minimise(posterior, points, search_of(options), progress), key=lambda p: p.cost)
    if not np.isfinite(ends[0].cost):
        raise FitError("every start of the fit failed; check bounds and initial values of the parameters")
    history = ends[0].history
    posterior, ends[0] = estimate_noise_and_spread(posterior, ends[0], options, progress)
    ends[0].history = history
    return posterior, ends


def estimate_noise_and_spread(
    posterior: Posterior, point: Point, options: FitSettings, progress: Progress = lambda text: None
) -> tuple[Posterior, Point]:
    """Noise and spread between clones found from the fit, and the fit with them, in turn until they settle."""
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
        point = minimise(posterior, [point], search_of(options), progress)[0]
        if np.max(np.abs(np.log(np.concatenate([noise.scale, spread])) - before)) < LEAST_NOISE_CHANGE:
            break
    return posterior, point


def estimate_noise(posterior: Posterior, point: Point, known: np.ndarray | None = None) -> Noise:
    """Noise by the predictions of `point`, each assay's scaled so that its residuals are as large as they are.

    Noise by the measured values would give low readings more weight than high ones and pull every estimate. The factor
    stays within 1/5 to 5; where it is `known` [V], it is taken as it is.
    """
    problem, v = posterior.problem, posterior.problem.vessels
    u = posterior.lane_parameters(point)
    y, status = problem.predict(u)
    measured = (v.weight * point.weight[:, None] > 0.0) & (v.censored == MEASURED) & (status == 0)[:, None]
    sd, scale = v.sd.copy(), np.ones(len(problem.variables))
    deviation = problem.scaled_deviation(y)
    for i, variable in enumerate(problem.variables):
        own = v.variable == i
        use = own & measured
        sd[use] = problem.noise.sd_on_scale(variable, y[use])
        assay = problem.noise.assay_noise(variable)
        if known is not None:
            scale[i] = known[i]
            sd[own] *= scale[i]
            continue
        if not assay.estimate:
            continue
        square = (deviation[use] / sd[use]) ** 2
        if assay.robust:
            # the weights of Student's t: an outlier says little about the scatter of the rest
            square = square * (assay.robust + 1.0) / (assay.robust + square)
        # a few points say little about their own scatter: two more with the stated noise keep the factor honest
        scale[i] = np.clip(np.sqrt((float(np.sum(square)) + 2.0) / (use.sum() + 2.0)), 0.2, 5.0)
        sd[own] *= scale[i]
    return Noise(scale, sd)


def estimate_spread(posterior: Posterior, point: Point) -> np.ndarray:
    """Standard deviation between clones [nc] on the fitted scale: one step of expectation and maximisation.

    What is expected of a clone's distance from the mean is its estimate and its own uncertainty, squared (Dempster et
    al. 1977, J R Stat Soc B 39:1), so that shrunk estimates do not shrink the spread further. The stated spread counts
    as much as a few clones.
    """
    assert point.arrow is not None
    ns, nc = posterior.n_shared, posterior.n_per_group
    clone = posterior.problem.vessel_group
    seen = np.unique(clone[point.weight > 0.0])
    inverse = np.linalg.inv(point.arrow.cc[seen])
    uncertain = np.einsum("cii->ci", inverse)[:, :nc]
    away = point.block[seen][:, :nc] - point.shared[ns : ns + nc]
    stated = np.array([row.spread or 1.0 for row in posterior.problem.group_specs])
    square = (SPREAD_WEIGHT * stated**2 + np.sum(away**2 + uncertain, axis=0)) / (SPREAD_WEIGHT + len(seen))
    found: np.ndarray = np.sqrt(square)
    return found
