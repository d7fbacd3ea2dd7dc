"""How good a fit is: likelihood and information criteria, R2, and predictions of what was left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.estimation.ensemble import Draws, draw_laplace
from optim.estimation.levenberg_marquardt import Progress, Search, minimise
from optim.estimation.noise import MEASURED
from optim.estimation.posterior import Point, Posterior
from optim.estimation.predictive import observation_bands, posterior_predictive
from optim.estimation.result import Observations


def count_parameters(p: Posterior) -> int:
    """Parameters that the data pay for: all that are fitted, and one noise factor per assay whose noise is found."""
    noise = p.problem.noise
    found = sum(noise.assay_noise(v).estimate for v in p.problem.variables) if noise.estimate_scale else 0
    return p.n_parameters - p.n_per_group + found


def log_likelihood(p: Posterior, point: Point) -> float:
    """Logarithm of the likelihood of all readings; a censored one counts by its probability."""
    v, noise = p.problem.vessels, p.problem.noise
    total = -point.data_cost
    for i, variable in enumerate(p.problem.variables):
        own = (v.variable == i) & (v.censored == MEASURED) & (v.weight > 0.0)
        total += float(np.sum(noise.log_normaliser(variable, v.value[own], p.noise.sd[own])))
    return total


def predict_left_out(
    p: Posterior, best: Point, folds: list[np.ndarray], members: int, search: Search, seed: int, progress: Progress
) -> Observations:
    """Every fold's vessels (indices) predicted by a fit to all others, from their own initial state and controls.

    What a left-out vessel deviates in, and a left-out clone or batch, is what is expected of one not seen.
    """
    n = len(p.problem.vessel_group)
    points = []
    for fold in folds:
        weight = np.ones(n)
        weight[fold] = 0.0
        points.append(replace(best, weight=weight, damping=1e-2, reason="", iterations=0, history=[]))
    done = minimise(p, points, search, lambda text: progress(text.replace("fit:", "leave out:")))
    shape = p.problem.vessels.value.shape
    predicted, sd = np.full(shape, np.nan), np.full(shape, np.nan)
    for k, (fold, point) in enumerate(zip(folds, done, strict=True)):
        draws = _of_unseen(p, draw_laplace(p, point, members, np.random.default_rng(seed + 10 + k)), fold)
        y, deviation = posterior_predictive(p, draws)
        predicted[fold], sd[fold] = y[fold], deviation[fold]
    return observation_bands(p, predicted, sd)


def _of_unseen(p: Posterior, draws: Draws, fold: np.ndarray) -> Draws:
    """Member 0 has the centre of the prior for what nothing is left to inform: the search may have stopped short."""
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
    """One vessel at a time."""
    return [np.array([b]) for b in range(len(p.problem.vessel_group))]


def group_folds(p: Posterior) -> list[np.ndarray]:
    """All vessels of one clone at a time."""
    return [np.flatnonzero(p.problem.vessel_group == c) for c in range(p.n_groups)]


def r_squared(o: Observations) -> dict[str, float]:
    """R2 per variable over points after time 0 (those at time 0 would flatter it), censored ones left out.

    Where biomass and product are both measured, also of product per biomass.
    """
    found = {}
    after = (o.time_h > 0.0) & np.array([c == "" for c in o.censored])
    variable = np.array(o.variable)
    for name in dict.fromkeys(o.variable):
        use = after & (variable == name)
        found[name] = _r2(o.value[use], o.predicted[use])
    if {"biomass", "product"} <= set(o.variable):
        place = {(o.vessel[i], float(o.time_h[i]), o.variable[i]): i for i in np.flatnonzero(after)}
        pairs = [(i, place.get((v, t, "biomass"))) for (v, t, name), i in place.items() if name == "product"]
        both = np.array([(i, j) for i, j in pairs if j is not None]).reshape(-1, 2)
        value = o.value[both[:, 0]] / o.value[both[:, 1]]
        found["product_per_biomass"] = _r2(value, o.predicted[both[:, 0]] / o.predicted[both[:, 1]])
    return found


def _r2(value: np.ndarray, predicted: np.ndarray) -> float:
    total = float(np.sum((value - value.mean()) ** 2)) if len(value) else 0.0
    return float(1.0 - np.sum((value - predicted) ** 2) / total) if total > 0.0 else float("nan")


def interval_coverage(o: Observations) -> float:
    """Share of readings after time 0 inside their 90 % bands; censored ones left out."""
    use = (o.time_h > 0.0) & np.array([c == "" for c in o.censored])
    return float(np.mean(((o.value >= o.lower90) & (o.value <= o.upper90))[use])) if use.any() else float("nan")


def log_predictive_density(o: Observations) -> float:
    """Mean logarithm of the predictive density of a reading, taken as normal with the width of its band.

    The width is that of the wider half of the band: the other may end where no reading can be.
    """
    use = (o.time_h > 0.0) & np.array([c == "" for c in o.censored])
    half = np.maximum(o.upper90 - o.predicted, o.predicted - o.lower90)[use] / 1.6448536269514722
    z = (o.value - o.predicted)[use] / half
    return float(np.mean(-0.5 * z**2 - np.log(half * np.sqrt(2.0 * np.pi)))) if use.any() else float("nan")
