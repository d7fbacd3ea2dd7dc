"""Constrained maximisation from many starts: SciPy's SLSQP per start, all of them evaluated as lanes of one program.

Every start runs in a thread of its own; a round is evaluated when every live thread has asked for a point. So a library
solver decides, exact derivatives come from one compiled batch, and no start waits in a queue.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize, nnls
from scipy.stats import qmc

from optim.process.design import Design
from optim.process.metrics import find_metric
from optim.process.problem import ProcessProblem
from optim.settings.optimisation import OptimiseSettings

Progress = Callable[[str], None]
FEASIBLE = 1e-6  # largest relative violation of a constraint that counts as met
ACTIVE = 1e-4
SNAP = 1e-9  # of a decision's span


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

    def __init__(self, evaluate: Callable[[np.ndarray, np.ndarray], tuple[Any, ...]], x0: np.ndarray):
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
            i = list(problem.metrics).index(floor.metric)
            sign = find_metric(floor.metric).sign
            scale = np.maximum(np.abs(floor.level[lanes]), 1e-12 * np.abs(floor.level).max() + 1e-300)
            margins.append((sign * (e.metrics[:, i] - floor.level[lanes]) / scale)[:, None])
            jacobian.append(sign * slopes.metrics[:, i : i + 1] / scale[:, None, None])
        return Answers(
            e.objective, slopes.objective, np.concatenate(margins, axis=1), np.concatenate(jacobian, axis=1), good
        )

    return search(evaluate, starts, problem.design, options, progress, bounds)


class Answers(NamedTuple):
    """What is known of lanes L: the objective to maximise, its gradient, margins to keep >= 0, their Jacobian.

    Lanes may have margins of different number: then those two are lists. `good` says whether a lane was simulated.
    """

    objective: np.ndarray  # [L]
    gradient: np.ndarray  # [L, D]
    margins: Sequence[np.ndarray] | np.ndarray  # [L][R]
    jacobian: Sequence[np.ndarray] | np.ndarray  # [L][R, D]
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
    unit = np.clip((starts - low) / span, floor, roof)

    def ask(z: np.ndarray, lanes: np.ndarray) -> tuple[Any, ...]:
        a = evaluate(low + span * z, lanes)
        # a point that cannot be simulated is worse than any other to the line search; it is never returned as a result
        f = np.where(a.good, -a.objective, 1e3)
        gradient = np.nan_to_num(np.where(a.good[:, None], -a.gradient * span, 0.0))
        c = [
            np.nan_to_num(m if ok else np.full(m.shape, -1e3), nan=-1e3)
            for m, ok in zip(a.margins, a.good, strict=True)
        ]
        jacobian = [np.nan_to_num(j * span if ok else 0.0 * j) for j, ok in zip(a.jacobian, a.good, strict=True)]
        return f, gradient, c, jacobian, a.good

    meeting = _Rendezvous(ask, unit)
    meeting.rounds_done = lambda n: progress(f"optimise: {len(unit)} starts, evaluation {n}")
    found: list[Solution | None] = [None] * len(unit)

    def work(lane: int) -> None:
        try:
            found[lane] = _slsqp(meeting, lane, unit[lane], (floor[lane], roof[lane]), options, low, span)
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
    meeting: _Rendezvous,
    lane: int,
    z0: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    options: OptimiseSettings,
    low: np.ndarray,
    span: np.ndarray,
) -> Solution:
    known: dict[bytes, tuple[np.ndarray, ...]] = {}
    kept: list[np.ndarray] = []  # the best feasible point seen: a solve that is cut short is never worse than its start
    lowest = np.inf
    history: list[float] = []
    floor, roof = bounds

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
        bounds=list(zip(floor, roof, strict=True)),
        constraints=[{"type": "ineq", "fun": lambda z: at(z)[2], "jac": lambda z: at(z)[3]}] if at(z0)[2].size else [],
        method="SLSQP",
        options={"maxiter": options.max_iterations, "ftol": options.tolerance},
    )
    z = np.clip(result.x, floor, roof)
    z = np.where(z < floor + SNAP, floor, np.where(z > roof - SNAP, roof, z))  # a volume of 1e-16 mL is no volume
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
        kkt=kkt_residual(z, gradient, c, jacobian, floor, roof) if good else float("nan"),
        iterations=int(result.get("nit", 0)),  # 0 where everything is held
        success=bool(good and feasible and result.status == 0),
        message=message,
        history=tuple(history),
    )


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
