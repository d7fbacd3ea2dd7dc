"""Constrained maximisation from many starts, each start a lane of one batch with exact derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls
from scipy.stats import qmc

from optim.optimisation.sequential_quadratic import FAILED, FEASIBLE, Start, Stop, Values, minimise_lanes, violations
from optim.process.design import Design
from optim.process.metrics import find_metric
from optim.process.problem import ProcessProblem
from optim.settings.optimisation import OptimiseSettings

Progress = Callable[[str], None]
ACTIVE = 1e-4  # of a limit or a decision's span: what is nearer to it binds


@dataclass(frozen=True)
class Solution:
    """Where one start ended. `objective` is the log of the maximised metric at `x`."""

    start: int
    x: np.ndarray
    objective: float
    max_violation: float
    kkt: float
    iterations: int
    success: bool
    message: str
    history: tuple[float, ...] = ()  # best feasible objective after each evaluation; NaN before the first


class Bounds(NamedTuple):
    """Bounds of the decisions of every lane, [L, D], in their units: a lane may hold or restrict some of them."""

    lower: np.ndarray
    upper: np.ndarray


def tiled(bounds: np.ndarray | None, lanes: int) -> Bounds | None:
    """The same bounds [2, D] in every lane."""
    return None if bounds is None else Bounds(*(np.tile(b, (lanes, 1)) for b in bounds))


@dataclass(frozen=True)
class Floor:
    """A metric of the whole batch that must be at least as good as `level` [L], one per lane."""

    metric: str
    level: np.ndarray


def solve(
    problem: ProcessProblem,
    starts: np.ndarray,
    parameters: np.ndarray,
    options: OptimiseSettings,
    progress: Progress = lambda text: None,
    bounds: Bounds | None = None,
    floors: tuple[Floor, ...] = (),
    prices: np.ndarray | None = None,
    reserve: dict[str, float] | None = None,
) -> list[Solution]:
    """Maximise from every start. starts [L, D] in the decisions' units, parameters [L, P], prices [L, I], row per lane.

    `reserve` draws limits in, by constraint, as a share of the limit. Returns one solution per lane, in order; none is
    dropped. `success` is False for one that did not converge, is not feasible, or could not be simulated.
    """
    clear: np.ndarray | float = 0.0
    if reserve:
        width = problem.evaluate(starts[:1], parameters[:1]).margins.shape[1]
        clear = np.array([reserve[name] for name in limit_rows(problem, width)])

    def evaluate(x: np.ndarray, lanes: np.ndarray) -> Answers:
        e, slopes = problem.derivatives(x, parameters[lanes], None if prices is None else prices[lanes])
        good = (e.status == 0) & np.isfinite(e.objective)
        margins, jacobian = [e.margins - clear], [slopes.margins]
        for floor in floors:
            i, level = list(problem.metrics).index(floor.metric), floor.level[lanes]
            scale = find_metric(floor.metric).sign / np.where(level == 0.0, 1.0, np.abs(level))
            margins.append((scale * (e.metrics[:, i] - level))[:, None])
            jacobian.append(scale[:, None, None] * slopes.metrics[:, i : i + 1])
        return Answers(
            e.objective, slopes.objective, np.concatenate(margins, axis=1), np.concatenate(jacobian, axis=1), good
        )

    return search(evaluate, starts, problem.design, options, progress, bounds)


class Answers(NamedTuple):
    """Of lanes L: the objective to maximise, its gradient, margins to keep at 0 or above, their Jacobian.

    `good` says whether a lane was simulated.
    """

    objective: np.ndarray  # [L]
    gradient: np.ndarray  # [L, D]
    margins: np.ndarray  # [L, R]
    jacobian: np.ndarray  # [L, R, D]
    good: np.ndarray  # [L]


def search(
    evaluate: Callable[[np.ndarray, np.ndarray], Answers],
    starts: np.ndarray,
    design: Design,
    options: OptimiseSettings,
    progress: Progress = lambda text: None,
    bounds: Bounds | None = None,
) -> list[Solution]:
    """`solve` for any question about decisions x [L, D]: `evaluate(x, lanes)` answers for the lanes it names."""
    low, span = design.lower, design.upper - design.lower
    wide = bounds or Bounds(np.tile(design.lower, (len(starts), 1)), np.tile(design.upper, (len(starts), 1)))
    floor, roof = np.clip((wide.lower - low) / span, 0.0, 1.0), np.clip((wide.upper - low) / span, 0.0, 1.0)

    def scaled(z: np.ndarray, lanes: np.ndarray) -> Values:
        a = evaluate(low + span * z, lanes)
        ok = a.good
        return Values(
            np.where(ok, -a.objective, np.inf),
            np.nan_to_num(np.where(ok[:, None], -a.gradient * span, 0.0)),
            np.nan_to_num(np.where(ok[:, None], a.margins, -1.0), nan=-1.0),
            np.nan_to_num(np.where(ok[:, None, None], a.jacobian * span, 0.0)),
            ok,
        )

    start = Start(np.clip((starts - low) / span, floor, roof), floor, roof)
    ends = minimise_lanes(
        scaled,
        start,
        Stop(options.tolerance, options.max_iterations),
        lambda running, turn: progress(f"optimise: {running} of {len(starts)} starts, round {turn}"),
    )
    found = []
    for lane, (z, message) in enumerate(zip(ends.z, ends.message, strict=True)):
        f, gradient, margins, jacobian, good = (x[lane] for x in ends.values)
        violation = float(violations(margins).max(initial=0.0))
        feasible = violation <= FEASIBLE
        if not good:
            message = FAILED
        elif not feasible:
            message = f"constraint violated by {violation:.2g} of its limit ({message})"
        elif not ends.converged[lane]:
            message = f"not converged ({message}); this is the best feasible process it saw"
        found.append(
            Solution(
                start=lane,
                x=low + span * z,
                objective=float(-f) if good else float("nan"),
                max_violation=violation if good else float("nan"),
                kkt=kkt_residual(z, gradient, margins, jacobian, floor[lane], roof[lane]) if good else float("nan"),
                iterations=int(ends.iterations[lane]),
                success=bool(good and feasible and ends.converged[lane]),
                message=message,
                history=tuple(-f for f in ends.history[lane]),
            )
        )
    return found


def limit_rows(problem: ProcessProblem, rows: int) -> list[str]:
    """Name of the limit that each of the margins belongs to."""
    ends = sum(c.where == "end" for c in problem.constraints)
    paths = len(problem.constraints) - ends
    nodes = (rows - ends) // paths if paths else 0
    return [c.name for c in problem.constraints for _ in range(1 if c.where == "end" else nodes)]


def kkt_residual(
    z: np.ndarray,
    gradient: np.ndarray,
    margins: np.ndarray,
    jacobian: np.ndarray,
    floor: np.ndarray | float = 0.0,
    roof: np.ndarray | float = 1.0,
) -> float:
    """Norm of what is left of the gradient after the best non-negative multipliers of active constraints and bounds."""
    rows = [jacobian[margins <= ACTIVE]]
    rows.append(np.eye(len(z))[z <= floor + ACTIVE])
    rows.append(-np.eye(len(z))[z >= roof - ACTIVE])
    active = np.concatenate([r.reshape(-1, len(z)) for r in rows])
    if not len(active):
        return float(np.linalg.norm(gradient))
    return float(nnls(active.T, gradient)[1])


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


def best(solutions: list[Solution]) -> Solution | None:
    """The feasible solution with the largest objective, converged or not; None when no start is feasible."""
    feasible = [s for s in solutions if np.isfinite(s.objective) and s.max_violation <= FEASIBLE]
    return max(feasible, key=lambda s: s.objective) if feasible else None
