"""Re-planning a running batch: the open decisions by the parameters that its readings leave plausible.

The past stays as it was; limits count from now on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from optim.errors import InfeasibleError
from optim.fit.problem import FitProblem
from optim.fit.result import FitResult
from optim.optimise.account import account
from optim.optimise.outcome import Ranges, decision_values, outcome
from optim.optimise.outlook import Batch, Outlook, Plan, outlook
from optim.optimise.replanned import Replan
from optim.optimise.robust import ESTIMATE, EXACT, Risk, judge, solve_robust
from optim.optimise.rounding import rounded_decisions
from optim.optimise.solve import OptimiseOptions, Progress, best, solve, start_points
from optim.process.objective import LESS_IS_BETTER
from optim.process.problem import Constraint, ProcessProblem

# of a limit: what rounding to pump steps may cost
ROUNDED = 1e-3


@dataclass(frozen=True)
class ReplanOptions:
    """`draws` plausible parameter sets judge the plans; a plan stays where less than `least_gain` is to be had.

    The gain is of the objective's logarithm."""

    optimise: OptimiseOptions
    draws: int = 63
    least_gain: float = 1e-3
    risk: Risk = ESTIMATE


def replan(
    problem: ProcessProblem,
    fitting: FitProblem,
    old: FitResult,
    batch: Batch,
    plan: Plan,
    options: ReplanOptions,
    seed: int = 0,
    screened: Ranges | None = None,
    notes: tuple[str, ...] = (),
    progress: Progress = lambda text: None,
) -> Replan:
    """Plan the rest of a running batch anew, at the estimate given its readings, and judge both plans.

    Raises `ConfigError` when nothing is left to decide, `SimulationError` when the batch cannot be simulated, and
    `InfeasibleError` when nothing that can still be done can be simulated.
    """
    o = outlook(problem, fitting, old, batch, plan.decisions, options.draws, seed, progress)
    x, eased = _decided(o, options, seed, progress)
    here, ranges = o.problem, screened or {}
    before, after = (outcome(here, n, at, o.lanes, batch.feeds, ranges) for n, at in (("plan", o.planned), ("new", x)))
    return account(o, fitting, old, batch, plan, before, after, x, eased, seed, notes)


def _decided(o: Outlook, options: ReplanOptions, seed: int, progress: Progress) -> tuple[np.ndarray, dict[str, float]]:
    """The open decisions at pump resolution, and limits that had to be eased: name -> to what."""
    here, p = o.problem, o.lanes[0]
    starts = np.concatenate([o.planned[None], start_points(here, options.optimise.starts, seed)])
    found = solve(here, starts, np.tile(p, (len(starts), 1)), options.optimise, progress)
    chosen, eased = best(found), dict[str, float]()
    if chosen is None:
        usable = [s for s in found if np.isfinite(s.max_violation)]
        if not usable:
            raise InfeasibleError(
                "replan: nothing that can still be done could be simulated; check what was done so far"
            )
        nearest = _least_broken(here, min(usable, key=lambda s: s.max_violation).x, p)
        here, eased = _eased(here, nearest, p)
        starts = np.stack([nearest, o.planned])
        chosen = best(solve(here, starts, np.tile(p, (len(starts), 1)), options.optimise, progress))
        if chosen is None:
            return _rounded(here, nearest, p), eased
    if options.risk.on and not eased:
        return _safer(o, x=chosen.x, options=options, progress=progress), eased
    x = _rounded(here, chosen.x, p)
    # by trajectories, which are wanted of both anyway: one program less to compile
    e = here.trace(np.stack([o.planned, x]), np.tile(p, (2, 1)))
    value = here.objective.seen(e.metrics)
    usable_plan = e.status[0] == 0 and np.min(e.margins[0], initial=0.0) >= -ROUNDED
    if usable_plan and value[1] < value[0] + options.least_gain:
        return o.planned, eased
    return x, eased


def _safer(o: Outlook, x: np.ndarray, options: ReplanOptions, progress: Progress) -> np.ndarray:
    """The open decisions under the parameter sets that are plausible now: as safe as can be had, where the chance asked
    for cannot. What was done was done, so errors of execution are not drawn."""
    here, lanes, risk = o.problem, o.lanes[: options.risk.members], replace(options.risk, execution=EXACT)
    (end,) = solve_robust(here, x[None], lanes, risk, options.optimise, progress)
    new = _rounded(here, end.solution.x, lanes[0])
    (old_value, old_met), (value, met) = (judge(here, at, lanes, risk) for at in (o.planned, new))
    gain = (value - old_value) / abs(old_value) * (-1.0 if here.metric in LESS_IS_BETTER else 1.0)
    kept = old_met >= min(risk.chance, met) and gain < options.least_gain
    return o.planned if kept else new


def _rounded(problem: ProcessProblem, x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Decisions at pump steps; feeds rounded down where the nearest steps break a limit that was met."""
    rows = decision_values(problem, x, {})
    tries = np.array([rounded_decisions(rows, down) for down in (False, True)])
    worst = problem.trace(np.stack([x, *tries]), np.tile(p, (3, 1))).margins.min(axis=1, initial=0.0)
    best_try = tries[0] if worst[1] >= min(worst[0], -1e-6) or worst[1] >= worst[2] else tries[1]
    return np.asarray(best_try)


def _least_broken(problem: ProcessProblem, x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The decisions near x that break limits least, in the sum of squares."""
    low, span = problem.design.lower, problem.design.upper - problem.design.lower
    known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def at(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if z.tobytes() not in known:
            known.clear()
            e, slopes = problem.derivatives((low + span * z)[None], p[None])
            j = slopes.margins
            failed = bool(e.status[0] != 0)
            short = np.full(e.margins.shape[1], 1e3) if failed else np.minimum(e.margins[0], 0.0)
            slope = np.where((short < 0.0)[:, None], np.nan_to_num(j[0]) * span, 0.0)
            known[z.tobytes()] = short, slope
        return known[z.tobytes()]

    z0 = np.clip((x - low) / span, 1e-9, 1.0 - 1e-9)
    found = least_squares(
        lambda z: at(z)[0], z0, jac=lambda z: at(z)[1], bounds=(np.zeros(len(z0)), np.ones(len(z0))), max_nfev=40
    )
    better = np.sum(at(found.x)[0] ** 2) < np.sum(at(z0)[0] ** 2)
    return np.asarray(low + span * (found.x if better else z0))


def _eased(problem: ProcessProblem, x: np.ndarray, p: np.ndarray) -> tuple[ProcessProblem, dict[str, float]]:
    """The problem with the limits that x breaks moved to where x keeps them."""
    trace, at = problem.trace(x[None], p[None]), 0
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
