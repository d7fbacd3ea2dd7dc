"""Finds the trade-off between the objective and another one."""

from __future__ import annotations

from optim.app import library
from optim.app.process import configured_process
from optim.app.session import Session
from optim.app.stored import stored_fit, stored_optimum
from optim.optimisation.pareto import Front


def pareto_command(s: Session) -> Front:
    """The trade-off between two objectives at the estimate; reads `out/fit` and `out/optimum`, writes `out/front`."""
    s.reserve("front")
    result = stored_fit(s)
    process = configured_process(s.cfg, result)
    optimum = stored_optimum(s, result, process.problem)
    s.begin_run()
    found = library.pareto(result, process, optimum, seed=s.cfg.seed, progress=s.progress)
    s.publish(found)
    return found
