"""Limits between the nodes: a process is looked at more closely than it was searched, and kept clear of what is seen.

A search checks limits along the path at the nodes of the design. Where the process breaks one between them (after a
bolus, say), the limit is drawn in by as much and the search goes on from there, until the closer look finds nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.optimisation.process_program import ProcessProgram, limit_rows, tiled_bounds
from optim.optimisation.sequential_quadratic import FEASIBLE
from optim.optimisation.solve import Progress, SequentialQuadratic, Solution, best_solution, silent, solve
from optim.process.lanes import Lanes
from optim.process.problem import ProcessProblem
from optim.settings.optimisation import OptimiseSettings

FINER = 2  # times as many nodes
LOOK_AFTER_BOLUS_H = 0.05  # a look just after each bolus, before cells have taken anything up
TIGHTENING_ROUNDS = 4


def finer_problem(problem: ProcessProblem) -> ProcessProblem:
    """The same problem, looked at more closely."""
    d = problem.design
    return replace(problem, design=replace(d, node_step_h=d.node_step_h / FINER, look_after_h=LOOK_AFTER_BOLUS_H))


def limit_violations(problem: ProcessProblem, x: np.ndarray, lane: Lanes) -> dict[str, float]:
    """By how much of itself each limit is broken at a closer look, for decisions [D] in a lane; 0 where kept."""
    if not problem.constraints:
        return {}
    margins = finer_problem(problem).evaluate(x[None], lane).margins[0]
    names = np.array(limit_rows(problem, len(margins)))
    return {c.name: max(0.0, float(-margins[names == c.name].min())) for c in problem.constraints}


def tighten_constraints(
    problem: ProcessProblem,
    found: Solution,
    lane: Lanes,
    *,
    options: OptimiseSettings,
    bounds: np.ndarray | None = None,
    progress: Progress = silent,
) -> tuple[Solution, dict[str, float]]:
    """A solution that keeps its limits between the nodes too (within `bounds` [2, D]), and what it still breaks.

    Where limits drawn in leave no process, the last one stands, with what it breaks.
    """
    reserve = {c.name: 0.0 for c in problem.constraints}
    for _ in range(TIGHTENING_ROUNDS):
        more = {name: v for name, v in limit_violations(problem, found.x, lane).items() if v > FEASIBLE}
        if not more:
            return found, {}
        reserve |= {name: reserve[name] + 1.02 * v for name, v in more.items()}
        program = ProcessProgram(problem, lane, reserve=reserve)
        near = SequentialQuadratic.near([found])
        own = tiled_bounds(bounds, 1)
        anew = best_solution(solve(program, found.x[None], options, bounds=own, method=near, progress=progress))
        if anew is None:
            return found, more
        found = replace(anew, start=found.start)
    return found, {name: v for name, v in limit_violations(problem, found.x, lane).items() if v > FEASIBLE}
