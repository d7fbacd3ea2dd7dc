"""Analyses the sensitivity of the optimum to parameters, prices and disturbances."""

from __future__ import annotations

from optim.app import library
from optim.app.process import configured_process
from optim.app.session import Session
from optim.app.stored import stored_fit, stored_optimum
from optim.optimisation.sensitivity import Stress


def stress_command(s: Session) -> Stress:
    """Sensitivity analysis of the optimum; reads `out/fit` and `out/optimum`, writes `out/stress`."""
    s.reserve("stress")
    result = stored_fit(s)
    process = configured_process(s.cfg, result)
    optimum = stored_optimum(s, result, process.problem)
    s.begin_run()
    found = library.sensitivity(result, process, optimum, seed=s.cfg.seed, progress=s.progress)
    s.publish(found)
    return found
