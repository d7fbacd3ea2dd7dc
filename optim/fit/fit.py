"""A fit from start to end: multi-start estimate, Laplace ensemble, predictions with bands, scores, left-out runs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np

from optim.errors import FitError, IntegratorWarning
from optim.fit.estimate import Estimator, FitOptions, Point, Progress, minimise, multi_start
from optim.fit.problem import FitProblem
from optim.fit.result import FitResult, Observations, ParameterEstimate, Recovery, StartReport
from optim.params import ParameterSpec, to_natural

Z90 = 1.6448536269514722


@dataclass(frozen=True)
class _Draws:
    """Ensemble on the fitted scale: shared with population means [E, n], blocks [E, C, m]; member 0 is the estimate."""

    shared: np.ndarray
    block: np.ndarray


def fit(
    problem: FitProblem,
    options: FitOptions,
    seed: int,
    model_name: str,
    leave_one_out: bool = False,
    progress: Progress = lambda text: None,
) -> FitResult:
    """Fit a problem. Raises `FitError` when every start failed or the data do not determine the parameters at all."""
    estimator, points = multi_start(problem, options, seed, progress)
    best = points[0]
    better = problem.poor_integrator(estimator.lanes(best))
    if better:
        warnings.warn(better, IntegratorWarning, stacklevel=2)
    draws = _laplace(estimator, best, options.ensemble, np.random.default_rng(seed + 1))
    predicted, bands = _predictive(estimator, draws)
    observations = _observations(problem, estimator, predicted, bands)
    left_out = None
    if leave_one_out:
        left_out = _leave_one_out(estimator, best, options, seed, progress)
    n = int(problem.vessels.weight.sum())
    k = _free_parameters(estimator)
    log_likelihood = _log_likelihood(estimator, best)
    ns, nc = estimator.ns, estimator.nc
    free = (*problem.shared, *problem.clone)
    shared = to_natural(free, draws.shared)
    block = np.moveaxis(draws.block, 1, 0)  # [C, E, m]
    clone = np.stack([to_natural(problem.clone, b[:, :nc]) for b in block], axis=1)
    vessel = np.stack(
        [
            to_natural(problem.vessel, np.take_along_axis(block[c], estimator.columns[b][None, nc:], axis=1))
            for b, c in enumerate(problem.vessel_clone)
        ],
        axis=1,
    )
    rng = np.random.default_rng(seed + 2)
    away = rng.standard_normal((len(draws.shared), nc)) / np.sqrt(np.maximum(estimator.pool, 1e-300))
    away[0] = 0.0
    newcomer = to_natural(problem.clone, np.clip(draws.shared[:, ns:] + away, *_bounds(problem.clone)))
    parameters = _parameter_rows(estimator, best)
    return FitResult(
        model=model_name,
        dataset=problem.dataset.name,
        dataset_hash=problem.dataset.content_hash,
        simulated=problem.dataset.simulated,
        seed=seed,
        shared_names=tuple(p.name for p in problem.shared),
        clone_names=tuple(p.name for p in problem.clone),
        vessel_names=tuple(p.name for p in problem.vessel),
        clones=problem.groups,
        vessels=problem.dataset.vessels,
        vessel_clone=tuple(int(c) for c in problem.vessel_clone),
        group_by=problem.group_by,
        shared=shared[:, :ns],
        clone=clone,
        vessel=vessel,
        newcomer=newcomer,
        parameters=parameters,
        observations=observations,
        noise_scale={v: float(s) for v, s in zip(problem.variables, estimator.noise.scale, strict=True)},
        cost=best.cost,
        log_likelihood=log_likelihood,
        n_parameters=k,
        aicc=-2.0 * log_likelihood + 2.0 * k + 2.0 * k * (k + 1) / max(n - k - 1, 1),
        bic=-2.0 * log_likelihood + k * np.log(n),
        r2=r_squared(observations),
        starts=tuple(StartReport(i, float(p.cost), p.iterations, p.reason) for i, p in enumerate(points)),
        history=tuple(float(c) for c in best.history),
        recovery=_recovery(problem, parameters),
        left_out=left_out,
        notes=_notes(problem),
    )


def _free_parameters(e: Estimator) -> int:
    """Parameters that the data pay for: shared and clone ones, one noise factor per assay, one factor per vessel."""
    noise = len(e.problem.variables) if e.problem.noise.estimate_scale else 0
    return e.ns + e.nc * e.n_clones + e.nv * len(e.problem.vessel_clone) + noise


def _bounds(rows: tuple[ParameterSpec, ...]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array([row.bounds() for row in rows]).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _laplace(e: Estimator, point: Point, members: int, rng: np.random.Generator) -> _Draws:
    assert point.arrow is not None
    try:
        shared, block = point.arrow.sample(rng, members - 1)
    except np.linalg.LinAlgError as err:
        raise FitError(
            "the data and priors do not determine the parameters (singular information); "
            "fix some of them, or give them a prior_sd"
        ) from err
    shared = np.clip(point.shared + shared, e.lower_s, e.upper_s)
    block = np.clip(point.block + block, e.lower_c, e.upper_c)
    return _Draws(np.concatenate([point.shared[None], shared]), np.concatenate([point.block[None], block]))


def _predictive(e: Estimator, draws: _Draws) -> tuple[np.ndarray, np.ndarray]:
    """Predictions [B, M] of the estimate, and the standard deviation of a new measurement around them."""
    n = len(e.problem.vessel_clone)
    points = [Point(s, b, np.ones(n)) for s, b in zip(draws.shared, draws.block, strict=True)]
    u = np.concatenate([e.lanes(p) for p in points])
    y, status = e.problem.predict(u, np.tile(np.arange(n), len(points)))
    stack = np.where((status == 0)[:, None], y, np.nan).reshape(len(points), n, -1)
    return stack[0], np.sqrt(np.nanvar(stack, axis=0) + e.noise.sd**2)


def _observations(
    problem: FitProblem, e: Estimator, predicted: np.ndarray, sd: np.ndarray, only: np.ndarray | None = None
) -> Observations:
    v = problem.vessels
    use = v.weight > 0.0 if only is None else (v.weight > 0.0) & only
    b, m = np.nonzero(use)
    time = np.array([v.grid.t[i, j] for i, j in zip(b, v.node[b, m], strict=True)])
    runs = problem.dataset.runs
    return Observations(
        vessel=tuple(runs[i].run_id for i in b),
        clone=tuple(runs[i].clone_id for i in b),
        variable=tuple(problem.variables[i] for i in v.variable[b, m]),
        time_h=time,
        value=v.value[b, m],
        sd=e.noise.sd[b, m],
        predicted=predicted[b, m],
        lower90=predicted[b, m] - Z90 * sd[b, m],
        upper90=predicted[b, m] + Z90 * sd[b, m],
        censored=tuple(("", "<", ">")[i] for i in v.censored[b, m]),
    )


def _leave_one_out(e: Estimator, best: Point, options: FitOptions, seed: int, progress: Progress) -> Observations:
    """Every run predicted by a fit to all others, from its own measured initial state and its real controls."""
    n = len(e.problem.vessel_clone)
    folds = []
    for b in range(n):
        weight = np.ones(n)
        weight[b] = 0.0
        folds.append(
            replace(best, weight=weight, damping=1e-2, reason="", iterations=0, history=[], block=best.block.copy())
        )
    fewer = replace(options, max_iterations=30, tolerance=1e-5)
    done = minimise(e, folds, fewer, lambda text: progress(text.replace("fit:", "leave one run out:")))
    predicted, sd = np.full(e.problem.vessels.value.shape, np.nan), np.full(e.problem.vessels.value.shape, np.nan)
    for b, point in enumerate(done):
        c = e.problem.vessel_clone[b]
        own = e.columns[b][e.nc :]
        draws = _laplace(e, point, max(2, options.ensemble // 2), np.random.default_rng(seed + 10 + b))
        # the left-out run starts from its measured state: nothing of it has informed its vessel parameters
        rest = np.arange(len(own)) + e.nc
        draws.block[0, c, own] = e.mean_v[rest - e.nc]
        y, deviation = _predictive(e, draws)
        predicted[b], sd[b] = y[b], deviation[b]
    return _observations(e.problem, e, predicted, sd)


def _log_likelihood(e: Estimator, point: Point) -> float:
    v = e.problem.vessels
    measured = (v.censored == 0) * v.weight  # a censored value is a probability, without a density's constant
    return -0.5 * point.squares - float(np.sum(measured * np.log(e.noise.sd * np.sqrt(2.0 * np.pi))))


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


def _parameter_rows(e: Estimator, point: Point) -> tuple[ParameterEstimate, ...]:
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
            )
        )

    for i, spec in enumerate(problem.shared):
        add(spec, "", point.shared[i], var_s[i], spec.prior_sd, "shared")
    for i, spec in enumerate(problem.clone):
        add(spec, "", point.shared[ns + i], var_s[ns + i], spec.prior_sd, "population")
        for c, name in enumerate(problem.groups):
            add(spec, name, point.block[c, i], var_c[c, i], spec.spread, "clone")
    for i, spec in enumerate(problem.vessel):
        for b, c in enumerate(problem.vessel_clone):
            column = e.columns[b][nc + i]
            name = problem.dataset.runs[b].run_id
            add(spec, name, point.block[c, column], var_c[c, column], spec.prior_sd, "vessel")
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
