"""Limits between the nodes: a process is looked at more closely than it was searched, and kept clear of what is seen.

A search checks limits along the path at the nodes of the design. Where the process breaks one between them (after a
bolus, say), the limit is drawn in by as much and the search goes on from there, until the closer look finds nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.optimisation.solve import FEASIBLE, Progress, Solution, best, limit_rows, solve, tiled
from optim.process.problem import ProcessProblem
from optim.settings.optimisation import OptimiseSettings

FINER = 2  # times as many nodes
LOOK_AFTER_BOLUS_H = 0.05  # a look just after each bolus, before cells have taken anything up
TIGHTENING_ROUNDS = 4


def finely(problem: ProcessProblem) -> ProcessProblem:
    """The same problem, looked at more closely."""
    d = problem.design
    return replace(problem, design=replace(d, node_step_h=d.node_step_h / FINER, look_after_h=LOOK_AFTER_BOLUS_H))


def broken(problem: ProcessProblem, x: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """By how much of itself each limit is broken at a closer look, for decisions [D], parameters [P]; 0 where kept."""
    if not problem.constraints:
        return {}
    margins = finely(problem).evaluate(x[None], p[None]).margins[0]
    names = np.array(limit_rows(problem, len(margins)))
    return {c.name: max(0.0, float(-margins[names == c.name].min())) for c in problem.constraints}


def kept_between(
    problem: ProcessProblem,
    found: Solution,
    p: np.ndarray,
    options: OptimiseSettings,
    progress: Progress,
    bounds: np.ndarray | None = None,
) -> tuple[Solution, dict[str, float]]:
    """A solution that keeps its limits between the nodes too (within `bounds` [2, D]), and what it still breaks.

    Where limits drawn in leave no process, the last one stands, with what it breaks.
    """
    own = tiled(bounds, 1)
    reserve = {c.name: 0.0 for c in problem.constraints}
    for _ in range(TIGHTENING_ROUNDS):
        more = {name: v for name, v in broken(problem, found.x, p).items() if v > FEASIBLE}
        if not more:
            return found, {}
        reserve |= {name: reserve[name] + 1.02 * v for name, v in more.items()}
        anew = best(solve(problem, found.x[None], p[None], options, progress, own, reserve=reserve))
        if anew is None:
            return found, more
        found = replace(anew, start=found.start)
    return found, {name: v for name, v in broken(problem, found.x, p).items() if v > FEASIBLE}
