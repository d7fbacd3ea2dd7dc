"""Optimal control profiles by multi-start optimisation, on a coarse grid first, with limits along the whole path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from optim.errors import ConfigError, InfeasibleError
from optim.optimal_control.interior_point import InteriorOptions, InteriorSolution, solve_interior_point
from optim.optimal_control.problem import ControlProblem
from optim.runtime import require_float64

LARGEST_VIOLATION = 1e-6  # relative violation of a limit, anywhere along the path, up to which it is met
FIRST_BARRIERS = (0.1, 1.0, 0.01, 0.001)  # first mu of each copy of a start that the caller passes
COARSE_INTERVALS = 30  # intervals that suffice to separate the local optima
RESTART_BARRIER = 1e-3  # first mu when a solution on a coarse grid is continued
REPAIR_BARRIER = 1e-5  # first mu when a solution is continued that violates a limit between two nodes
REPAIR_ROUNDS = 8
REFINING_VIOLATION = 1e-3  # a larger violation between two nodes adds nodes between them
MOST_PARTS = 16  # of an interval
INSET = 1e-4  # distance from the bounds at which a continued solution starts
BINDING_MARGIN = 1e-4  # relative margin below which a limit is binding
SAME_VALUE = 1e-6  # relative difference in value below which two optima count as one


@dataclass(frozen=True)
class ControlOptions:
    """Settings of a multi-start search over control profiles."""

    starts: int = 32  # random starts
    seed: int = 0  # of the random starts
    interior: InteriorOptions = field(default_factory=InteriorOptions)


@dataclass(frozen=True)
class ControlStart:
    """The result of one start."""

    start: int  # its index
    value: float
    violation: float  # largest relative violation of a limit along the whole path
    kkt: float  # residual of the KKT conditions
    iterations: int
    joined: int  # index of the start that it was merged into, or its own
    success: bool  # whether it converged with all limits met
    message: str  # why it ended


@dataclass(frozen=True)
class ControlOptimum:
    """The best control profiles of a search, which meet all limits, and the results of all starts."""

    controls: np.ndarray  # [N, profiles] in the unit of each control
    hours: float  # duration
    value: float
    violation: float  # largest relative violation of a limit along the whole path
    kkt: float  # residual of the KKT conditions
    success: bool  # whether the best start converged
    message: str  # why the best start ended
    binding: tuple[str, ...]  # names of the limits that are active
    starts: tuple[ControlStart, ...]

    @property
    def distinct_optima(self) -> tuple[float, ...]:
        """Values of the distinct local optima, best first."""
        optima: list[float] = []
        for value in sorted((s.value for s in self.starts if s.success), reverse=True):
            if not optima or optima[-1] - value > SAME_VALUE * abs(optima[-1]):
                optima.append(value)
        return tuple(optima)


def maximise_control(
    problem: ControlProblem,
    options: ControlOptions | None = None,
    *,
    first: np.ndarray | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> ControlOptimum:
    """Maximise the value of an optimal-control problem from many starts.

    Args:
        problem: the optimal-control problem with D decisions.
        options: number and seed of the random starts, and settings of the interior-point method.
        first: further starts [F, D], decisions scaled to 0..1. They come before the random starts. Each is run with
            several first values of mu and counts as as many starts.
        progress: called with a line of text before every iteration.

    Returns:
        The best profiles and the results of all starts.

    Raises:
        InfeasibleError: no start met all limits; the message names the limits in conflict.
        ConfigError: `first` has another number of decisions.
        OptimError: JAX is set to single precision.
    """
    require_float64("maximise_control")
    options = options or ControlOptions()
    coarse = coarsen_problem(problem)
    starts = random_starts(coarse, options.starts, options.seed)
    barrier = np.full(len(starts), options.interior.barrier)
    if first is not None:
        if np.shape(first)[-1:] != (problem.decision_count,):
            raise ConfigError(
                f"first: expected {problem.decision_count} scaled decisions per start, not shape {np.shape(first)}"
            )
        copies = np.repeat(resample_decisions(problem, coarse, np.atleast_2d(first)), len(FIRST_BARRIERS), axis=0)
        starts = np.concatenate([copies, starts])
        barrier = np.concatenate([np.resize(FIRST_BARRIERS, len(copies)), barrier])
    scale = _typical_value(coarse, starts)
    solution = solve_interior_point(coarse, starts, options.interior, scale=scale, barrier=barrier, progress=progress)
    joined, iterations = solution.joined, solution.iterations
    if coarse is not problem:
        w = resample_decisions(coarse, problem, solution.w)
        solution = _continue(problem, w, solution, options, scale, RESTART_BARRIER, None, progress)
        iterations = iterations + solution.iterations
    problem, solution, path_margins, more = _within_limits(problem, solution, options, scale, progress)
    violation = np.array([np.max(-b, initial=0.0) for b in path_margins])
    violation[~np.isfinite(solution.value)] = np.nan
    success = solution.success & (violation <= LARGEST_VIOLATION)
    reports = tuple(
        ControlStart(
            i, float(solution.value[i]), float(violation[i]), float(solution.kkt[i]), int(iterations[i] + more[i]),
            int(joined[i]), bool(success[i]), _message(solution.message[i], violation[i]),
        )
        for i in range(len(starts))
    )  # fmt: skip
    usable = np.flatnonzero((violation <= LARGEST_VIOLATION) & np.isfinite(solution.value))
    if not len(usable):
        raise InfeasibleError(_conflict(problem, solution, path_margins))
    # a start that did not converge is no success, but its feasible process may still be the best
    best = int(usable[np.argmax(solution.value[usable])])
    controls, hours = problem.decode_decisions(solution.w[best][None])
    close = path_margins[best].min(axis=0, initial=np.inf) < BINDING_MARGIN
    return ControlOptimum(
        controls[0],
        float(hours[0]),
        float(solution.value[best]),
        float(violation[best]),
        float(solution.kkt[best]),
        bool(success[best]),
        solution.message[best],
        tuple(limit.name for limit, near in zip(problem.limits, close, strict=True) if near),
        reports,
    )


def _message(message: str, violation: float) -> str:
    if np.isfinite(violation) and violation > LARGEST_VIOLATION:
        return f"a limit is violated by {violation:.2g} of it ({message})"
    return message


# --- starts and grids ---


def random_starts(problem: ControlProblem, count: int, seed: int) -> np.ndarray:
    """Random starts: independent values in every interval, times a random level for every start.

    A start that cannot be simulated is moved towards a quarter of every range until it can.

    Args:
        problem: the optimal-control problem with D decisions.
        count: number of starts.
        seed: of the random numbers.

    Returns:
        Decisions [count, D], scaled to 0..1.
    """
    if not count:
        return np.zeros((0, problem.decision_count))
    rng = np.random.default_rng(seed)
    profiles = problem.intervals * len(problem.profiles)
    w = rng.uniform(0.0, 1.0, (count, problem.decision_count))
    w[:, :profiles] *= rng.uniform(0.05, 1.0, (count, 1))
    for _ in range(8):
        failed = problem.simulate_decisions(w).status != 0
        if not failed.any():
            break
        w[failed, :profiles] = 0.5 * (w[failed, :profiles] + 0.25)
    return w


def coarsen_problem(problem: ControlProblem) -> ControlProblem:
    """The problem on a coarse grid for the search; the problem itself if its grid is coarse."""
    if problem.intervals <= COARSE_INTERVALS:
        return problem
    divisors = [n for n in range(COARSE_INTERVALS // 2, COARSE_INTERVALS + 1) if problem.intervals % n == 0]
    return replace(problem, intervals=max(divisors, default=COARSE_INTERVALS))


def resample_decisions(source: ControlProblem, target: ControlProblem, w: np.ndarray) -> np.ndarray:
    """Resample decisions on another grid: each interval takes the mean over its time.

    Args:
        source: the problem on the grid of `w`.
        target: the same problem on the new grid.
        w: decisions [L, D], scaled to 0..1.

    Returns:
        Decisions [L, D'] of the new grid, scaled to 0..1.
    """
    if source.intervals == target.intervals:
        return np.asarray(w)
    controls, hours = source.decode_decisions(w)
    old, new = np.linspace(0.0, 1.0, source.intervals + 1), np.linspace(0.0, 1.0, target.intervals + 1)
    overlap = np.minimum(new[1:, None], old[None, 1:]) - np.maximum(new[:-1, None], old[None, :-1])
    weight = np.maximum(overlap, 0.0) * target.intervals
    return target.encode_decisions(np.einsum("ts,lsp->ltp", weight, controls), hours)


def _typical_value(problem: ControlProblem, starts: np.ndarray) -> float:
    """Median size of the value over the starts; 1 if none could be simulated."""
    values = np.abs(problem.simulate_decisions(starts).value)
    values = values[np.isfinite(values) & (values > 0.0)]
    return float(np.median(values)) if len(values) else 1.0


# --- continuing ---


def _continue(
    problem: ControlProblem,
    w: np.ndarray,
    before: InteriorSolution,
    options: ControlOptions,
    scale: float,
    barrier: float,
    reserve: np.ndarray | None,
    progress: Callable[[str], None],
) -> InteriorSolution:
    """Continue an earlier solution from decisions w; merged lanes are solved once."""
    alone, back = np.unique(before.joined, return_inverse=True)
    solution = solve_interior_point(
        problem,
        np.clip(w[alone], INSET, 1.0 - INSET),
        options.interior,
        scale=scale,
        reserve=None if reserve is None else reserve[alone],
        barrier=np.full(len(alone), barrier),
        progress=progress,
    )
    return InteriorSolution(
        solution.w[back], solution.value[back], solution.margins[back], solution.kkt[back], solution.iterations[back],
        solution.success[back], [solution.message[i] for i in back], [solution.paths[i] for i in back],
        before.joined,
    )  # fmt: skip


def _within_limits(
    problem: ControlProblem,
    solution: InteriorSolution,
    options: ControlOptions,
    scale: float,
    progress: Callable[[str], None],
) -> tuple[ControlProblem, InteriorSolution, list[np.ndarray], np.ndarray]:
    """Constraint tightening: continue the solution until the limits are met between the nodes as well.

    If a limit is violated by much between two nodes, every interval is divided into more parts. A small violation is
    removed by a reserve at both ends of the part. Returns the problem with its parts, the solution, the smallest
    margins [pieces, limits] of every lane, and the iterations used.
    """
    more = np.zeros(len(solution.w), int)
    reserve = np.zeros((len(solution.w), int(problem.margin_places.sum())))
    path_margins = [problem.margins_along_path(w, path) for w, path in zip(solution.w, solution.paths, strict=True)]
    for _ in range(REPAIR_ROUNDS):
        short = np.stack([np.maximum(-b[problem.margin_places], 0.0) for b in path_margins])
        short = np.where(np.isfinite(short), short, 0.0)
        worst = short.max(axis=1, initial=0.0)
        # a lane that violates a limit at the nodes as well did not converge, and a finer grid does not help
        again = (worst > 0.5 * LARGEST_VIOLATION) & (-solution.margins.min(axis=1, initial=0.0) < REFINING_VIOLATION)
        if not again.any():
            break
        barrier = REPAIR_BARRIER
        if worst[again].max() > REFINING_VIOLATION and problem.parts < MOST_PARTS:
            problem, barrier = replace(problem, parts=2 * problem.parts), RESTART_BARRIER
            reserve = np.zeros((len(solution.w), int(problem.margin_places.sum())))
        else:
            reserve[again] = np.maximum(reserve[again], _needed_reserve(problem, solution.margins[again], short[again]))
        solution = _continue(problem, solution.w, solution, options, scale, barrier, reserve, progress)
        more += solution.iterations
        path_margins = [problem.margins_along_path(w, path) for w, path in zip(solution.w, solution.paths, strict=True)]
    return problem, solution, path_margins, more


def _needed_reserve(problem: ControlProblem, margins: np.ndarray, short: np.ndarray) -> np.ndarray:
    """Margins [L, R] that the nodes at both ends of a part need if a limit is violated within it by `short` [L, R]."""
    whole = np.zeros((len(margins), *problem.margin_places.shape))
    at_nodes = whole.copy()
    whole[:, problem.margin_places], at_nodes[:, problem.margin_places] = short, margins
    before = np.concatenate([whole[:, 1:], np.zeros_like(whole[:, :1])], axis=1)
    most = np.maximum(whole, before)
    needed = np.where(most > 0.0, at_nodes + 1.05 * most + 0.2 * LARGEST_VIOLATION, 0.0)
    return np.asarray(np.maximum(needed, 0.0)[:, problem.margin_places])


def _conflict(problem: ControlProblem, solution: InteriorSolution, path_margins: list[np.ndarray]) -> str:
    """The message of an infeasible problem: the limits that the least infeasible lane violates."""
    whole = {i: b.min(axis=0) for i, b in enumerate(path_margins) if np.isfinite(solution.value[i]) and b.size}
    if not whole:
        return "no start could be simulated; check the bounds of the profiles and the initial state"
    least = max(whole, key=lambda i: float(whole[i].min()))
    violated = [
        f"{limit.name} ({limit.kind} {limit.limit:g}, violated by {-m:.2g} of it)"
        for limit, m in zip(problem.limits, whole[least], strict=True)
        if m < -LARGEST_VIOLATION
    ]
    return f"no profile meets all limits. The closest one violates {', '.join(violated)}"
