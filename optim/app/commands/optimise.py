"""Optimises the process of the chosen clone."""

from __future__ import annotations

import warnings

import numpy as np

from optim.app.session import Session
from optim.app.stored import folder_of, process_problem, stored_fit, stored_ranking
from optim.artefact import load
from optim.errors import ConfigError, ExtrapolationWarning, IncompatibleError, nearest
from optim.estimation.result import FitResult
from optim.optimisation.lineage import process_lineage
from optim.optimisation.optimise import NEWCOMER, parameter_sets
from optim.optimisation.optimise import optimise as optimise_process
from optim.optimisation.result import Optimum, Ranking
from optim.process.problem import ProcessProblem
from optim.report import plots, terminal
from optim.report.plots_decision import robustness


def optimise(s: Session, result: FitResult | None = None, ranking: Ranking | None = None) -> dict[str, Optimum]:
    """Optimise the process of the chosen clone for every objective; reads `out/fit`, writes `out/optimum*`.

    Where there is a ranking (`out/ranking`), the process that it found for the clone is one of the starts.
    """
    if result is None:
        result = stored_fit(s)
        ranking = stored_ranking(s, result)
    clone = _chosen_clone(s, result, ranking, process_problem(s, result))
    found: dict[str, Optimum] = {}
    for case in ("", *s.cfg.objective.also):
        problem = process_problem(s, result, case)
        ensemble = parameter_sets(result, problem.model, clone)
        first = _ranked_process(problem, ranking, clone) if not case else None
        used = first is not None or s.cfg.optimise.clone == "best"
        lineage = process_lineage(result, problem, *([ranking] if ranking and used else []), seed=s.cfg.seed)
        optimum = optimise_process(
            problem,
            clone,
            ensemble,
            s.cfg.optimise,
            lineage,
            first,
            s.progress,
            s.cfg.objective.risk,
            s.cfg.calendar,
        )
        s.keep(optimum, folder_of("optimum", case))
        found[case] = optimum
        _report_optimum(s, result, optimum, case)
    return found


def _chosen_clone(s: Session, result: FitResult, ranking: Ranking | None, problem: ProcessProblem) -> str:
    wanted = s.cfg.optimise.clone
    if wanted == "best":
        ranking = ranking or load(Ranking, s.out / "ranking")
        if ranking.objective != problem.metric:
            raise IncompatibleError(
                f"{s.out / 'ranking'} ranks by {ranking.objective}, this asks for {problem.metric}: run `optim rank` "
                "again, or name a clone (optimise.clone)"
            )
        return ranking.rows[0].clone
    allowed = (*result.clones, NEWCOMER, "best")
    if wanted not in allowed:
        raise ConfigError(f"optimise.clone: unknown '{wanted}'.{nearest(wanted, allowed)} Known: {', '.join(allowed)}")
    return wanted


def _ranked_process(problem: ProcessProblem, ranking: Ranking | None, clone: str) -> np.ndarray | None:
    """The clone's process in the ranking, where it is of the same objective and design."""
    if ranking is None or ranking.objective != problem.metric:
        return None
    names = [d.name for d in problem.design.decisions]
    row = next((r for r in ranking.rows if r.clone == clone and list(r.decisions) == names), None)
    return np.array([row.decisions[n] for n in names]) if row else None


def _report_optimum(s: Session, result: FitResult, o: Optimum, case: str) -> None:
    s.lines(terminal.optimum_lines(o))
    for note in o.lineage.notes:
        s.note(note)
    outside = sum(d.outside_screened for d in o.optimum.decisions)
    if outside:
        message = f"{outside} decisions for {o.objective} lie outside the screened range (marked *)"
        warnings.warn(message, ExtrapolationWarning, stacklevel=2)
    prefix = case or "optimum"
    s.tracker.metrics({f"{prefix}/{k}": m.p50 for k, m in o.optimum.metrics.items()})
    s.tracker.metrics({f"{prefix}_platform/{k}": m.p50 for k, m in o.baseline.metrics.items()})
    s.tracker.metrics({f"{prefix}/worst_margin": min([c.margin for c in o.optimum.constraints], default=0.0)})
    s.tracker.history(f"{prefix}/objective_per_evaluation", o.history)
    s.figure(plots.processes(o), folder_of("processes", case))
    s.figure(plots.feeds(o), folder_of("feeds", case))
    s.figure(plots.cost(o), folder_of("cost", case))
    s.figure(plots.convergence(result, o), folder_of("convergence", case))
    if o.robustness:
        s.figure(robustness(o), folder_of("robustness", case))
        last = o.robustness.rows[-1]
        s.tracker.metrics({f"{prefix}/limits_met": last.met_seen, f"{prefix}/limits_met_held_out": last.met_held_out})
