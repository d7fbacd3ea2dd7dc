"""Shrinking-horizon re-optimisation of a running batch: open decisions, given the posterior after its readings.

The past stays as it was; limits count from now on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import least_squares

from optim.artefact import Lineage
from optim.errors import ConfigError, InfeasibleError
from optim.optimisation.choices import solve_in_hours
from optim.optimisation.evaluate import decision_values, evaluate_process
from optim.optimisation.process_program import ProcessProgram, start_points, tiled_bounds
from optim.optimisation.robust import ESTIMATE, judge_process, solve_robust
from optim.optimisation.solve import Bounds, Progress, Solution, best_solution, silent, solve
from optim.optimisation.tightening import finer_problem, tighten_constraints
from optim.process.calendar import bounds_with, idle_decisions, timed_decisions
from optim.process.lanes import Lanes
from optim.process.problem import Constraint, ProcessProblem
from optim.recipe.rounding import kept_best, rounding_choices
from optim.replanning.explain import ReplannedProcess, explain_replan
from optim.replanning.remaining import SAME_H, Remaining
from optim.replanning.result import Replan
from optim.replanning.running_batch import BatchForecast, RunningBatch, forecast_batch
from optim.runtime import require_float64
from optim.settings.objective import ExecutionSettings, RiskSettings
from optim.settings.optimisation import OptimiseSettings
from optim.settings.process import CalendarSettings
from optim.settings.replanning import ReplanSettings

# of a limit: what rounding to pump steps may cost
ROUNDED = 1e-3


@dataclass(frozen=True)
class ReplanOptions:
    """The sections of the configuration that a re-plan reads. A `calendar` has the one day on which the batch began."""

    optimise: OptimiseSettings
    replan: ReplanSettings = field(default_factory=ReplanSettings)
    risk: RiskSettings = ESTIMATE
    calendar: CalendarSettings | None = None

    def __post_init__(self) -> None:
        if self.calendar and len(self.calendar.start_days) != 1:
            days = ", ".join(self.calendar.start_days)
            raise ConfigError(
                f"replan: working hours count from the day on which the batch began, and calendar.start_days has "
                f"{len(self.calendar.start_days)} ({days}); give that day, as calendar.start_days=[monday]"
            )


def replan_batch(
    problem: ProcessProblem,
    running: RunningBatch,
    options: ReplanOptions,
    *,
    lineage: Lineage,
    progress: Progress = silent,
) -> Replan:
    """Re-optimise the rest of a running batch (shrinking horizon) given its readings, and evaluate both plans.

    Raises `ConfigError` when nothing is left to decide, `SimulationError` when the batch cannot be simulated, and
    `InfeasibleError` when nothing that can still be done can be simulated, or falls into working hours.
    """
    require_float64("replan_batch")
    o = forecast_batch(problem, running, draws=options.replan.draws, seed=lineage.seed, progress=progress)
    hours = _Hours(options.calendar, o.design)
    x, eased = _decided(o, hours, options, lineage.seed, progress)
    here = o.problem
    before, after = (evaluate_process(here, n, at, ensemble=o.lanes) for n, at in (("plan", o.planned), ("new", x)))
    new = ReplannedProcess(x, before, after, eased, hours.closed(o.planned))
    return explain_replan(o, running, new, lineage=lineage)


class _Hours:
    """What of the open decisions falls into working hours; without a calendar, everything."""

    def __init__(self, calendar: CalendarSettings | None, design: Remaining):
        self.design, self.calendar = design, calendar
        day = calendar.start_days[0] if calendar else ""
        self._idle = dict.fromkeys(idle_decisions(calendar, design, day), 0.0) if calendar else {}
        self._times = timed_decisions(calendar, design, day) if calendar else {}
        self.widest = bounds_with(design, self._idle, {})

    def windows(self, wanted: np.ndarray) -> np.ndarray:
        """Bounds [W, 2, D] for every choice of windows around what is wanted. Raises `InfeasibleError`."""
        found = solve_in_hours(self.design, self._idle, self._times, wanted=wanted)
        if not found:
            raise InfeasibleError(
                "replan: what is left to do by hand falls into no working hours; allow more (calendar.working_days, "
                "calendar.first_hour, calendar.last_hour), or take what is done all the same out of calendar.by_hand"
            )
        return np.array(found)

    def closed(self, planned: np.ndarray) -> frozenset[str]:
        """Decisions whose planned value would be carried out when nobody is there."""
        late = {i for i in self._idle if planned[i] > 0.0}
        late |= {
            i for i, parts in self._times.items() if not any(a - SAME_H <= planned[i] <= b + SAME_H for a, b in parts)
        }
        return frozenset(self.design.decisions[i].name for i in late)


def _decided(
    o: BatchForecast, hours: _Hours, options: ReplanOptions, seed: int, progress: Progress
) -> tuple[np.ndarray, dict[str, float]]:
    """The open decisions at pump resolution, and limits that had to be eased: name -> to what."""
    here, lane = o.problem, o.lanes.rows(np.array([0]))

    def solved(starts: np.ndarray, bounds: Bounds | None) -> list[Solution]:
        program = ProcessProgram(here, lane.tiled(len(starts)))
        return solve(program, starts, options.optimise, bounds=bounds, progress=progress)

    starts = np.concatenate([o.planned[None], start_points(here, options.optimise.starts, seed)])
    found, within = solved(starts, tiled_bounds(hours.widest, len(starts))), hours.widest
    if options.calendar:
        wanted = best_solution(found) or _nearest(found)
        windows = hours.windows(wanted.x)
        found = solved(np.tile(wanted.x, (len(windows), 1)), Bounds(windows[:, 0], windows[:, 1]))
        within = windows[(best_solution(found) or _nearest(found)).start]
    chosen, eased = best_solution(found), dict[str, float]()
    if chosen is None:
        nearest = _least_broken(here, _nearest(found).x, lane, within)
        here, eased = _eased(here, nearest, lane)
        chosen = best_solution(solved(np.stack([nearest, o.planned]), tiled_bounds(within, 2)))
        if chosen is None:
            return _rounded(here, nearest, lane, within), eased
    if not eased:
        chosen, _ = tighten_constraints(here, chosen, lane, options=options.optimise, bounds=within, progress=progress)
    keep = not hours.closed(o.planned)
    if options.risk.is_active and not eased:
        return _safer(o, chosen.x, within, keep, options, progress), eased
    x = _rounded(here, chosen.x, lane, within)
    if not keep:
        return x, eased
    # by trajectories, which are wanted of both anyway: one program less to compile
    e = here.trace(np.stack([o.planned, x]), lane.tiled(2))
    value = here.objective.to_solver(e.metrics)
    usable_plan = e.status[0] == 0 and np.min(e.margins[0], initial=0.0) >= -ROUNDED
    if usable_plan and value[1] < value[0] + options.replan.least_gain:
        return o.planned, eased
    return x, eased


def _nearest(found: list[Solution]) -> Solution:
    """The one that breaks limits least. Raises `InfeasibleError` where none could be simulated."""
    usable = [s for s in found if np.isfinite(s.max_violation)]
    if not usable:
        raise InfeasibleError("replan: nothing that can still be done could be simulated; check what was done so far")
    return min(usable, key=lambda s: s.max_violation)


def _safer(
    o: BatchForecast, x: np.ndarray, within: np.ndarray, keep: bool, options: ReplanOptions, progress: Progress
) -> np.ndarray:
    """The open decisions under the parameter sets that are plausible now: as safe as can be had, where the chance asked
    for cannot. What was done was done, so errors of execution are not drawn."""
    here, lanes = finer_problem(o.problem), o.lanes.rows(np.arange(min(o.lanes.number, options.risk.members)))
    risk = replace(options.risk, execution=ExecutionSettings())
    own = tiled_bounds(within, 1)
    (end,) = solve_robust(here, x[None], lanes, risk=risk, options=options.optimise, bounds=own, progress=progress)
    new = _rounded(o.problem, end.solution.x, lanes.rows(np.array([0])), within)
    (old_value, old_met), (value, met) = (judge_process(here, at, lanes, risk=risk) for at in (o.planned, new))
    gain = here.objective.target.relative_gain(value, old_value)
    kept = keep and old_met >= min(risk.chance, met) and gain < options.replan.least_gain
    return o.planned if kept else new


def _rounded(problem: ProcessProblem, x: np.ndarray, lane: Lanes, within: np.ndarray) -> np.ndarray:
    """Decisions at pump steps, so that limits are kept where that can be."""
    ways = np.clip(rounding_choices(decision_values(problem, x)), *within)
    trace = problem.trace(np.stack([x, *ways]), lane.tiled(1 + len(ways)))
    worst = np.where(trace.status == 0, trace.margins.min(axis=1, initial=np.inf), -np.inf)
    return np.asarray(ways[kept_best(worst[1:], float(worst[0]))])


def _least_broken(problem: ProcessProblem, x: np.ndarray, lane: Lanes, within: np.ndarray) -> np.ndarray:
    """The decisions near x, within bounds [2, D], that break limits least, in the sum of squares."""
    low, span = problem.design.lower, problem.design.upper - problem.design.lower
    floor, roof = (within - low) / span
    roof = np.maximum(roof, floor + 1e-9)  # what is held moves by nothing that counts
    known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def at(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if z.tobytes() not in known:
            known.clear()
            e, slopes = problem.derivatives((low + span * z)[None], lane)
            j = slopes.margins
            failed = bool(e.status[0] != 0)
            short = np.full(e.margins.shape[1], 1e3) if failed else np.minimum(e.margins[0], 0.0)
            slope = np.where((short < 0.0)[:, None], np.nan_to_num(j[0]) * span, 0.0)
            known[z.tobytes()] = short, slope
        return known[z.tobytes()]

    inset = 0.1 * np.minimum(1e-8, roof - floor)
    z0 = np.clip((x - low) / span, floor + inset, roof - inset)
    found = least_squares(lambda z: at(z)[0], z0, jac=lambda z: at(z)[1], bounds=(floor, roof), max_nfev=40)
    better = np.sum(at(found.x)[0] ** 2) < np.sum(at(z0)[0] ** 2)
    return np.asarray(np.clip(low + span * (found.x if better else z0), *within))


def _eased(problem: ProcessProblem, x: np.ndarray, lane: Lanes) -> tuple[ProcessProblem, dict[str, float]]:
    """The problem with the limits that x breaks moved to where x keeps them."""
    trace, at = problem.trace(x[None], lane), 0
    rows, eased = list[Constraint](), dict[str, float]()
    for c in problem.constraints:
        width = trace.t.shape[1] if c.where == "path" else 1
        worst = float(trace.margins[0, at : at + width].min())
        at += width
        if worst < -1e-6:
            by = (ROUNDED - worst) * abs(c.limit)
            eased[c.name] = c.limit + by if c.kind == "max" else c.limit - by
            c = replace(c, limit=eased[c.name])
        rows.append(c)
    return replace(problem, constraints=tuple(rows)), eased
