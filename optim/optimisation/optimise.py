"""Optimisation of one clone's process, and the ranking of clones, each at its own optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.artefact import Lineage
from optim.errors import InfeasibleError
from optim.estimation.result import FitResult
from optim.kinetics.base import AbstractKineticModel
from optim.optimisation.choices import Choice, solve_choices
from optim.optimisation.evaluate import constraint_values, evaluate_process
from optim.optimisation.process_program import ProcessProgram, start_points, tiled_bounds
from optim.optimisation.result import (
    Optimum,
    RiskComparison,
    Robustness,
    SolveReport,
    VariantReport,
)
from optim.optimisation.robust import judge_process, solve_robust
from optim.optimisation.sequential_quadratic import FEASIBLE
from optim.optimisation.solve import Progress, Solution, best_solution, solve
from optim.optimisation.study import Study
from optim.optimisation.tightening import finer_problem, tighten_constraints
from optim.process.disturbance import Drift, sample_execution_errors
from optim.process.lanes import Lanes
from optim.process.problem import ProcessProblem
from optim.runtime import require_float64
from optim.settings.objective import RiskSettings
from optim.settings.optimisation import OptimiseSettings

DISTINCT_SPAN = 0.1  # of a decision's span: processes that differ by less count as one
SAME_METRIC = 1e-3  # starts whose metrics differ by less, relatively, reached the same end
ROBUST = "robust: "  # begins the messages of the starts of a robust search
HELD_OUT = 64  # scenarios, where they can be drawn
DISTINCT_STARTS = 2  # where choices and a robust search begin; they cost as much as their variants or scenarios


def parameter_sets(result: FitResult, model: AbstractKineticModel, clone: str) -> np.ndarray:
    """Ensemble of one clone (or of `population`) in the order of the model's Parameters, [E, P]; member 0 is the
    estimate."""
    named = result.parameter_ensemble(clone)
    return np.stack([named[name] for name in model.Parameters._fields], axis=1)


def optimise_process(study: Study, clone: str, ensemble: np.ndarray, *, first: np.ndarray | None = None) -> Optimum:
    """Optimise the process of one clone, and describe it beside the platform process.

    The distinct best processes for the estimate are where choices (working hours, and the patterns of decisions in the
    settings of the search) and a robust search begin.

    Args:
        study: the problem and its settings.
        clone: its id, for the result.
        ensemble: plausible parameter sets [E, P]; the first is the estimate.
        first: decisions [D] of one more start.

    Raises:
        InfeasibleError: no start could meet all limits; names those in conflict, or says in how many parameter sets
            they can be met.
    """
    require_float64("optimise_process")
    problem, options, lineage, progress = study.problem, study.search, study.lineage, study.progress
    risk, calendar = study.risk, study.calendar
    starts = start_points(problem, options.starts, lineage.seed)
    if first is not None:
        starts = np.concatenate([starts, first[None]])
    lane = Lanes(ensemble[:1])
    found = solve(ProcessProgram(problem, lane.tiled(len(starts))), starts, options, progress=progress)
    chosen = best_solution(found)
    if chosen is None:
        raise InfeasibleError(explain_conflict(problem, found, lane.tiled(len(starts))))
    history, reports = _history(problem, found[: options.starts]), [_report(problem, s) for s in found]
    chosen, between = tighten_constraints(problem, chosen, lane, options=options, progress=progress)
    x, robustness = chosen.x, None
    tried: tuple[Choice, ...] = ()
    begin, bounds = np.array([s.x for s in distinct_solutions(problem, found, DISTINCT_STARTS, first=chosen)]), None
    if calendar or options.choices:
        tried = solve_choices(problem, begin, lane, calendar=calendar, options=options, progress=progress)
        assert tried[0].solution is not None
        bounds = tried[0].bounds
        chosen, between = tighten_constraints(
            problem, tried[0].solution, lane, options=options, bounds=bounds, progress=progress
        )
        x = chosen.x
        begin = x[None]
    if risk.is_active:
        x, robustness, more = _robust(problem, begin, bounds, ensemble, risk, options, lineage, progress)
        reports += [replace(r, start=len(found) + r.start) for r in more]
    optimum = evaluate_process(problem, "optimum", x, ensemble=ensemble)
    baseline = evaluate_process(problem, "platform", problem.design.platform, ensemble=ensemble)
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
        lineage=lineage.with_notes(*notes).with_doubts(*_search_doubts(reports, problem.objective.target.sign)),
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


def _search_doubts(reports: list[SolveReport], sign: float) -> tuple[str, ...]:
    """A doubt where no start converged, or fewer than reached the best; `sign` is 1 where more of the metric is better.

    Starts of the search that the optimum comes from count: those of a robust search, where there was one.
    """
    own = [r for r in reports if r.message.startswith(ROBUST)] or reports
    converged = sum(r.success for r in own)
    values = [sign * r.objective for r in own if r.max_violation <= FEASIBLE and np.isfinite(r.objective)]
    reached = sum(v >= max(values) - SAME_METRIC * abs(max(values)) for v in values)
    if converged and converged >= reached:
        return ()
    at_best = f", and {reached} reached the best that was found" if reached else ""
    return (
        f"{converged} of {len(own)} starts of the optimisation converged{at_best}: there may be a better process; "
        "raise optimise.max_iterations",
    )


def _variant(problem: ProcessProblem, v: Choice) -> VariantReport:
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
    drift = sample_execution_errors(risk.execution, used + len(held), lineage.seed)
    seen = Lanes(pool, drift=Drift(*(v[:used] for v in drift)))
    held_out = Lanes(held, drift=Drift(*(v[used:] for v in drift)))
    own = tiled_bounds(bounds, len(starts))
    close = finer_problem(problem)  # limits are promised just after boluses, too
    ends = solve_robust(close, starts, seen, risk=risk, options=options, bounds=own, progress=progress)
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
        value, met = judge_process(close, x, seen, risk=risk)
        later, met_later = judge_process(close, x, held_out, risk=risk) if len(held) else (np.nan, np.nan)
        judged.append(RiskComparison(name, value, later, met, met_later))
    nominal = evaluate_process(problem, "nominal optimum", starts[0], ensemble=ensemble)
    reports = []
    for k, end in enumerate(ends):
        s = end.solution
        value = float(problem.evaluate(s.x[None], ensemble[:1]).metrics[0, list(problem.metrics).index(problem.metric)])
        text = f"{ROBUST}{s.message}"
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


def explain_conflict(problem: ProcessProblem, found: list[Solution], lanes: Lanes) -> str:
    """Which limits the process that breaks them least breaks, and by how much; `found` has one solution per lane."""
    violation = np.array([s.max_violation for s in found])
    if not np.isfinite(violation).any():
        return "no start could be simulated; check the bounds of the decisions and the initial state"
    place = int(np.nanargmin(violation))
    least = found[place]
    trace = problem.trace(least.x[None], lanes.rows(np.array([place])))
    broken = [c for c in constraint_values(problem, trace, trace.status == 0) if c.margin < -1e-6 * abs(c.limit)]
    named = "; ".join(f"{c.name}: {c.value:.4g} against a {c.kind} of {c.limit:g} {c.unit}" for c in broken)
    where = ", ".join(f"{d.name}={v:.4g} {d.unit}" for d, v in zip(problem.design.decisions, least.x, strict=True))
    return f"no process meets all constraints. Closest one breaks {named}. It has {where}"


def distinct_solutions(
    problem: ProcessProblem, found: list[Solution], most: int, *, first: Solution | None = None
) -> list[Solution]:
    """The best feasible solutions that differ, the best first (or after `first`), at most `most`."""
    span = problem.design.upper - problem.design.lower
    chosen = [] if first is None else [first]
    for s in sorted((s for s in found if s.feasible), key=lambda s: -s.objective):
        if all(np.abs((s.x - c.x) / span).max() > DISTINCT_SPAN for c in chosen):
            chosen.append(s)
    return chosen[:most]
