"""Ranks clones by the objective, each at its own optimised process."""

from __future__ import annotations

import numpy as np

from optim.app.session import Session
from optim.app.stored import process_problem, stored_fit
from optim.errors import ConfigError
from optim.estimation.result import FitResult
from optim.export.tables import ranking_csv
from optim.optimisation.lineage import process_lineage
from optim.optimisation.optimise import parameter_sets
from optim.optimisation.optimise import rank as rank_clones
from optim.optimisation.result import Ranking
from optim.report import plots, terminal


def rank(s: Session, result: FitResult | None = None) -> Ranking:
    """Rank all clones, each at its own optimised process; reads `out/fit`, writes `out/ranking`."""
    result = result or stored_fit(s)
    problem = process_problem(s, result)
    if result.group_by != "clone":
        raise ConfigError("rank: the fit groups runs by experiment, so there are no clones to rank")
    ensembles = {clone: parameter_sets(result, problem.model, clone) for clone in result.clones}
    truth = None
    if result.screen.truth is not None:
        known = result.screen.truth

        def truth(clone: str, x: np.ndarray) -> float:
            named = known[""] | known[clone]
            p = np.array([[named[n] for n in problem.model.Parameters._fields]])
            return float(problem.objective.from_solver(problem.evaluate(x[None], p).objective[0]))

    lineage = process_lineage(result, problem, seed=s.cfg.seed)
    if s.cfg.calendar is not None:
        lineage = lineage.noted("clones are ranked without regard to working hours")
    ranking = rank_clones(problem, ensembles, s.cfg.optimise, lineage, truth, s.progress)
    s.keep(ranking, "ranking")
    s.lines(terminal.ranking_lines(ranking))
    s.tracker.metrics(terminal.ranking_metrics(ranking))
    s.table(ranking_csv(ranking), "ranking")
    s.figure(plots.ranking(ranking), "ranking")
    return ranking
