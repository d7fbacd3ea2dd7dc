"""Goodness of fit: likelihood, R2, and cross-validation by vessels or groups that are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.estimation.ensemble import Draws, draw_laplace
from optim.estimation.levenberg_marquardt import Progress, Search, minimise
from optim.estimation.noise import MEASURED
from optim.estimation.posterior import Z90, Point, Posterior
from optim.estimation.predictive import observation_bands, posterior_predictive
from optim.estimation.result import Observations


def count_parameters(p: Posterior) -> int:
    """Number of estimated parameters for information criteria, with a noise factor per assay where it is estimated."""
    noise = p.problem.noise
    factors = sum(noise.assay_noise(v).estimate for v in p.problem.variables) if noise.estimate_scale else 0
    return p.n_parameters - p.n_per_group + factors


def log_likelihood(p: Posterior, point: Point) -> float:
    """Log-likelihood of all readings at an evaluated point; a censored reading counts by its probability."""
    v, noise = p.problem.vessels, p.problem.noise
    total = -point.data_cost
    for i, variable in enumerate(p.problem.variables):
        own = (v.variable == i) & (v.censored == MEASURED) & (v.weight > 0.0)
        total += float(np.sum(noise.log_normaliser(variable, v.value[own], p.noise.sd[own])))
    return total


def predict_left_out(
    p: Posterior, best: Point, folds: list[np.ndarray], *, members: int, search: Search, seed: int, progress: Progress
) -> Observations:
    """Cross-validation: predict the vessels of every fold by a fit to all other vessels.

    `best` is the mode with all data, `folds` are vessel indices, `members` the size of the ensembles. Vessels are
    predicted from their own initial state and controls; their own parameters, and those of a group or batch without
    data, are drawn from priors and population.
    """
    n = len(p.problem.vessel_group)
    points = []
    for fold in folds:
        weight = np.ones(n)
        weight[fold] = 0.0
        points.append(replace(best, weight=weight, damping=1e-2, reason="", iterations=0, history=[]))
    done = minimise(p, points, search, progress=lambda text: progress(text.replace("fit:", "leave out:")))
    shape = p.problem.vessels.value.shape
    predicted, sd = np.full(shape, np.nan), np.full(shape, np.nan)
    for k, (fold, point) in enumerate(zip(folds, done, strict=True)):
        draws = _without_own_data(p, draw_laplace(p, point, members, rng=np.random.default_rng(seed + 10 + k)), fold)
        y, deviation = posterior_predictive(p, draws)
        predicted[fold], sd[fold] = y[fold], deviation[fold]
    return observation_bands(p, predicted, sd)


def _without_own_data(p: Posterior, draws: Draws, fold: np.ndarray) -> Draws:
    """Set parameters without data to their prior centres in member 0, where the search may have stopped short."""
    shared, block = draws.shared.copy(), draws.block.copy()
    clone, pop = p.problem.vessel_group, slice(p.n_shared, p.n_shared + p.n_per_group)
    for b in fold:
        own = p.block_columns[b][p.n_per_group :]
        block[0, clone[b], own] = p.mean_block[own]
    for c in np.unique(clone[fold]):
        if np.isin(np.flatnonzero(clone == c), fold).all():
            block[0, c, : p.n_per_group] = shared[0, pop]
    return Draws(shared, block)


def vessel_folds(p: Posterior) -> list[np.ndarray]:
    """Folds of one vessel each."""
    return [np.array([b]) for b in range(len(p.problem.vessel_group))]


def group_folds(p: Posterior) -> list[np.ndarray]:
    """Folds of all vessels of one group each."""
    return [np.flatnonzero(p.problem.vessel_group == c) for c in range(p.n_groups)]


def r_squared(o: Observations) -> dict[str, float]:
    """Coefficient of determination R2 per variable, over uncensored readings after time 0.

    Readings at time 0 would flatter it. Where biomass and product are both measured, R2 of their ratio is added.
    """
    r2 = {}
    after = (o.time_h > 0.0) & np.array([c == "" for c in o.censored])
    variable = np.array(o.variable)
    for name in dict.fromkeys(o.variable):
        use = after & (variable == name)
        r2[name] = _r2(o.value[use], o.predicted[use])
    if {"biomass", "product"} <= set(o.variable):
        place = {(o.vessel[i], float(o.time_h[i]), o.variable[i]): i for i in np.flatnonzero(after)}
        pairs = [(i, place.get((v, t, "biomass"))) for (v, t, name), i in place.items() if name == "product"]
        both = np.array([(i, j) for i, j in pairs if j is not None]).reshape(-1, 2)
        value = o.value[both[:, 0]] / o.value[both[:, 1]]
        r2["product_per_biomass"] = _r2(value, o.predicted[both[:, 0]] / o.predicted[both[:, 1]])
    return r2


def _r2(value: np.ndarray, predicted: np.ndarray) -> float:
    total = float(np.sum((value - value.mean()) ** 2)) if len(value) else 0.0
    return float(1.0 - np.sum((value - predicted) ** 2) / total) if total > 0.0 else float("nan")


def interval_coverage(o: Observations) -> float:
    """Fraction of uncensored readings after time 0 inside their 90 % bands; nan when there are none."""
    use = (o.time_h > 0.0) & np.array([c == "" for c in o.censored])
    return float(np.mean(((o.value >= o.lower90) & (o.value <= o.upper90))[use])) if use.any() else float("nan")


def log_predictive_density(o: Observations) -> float:
    """Mean log predictive density of uncensored readings after time 0, each normal with the width of its band.

    The wider half of the band counts: the other may end at the limit of what the assay can read.
    """
    use = (o.time_h > 0.0) & np.array([c == "" for c in o.censored])
    half = np.maximum(o.upper90 - o.predicted, o.predicted - o.lower90)[use] / Z90
    z = (o.value - o.predicted)[use] / half
    return float(np.mean(-0.5 * z**2 - np.log(half * np.sqrt(2.0 * np.pi)))) if use.any() else float("nan")
