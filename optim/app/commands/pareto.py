"""Finds the trade-off between the objective and another one."""

from __future__ import annotations

from optim.app.session import Session
from optim.app.stored import process_problem, stored_fit, stored_optimum
from optim.export.tables import front_csv
from optim.optimisation.lineage import process_lineage
from optim.optimisation.optimise import parameter_sets
from optim.optimisation.pareto import Front
from optim.optimisation.pareto import pareto as find_front
from optim.report.plots_decision import front
from optim.report.terminal_process import front_lines


def pareto(s: Session) -> Front:
    """The trade-off between two objectives at the estimate; reads `out/fit` and `out/optimum`, writes `out/front`."""
    result = stored_fit(s)
    problem = process_problem(s, result)
    optimum = stored_optimum(s, result, problem)
    parameters = parameter_sets(result, problem.model, optimum.clone)[0]
    lineage = process_lineage(result, problem, optimum, seed=s.cfg.seed)
    c = s.cfg.pareto
    found = find_front(
        problem, optimum.clone, c.against, parameters, c.points, s.cfg.optimise, lineage, s.progress,
        optimum.bounds,
    )  # fmt: skip
    s.keep(found, "front")
    s.lines(front_lines(found))
    s.table(front_csv(found), "front")
    s.tracker.metrics({"front/hypervolume": found.hypervolume, "front/points": float(len(found.points))})
    s.figure(front(found), "front")
    return found
