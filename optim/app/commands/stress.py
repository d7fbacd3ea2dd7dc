"""Shows what parameters, prices and disturbances do to the optimum."""

from __future__ import annotations

import numpy as np

from optim.app.session import Session
from optim.app.stored import process_problem, stored_fit, stored_optimum
from optim.export.tables import drifts_csv, influences_csv
from optim.optimisation.lineage import process_lineage
from optim.optimisation.optimise import parameter_sets
from optim.optimisation.sensitivity import Stress
from optim.optimisation.sensitivity import stress as put_under_stress
from optim.report.plots_decision import drifts, tornado
from optim.report.terminal_process import stress_lines


def stress(s: Session) -> Stress:
    """What parameters, prices and drifts do to the optimum; reads `out/fit` and `out/optimum`, writes `out/stress`."""
    result = stored_fit(s)
    problem = process_problem(s, result)
    optimum = stored_optimum(s, result, problem)
    ensemble = parameter_sets(result, problem.model, optimum.clone)
    x = np.array([d.value for d in optimum.optimum.decisions])
    lineage = process_lineage(result, problem, optimum, seed=s.cfg.seed)
    found = put_under_stress(
        problem,
        optimum.clone,
        x,
        ensemble,
        s.cfg.stress.drifts,
        s.cfg.optimise,
        lineage,
        s.progress,
        optimum.bounds,
    )
    s.keep(found, "stress")
    s.lines(stress_lines(found))
    s.table(drifts_csv(found), "drifts")
    s.table(influences_csv(found), "influences")
    s.figure(tornado(found), "tornado")
    s.figure(drifts(found), "drifts")
    return found
