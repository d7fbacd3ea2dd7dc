"""Prediction of new clones: their parameters and runs from a few days of samples, under the population of a fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.artefact import Lineage
from optim.errors import IncompatibleError
from optim.estimation.levenberg_marquardt import Progress, Search
from optim.estimation.posterior import Z90, Point, Posterior
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
from optim.estimation.transfer.prediction import (
    CloneReadings,
    NewClonePrediction,
    PredictedClone,
    PredictedParameter,
    PredictionBands,
)
from optim.parameters import to_natural
from optim.runtime import require_float64
from optim.settings.estimation import PlaceSettings


def predict_clones(
    old: FitResult,
    problem: FitProblem,
    options: PlaceSettings,
    *,
    seed: int = 0,
    search: Search = CONDITIONING_SEARCH,
    progress: Progress = lambda text: None,
) -> NewClonePrediction:
    """Posterior of new clones after each of `options.days`, from their samples so far and the population of a fit.

    `problem` holds the new clones alone, with everything that is planned for their vessels; each clone is predicted by
    itself. Under every member of the ensemble of `old` the parameters of the clone, its vessels and its new batches
    are fitted; members are then weighted by the likelihood of the readings, so that the uncertainty of the shared
    parameters is part of the answer. Without samples the answer is the population.

    Raises `IncompatibleError` when the two are not of one model, or a clone is not new; `FitError` when no member can
    be simulated.
    """
    require_float64("predict_clones")
    earlier = EarlierFit(old)
    _check_new(earlier, problem)
    predicted = []
    for c in range(len(problem.groups)):
        own = problem.select_vessels(np.flatnonzero(problem.vessel_group == c))
        members = EnsembleMembers(earlier, own, np.random.default_rng(seed))
        points = members.start_points()
        for day in sorted(options.days):
            posterior, points = condition_members(
                members, own.readings_until(24.0 * day), points, search=search, progress=progress
            )
            predicted.append(_predicted_clone(members, posterior, points, float(day), options.draws, seed))
    data = problem.dataset
    return NewClonePrediction(
        lineage=Lineage.from_parents(old, seed=seed).with_data(data.name, data.content_hash, data.simulated),
        shared_names=tuple(row.name for row in problem.shared_specs),
        clone_names=tuple(row.name for row in problem.group_specs),
        clones=problem.groups,
        placed=tuple(predicted),
        readings=_readings_of(problem),
    )


def _readings_of(problem: FitProblem) -> CloneReadings:
    data, m = problem.dataset, problem.dataset.measurements
    return CloneReadings(tuple(data.runs[i].run_id for i in m.run), m.variable, m.time_h, m.value)


def _check_new(earlier: EarlierFit, problem: FitProblem) -> None:
    earlier.check_parameters(problem)
    if not problem.group_specs:
        raise IncompatibleError("no parameter differs between clones, so there is nothing to place a clone by")
    if again := sorted(set(problem.groups) & set(earlier.result.clones)):
        raise IncompatibleError(f"{', '.join(again)}: not new to the fit; continue the fit with the new runs instead")


def _predicted_clone(
    members: EnsembleMembers, posterior: Posterior, points: list[Point], day: float, draws: int, seed: int
) -> PredictedClone:
    """Moments and draws of the mixture over members, each a normal distribution of the clone's parameters."""
    e, free, nc = posterior, ~members.inherited, posterior.n_per_group
    probability = member_probabilities(members, points)
    mean, within = np.zeros((len(points), nc)), np.zeros((len(points), nc))
    for m in np.flatnonzero(probability):
        arrow = points[m].arrow
        assert arrow is not None
        mean[m], within[m] = points[m].block[0, :nc], arrow.restricted_to(free).variances()[1][0, :nc]
    centre = probability @ mean
    sd = np.sqrt(probability @ (within + (mean - centre) ** 2))
    population = members.shared[1:, e.n_shared : e.n_shared + nc]
    prior_sd = np.hypot(members.spread, population.std(axis=0, ddof=1))
    rng = np.random.default_rng(seed + 1)
    drawn = draw_mixture(e, points, probability, free=free, draws=draws, rng=rng)
    parameters = []
    for i, row in enumerate(e.problem.group_specs):
        ends = row.to_natural(np.clip(centre[i] + sd[i] * np.array([-Z90, 0.0, Z90]), *row.fitted_bounds()))
        parameters.append(
            PredictedParameter(row.name, row.unit, float(ends[1]), float(ends[0]), float(ends[2]), sd[i], prior_sd[i])
        )
    return PredictedClone(
        clone=members.problem.groups[0],
        day=day,
        readings=int(e.problem.vessels.weight.sum()),
        members=effective_members(probability),
        parameters=tuple(parameters),
        shared=to_natural(e.problem.shared_specs, np.stack([p.shared[: e.n_shared] for p in drawn])),
        own=to_natural(e.problem.group_specs, np.stack([p.block[0, :nc] for p in drawn])),
        bands=_prediction_bands(e, drawn, rng),
    )


def _prediction_bands(posterior: Posterior, drawn: list[Point], rng: np.random.Generator) -> PredictionBands:
    """Predictions of all variables at every node of the plan, to the end of the runs."""
    problem, v = posterior.problem, posterior.problem.vessels
    n, variables, nodes = len(problem.vessel_group), len(problem.variables), v.grid.t.shape[1]
    node = np.tile(np.arange(nodes, dtype=np.int32), (n, variables))
    variable = np.tile(np.repeat(np.arange(variables, dtype=np.int32), nodes), (n, 1))
    blank = np.zeros(node.shape)
    everywhere = replace(
        problem,
        vessels=v._replace(
            node=node, variable=variable, value=blank, sd=blank + 1.0, censored=blank.astype(np.int32), weight=blank
        ),
    )
    u = np.concatenate([posterior.lane_parameters(p) for p in drawn])
    y, status = everywhere.predict(u, np.tile(np.arange(n), len(drawn)))
    y = np.where((status == 0)[:, None], y, np.nan).reshape(len(drawn), *node.shape)
    reading = y.copy()
    for i, name in enumerate(problem.variables):
        own = variable[0] == i
        scatter = problem.noise.sd_on_scale(name, y[..., own]) * posterior.noise.scale[i]
        scatter = problem.noise.reading_sd(name, y[..., own], scatter)
        noisy = y[..., own] + scatter * rng.standard_normal(scatter.shape)
        reading[..., own] = np.clip(noisy, *problem.noise.reading_range(name))
    # each node once: behind the last interval the grid is padded with intervals of zero length
    b, m = np.nonzero(node <= np.asarray(v.grid.intervals)[:, None])
    low, middle, high = np.nanquantile(y[:, b, m], [0.05, 0.5, 0.95], axis=0)
    reading_low, reading_high = np.nanquantile(reading[:, b, m], [0.05, 0.95], axis=0)
    return PredictionBands(
        vessel=tuple(problem.dataset.runs[i].run_id for i in b),
        variable=tuple(problem.variables[i] for i in variable[b, m]),
        time_h=v.grid.t[b, node[b, m]],
        predicted=middle,
        lower90=low,
        upper90=high,
        reading_lower90=reading_low,
        reading_upper90=reading_high,
    )
