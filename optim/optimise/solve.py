"""Constrained maximisation from many starts: SciPy's SLSQP per start, all of them evaluated as lanes of one program.

Every start runs in a thread of its own; a round is evaluated when every live thread has asked for a point. So a library
solver decides, exact derivatives come from one compiled batch, and no start waits in a queue.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, nnls
from scipy.stats import qmc

from optim.process.problem import ProcessProblem

Progress = Callable[[str], None]
FEASIBLE = 1e-6  # largest relative violation of a constraint that counts as met
ACTIVE = 1e-4
SNAP = 1e-9  # of a decision's span


@dataclass(frozen=True)
class OptimiseOptions:
    """Settings of an optimisation. When clones are ranked, each starts from the `rank_starts` best processes that many
    starts have found for one of them."""

    starts: int = 12
    rank_starts: int = 3
    max_iterations: int = 80
    tolerance: float = 1e-6


@dataclass(frozen=True)
class Solution:
    """Where one start ended. `objective` is the log of the maximised metric, re-evaluated at `x`."""

    start: int
    x: np.ndarray
    objective: float
    max_violation: float
    kkt: float
    iterations: int
    success: bool
    message: str
    history: tuple[float, ...] = ()  # best feasible objective after each evaluation; NaN before the first


class _Rendezvous:
    """Collects one point from every live lane, evaluates them together, hands the answers back."""

    def __init__(self, evaluate: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]], x0: np.ndarray):
        self._evaluate = evaluate  # (points, their lanes) -> answers
        self._x = x0.copy()
        self._lanes = len(x0)
        self._waiting: set[int] = set()
        self._live = set(range(self._lanes))
        self._answers: dict[int, tuple[np.ndarray, ...]] = {}
        self._round = 0
        self._error: BaseException | None = None
        self._turn = threading.Condition()
        self.rounds_done: Callable[[int], None] = lambda n: None

    def ask(self, lane: int, x: np.ndarray) -> tuple[np.ndarray, ...]:
        with self._turn:
            mine = self._round
            self._x[lane] = x
            self._waiting.add(lane)
            self._turn.notify_all()
            while self._round == mine and self._error is None:
                self._turn.wait()
            if self._error is not None:
                raise RuntimeError("a lane beside this one failed") from self._error
            return self._answers[lane]

    def leave(self, lane: int) -> None:
        with self._turn:
            self._live.discard(lane)
            self._turn.notify_all()

    def serve(self) -> None:
        """Run in the caller's thread until every lane has left."""
        while True:
            with self._turn:
                while self._live and not self._live <= self._waiting:
                    self._turn.wait()
                if not self._live:
                    return
                try:
                    lanes = np.array(sorted(self._waiting))
                    answers = self._evaluate(self._x[lanes], lanes)
                    self._answers = {int(k): tuple(a[i] for a in answers) for i, k in enumerate(lanes)}
                except BaseException as err:
                    self._error = err
                    self._turn.notify_all()
                    raise
                self._waiting.clear()
                self._round += 1
                self.rounds_done(self._round)
                self._turn.notify_all()


def solve(
    problem: ProcessProblem,
    starts: np.ndarray,
    parameters: np.ndarray,
    options: OptimiseOptions,
    progress: Progress = lambda text: None,
) -> list[Solution]:
    """Maximise from every start. starts [L, D] in the decisions' units, parameters [L, P], one row per lane.

    Returns one solution per lane, in order; none is dropped. `success` is False for one that did not converge, is not
    feasible, or could not be simulated.
    """
    low, span = problem.design.lower, problem.design.upper - problem.design.lower
    unit = np.clip((starts - low) / span, 0.0, 1.0)

    def evaluate(z: np.ndarray, lanes: np.ndarray) -> tuple[np.ndarray, ...]:
        e, g, j = problem.derivatives(low + span * z, parameters[lanes])
        good = (e.status == 0) & np.isfinite(e.objective)
        # a point that cannot be simulated is worse than any other to the line search; it is never returned as a result
        f = np.where(good, -e.objective, 1e3)
        c = np.where(good[:, None], e.margins, -1e3)
        gradient = np.where(good[:, None], -g * span, 0.0)
        jacobian = np.where(good[:, None, None], j * span, 0.0)
        return f, np.nan_to_num(gradient), np.nan_to_num(c, nan=-1e3), np.nan_to_num(jacobian), good

    meeting = _Rendezvous(evaluate, unit)
    meeting.rounds_done = lambda n: progress(f"optimise: {len(unit)} starts, evaluation {n}")
    found: list[Solution | None] = [None] * len(unit)

    def work(lane: int) -> None:
        try:
            found[lane] = _slsqp(meeting, lane, unit[lane], options, low, span)
        except RuntimeError:
            pass  # the error is raised once, by the thread that evaluates
        finally:
            meeting.leave(lane)

    threads = [threading.Thread(target=work, args=(lane,), daemon=True) for lane in range(len(unit))]
    for thread in threads:
        thread.start()
    meeting.serve()
    for thread in threads:
        thread.join()
    return [s for s in found if s is not None]


def _slsqp(
    meeting: _Rendezvous, lane: int, z0: np.ndarray, options: OptimiseOptions, low: np.ndarray, span: np.ndarray
) -> Solution:
    known: dict[bytes, tuple[np.ndarray, ...]] = {}
    kept: list[np.ndarray] = []  # the best feasible point seen: a solve that is cut short is never worse than its start
    lowest = np.inf
    history: list[float] = []

    def at(z: np.ndarray) -> tuple[np.ndarray, ...]:
        nonlocal lowest
        key = z.tobytes()
        if key not in known:
            if len(known) > 3:
                known.clear()
            known[key] = f, _, c, _, good = meeting.ask(lane, z)
            if good and f < lowest and np.min(c, initial=0.0) >= -FEASIBLE:
                lowest, kept[:] = float(f), [z.copy()]
            history.append(-lowest if np.isfinite(lowest) else float("nan"))
        return known[key]

    result = minimize(
        lambda z: float(at(z)[0]),
        z0,
        jac=lambda z: at(z)[1],
        bounds=[(0.0, 1.0)] * len(z0),
        constraints=[{"type": "ineq", "fun": lambda z: at(z)[2], "jac": lambda z: at(z)[3]}] if at(z0)[2].size else [],
        method="SLSQP",
        options={"maxiter": options.max_iterations, "ftol": options.tolerance},
    )
    z = np.clip(result.x, 0.0, 1.0)
    z = np.where(z < SNAP, 0.0, np.where(z > 1.0 - SNAP, 1.0, z))  # a volume of 1e-16 mL is no volume
    f, gradient, c, jacobian, good = at(z)
    violation = float(np.max(-c, initial=0.0))
    feasible = violation <= FEASIBLE
    message = str(result.message)
    if kept and not (good and feasible):
        z = kept[0]
        f, gradient, c, jacobian, good = at(z)
        violation, feasible = float(np.max(-c, initial=0.0)), True
        message = f"not converged ({message}); this is the best feasible process it saw"
    if not good:
        message = "the process could not be simulated"
    elif not feasible:
        message = f"constraint violated by {violation:.2g} of its limit ({message})"
    return Solution(
        start=lane,
        x=low + span * z,
        objective=float(-f) if good else float("nan"),
        max_violation=violation if good else float("nan"),
        kkt=kkt_residual(z, gradient, c, jacobian) if good else float("nan"),
        iterations=int(result.nit),
        success=bool(good and feasible and result.status == 0),
        message=message,
        history=tuple(history),
    )


def kkt_residual(z: np.ndarray, gradient: np.ndarray, margins: np.ndarray, jacobian: np.ndarray) -> float:
    """Norm of what is left of the gradient after the best non-negative multipliers of active constraints and bounds."""
    rows = [jacobian[margins <= ACTIVE]]
    rows.append(np.eye(len(z))[z <= ACTIVE])
    rows.append(-np.eye(len(z))[z >= 1.0 - ACTIVE])
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
