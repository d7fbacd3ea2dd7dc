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
# loss from which the readings contradict the population: that of one deviate of five standard deviations
CONTRADICTION = 12.5
LOSS_PER_READING = 1.0  # what a reading at its limit, or one about zero, costs a group that explains it


def groups_without_reading(problem: FitProblem) -> tuple[str, ...]:
    """Groups that have readings of the product, none of which can be told from zero, where other groups have some."""
    product = problem.model.product
    if product not in problem.variables:
        return ()
    v, zero = problem.vessels, ZERO_NOISE * problem.noise.assay_noise(product).floor
    own = _product_readings(problem)
    read = own & (v.censored != BELOW) & ((v.value > zero) | (v.censored == ABOVE))
    having, reading = (set(problem.vessel_group[mask.any(axis=1)].tolist()) for mask in (own, read))
    return tuple(name for c, name in enumerate(problem.groups) if c in having - reading) if reading else ()


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
        candidates: names of groups, from `groups_without_reading`.
    """
    whole = Posterior(problem, posterior.noise, posterior.spread)
    before, *_ = fit_group_blocks(posterior, point)
    after, *_ = fit_group_blocks(whole, point)
    readings = np.bincount(problem.vessel_group, _product_readings(problem).sum(axis=1), minlength=len(problem.groups))
    contradicted = after - before > CONTRADICTION + LOSS_PER_READING * readings
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
