"""Finds the trade-off between the objective and another one."""

from __future__ import annotations

from optim.app.session import Session
from optim.app.shared import optimised_process, process_lineage
from optim.export.tables import front_csv
from optim.optimisation.optimise import parameter_sets
from optim.optimisation.pareto import Front
from optim.optimisation.pareto import pareto as find_front
from optim.report.plots_decision import front
from optim.report.terminal_process import front_lines


def pareto(s: Session) -> Front:
    """The trade-off between two objectives at the estimate; reads `out/fit` and `out/optimum`, writes `out/front`."""
    result, problem, optimum = optimised_process(s)
    parameters = parameter_sets(result, problem.model, optimum.clone)[0]
    lineage = process_lineage(s, problem, result, optimum)
    c = s.cfg.pareto
    found = find_front(
        problem, optimum.clone, c.against, parameters, c.points, s.cfg.optimise, lineage, s.progress,
        optimum.bounds,
    )  # fmt: skip
    s.keep(found, "front")
    s.lines(front_lines(found))
    s.table(front_csv(found), "front")
    s.tracker.log_metrics({"front/hypervolume": found.hypervolume, "front/points": float(len(found.points))})
    s.figure(front(found), "front")
    return found
