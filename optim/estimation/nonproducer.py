"""Groups that make no product that can be read: found, named, and kept from what the groups share.

The population of a screen is one of producers: its mean, its spread and its bounds cannot explain a clone that has lost
expression. Such a clone's readings of the product would bend what all groups share, so they are left out of the fit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.estimation.data_quality.swaps import fit_group_blocks
from optim.estimation.estimate import estimate_noise_and_spread, search_of
from optim.estimation.levenberg_marquardt import Progress, minimise
from optim.estimation.noise import ABOVE, BELOW
from optim.estimation.posterior import Point, Posterior
from optim.estimation.problem import FitProblem
from optim.settings.estimation import FitSettings

# a reading below so many standard deviations of the noise at zero is told from zero by nobody
ZERO_NOISE = 2.0
# a group that never reads more than this fraction of what the others usually reach is looked at
FAR_BELOW = 0.1
# loss from which the readings contradict the population: that of one deviate of five standard deviations
CONTRADICTION = 12.5
LOSS_PER_READING = 1.0  # what a reading at its limit, or one about zero, costs a group that explains it


def groups_far_below(problem: FitProblem) -> tuple[str, ...]:
    """Groups that have readings of the product, all of them far below those of the others or not to be told from zero.

    Whether the population explains them is for `groups_without_product` to say.
    """
    product = problem.model.product
    if product not in problem.variables or problem.group_by != "clone" or not problem.group_specs:
        return ()
    v, own = problem.vessels, _product_readings(problem)
    read = np.where(v.censored == ABOVE, np.inf, np.where(v.censored == BELOW, 0.0, v.value))
    zero = ZERO_NOISE * problem.noise.assay_noise(product).floor
    peaks = {
        c: float(read[mask].max())
        for c in range(len(problem.groups))
        if (mask := own & (problem.vessel_group == c)[:, None]).any()
    }
    clear = [peak for peak in peaks.values() if peak > zero]
    if not clear:
        return ()
    limit = max(zero, FAR_BELOW * float(np.median(clear)))
    return tuple(problem.groups[c] for c, peak in peaks.items() if peak <= limit)


def without_product_readings(problem: FitProblem, groups: tuple[str, ...]) -> FitProblem:
    """The problem without the readings of the product of some groups (by name; their weight becomes 0)."""
    if not groups:
        return problem
    chosen = np.isin(problem.vessel_group, [problem.groups.index(name) for name in groups])
    v, drop = problem.vessels, _product_readings(problem) & chosen[:, None]
    return replace(problem, vessels=v._replace(weight=np.where(drop, 0.0, v.weight)))


def groups_without_product(
    posterior: Posterior, point: Point, problem: FitProblem, *, candidates: tuple[str, ...]
) -> tuple[str, ...]:
    """Those of the candidates whose readings of the product no member of the population explains.

    Args:
        posterior: of the problem without the candidates' readings of the product.
        point: its mode.
        problem: the problem with these readings.
        candidates: names of groups, from `groups_far_below`.
    """
    whole = Posterior(problem, posterior.noise, posterior.spread)
    before, *_ = fit_group_blocks(posterior, point)
    after, _, residual = fit_group_blocks(whole, point)
    own = _product_readings(problem)
    readings = np.bincount(problem.vessel_group, own.sum(axis=1), minlength=len(problem.groups))
    # residuals are predictions less readings: only too little product is meant
    above = np.bincount(problem.vessel_group, np.where(own, residual, 0.0).sum(axis=1), minlength=len(problem.groups))
    contradicted = (above > 0.0) & (after - before > CONTRADICTION + LOSS_PER_READING * readings)
    return tuple(name for name in candidates if contradicted[problem.groups.index(name)])


def refit_producers(
    posterior: Posterior,
    point: Point,
    problem: FitProblem,
    *,
    candidates: tuple[str, ...],
    options: FitSettings,
    progress: Progress = lambda text: None,
) -> tuple[Posterior, Point, tuple[str, ...]]:
    """Fit again with the readings of the candidates that the population explains.

    Arguments as for `groups_without_product`. Returns the posterior, its mode, and the names of the groups whose
    readings stay left out.
    """
    silent = groups_without_product(posterior, point, problem, candidates=candidates) if candidates else ()
    if len(silent) < len(candidates):
        history = point.history
        posterior = Posterior(without_product_readings(problem, silent), posterior.noise, posterior.spread)
        point = replace(point, damping=1e-4, reason="", iterations=0, history=[])
        point = minimise(posterior, [point], search_of(options), progress=progress)[0]
        history = history + point.history
        posterior, point = estimate_noise_and_spread(posterior, point, options, progress=progress)
        point.history = history
    return posterior, point, silent


def _product_readings(problem: FitProblem) -> np.ndarray:
    v = problem.vessels
    return np.asarray((v.weight > 0.0) & (v.variable == problem.variables.index(problem.model.product)))
