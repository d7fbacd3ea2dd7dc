"""Trade-offs: the front of processes between two metrics, where none can be bettered in one without loss in the other.

Epsilon-constraint (Haimes et al. 1971): one metric is maximised while the other must reach a level; the levels lie
evenly between what each alone allows. All points are lanes of one batch, then start again from their neighbours' ends,
so that no point is left in a worse local optimum than the one beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from optim.artefact import Artefact, Lineage
from optim.errors import ConfigError, InfeasibleError, nearest
from optim.optimisation.process_program import Floor, ProcessProgram, start_points, tiled_bounds
from optim.optimisation.solve import Progress, SequentialQuadratic, Solution, best_solution, solve
from optim.optimisation.study import Study
from optim.process.lanes import one_lane
from optim.process.metrics import OBJECTIVES
from optim.runtime import require_float64
from optim.settings.optimisation import OptimiseSettings, ParetoSettings

NEIGHBOUR_ROUNDS = 2  # of starting again from the neighbours


@dataclass(frozen=True)
class FrontPoint:
    """One process on the front, at the estimate."""

    first: float
    second: float
    decisions: dict[str, float]
    kkt_residual: float
    success: bool


@dataclass(frozen=True, repr=False)
class Front(Artefact):
    """Processes of one clone from the best in the first metric to the best in the second.

    `hypervolume` is the share of the rectangle between the front's worst and best values of both that lies below the
    front: 0.5 for a straight line, 1 where both can be had at once.
    """

    schema: ClassVar[str] = "optim.front/2"
    made_by: ClassVar[str] = "optim pareto"

    lineage: Lineage
    clone: str
    first: str  # metric
    second: str
    first_unit: str
    second_unit: str
    points: tuple[FrontPoint, ...]
    platform: tuple[float, float]
    hypervolume: float
    lost: int  # levels at which no start met all limits


def pareto_front(
    study: Study,
    clone: str,
    parameters: np.ndarray,
    *,
    settings: ParetoSettings,
    bounds: np.ndarray | None = None,
) -> Front:
    """Find the Pareto front between the objective of a study and another one.

    Args:
        study: the problem and its settings.
        clone: its id, for the result.
        parameters: of the clone [P].
        settings: the other objective, and the number of points.
        bounds: of the decisions [2, D], where choices were made.

    Raises:
        ConfigError: the other objective is unknown, or is the one that is maximised already.
        InfeasibleError: no start is feasible.
    """
    require_float64("pareto_front")
    problem, options, lineage, progress = study.problem, study.search, study.lineage, study.progress
    against, points = settings.against, settings.points
    if against not in OBJECTIVES:
        raise ConfigError(
            f"pareto.against: unknown '{against}'.{nearest(against, OBJECTIVES)} Known: {', '.join(OBJECTIVES)}"
        )
    try:
        other = replace(problem, objective=replace(problem.objective, maximise=against, mix=()))
    except ConfigError as err:
        raise ConfigError(f"pareto.against: {err}") from err
    if other.metric == problem.metric:
        raise ConfigError(f"pareto.against: {against} is what is maximised already")
    if points < 3:
        raise ConfigError("pareto.points: a front needs at least 3")
    if other.metric not in problem.metrics:  # profit has to be known to both
        raise ConfigError("objective.market: missing; profit needs a price, a demand and the days of a suite")
    starts = start_points(problem, options.starts, lineage.seed)
    lane = one_lane(parameters)
    ends = list[Solution]()
    for p in (problem, other):
        program, own = ProcessProgram(p, lane.tiled(len(starts))), tiled_bounds(bounds, len(starts))
        top = best_solution(solve(program, starts, options, bounds=own, progress=progress))
        if top is None:
            raise InfeasibleError("no process meets all limits; `optim optimise` says which are in conflict")
        ends.append(top)
    places = [list(problem.metrics).index(m) for m in (problem.metric, other.metric)]
    at_ends = problem.evaluate(np.array([s.x for s in ends]), lane.tiled(2)).metrics[:, places]
    levels = np.linspace(at_ends[0, 1], at_ends[1, 1], points)[1:-1]
    n = len(levels)
    front = _Levels(ProcessProgram(problem, lane.tiled(n), (Floor(other.metric, levels),)), options, bounds, progress)
    share = np.linspace(0.0, 1.0, points)[1:-1, None]
    found = front.solve((1.0 - share) * ends[0].x + share * ends[1].x)
    found = front.better(found, front.solve_near([ends[1]] * n))
    for _ in range(NEIGHBOUR_ROUNDS):
        for step in (1, -1):  # from the neighbour that reaches more of the other metric, then from the one with less
            row = [ends[0], *(s or ends[1] for s in found), ends[1]]
            found = front.better(found, front.solve_near(row[1 + step : 1 + step + n]))
    kept = [s for s in found if s is not None]
    x = np.array([ends[0].x, *(s.x for s in kept), ends[1].x])
    values = problem.evaluate(x, lane.tiled(len(x))).metrics[:, places]
    platform = problem.evaluate(problem.design.platform[None], lane).metrics[0, places]
    names = [d.name for d in problem.design.decisions]
    reports = [(0.0, True), *((s.kkt, s.success) for s in kept), (0.0, True)]
    rows = [
        FrontPoint(float(a), float(b), dict(zip(names, map(float, row), strict=True)), kkt, ok)
        for (a, b), row, (kkt, ok) in zip(values, x, reports, strict=True)
    ]
    scores = values * [p.objective.target.sign for p in (problem, other)]
    upper = nondominated_points(scores)
    return Front(
        lineage=lineage,
        clone=clone,
        first=problem.metric,
        second=other.metric,
        first_unit=problem.metrics[problem.metric].unit,
        second_unit=problem.metrics[other.metric].unit,
        points=tuple(rows[i] for i in upper),
        platform=(float(platform[0]), float(platform[1])),
        hypervolume=hypervolume(scores[upper]),
        lost=len(levels) - len(kept),
    )


@dataclass(frozen=True)
class _Levels:
    """The best process that reaches each level of a metric, one lane per level."""

    program: ProcessProgram
    options: OptimiseSettings
    bounds: np.ndarray | None
    progress: Progress

    def solve(self, starts: np.ndarray, method: SequentialQuadratic | None = None) -> list[Solution | None]:
        """From one start each [n, D]; None where none is feasible."""
        own = tiled_bounds(self.bounds, len(starts))
        found = solve(self.program, starts, self.options, bounds=own, method=method, progress=self.progress)
        return [best_solution([s]) for s in found]

    def solve_near(self, solutions: list[Solution]) -> list[Solution | None]:
        """From a solution each."""
        return self.solve(np.array([s.x for s in solutions]), SequentialQuadratic.near(solutions))

    @staticmethod
    def better(found: list[Solution | None], more: list[Solution | None]) -> list[Solution | None]:
        """The better of two at every level."""
        return [best_solution([s for s in pair if s is not None]) for pair in zip(found, more, strict=True)]


def nondominated_points(scores: np.ndarray) -> list[int]:
    """Rows of scores [n, 2] (more is better) that no other row betters in both, by the second score."""
    rows = []
    for i, s in enumerate(scores):
        others = np.delete(scores, i, axis=0)
        if not np.any((others >= s).all(axis=1) & (others > s).any(axis=1)):
            rows.append(i)
    return sorted(rows, key=lambda i: (scores[i, 1], -scores[i, 0]))


def hypervolume(scores: np.ndarray) -> float:
    """Share of its own rectangle that lies below a front [n, 2] of nondominated scores, straight between points."""
    a, b = scores[np.argsort(scores[:, 1])].T
    if len(a) < 2 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return 1.0
    return float(np.trapezoid((a - a.min()) / np.ptp(a), (b - b.min()) / np.ptp(b)))
