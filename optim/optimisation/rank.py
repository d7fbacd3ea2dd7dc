"""The ranking of clones, each at its own optimised process, over the joint parameter ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from optim.errors import InfeasibleError
from optim.optimisation.optimise import DISTINCT_SPAN, distinct_solutions, explain_conflict
from optim.optimisation.process_program import ProcessProgram, start_points
from optim.optimisation.result import Interval, RankedClone, Ranking
from optim.optimisation.solve import Progress, SequentialQuadratic, Solution, best_solution, silent, solve
from optim.optimisation.study import Study
from optim.process.lanes import Lanes
from optim.process.problem import ProcessProblem
from optim.runtime import require_float64
from optim.settings.optimisation import OptimiseSettings


def rank_clones(
    study: Study,
    ensembles: dict[str, np.ndarray],
    *,
    truth: Callable[[str, np.ndarray], float] | None = None,
    marks: Mapping[str, tuple[str, ...]] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Ranking:
    """Rank clones by the maximised metric, each at its own optimised process, over the joint parameter ensemble.

    Args:
        study: the problem and its settings.
        ensembles: plausible parameter sets [E, P] of every clone, by id. Set e of all clones is one joint draw; the
            first is the estimate.
        truth: the true metric of a clone at decisions [D], where the data are simulated.
        marks: what speaks against the estimate of a clone, by its id.
        left_out: clones that are not ranked, with the reason.

    Raises:
        InfeasibleError: no clone has a process that meets all limits; names those in conflict.
    """
    require_float64("rank_clones")
    problem, options, lineage, progress = study.problem, study.search, study.lineage, study.progress
    clones = tuple(ensembles)
    members = len(next(iter(ensembles.values())))
    platform = np.tile(problem.design.platform, (members * len(clones), 1))
    at_platform = dict(zip(clones, _metric(problem, platform, ensembles, list(clones)), strict=True))
    estimates = Lanes(np.array([ensembles[c][0] for c in clones]))
    chosen = best_of_each(problem, estimates, options, seed=lineage.seed, progress=progress)
    able = [c for c, s in zip(clones, chosen, strict=True) if s is not None]
    searched = {
        c: () if s.success else (f"search {s.message.partition(';')[0]}",)
        for c, s in zip(clones, chosen, strict=True)
        if s
    }
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
            marks=(*(marks or {}).get(able[i], ()), *searched[able[i]]),
        )
        for place, i in enumerate(order)
    ]
    nan = Interval(float("nan"), float("nan"), float("nan"), float("nan"))
    out = {c: "no process meets all constraints" for c in clones if c not in able} | dict(left_out or {})
    rows += [
        RankedClone(c, len(able) + 1, nan, nan, 0.0, float("nan"), {}, None, None, why, (marks or {}).get(c, ()))
        for c, why in out.items()
    ]
    best_at = {name: (processes[name], ensembles[name][0]) for name in able}
    return Ranking(
        lineage=lineage,
        objective=problem.metric,
        unit=problem.metrics[problem.metric].unit,
        rows=tuple(rows),
        price_flips=_price_flips(problem, best_at, able[order[0]]),
        draws=draws.shape[1],
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
    values = problem.evaluate(x, Lanes(p, prices=paid)).objective.reshape(len(ends), len(at))
    names = list(at)
    found = []
    for (i, v), row in zip(ends, values, strict=True):
        top = names[int(np.argmax(np.nan_to_num(row, nan=-np.inf)))]
        if top != leader:
            item = problem.book.rows[i]
            found.append(f"{top} leads where {item.name} is {v:g} {item.unit}")
    return tuple(found)


def best_of_each(
    problem: ProcessProblem,
    estimates: Lanes,
    options: OptimiseSettings,
    *,
    seed: int,
    known: Mapping[int, np.ndarray] | None = None,
    progress: Progress = silent,
) -> list[Solution | None]:
    """The best process of every clone, a lane each; None where none meets all limits.

    Processes have several local optima, much the same ones for all clones of a screen. So clones start from the best
    that differ, found from many starts for one promising clone, with the curvature that was found there; those with a
    `known` process [D], by place, start from it. Then each tries the process of another clone that is best for it.
    Raises `InfeasibleError` where no clone has a process.
    """
    known, chosen = known or {}, list[Solution | None]([None] * estimates.number)
    tried = list[tuple[int, Solution]]()

    def search(places: np.ndarray, starts: np.ndarray, near: list[Solution]) -> list[Solution]:
        program, method = ProcessProgram(problem, estimates.rows(places)), SequentialQuadratic.near(near)
        found = solve(program, starts, options, method=method, progress=progress)
        tried.extend(zip(places.tolist(), found, strict=True))
        for place, s in zip(places, found, strict=True):
            chosen[place] = best_solution([c for c in (chosen[place], s) if c is not None])
        return found

    missing = np.array([i for i in range(estimates.number) if i not in known], int)
    if len(missing):
        at_platform = problem.evaluate(np.tile(problem.design.platform, (len(missing), 1)), estimates.rows(missing))
        values = np.where(at_platform.status == 0, np.nan_to_num(at_platform.objective, nan=-np.inf), -np.inf)
        starts = start_points(problem, options.starts, seed)
        scouted = search(np.full(len(starts), missing[values.argmax()]), starts, [])
        base = distinct_solutions(problem, scouted, options.rank_starts)
        begin = np.array([s.x for s in base]) if base else starts[: options.rank_starts]
        search(np.repeat(missing, len(begin)), np.tile(begin, (len(missing), 1)), base * len(missing))
    if known:
        search(np.array(list(known)), np.array(list(known.values())), [])
    if not any(chosen):
        lanes = estimates.rows(np.array([place for place, _ in tried]))
        raise InfeasibleError(explain_conflict(problem, [s for _, s in tried], lanes))
    who, other = _swaps(problem, estimates, chosen)
    if len(who):
        search(who, np.array([s.x for s in other]), other)
    return chosen


def _swaps(
    problem: ProcessProblem, estimates: Lanes, chosen: list[Solution | None]
) -> tuple[np.ndarray, list[Solution]]:
    """Clones [n] with the process of another clone that is the best for each, among those that differ from its own."""
    known = [s for s in chosen if s is not None]
    x, span = np.array([s.x for s in known]), problem.design.upper - problem.design.lower
    e = problem.evaluate(np.tile(x, (len(chosen), 1)), estimates.repeated(len(known)))
    # a limit that is broken by one percent costs one percent
    worth = e.objective - np.maximum(-e.margins, 0.0).max(axis=1, initial=0.0)
    worth = np.where(e.status == 0, np.nan_to_num(worth, nan=-np.inf), -np.inf).reshape(len(chosen), -1)
    who, from_ = list[int](), list[Solution]()
    for i, s in enumerate(chosen):
        other = np.full(len(known), True) if s is None else np.abs((x - s.x) / span).max(axis=1) > DISTINCT_SPAN
        values = np.where(other, worth[i], -np.inf)
        if np.isfinite(values).any():
            who.append(i)
            from_.append(known[int(values.argmax())])
    return np.array(who, int), from_


def _finite(values: np.ndarray) -> np.ndarray:
    kept = values[np.isfinite(values)]
    return kept if len(kept) else np.array([np.nan])


def _metric(problem: ProcessProblem, x: np.ndarray, ensembles: dict[str, np.ndarray], clones: list[str]) -> np.ndarray:
    """The maximised metric, [C, E], NaN for a member that failed."""
    e = problem.evaluate(x, np.concatenate([ensembles[c] for c in clones]))
    values = np.where(e.status == 0, problem.objective.from_solver(e.objective), np.nan)
    return values.reshape(len(clones), -1)
