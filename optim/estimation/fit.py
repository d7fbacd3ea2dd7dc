"""A fit from start to end: multi-start estimate, ensemble, predictions with bands, scores and cross-validation."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from optim.artefact import Lineage
from optim.data.screened import Screen
from optim.errors import FitError, IntegratorWarning
from optim.estimation.data_quality.finding import Finding
from optim.estimation.data_quality.inspect import inspect_data, inspect_dataset
from optim.estimation.ensemble import Draws, draw_laplace, natural_draws
from optim.estimation.estimate import multi_start, search_of
from optim.estimation.identifiability.practical import assess_identifiability
from optim.estimation.identifiability.structural import structural_identifiability
from optim.estimation.levenberg_marquardt import Progress
from optim.estimation.misfit import misfit_sentence
from optim.estimation.nonproducer import groups_far_below, refit_producers, without_product_readings
from optim.estimation.parameter_index import all_parameters, select_parameters
from optim.estimation.posterior import Z90, Point, Posterior
from optim.estimation.predictive import observation_bands, posterior_predictive
from optim.estimation.problem import FitProblem
from optim.estimation.result import VAGUE, FitResult, ParameterEstimate, Recovery, StartReport
from optim.estimation.score import (
    count_parameters,
    group_folds,
    log_likelihood,
    predict_left_out,
    r_squared,
    vessel_folds,
)
from optim.estimation.start import start_notes
from optim.estimation.uncertainty.agreement import compare_intervals
from optim.estimation.uncertainty.bootstrap import Bootstrap, BootstrapOptions, bootstrap
from optim.estimation.uncertainty.nuts import PosteriorSample, SampleOptions, sample_posterior
from optim.estimation.uncertainty.profile import LikelihoodProfile, profile_likelihoods
from optim.runtime import require_float64
from optim.settings.estimation import FitSettings

# two starts end at one optimum when their costs differ by less, in units of the log-likelihood
SAME_COST = 0.1


def fit_problem(
    problem: FitProblem,
    options: FitSettings,
    *,
    seed: int,
    model_name: str,
    progress: Progress = lambda text: None,
) -> FitResult:
    """Fit a problem: search for the mode of its posterior, draw an ensemble, and score the fit.

    `seed` is that of the starts and of the draws, `model_name` is stored with the result, `progress` is called with a
    line of text now and then. Warns (`IntegratorWarning`) when another integrator would be much faster. Raises
    `FitError` when every start failed, or when data and priors do not determine the parameters at all.
    """
    require_float64("fit_problem")
    candidates = groups_far_below(problem)
    posterior, points = multi_start(without_product_readings(problem, candidates), options, seed, progress=progress)
    posterior, points[0], silent = refit_producers(
        posterior, points[0], problem, candidates=candidates, options=options, progress=progress
    )
    return build_fit_result(
        posterior, points, options, seed=seed, model_name=model_name, without_product=silent, progress=progress
    )


def build_fit_result(
    posterior: Posterior,
    points: list[Point],
    options: FitSettings,
    *,
    seed: int,
    model_name: str,
    without_product: tuple[str, ...] = (),
    progress: Progress = lambda text: None,
) -> FitResult:
    """Build the result of a search from the ends of all starts, the best first; arguments as for `fit_problem`.

    `without_product` are the groups whose readings of the product were left out, since they make none.
    """
    problem, best = posterior.problem, points[0]
    better = problem.integrator_advice(posterior.lane_parameters(best))
    if better:
        warnings.warn(better, IntegratorWarning, stacklevel=2)
    draws, wide = _ensemble(posterior, best, options, seed, progress)
    observed = observation_bands(posterior, *posterior_predictive(posterior, draws))
    left_out, groups_left_out = None, None
    if options.leave_one_out:
        search, members = search_of(options), max(2, options.ensemble // 2)
        left_out = predict_left_out(
            posterior, best, vessel_folds(posterior), members=members, search=search, seed=seed, progress=progress
        )
        if posterior.n_groups > 1:
            groups_left_out = predict_left_out(
                posterior, best, group_folds(posterior), members=members, search=search, seed=seed, progress=progress
            )
    n = int(problem.vessels.weight.sum())
    k = count_parameters(posterior)
    likelihood = log_likelihood(posterior, best)
    members_of = natural_draws(posterior, draws, np.random.default_rng(seed + 2))
    plain = parameter_estimates(posterior, best)
    parameters = plain if wide is None else parameter_estimates(posterior, best, wide.draws)
    walked = _profiles(posterior, best, options, progress)
    compared = compare_intervals(
        posterior, plain, profiles=walked, sampled=wide if isinstance(wide, PosteriorSample) else None
    )
    findings = _findings(posterior, best, options, progress)
    result = FitResult(
        lineage=Lineage(
            model=model_name,
            dataset=problem.dataset.name,
            dataset_hash=problem.dataset.content_hash,
            simulated=problem.dataset.simulated,
            seed=seed,
            notes=_notes(problem),
        ),
        screen=replace(Screen.from_dataset(problem.dataset), truth=_truth(problem)),
        table=problem.table,
        shared_names=tuple(p.name for p in problem.shared_specs),
        group_names=tuple(p.name for p in problem.group_specs),
        vessel_names=tuple(p.name for p in problem.vessel_specs),
        batch_names=tuple(p.name for p in problem.batch_specs),
        groups=problem.groups,
        vessels=problem.dataset.run_ids,
        vessel_group=tuple(int(c) for c in problem.vessel_group),
        group_by=problem.group_by,
        multiples={name: other for name, other in problem.layout.times},
        shared=members_of.shared,
        group=members_of.group,
        vessel=members_of.vessel,
        batch=members_of.batch,
        new_group=members_of.new_group,
        new_run=members_of.new_run,
        parameters=parameters,
        observations=observed,
        noise_scale={v: float(s) for v, s in zip(problem.variables, posterior.noise.scale, strict=True)},
        spread={p.name: float(s) for p, s in zip(problem.group_specs, posterior.spread, strict=True)},
        cost=best.cost,
        log_likelihood=likelihood,
        n_parameters=k,
        aicc=-2.0 * likelihood + 2.0 * k + 2.0 * k * (k + 1) / max(n - k - 1, 1),
        bic=-2.0 * likelihood + k * np.log(n),
        r2=r_squared(observed),
        starts=_starts(points),
        history=tuple(float(c) for c in best.history),
        recovery=_recovery(problem, parameters),
        left_out=left_out,
        groups_left_out=groups_left_out,
        findings=findings,
        without_product=without_product,
        identifiability=_identifiability(posterior, best, options, progress),
        profiles=walked,
        agreement=tuple(one.sentence for one in compared if not one.agrees),
        ensemble_by=options.ensemble_by,
    )
    lineage = result.lineage.with_notes(*result.cautions)
    return replace(result, lineage=lineage.with_doubts(*(m for m in [misfit_sentence(result.misfit)] if m)))


def _ensemble(
    posterior: Posterior, best: Point, options: FitSettings, seed: int, progress: Progress
) -> tuple[Draws, Bootstrap | PosteriorSample | None]:
    """The ensemble, and the bootstrap or sample from which it was thinned (None for a Laplace approximation)."""
    if options.ensemble_by == "laplace":
        return draw_laplace(posterior, best, options.ensemble, rng=np.random.default_rng(seed + 1)), None
    wide: Bootstrap | PosteriorSample
    if options.ensemble_by == "bootstrap":
        wide = bootstrap(posterior, best, BootstrapOptions(options.draws), seed=seed + 1, progress=progress)
        drawn = Draws(wide.draws.shared[1:], wide.draws.block[1:])
    else:
        wide = sample_posterior(posterior, best, SampleOptions(options.draws), seed=seed + 1, progress=progress)
        drawn = wide.draws
    thinned = np.linspace(0, len(drawn.shared) - 1, min(options.ensemble - 1, len(drawn.shared))).astype(int)
    shared, block = drawn.shared[thinned], drawn.block[thinned]
    return Draws(np.concatenate([best.shared[None], shared]), np.concatenate([best.block[None], block])), wide


def _profiles(
    posterior: Posterior, best: Point, options: FitSettings, progress: Progress
) -> tuple[LikelihoodProfile, ...]:
    if not options.profiles:
        return ()
    every = [x for x in all_parameters(posterior) if x.level in ("shared", "population")]
    named = tuple(name for name in options.profiles if name != "shared")
    wanted = [*(every if "shared" in options.profiles else ()), *(select_parameters(posterior, named) if named else ())]
    return profile_likelihoods(posterior, best, tuple(dict.fromkeys(wanted)), progress=progress)


def _findings(posterior: Posterior, best: Point, options: FitSettings, progress: Progress) -> tuple[Finding, ...]:
    if not options.quality:
        return ()
    progress("fit: looking for faults of the data")
    try:
        return inspect_data(posterior, best).findings
    except FitError:
        # without a robust fit, only the data can be inspected
        return inspect_dataset(posterior.problem.dataset, tuple(posterior.problem.noise.assays))


def _identifiability(posterior: Posterior, best: Point, options: FitSettings, progress: Progress) -> tuple[str, ...]:
    if not options.identify:
        return ()
    progress("fit: looking for what the data cannot tell")
    perfect = [f"even with perfect readings {c.sentence}" for c in structural_identifiability(posterior, best)]
    return (*perfect, *assess_identifiability(posterior, best).sentences)


def _starts(points: list[Point]) -> tuple[StartReport, ...]:
    """Report of every start, by cost; distinct optima are numbered, 0 is the best, -1 a start that failed."""
    costs = [float(p.history[-1]) if p.history else float("inf") for p in points]
    rows, optima = [], list[float]()
    for i in np.argsort(costs):
        optimum = -1
        if np.isfinite(costs[i]):
            if not optima or costs[i] - optima[-1] > SAME_COST:
                optima.append(costs[i])
            optimum = len(optima) - 1
        rows.append(StartReport(int(i), costs[i], points[i].iterations, points[i].reason, optimum))
    return tuple(rows)


def parameter_estimates(e: Posterior, point: Point, draws: Draws | None = None) -> tuple[ParameterEstimate, ...]:
    """Table of all parameters on the natural scale, with 90 % intervals.

    Intervals are those of the curvature at the evaluated `point`, or the quantiles of `draws` where they are given.
    """
    assert point.arrow is not None
    variances = point.arrow.variances()
    rows = []
    for index in all_parameters(e):
        spec = index.spec
        u = float(index.value_in(point.shared, point.block))
        sd = float(np.sqrt(np.maximum(index.value_in(*variances), 0.0)))
        ends = np.array([u - Z90 * sd, u + Z90 * sd])
        if draws is not None:
            ends = np.quantile(index.value_in(draws.shared, draws.block), (0.05, 0.95))
        low, high = spec.fitted_bounds()
        lower, estimate, upper = spec.to_natural(np.clip(np.array([ends[0], u, ends[1]]), low, high))
        prior_sd = float(e.spread[index.column]) if index.level == "clone" else spec.prior_sd_fitted()
        shrinkage = sd / prior_sd if prior_sd else float("nan")
        rows.append(
            ParameterEstimate(
                name=spec.name,
                level=index.level,
                owner=index.owner,
                unit=spec.unit,
                estimate=float(estimate),
                lower90=float(lower),
                upper90=float(upper),
                prior=spec.prior_text(),
                shrinkage=shrinkage,
                at_bound=bool(u <= low + 1e-9 or u >= high - 1e-9),
                source=spec.source,
                verified=spec.verified,
                verdict=_verdict(shrinkage),
            )
        )
    for spec in e.problem.table.of_level("fixed"):
        value = spec.value
        rows.append(
            ParameterEstimate(
                spec.name,
                "fixed",
                "",
                spec.unit,
                value,
                value,
                value,
                "",
                float("nan"),
                False,
                spec.source,
                spec.verified,
            )
        )
    return tuple(rows)


def _verdict(shrinkage: float) -> str:
    """Verdict in words, by how much narrower than the prior the posterior is."""
    if not np.isfinite(shrinkage):
        return "no prior to compare with"
    if shrinkage < 0.5:
        return "well determined"
    return "poorly determined" if shrinkage < VAGUE else "by the prior only"


def _recovery(problem: FitProblem, rows: tuple[ParameterEstimate, ...]) -> tuple[Recovery, ...]:
    truth = _truth(problem)
    if truth is None:
        return ()
    return tuple(
        Recovery(r.name, r.owner, truth[r.owner][r.name], r.estimate, r.lower90, r.upper90)
        for r in rows
        if r.level in ("shared", "clone") and r.name in truth.get(r.owner, {})
    )


def _truth(problem: FitProblem) -> dict[str, dict[str, float]] | None:
    """The truth of simulated data; None where there is none, or where it is that of another model."""
    truth = problem.dataset.truth
    known = {*problem.model.Parameters._fields, *(row.name for row in problem.table.rows)}
    return truth if truth is not None and all(set(own) <= known for own in truth.values()) else None


def _notes(problem: FitProblem) -> tuple[str, ...]:
    notes = list(problem.dataset.notes)
    if problem.dataset.simulated:
        notes.insert(0, "SIMULATED data: nothing here was measured")
    if problem.dataset.truth is not None and _truth(problem) is None:
        notes.append("the data were simulated with another model: its parameters are no truth to compare with")
    unverified = problem.table.unverified_names()
    if unverified:
        notes.append(f"no source supports the numbers given for {', '.join(unverified)} (unverified)")
    notes += start_notes(problem.model, problem.table, problem.dataset, noise=problem.noise)
    m = problem.dataset.measurements
    unused = set(m.variable) - set(problem.variables)
    starts = unused & set(problem.model.initial_variables)
    later = {v for v, t in zip(m.variable, m.time_h, strict=True) if t > 0.0}
    if starts:
        notes.append(f"read at time 0, where it sets the initial state, and not fitted: {', '.join(sorted(starts))}")
    if ignored := sorted((unused - starts) | (starts & later)):
        notes.append(f"measured but not predicted by the model, so not used: {', '.join(ignored)}")
    return tuple(notes)
