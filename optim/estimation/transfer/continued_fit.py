"""A fit continued with new runs, and the posterior of a stored fit computed anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.errors import FitError, IncompatibleError
from optim.estimation.estimate import estimate_noise, estimate_noise_and_spread, search_of
from optim.estimation.fit import build_fit_result
from optim.estimation.levenberg_marquardt import Progress, minimise
from optim.estimation.nonproducer import groups_far_below, refit_producers, without_product_readings
from optim.estimation.posterior import Point, Posterior
from optim.estimation.problem import FitProblem
from optim.estimation.result import FitResult
from optim.estimation.transfer.earlier_fit import EarlierFit
from optim.runtime import require_float64
from optim.settings.estimation import FitSettings


def revive_posterior(old: FitResult, problem: FitProblem) -> tuple[Posterior, Point]:
    """Compute the posterior of a stored fit, and its mode with the normal equations there.

    `problem` holds the data and the parameters that `old` was fitted to. Raises `IncompatibleError` when they are
    others, and `FitError` when the estimate cannot be simulated.
    """
    require_float64("revive_posterior")
    if old.lineage.dataset_hash != problem.dataset.content_hash:
        raise IncompatibleError(f"the fit was made from other data than '{problem.dataset.name}' now holds; fit again")
    for row in (*problem.shared_specs, *problem.group_specs):
        if row.name not in (*old.shared_names, *old.group_names):
            raise IncompatibleError(f"the fit has no parameter '{row.name}'; fit again with this model")
    posterior, point = _at_estimates(old, without_product_readings(problem, old.without_product))
    posterior.evaluate([point])
    if not np.isfinite(point.cost):
        raise FitError("the fit's estimates cannot be simulated any more; fit again")
    return posterior, point


def update_fit(
    old: FitResult,
    problem: FitProblem,
    options: FitSettings,
    *,
    seed: int,
    model_name: str,
    progress: Progress = lambda text: None,
) -> FitResult:
    """Continue a fit: estimate all parameters of `problem` (old runs and new ones) from the optimum of `old`.

    The optimum is the same as that of a fit from scratch, found in fewer steps. Starting values are taken over by
    parameter name and by the ids of clones, vessels and batches. There is one start, whatever `options.starts` says.
    Raises `FitError` when the starting point cannot be simulated.
    """
    require_float64("update_fit")
    candidates = groups_far_below(problem)
    posterior, point = _at_estimates(old, without_product_readings(problem, candidates))
    point = minimise(posterior, [point], search_of(options), progress=progress)[0]
    if not np.isfinite(point.cost):
        raise FitError("the fit cannot be continued: its estimates fail on the new runs; fit from scratch")
    history = point.history
    posterior, point = estimate_noise_and_spread(posterior, point, options, progress=progress)
    point.history = history
    posterior, point, silent = refit_producers(
        posterior, point, problem, candidates=candidates, options=options, progress=progress
    )
    result = build_fit_result(
        posterior, [point], options, seed=seed, model_name=model_name, without_product=silent, progress=progress
    )
    note = f"continued from a fit of '{old.lineage.dataset}' ({old.lineage.dataset_hash[:12]})"
    return replace(result, lineage=replace(result.lineage.with_notes(note), parents={old.kind(): old.id}))


def _at_estimates(old: FitResult, problem: FitProblem) -> tuple[Posterior, Point]:
    """The posterior with the noise and the spread of an earlier fit, and the point at its estimates."""
    earlier = EarlierFit(old)
    posterior = Posterior(problem, spread=earlier.clone_spread(problem))
    point = earlier.start_point(posterior)
    noise = estimate_noise(posterior, point, earlier.noise_scale(problem))
    return Posterior(problem, noise, posterior.spread), point
