"""Optimisation of one clone's process, and the ranking of clones, each at its own optimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from optim.artefact import Lineage
from optim.errors import InfeasibleError
from optim.estimation.result import FitResult
from optim.kinetics.base import AbstractKineticModel
from optim.optimisation.choices import Variant, variants
from optim.optimisation.evaluate import constraint_values, outcome
from optim.optimisation.result import (
    Interval,
    Judged,
    Optimum,
    RankedClone,
    Ranking,
    Robustness,
    SolveReport,
    VariantReport,
)
from optim.optimisation.robust import ESTIMATE, judge, solve_robust
from optim.optimisation.solve import FEASIBLE, Progress, Solution, best, solve, start_points, tiled
from optim.optimisation.tightening import finely, kept_between
from optim.process.disturbance import Drift, executed
from optim.process.problem import ProcessProblem
from optim.runtime import require_float64
from optim.settings.objective import RiskSettings
from optim.settings.optimisation import OptimiseSettings
from optim.settings.process import CalendarSettings

DISTINCT_SPAN = 0.1  # of a decision's span: processes that differ by less count as one
HELD_OUT = 64  # scenarios, where they can be drawn
DISTINCT_STARTS = 2  # where choices and a robust search begin; they cost as much as their variants or scenarios
NEWCOMER = "population"  # stands for a clone or campaign that has not been seen


def parameter_sets(result: FitResult, model: AbstractKineticModel, clone: str) -> np.ndarray:
    """Ensemble of one clone (or of `population`) in the order of the model's Parameters, [E, P]; member 0 is the
    estimate."""
    members = len(result.shared)
    named = {name: np.full(members, value) for name, value in result.fixed.items()}
    named |= {name: result.shared[:, i] for i, name in enumerate(result.shared_names)}
    own = result.newcomer if clone == NEWCOMER else result.clone[:, result.clones.index(clone)]
    named |= {name: own[:, i] for i, name in enumerate(result.clone_names)}
    # a batch and a vessel to come
    named |= {name: result.other[:, i] for i, name in enumerate((*result.batch_names, *result.vessel_names))}
    named |= {name: named[name] * named[other] for name, other in result.multiples.items()}
    return np.stack([named[name] for name in model.Parameters._fields], axis=1)


def optimise(
    problem: ProcessProblem,
    clone: str,
    ensemble: np.ndarray,
    options: OptimiseSettings,
    lineage: Lineage,
    first: np.ndarray | None = None,
    progress: Progress = lambda text: None,
    risk: RiskSettings = ESTIMATE,
    calendar: CalendarSettings | None = None,
) -> Optimum:
    """Best process for one parameter ensemble [E, P], beside the platform process; `first` is an extra start.

    The best processes for the estimate that differ are where choices (`calendar`, and `options.choices` of decisions
    held at values, by name) and a robust search begin. Raises `InfeasibleError` that names the constraints no start
    could meet, or says in how many parameter sets they can be met.
    """
    require_float64("optimise")
    starts = start_points(problem, options.starts, lineage.seed)
    if first is not None:
        starts = np.concatenate([starts, first[None]])
    found = solve(problem, starts, np.tile(ensemble[0], (len(starts), 1)), options, progress)
    chosen = best(found)
    if chosen is None:
        raise InfeasibleError(_conflict(problem, found, ensemble[0]))
    history, reports = _history(problem, found[: options.starts]), [_report(problem, s) for s in found]
    chosen, between = kept_between(problem, chosen, ensemble[0], options, progress)
    x, robustness = chosen.x, None
    tried: tuple[Variant, ...] = ()
    begin, bounds = distinct(problem, found, DISTINCT_STARTS, first=x), None
    if calendar or options.choices:
        tried = variants(problem, begin, ensemble[0], calendar, options.choices, options, progress)
        assert tried[0].solution is not None
        bounds = tried[0].bounds
        chosen, between = kept_between(problem, tried[0].solution, ensemble[0], options, progress, bounds)
        x = chosen.x
        begin = x[None]
    if risk.is_active:
        x, robustness, more = _robust(problem, begin, bounds, ensemble, risk, options, lineage, progress)
        reports += [replace(r, start=len(found) + r.start) for r in more]
    optimum = outcome(problem, "optimum", x, ensemble)
    baseline = outcome(problem, "platform", problem.design.platform, ensemble)
    notes = list[str]()
    outside = [d.name for d in optimum.decisions if d.outside_screened]
    if robustness:
        last = robustness.rows[-1]
        shares = f"{last.met_seen:.0%} of the {robustness.members} scenarios searched"
        shares += f" and {last.met_held_out:.0%} of {robustness.held_out} held out" if robustness.held_out else ""
        notes.append(f"all limits are met in {shares}")
    if robustness and robustness.rows[-1].met_held_out < risk.chance - 0.05:
        notes.append(
            f"asked were {risk.chance:.0%}: so few scenarios say too little; raise objective.risk.members (and "
            "fit.ensemble)"
        )
    if between and not risk.is_active:
        told = ", ".join(f"{name} by {v:.1e} of its limit" for name, v in between.items())
        notes.append(f"between the nodes of the design the optimum breaks {told}; lower design.node_step_h")
    if tried:
        notes.append(f"chosen: {tried[0].name}" + (f" at {calendar.start_hour:g} h" if calendar else ""))
    if outside:
        notes.append(f"outside the screened range, where the model extrapolates: {', '.join(outside)}")
    if optimum.failed_members:
        notes.append(f"{optimum.failed_members} of {len(ensemble)} parameter sets could not be simulated; left out")
    unmet = [c.name for c in baseline.constraints if c.margin < -1e-6 * abs(c.limit)]
    if unmet:
        notes.append(f"the platform process itself does not meet: {', '.join(unmet)}")
    return Optimum(
        lineage=lineage.with_notes(*notes),
        clone=clone,
        objective=problem.metric,
        optimum=optimum,
        baseline=baseline,
        starts=tuple(reports),
        vessel_volume_l=problem.design.start_volume_l,
        production_volume_l=problem.book.production_volume_l,
        history=history,
        robustness=robustness,
        variants=tuple(_variant(problem, v) for v in tried),
        bounds=bounds,
    )


def _variant(problem: ProcessProblem, v: Variant) -> VariantReport:
    if v.solution is None:
        return VariantReport(v.name, float("nan"), "no process meets all limits")
    return VariantReport(v.name, float(problem.objective.from_solver(np.array(v.solution.objective))), "")


def _robust(
    problem: ProcessProblem,
    starts: np.ndarray,
    bounds: np.ndarray | None,
    ensemble: np.ndarray,
    risk: RiskSettings,
    options: OptimiseSettings,
    lineage: Lineage,
    progress: Progress,
) -> tuple[np.ndarray, Robustness, list[SolveReport]]:
    # where the plant errs, a scenario is a parameter set with a draw of its errors: sets may be drawn more than once
    split = max(2, len(ensemble) // 2) if risk.execution.has_errors else min(risk.members, len(ensemble))
    used = risk.members if risk.execution.has_errors else split
    pool, held = np.resize(ensemble[:split], (used, ensemble.shape[1])), ensemble[split:]
    if risk.execution.has_errors and len(held):
        held = np.resize(held, (max(HELD_OUT, used), ensemble.shape[1]))
    drift = executed(risk.execution, used + len(held), lineage.seed)
    seen_drift, held_drift = Drift(*(v[:used] for v in drift)), Drift(*(v[used:] for v in drift))
    own = tiled(bounds, len(starts))
    close = finely(problem)  # limits are promised just after boluses, too
    ends = solve_robust(close, starts, pool, risk, options, progress, seen_drift, own)
    safe = [end for end in ends if end.met >= risk.chance - 1e-9 and np.isfinite(end.solution.objective)]
    if not safe:
        top = max(end.met for end in ends)
        raise InfeasibleError(
            f"no process found meets all limits in {risk.chance:.0%} of {used} scenarios; the best one does in "
            f"{top:.0%}. Ask for less (objective.risk.chance), widen the limits, or learn more of the clone first"
        )
    chosen = max(safe, key=lambda end: end.solution.objective).solution
    judged = []
    for name, x in (
        ("platform", problem.design.platform),
        ("nominal optimum", starts[0]),
        ("robust optimum", chosen.x),
    ):
        seen, met = judge(close, x, pool, risk, seen_drift)
        later, met_later = judge(close, x, held, risk, held_drift) if len(held) else (np.nan, np.nan)
        judged.append(Judged(name, seen, later, met, met_later))
    nominal = outcome(problem, "nominal optimum", starts[0], ensemble)
    reports = []
    for k, end in enumerate(ends):
        s = end.solution
        value = float(problem.evaluate(s.x[None], ensemble[:1]).metrics[0, list(problem.metrics).index(problem.metric)])
        text = f"robust: {s.message}"
        reports.append(SolveReport(k, value, s.max_violation, s.kkt, s.iterations, s.success, text))
    robustness = Robustness(risk.measure, risk.tail, risk.chance, used, len(held), tuple(judged), nominal)
    return chosen.x, robustness, reports


def _history(problem: ProcessProblem, found: list[Solution]) -> tuple[float, ...]:
    """Best feasible metric over all starts after each evaluation."""
    longest = max(len(s.history) for s in found)
    padded = [np.pad(s.history, (0, longest - len(s.history)), mode="edge") for s in found if s.history]
    best_so_far = np.fmax.reduce(np.array(padded), axis=0)
    return tuple(float(v) for v in problem.objective.from_solver(best_so_far))


def _report(problem: ProcessProblem, s: Solution) -> SolveReport:
    value = float(problem.objective.from_solver(np.array(s.objective))) if np.isfinite(s.objective) else float("nan")
    return SolveReport(s.start, value, s.max_violation, s.kkt, s.iterations, s.success, s.message)


def _conflict(problem: ProcessProblem, found: list[Solution], p: np.ndarray) -> str:
    usable = [s for s in found if np.isfinite(s.max_violation)]
    if not usable:
        return "no start could be simulated; check the bounds of the decisions and the initial state"
    least = min(usable, key=lambda s: s.max_violation)
    trace = problem.trace(least.x[None], p[None])
    broken = [c for c in constraint_values(problem, trace, trace.status == 0) if c.margin < -1e-6 * abs(c.limit)]
    named = "; ".join(f"{c.name}: {c.value:.4g} against a {c.kind} of {c.limit:g} {c.unit}" for c in broken)
    where = ", ".join(f"{d.name}={v:.4g} {d.unit}" for d, v in zip(problem.design.decisions, least.x, strict=True))
    return f"no process meets all constraints. Closest one breaks {named}. It has {where}"


def rank(
    problem: ProcessProblem,
    ensembles: dict[str, np.ndarray],
    options: OptimiseSettings,
    lineage: Lineage,
    truth: Callable[[str, np.ndarray], float] | None = None,
    progress: Progress = lambda text: None,
) -> Ranking:
    """Rank clones by the maximised metric, each at its own optimised process, over the joint parameter ensemble.

    `truth` returns the true metric of a clone at given decisions, where the data are simulated.
    """
    require_float64("rank")
    clones = tuple(ensembles)
    members = len(next(iter(ensembles.values())))
    platform = np.tile(problem.design.platform, (members * len(clones), 1))
    at_platform = dict(zip(clones, _metric(problem, platform, ensembles, list(clones)), strict=True))
    base = _scout(problem, ensembles, at_platform, options, lineage.seed, progress)
    starts = np.concatenate([base for _ in clones])
    parameters = np.concatenate([np.tile(ensembles[c][0], (len(base), 1)) for c in clones])
    found = solve(problem, starts, parameters, options, progress)
    chosen = [best(found[i * len(base) : (i + 1) * len(base)]) for i in range(len(clones))]
    able = [c for c, s in zip(clones, chosen, strict=True) if s is not None]
    if not able:
        raise InfeasibleError(_conflict(problem, found, parameters[0]))
    processes = {c: s.x for c, s in zip(clones, chosen, strict=True) if s is not None}
    at_own = _metric(problem, np.concatenate([np.tile(processes[c], (members, 1)) for c in able]), ensembles, able)
    # members are joint draws of all clones: compare within a member, and only where every clone could be simulated
    whole = np.isfinite(at_own).all(axis=0)
    draws = at_own[:, whole]
    sign = problem.objective.target.sign
    good = sign * draws
    wins = np.bincount(good.argmax(axis=0), minlength=len(able)) / max(1, draws.shape[1])
    loss = (good.max(axis=0) - good).mean(axis=1)
    order = np.argsort(-np.median(good, axis=1))
    true_values = {c: truth(c, processes[c]) for c in able} if truth else {}
    by_truth = sorted(true_values, key=lambda c: -sign * true_values[c])
    rows = [
        RankedClone(
            clone=able[i],
            rank=place + 1,
            objective=Interval.of(draws[i]),
            at_platform=Interval.of(_finite(at_platform[able[i]])),
            probability_best=float(wins[i]),
            expected_loss=float(loss[i]),
            decisions={d.name: float(v) for d, v in zip(problem.design.decisions, processes[able[i]], strict=True)},
            truth=true_values.get(able[i]),
            truth_rank=by_truth.index(able[i]) + 1 if able[i] in by_truth else None,
            message="",
        )
        for place, i in enumerate(order)
    ]
    nan = Interval(float("nan"), float("nan"), float("nan"), float("nan"))
    rows += [
        RankedClone(c, len(able) + 1, nan, nan, 0.0, float("nan"), {}, None, None, "no process meets all constraints")
        for c in clones
        if c not in able
    ]
    best_at = {name: (processes[name], ensembles[name][0]) for name in able}
    return Ranking(
        lineage=lineage,
        objective=problem.metric,
        unit=problem.metrics[problem.metric].unit,
        rows=tuple(rows),
        price_flips=_price_flips(problem, best_at, able[order[0]]),
    )


def _price_flips(problem: ProcessProblem, at: dict[str, tuple[np.ndarray, np.ndarray]], leader: str) -> tuple[str, ...]:
    """Prices within whose range another clone is the best, each at its own process and estimate."""
    prices = problem.book.prices()
    ends = [(i, v) for i, item in enumerate(problem.book.rows) for v in (item.low, item.high) if v != prices[i]]
    if not ends:
        return ()
    lanes = [(name, i, v) for i, v in ends for name in at]
    paid = np.tile(prices, (len(lanes), 1))
    for lane, (_, i, v) in enumerate(lanes):
        paid[lane, i] = v
    x, p = (np.array([at[name][k] for name, _, _ in lanes]) for k in (0, 1))
    values = problem.evaluate(x, p, paid).objective.reshape(len(ends), len(at))
    names = list(at)
    found = []
    for (i, v), row in zip(ends, values, strict=True):
        top = names[int(np.argmax(np.nan_to_num(row, nan=-np.inf)))]
        if top != leader:
            item = problem.book.rows[i]
            found.append(f"{top} leads where {item.name} is {v:g} {item.unit}")
    return tuple(found)


def _scout(
    problem: ProcessProblem,
    ensembles: dict[str, np.ndarray],
    at_platform: dict[str, np.ndarray],
    options: OptimiseSettings,
    seed: int,
    progress: Progress,
) -> np.ndarray:
    """Where every clone starts: the best processes that differ, found from many starts for one promising clone.

    Processes have several local optima, much the same ones for all clones of a screen.
    """
    sign = problem.objective.target.sign
    clone = max(at_platform, key=lambda c: np.nan_to_num(sign * at_platform[c][0], nan=-np.inf))
    starts = start_points(problem, options.starts, seed)
    found = solve(problem, starts, np.tile(ensembles[clone][0], (len(starts), 1)), options, progress)
    chosen = distinct(problem, found, options.rank_starts)
    return chosen if len(chosen) else starts[: options.rank_starts]


def distinct(problem: ProcessProblem, found: list[Solution], most: int, first: np.ndarray | None = None) -> np.ndarray:
    """The best processes that differ, best first (or after `first`), [at most `most`, D]; empty where no start is
    feasible."""
    span = problem.design.upper - problem.design.lower
    usable = [s for s in found if np.isfinite(s.objective) and s.max_violation <= FEASIBLE]
    chosen: list[np.ndarray] = [] if first is None else [first]
    for s in sorted(usable, key=lambda s: -s.objective):
        if all(np.abs((s.x - x) / span).max() > DISTINCT_SPAN for x in chosen):
            chosen.append(s.x)
    return np.array(chosen[:most])


def _finite(values: np.ndarray) -> np.ndarray:
    kept = values[np.isfinite(values)]
    return kept if len(kept) else np.array([np.nan])


def _metric(problem: ProcessProblem, x: np.ndarray, ensembles: dict[str, np.ndarray], clones: list[str]) -> np.ndarray:
    """The maximised metric, [C, E], NaN for a member that failed."""
    e = problem.evaluate(x, np.concatenate([ensembles[c] for c in clones]))
    values = np.where(e.status == 0, problem.objective.from_solver(e.objective), np.nan)
    return values.reshape(len(clones), -1)
