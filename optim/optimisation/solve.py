"""One optimiser face: the best decisions from every start, whatever the problem, by a method that is passed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from scipy.optimize import nnls

from optim.optimisation.sequential_quadratic import (
    FAILED,
    FEASIBLE,
    Start,
    Stop,
    Values,
    largest_violation,
    minimise_lanes,
)
from optim.settings.optimisation import OptimiseSettings

Progress = Callable[[str], None]
ACTIVE = 1e-4  # of a limit or a decision's span: what is nearer to it binds


def silent(text: str) -> None:
    """Progress that nobody reads."""


class Answers(NamedTuple):
    """Of points x [L, D]: the objective to maximise, its gradient, margins to keep at 0 or above, their Jacobian.

    `good` says whether a lane was simulated.
    """

    objective: np.ndarray  # [L]
    gradient: np.ndarray  # [L, D]
    margins: np.ndarray  # [L, R]
    jacobian: np.ndarray  # [L, R, D]
    good: np.ndarray  # [L]


class Program(Protocol):
    """A nonlinear program over lanes: something to maximise between bounds, with margins to keep at 0 or above."""

    @property
    def lower(self) -> np.ndarray:
        """Lower bounds [D] of the decisions, in their units."""

    @property
    def upper(self) -> np.ndarray:
        """Upper bounds [D]."""

    @property
    def method(self) -> Method:
        """The method that suits it."""

    def answers(self, x: np.ndarray, lanes: np.ndarray) -> Answers:
        """Values and first derivatives at points x [l, D] of the lanes [l]."""


class Method(Protocol):
    """A way to solve a program from many starts."""

    def __call__(
        self, program: Program, starts: np.ndarray, options: OptimiseSettings, bounds: Bounds, progress: Progress
    ) -> list[Solution]:
        """One solution per start [L, D], in order."""


class Bounds(NamedTuple):
    """Bounds of the decisions of every lane, [L, D], in their units: a lane may hold or restrict some of them."""

    lower: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True)
class Solution:
    """Where one start ended. `objective` is as a solver maximises it: the logarithm of a process's metric, at `x`."""

    start: int
    x: np.ndarray  # [D] in units of the decisions
    objective: float
    max_violation: float
    kkt: float
    iterations: int
    success: bool
    message: str
    history: tuple[float, ...] = ()  # best feasible objective after each evaluation; NaN before the first
    joined: int = -1  # the start whose way it met and shares; -1: none
    curvature: np.ndarray | None = field(default=None, repr=False)  # [D, D] of the Lagrangian, decisions scaled to 0..1

    @property
    def feasible(self) -> bool:
        """Whether it could be simulated and keeps all limits."""
        return bool(np.isfinite(self.objective) and self.max_violation <= FEASIBLE)


def solve(
    program: Program,
    starts: np.ndarray,
    options: OptimiseSettings,
    *,
    bounds: Bounds | None = None,
    method: Method | None = None,
    progress: Progress = silent,
) -> list[Solution]:
    """Maximise from every start.

    Args:
        program: A process in lanes, a risk over scenarios, or control profiles.
        starts: [L, D] in the decisions' units.
        options: When a start has converged, and how many steps it may take.
        bounds: Of each lane; those of the program where they are not given.
        method: `SequentialQuadratic` or `InteriorPoint`; the one that suits the program where it is not given.
        progress: Called with a line about every round.

    Returns:
        One solution per start, in order; none is dropped. `success` is False for one that did not converge, is not
        feasible, or could not be simulated; its message says which.
    """
    if bounds is None:
        bounds = Bounds(*(np.tile(b, (len(starts), 1)) for b in (program.lower, program.upper)))
    return (method or program.method)(program, np.asarray(starts, float), options, bounds, progress)


@dataclass(frozen=True)
class SequentialQuadratic:
    """Sequential quadratic programming, by first derivatives: for tens of decisions.

    `curvature` [L, D, D] is that of a solution nearby, for every lane: fewer steps are needed.
    """

    curvature: np.ndarray | None = None

    @classmethod
    def near(cls, solutions: list[Solution]) -> SequentialQuadratic:
        """The method for lanes that begin near solutions, one of them for each lane."""
        known = [s.curvature for s in solutions]
        return cls(np.array(known)) if known and all(k is not None for k in known) else cls()

    def __call__(
        self, program: Program, starts: np.ndarray, options: OptimiseSettings, bounds: Bounds, progress: Progress
    ) -> list[Solution]:
        """One solution per start."""
        low, span = program.lower, program.upper - program.lower
        floor, roof = (np.clip((b - low) / span, 0.0, 1.0) for b in bounds)

        def evaluate(z: np.ndarray, lanes: np.ndarray) -> Values:
            a = program.answers(low + span * z, lanes)
            ok = a.good
            return Values(
                np.where(ok, -a.objective, np.inf),
                np.nan_to_num(np.where(ok[:, None], -a.gradient * span, 0.0)),
                np.nan_to_num(np.where(ok[:, None], a.margins, -1.0), nan=-1.0),
                np.nan_to_num(np.where(ok[:, None, None], a.jacobian * span, 0.0)),
                ok,
            )

        def told(running: int, turn: int) -> None:
            progress(f"optimise: {running} of {len(starts)} starts, round {turn}")

        start = Start(np.clip((starts - low) / span, floor, roof), floor, roof, self.curvature)
        ends = minimise_lanes(evaluate, start, Stop(options.tolerance, options.max_iterations), progress=told)
        found = []
        for lane, (z, message) in enumerate(zip(ends.z, ends.message, strict=True)):
            f, gradient, margins, jacobian, good = (v[lane] for v in ends.values)
            violation = float(largest_violation(margins).max(initial=0.0))
            feasible = violation <= FEASIBLE
            if not good:
                message = FAILED
            elif not feasible:
                message = f"constraint violated by {violation:.2g} of its limit ({message})"
            elif not ends.converged[lane]:
                message = f"not converged ({message}); this is the best feasible process it saw"
            residual = kkt_residual(z, gradient, margins, jacobian=jacobian, floor=floor[lane], roof=roof[lane])
            found.append(
                Solution(
                    start=lane,
                    x=low + span * z,
                    objective=float(-f) if good else float("nan"),
                    max_violation=violation if good else float("nan"),
                    kkt=residual if good else float("nan"),
                    iterations=int(ends.iterations[lane]),
                    success=bool(good and feasible and ends.converged[lane]),
                    message=message,
                    history=tuple(-f for f in ends.history[lane]),
                    curvature=ends.curvature[lane],
                )
            )
        return found


def kkt_residual(
    z: np.ndarray,
    gradient: np.ndarray,
    margins: np.ndarray,
    *,
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


def best_solution(solutions: list[Solution]) -> Solution | None:
    """The feasible solution with the largest objective, converged or not; None when no start is feasible."""
    feasible = [s for s in solutions if s.feasible]
    return max(feasible, key=lambda s: s.objective) if feasible else None
