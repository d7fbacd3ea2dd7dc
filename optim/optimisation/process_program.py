"""A process as a nonlinear program: its objective and limits in lanes, with floors and reserves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from optim.optimisation.solve import Answers, Bounds, Method, SequentialQuadratic
from optim.process.lanes import Lanes
from optim.process.metrics import find_metric
from optim.process.problem import ProcessProblem


@dataclass(frozen=True)
class Floor:
    """A metric of the whole batch that must be at least as good as `level` [L], one per lane."""

    metric: str
    level: np.ndarray


@dataclass(frozen=True)
class ProcessProgram:
    """The objective of a process to maximise within its limits, in every lane.

    `reserve` draws limits in, by constraint, as a share of the limit.
    """

    problem: ProcessProblem
    lanes: Lanes
    floors: tuple[Floor, ...] = ()
    reserve: dict[str, float] | None = None

    @property
    def lower(self) -> np.ndarray:
        """Lower bounds [D] of the decisions."""
        return self.problem.design.lower

    @property
    def upper(self) -> np.ndarray:
        """Upper bounds [D] of the decisions."""
        return self.problem.design.upper

    @property
    def method(self) -> Method:
        """By first derivatives."""
        return SequentialQuadratic()

    def answers(self, x: np.ndarray, lanes: np.ndarray) -> Answers:
        """Values and derivatives at points x [l, D] of the lanes [l]."""
        e, slopes = self.problem.derivatives(x, self.lanes.rows(lanes))
        good = (e.status == 0) & np.isfinite(e.objective)
        margins, jacobian = [e.margins], [slopes.margins]
        if self.reserve:
            margins[0] = e.margins - [self.reserve[name] for name in limit_rows(self.problem, e.margins.shape[1])]
        for floor in self.floors:
            i, level = list(self.problem.metrics).index(floor.metric), floor.level[lanes]
            scale = find_metric(floor.metric).sign / np.where(level == 0.0, 1.0, np.abs(level))
            margins.append((scale * (e.metrics[:, i] - level))[:, None])
            jacobian.append(scale[:, None, None] * slopes.metrics[:, i : i + 1])
        return Answers(
            e.objective, slopes.objective, np.concatenate(margins, axis=1), np.concatenate(jacobian, axis=1), good
        )


def limit_rows(problem: ProcessProblem, rows: int) -> list[str]:
    """Name of the limit that each of the margins belongs to."""
    ends = sum(c.where == "end" for c in problem.constraints)
    paths = len(problem.constraints) - ends
    nodes = (rows - ends) // paths if paths else 0
    return [c.name for c in problem.constraints for _ in range(1 if c.where == "end" else nodes)]


def tiled_bounds(bounds: np.ndarray | None, lanes: int) -> Bounds | None:
    """The same bounds [2, D] in every lane; None where there are none."""
    return None if bounds is None else Bounds(*(np.tile(b, (lanes, 1)) for b in bounds))


def start_points(problem: ProcessProblem, n: int, seed: int) -> np.ndarray:
    """The platform process, then a space-filling (scrambled Sobol) set of processes within the bounds, [n, D]."""
    design = problem.design
    points = [design.platform]
    if n > 1:
        dimension = len(design.decisions)
        size = 1 << int(np.ceil(np.log2(max(2, n - 1))))
        sobol = qmc.Sobol(dimension, scramble=True, rng=np.random.default_rng(seed)).random(size)[: n - 1]
        # away from the bounds: a corner is a poor place to start
        points += list(design.lower + (0.1 + 0.8 * sobol) * (design.upper - design.lower))
    return np.array(points)
