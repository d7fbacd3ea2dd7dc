"""A fit from start to end: multi-start estimate, ensemble, predictions with bands, scores, left-out runs and clones."""

from __future__ import annotations

import warnings

import numpy as np

from optim.errors import IntegratorWarning
from optim.fit.bands import Z90, observations, predictive
from optim.fit.ensemble import laplace, natural
from optim.fit.estimate import FitOptions, multi_start
from optim.fit.posterior import Point, Posterior
from optim.fit.problem import FitProblem
from optim.fit.result import FitResult, ParameterEstimate, Recovery, StartReport
from optim.fit.score import clone_folds, free_parameters, leave_out, log_likelihood, r_squared, vessel_folds
from optim.fit.solve import Progress
from optim.params import ParameterSpec

# two starts end at one optimum when their costs differ by less, in units of the log-likelihood
SAME_COST = 0.1


def fit(
    problem: FitProblem,
    options: FitOptions,
    seed: int,
    model_name: str,
    leave_one_out: bool = False,
    progress: Progress = lambda text: None,
) -> FitResult:
    """Fit a problem. Raises `FitError` when every start failed or the data do not determine the parameters at all."""
    posterior, points = multi_start(problem, options, seed, progress)
    return report(posterior, points, options, seed, model_name, leave_one_out, progress)


def report(
    posterior: Posterior,
    points: list[Point],
    options: FitOptions,
    seed: int,
    model_name: str,
    leave_one_out: bool = False,
    progress: Progress = lambda text: None,
) -> FitResult:
    """The result of a search: `points` are the ends of all starts, the best first."""
    problem, best = posterior.problem, points[0]
    better = problem.poor_integrator(posterior.lanes(best))
    if better:
        warnings.warn(better, IntegratorWarning, stacklevel=2)
    draws = laplace(posterior, best, options.ensemble, np.random.default_rng(seed + 1))
    found = observations(posterior, *predictive(posterior, draws))
    left_out, clones_left_out = None, None
    if leave_one_out:
        search, members = options.search, max(2, options.ensemble // 2)
        left_out = leave_out(posterior, best, vessel_folds(posterior), members, search, seed, progress)
        if posterior.n_clones > 1:
            clones_left_out = leave_out(posterior, best, clone_folds(posterior), members, search, seed, progress)
    n = int(problem.vessels.weight.sum())
    k = free_parameters(posterior)
    likelihood = log_likelihood(posterior, best)
    members_of = natural(posterior, draws, np.random.default_rng(seed + 2))
    parameters = parameter_rows(posterior, best)
    return FitResult(
        model=model_name,
        dataset=problem.dataset.name,
        dataset_hash=problem.dataset.content_hash,
        simulated=problem.dataset.simulated,
        seed=seed,
        shared_names=tuple(p.name for p in problem.shared),
        clone_names=tuple(p.name for p in problem.clone),
        vessel_names=tuple(p.name for p in problem.vessel),
        batch_names=tuple(p.name for p in problem.batch),
        clones=problem.groups,
        vessels=problem.dataset.vessels,
        vessel_clone=tuple(int(c) for c in problem.vessel_clone),
        group_by=problem.group_by,
        multiples={name: other for name, other in problem.layout.times},
        shared=members_of.shared,
        clone=members_of.clone,
        vessel=members_of.vessel,
        batch=members_of.batch,
        newcomer=members_of.newcomer,
        other=members_of.other,
        parameters=parameters,
        observations=found,
        noise_scale={v: float(s) for v, s in zip(problem.variables, posterior.noise.scale, strict=True)},
        spread={p.name: float(s) for p, s in zip(problem.clone, posterior.spread, strict=True)},
        cost=best.cost,
        log_likelihood=likelihood,
        n_parameters=k,
        aicc=-2.0 * likelihood + 2.0 * k + 2.0 * k * (k + 1) / max(n - k - 1, 1),
        bic=-2.0 * likelihood + k * np.log(n),
        r2=r_squared(found),
        starts=_starts(points),
        history=tuple(float(c) for c in best.history),
        recovery=_recovery(problem, parameters),
        left_out=left_out,
        clones_left_out=clones_left_out,
        notes=_notes(problem),
    )


def _starts(points: list[Point]) -> tuple[StartReport, ...]:
    """How every start ended, and at which optimum: 0 is the best, -1 a start that failed."""
    costs = [float(p.history[-1]) if p.history else float("inf") for p in points]
    rows, places = [], list[float]()
    for i in np.argsort(costs):
        optimum = -1
        if np.isfinite(costs[i]):
            if not places or costs[i] - places[-1] > SAME_COST:
                places.append(costs[i])
            optimum = len(places) - 1
        rows.append(StartReport(int(i), costs[i], points[i].iterations, points[i].reason, optimum))
    return tuple(rows)


def parameter_rows(e: Posterior, point: Point) -> tuple[ParameterEstimate, ...]:
    """The table of all parameters on the natural scale, with intervals from the curvature at `point`."""
    assert point.arrow is not None
    problem, ns, nc = e.problem, e.ns, e.nc
    var_s, var_c = point.arrow.variances()
    rows = []

    def add(spec: ParameterSpec, owner: str, u: float, variance: float, prior_sd: float | None, level: str) -> None:
        sd = float(np.sqrt(max(variance, 0.0)))
        low, high = spec.bounds()
        ends = spec.backward(np.clip(np.array([u - Z90 * sd, u, u + Z90 * sd]), low, high))
        rows.append(
            ParameterEstimate(
                name=spec.name,
                level=level,
                owner=owner,
                unit=spec.unit,
                estimate=float(ends[1]),
                lower90=float(ends[0]),
                upper90=float(ends[2]),
                prior=spec.prior_text(),
                shrinkage=sd / prior_sd if prior_sd else float("nan"),
                at_bound=bool(u <= low + 1e-9 or u >= high - 1e-9),
                source=spec.source,
                verified=spec.verified,
                verdict=_verdict(sd / prior_sd if prior_sd else float("nan")),
            )
        )

    for i, spec in enumerate(problem.shared):
        add(spec, "", point.shared[i], var_s[i], spec.prior_sd_fitted(), "shared")
    for i, spec in enumerate(problem.clone):
        add(spec, "", point.shared[ns + i], var_s[ns + i], spec.prior_sd_fitted(), "population")
        for c, name in enumerate(problem.groups):
            add(spec, name, point.block[c, i], var_c[c, i], float(e.spread[i]), "clone")
    for b in range(e.n_batches):
        for i, spec in enumerate(problem.batch):
            place = ns + nc + b * e.nb + i
            name = problem.batches[b]
            add(spec, name, point.shared[place], var_s[place], spec.prior_sd_fitted(), "batch")
    for i, spec in enumerate(problem.vessel):
        for b, c in enumerate(problem.vessel_clone):
            column = e.columns[b][nc + i]
            name = problem.dataset.runs[b].run_id
            add(spec, name, point.block[c, column], var_c[c, column], spec.prior_sd_fitted(), "vessel")
    for spec in problem.table.of_level("fixed"):
        rows.append(
            ParameterEstimate(
                spec.name,
                "fixed",
                "",
                spec.unit,
                spec.value,
                spec.value,
                spec.value,
                "",
                float("nan"),
                False,
                spec.source,
                spec.verified,
            )
        )
    return tuple(rows)


def _verdict(shrinkage: float) -> str:
    """What the data say, by how much narrower they make the belief."""
    if not np.isfinite(shrinkage):
        return "no prior to compare with"
    if shrinkage < 0.5:
        return "well determined"
    return "poorly determined" if shrinkage < 0.9 else "by the prior only"


def _recovery(problem: FitProblem, rows: tuple[ParameterEstimate, ...]) -> tuple[Recovery, ...]:
    truth = problem.dataset.truth
    if truth is None:
        return ()
    return tuple(
        Recovery(r.name, r.owner, truth[r.owner][r.name], r.estimate, r.lower90, r.upper90)
        for r in rows
        if r.level in ("shared", "clone") and r.name in truth.get(r.owner, {})
    )


def _notes(problem: FitProblem) -> tuple[str, ...]:
    notes = list(problem.dataset.notes)
    if problem.dataset.simulated:
        notes.insert(0, "SIMULATED data: nothing here was measured")
    unverified = problem.table.unverified()
    if unverified:
        notes.append(f"no source supports the numbers given for {', '.join(unverified)} (unverified)")
    m = problem.dataset.measurements
    unused = sorted(set(m.variable) - set(problem.variables))
    if unused:
        notes.append(f"measured but not predicted by the model, so not used: {', '.join(unused)}")
    return tuple(notes)
