"""Posterior predictive distribution of every reading: what the fit expects a new measurement to be, with bands."""

from __future__ import annotations

import numpy as np

from optim.estimation.ensemble import Draws
from optim.estimation.posterior import Z90, Posterior
from optim.estimation.result import Observations


def posterior_predictive(posterior: Posterior, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of the estimate [B, M], and the standard deviation of a new reading about them [B, M].

    The deviation combines the spread of the ensemble and the noise, in the unit of each assay. Heavy-tailed noise
    counts as the normal distribution with the same middle 90 %. Members whose simulation fails are left out.
    """
    problem = posterior.problem
    n = len(problem.vessel_group)
    points = draws.to_points(np.ones(n))
    u = np.concatenate([posterior.lane_parameters(p) for p in points])
    y, status = problem.predict(u, np.tile(np.arange(n), len(points)))
    stack = np.where((status == 0)[:, None], y, np.nan).reshape(len(points), n, -1)
    noise = reading_sd(posterior, stack[0])
    for i, variable in enumerate(problem.variables):
        noise[problem.vessels.variable == i] *= problem.noise.tail_factor(variable)
    return stack[0], np.sqrt(np.nanvar(stack, axis=0) + noise**2)


def reading_sd(posterior: Posterior, y: np.ndarray) -> np.ndarray:
    """Standard deviation of readings about predictions `y` [B, M], in the unit of each assay."""
    problem = posterior.problem
    sd = posterior.noise.sd.copy()
    for i, variable in enumerate(problem.variables):
        own = problem.vessels.variable == i
        sd[own] = problem.noise.reading_sd(variable, y[own], sd[own])
    return sd


def observation_bands(
    posterior: Posterior, predicted: np.ndarray, sd: np.ndarray, *, mask: np.ndarray | None = None
) -> Observations:
    """List the readings in use (those of `mask` [B, M]) with predictions and 90 % bands, in canonical units."""
    problem, v = posterior.problem, posterior.problem.vessels
    use = v.weight > 0.0 if mask is None else (v.weight > 0.0) & mask
    b, m = np.nonzero(use)
    time = np.array([v.grid.t[i, j] for i, j in zip(b, v.node[b, m], strict=True)])
    runs = problem.dataset.runs
    lower, upper = predicted - Z90 * sd, predicted + Z90 * sd
    for i, variable in enumerate(problem.variables):
        # a band ends at the limits of what the assay can read
        own = v.variable == i
        lowest, highest = problem.noise.reading_range(variable)
        lower[own], upper[own] = np.clip(lower[own], lowest, None), np.clip(upper[own], None, highest)
    return Observations(
        vessel=tuple(runs[i].run_id for i in b),
        clone=tuple(runs[i].clone_id for i in b),
        variable=tuple(problem.variables[i] for i in v.variable[b, m]),
        time_h=time,
        value=v.value[b, m],
        sd=reading_sd(posterior, predicted)[b, m],
        predicted=predicted[b, m],
        lower90=lower[b, m],
        upper90=upper[b, m],
        censored=tuple(("", "<", ">")[i] for i in v.censored[b, m]),
    )
