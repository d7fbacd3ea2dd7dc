"""Best control profiles from many starts: coarse grid first, limits kept between nodes too, every start reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from optim.errors import ConfigError, InfeasibleError
from optim.optimal_control.interior_point import InteriorOptions, InteriorSolution, solve_interior_point
from optim.optimal_control.problem import ControlProblem
from optim.runtime import require_float64

FEASIBLE_PATH = 1e-6  # largest relative violation of a limit, anywhere along the path, that counts as met
BARRIERS = (0.1, 1.0, 0.01, 0.001)  # first mu from which a start that is given is followed
COARSE = 30  # intervals that are enough to find which optimum it is
RESTART = 1e-3  # mu from which a solution on a coarse grid is continued
REPAIR = 1e-5  # mu from which one is continued that breaks a limit between two nodes
REPAIR_ROUNDS = 8
COARSELY = 1e-3  # a limit broken by more between two nodes asks for nodes between them
PARTS = 16
INSET = 1e-4  # how far from its bounds a continued solution begins
BINDING = 1e-4  # of a limit: what is closer to it is binding
SAME_VALUE = 1e-6  # relative: optima that differ by less in value are one


@dataclass(frozen=True)
class ControlOptions:
    """Settings of a search over profiles."""

    starts: int = 32
    seed: int = 0
    interior: InteriorOptions = field(default_factory=InteriorOptions)


@dataclass(frozen=True)
class ControlStart:
    """Where one start ended. `violation` is the largest relative one along its whole path, `joined` the start whose way
    it met and shared (itself if none)."""

    start: int
    value: float
    violation: float
    kkt: float
    iterations: int
    joined: int
    success: bool
    message: str


@dataclass(frozen=True)
class ControlOptimum:
    """The best profiles found, and all starts.

    All limits are met. `success` is False where the best start did not converge: `message` says why it ended.
    """

    controls: np.ndarray  # [N, profiles]
    hours: float
    value: float
    violation: float
    kkt: float
    success: bool
    message: str
    binding: tuple[str, ...]
    starts: tuple[ControlStart, ...]

    @property
    def distinct_optima(self) -> tuple[float, ...]:
        """Values of the distinct local optima found, best first."""
        found: list[float] = []
        for value in sorted((s.value for s in self.starts if s.success), reverse=True):
            if not found or found[-1] - value > SAME_VALUE * abs(found[-1]):
                found.append(value)
        return tuple(found)


def maximise_control(
    problem: ControlProblem,
    options: ControlOptions | None = None,
    first: np.ndarray | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> ControlOptimum:
    """Best value from `options.starts` random starts and, if given, scaled decisions `first` [F, D], which come first.

    Each of those given is followed from several first values of mu, and counts as so many starts.

    Raises `InfeasibleError`, which names the limits in conflict, when no start ends with all limits met.
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
        given = np.repeat(resample_decisions(problem, coarse, np.atleast_2d(first)), len(BARRIERS), axis=0)
        starts = np.concatenate([given, starts])
        barrier = np.concatenate([np.resize(BARRIERS, len(given)), barrier])
    scale = _scale(coarse, starts)
    found = solve_interior_point(coarse, starts, options.interior, scale, barrier=barrier, progress=progress)
    joined, iterations = found.joined, found.iterations
    if coarse is not problem:
        found = _continue(
            problem, resample_decisions(coarse, problem, found.w), found, options, scale, RESTART, None, progress
        )
        iterations = iterations + found.iterations
    problem, found, between, more = _within_limits(problem, found, options, scale, progress)
    violation = np.array([np.max(-b, initial=0.0) for b in between])
    violation[~np.isfinite(found.value)] = np.nan
    success = found.success & (violation <= FEASIBLE_PATH)
    reports = tuple(
        ControlStart(
            i, float(found.value[i]), float(violation[i]), float(found.kkt[i]), int(iterations[i] + more[i]),
            int(joined[i]), bool(success[i]), _message(found.message[i], violation[i]),
        )
        for i in range(len(starts))
    )  # fmt: skip
    usable = np.flatnonzero((violation <= FEASIBLE_PATH) & np.isfinite(found.value))
    if not len(usable):
        raise InfeasibleError(_conflict(problem, found, between))
    # a solve that was cut short is no success, but a better process is a better process
    best = int(usable[np.argmax(found.value[usable])])
    controls, hours = problem.decode_decisions(found.w[best][None])
    close = between[best].min(axis=0, initial=np.inf) < BINDING
    return ControlOptimum(
        controls[0],
        float(hours[0]),
        float(found.value[best]),
        float(violation[best]),
        float(found.kkt[best]),
        bool(success[best]),
        found.message[best],
        tuple(limit.name for limit, near in zip(problem.limits, close, strict=True) if near),
        reports,
    )


def _message(message: str, violation: float) -> str:
    if np.isfinite(violation) and violation > FEASIBLE_PATH:
        return f"a limit is broken by {violation:.2g} of it ({message})"
    return message


# --- starts and grids ---


def random_starts(problem: ControlProblem, count: int, seed: int) -> np.ndarray:
    """Scaled decisions [count, D]: independent values in every interval, under a level of their own for every start.

    A start that cannot be simulated is drawn toward a steady quarter of every range until it can.
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
    """The same problem on a grid that is coarse enough to search on: itself, if it is."""
    if problem.intervals <= COARSE:
        return problem
    divisors = [n for n in range(COARSE // 2, COARSE + 1) if problem.intervals % n == 0]
    return replace(problem, intervals=max(divisors, default=COARSE))


def resample_decisions(source: ControlProblem, target: ControlProblem, w: np.ndarray) -> np.ndarray:
    """Scaled decisions on another grid: each interval has the mean over the time that it covers."""
    if source.intervals == target.intervals:
        return np.asarray(w)
    controls, hours = source.decode_decisions(w)
    old, new = np.linspace(0.0, 1.0, source.intervals + 1), np.linspace(0.0, 1.0, target.intervals + 1)
    shared = np.minimum(new[1:, None], old[None, 1:]) - np.maximum(new[:-1, None], old[None, :-1])
    share = np.maximum(shared, 0.0) * target.intervals
    return target.encode_decisions(np.einsum("ts,lsp->ltp", share, controls), hours)


def _scale(problem: ControlProblem, starts: np.ndarray) -> float:
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
    """Solve on from w, every distinct lane of an earlier solution once."""
    alone, back = np.unique(before.joined, return_inverse=True)
    kept = None if reserve is None else reserve[alone]
    begin = np.clip(w[alone], INSET, 1.0 - INSET)
    found = solve_interior_point(problem, begin, options.interior, scale, kept, np.full(len(alone), barrier), progress)
    return InteriorSolution(
        found.w[back], found.value[back], found.margins[back], found.kkt[back], found.iterations[back],
        found.success[back], [found.message[i] for i in back], [found.paths[i] for i in back],
        before.joined,
    )  # fmt: skip


def _within_limits(
    problem: ControlProblem,
    found: InteriorSolution,
    options: ControlOptions,
    scale: float,
    progress: Callable[[str], None],
) -> tuple[ControlProblem, InteriorSolution, list[np.ndarray], np.ndarray]:
    """Solve on until limits along the path are met between the nodes, where the solver does not look, as well.

    Where they are broken by much, every interval is looked at in more parts; what little is left is kept in reserve at
    both ends of that part. Returns the problem with its parts, the solution, the smallest margins [pieces, limits] of
    every lane, and the iterations used.
    """
    more = np.zeros(len(found.w), int)
    reserve = np.zeros((len(found.w), int(problem.margin_places.sum())))
    between = [problem.margins_along_path(w, path) for w, path in zip(found.w, found.paths, strict=True)]
    for _ in range(REPAIR_ROUNDS):
        short = np.stack([np.maximum(-b[problem.margin_places], 0.0) for b in between])
        short = np.where(np.isfinite(short), short, 0.0)
        worst = short.max(axis=1, initial=0.0)
        # a lane that breaks a limit at the nodes as well did not converge, and no finer look will mend it
        again = (worst > 0.5 * FEASIBLE_PATH) & (-found.margins.min(axis=1, initial=0.0) < COARSELY)
        if not again.any():
            break
        barrier = REPAIR
        if worst[again].max() > COARSELY and problem.parts < PARTS:
            problem, barrier = replace(problem, parts=2 * problem.parts), RESTART
            reserve = np.zeros((len(found.w), int(problem.margin_places.sum())))
        else:
            reserve[again] = np.maximum(reserve[again], _asked(problem, found.margins[again], short[again]))
        found = _continue(problem, found.w, found, options, scale, barrier, reserve, progress)
        more += found.iterations
        between = [problem.margins_along_path(w, path) for w, path in zip(found.w, found.paths, strict=True)]
    return problem, found, between, more


def _asked(problem: ControlProblem, margins: np.ndarray, short: np.ndarray) -> np.ndarray:
    """Margins [L, R] that the nodes at both ends of a part must have, where a limit is short within it."""
    whole = np.zeros((len(margins), *problem.margin_places.shape))
    here = whole.copy()
    whole[:, problem.margin_places], here[:, problem.margin_places] = short, margins
    before = np.concatenate([whole[:, 1:], np.zeros_like(whole[:, :1])], axis=1)
    most = np.maximum(whole, before)
    asked = np.where(most > 0.0, here + 1.05 * most + 0.2 * FEASIBLE_PATH, 0.0)
    return np.asarray(np.maximum(asked, 0.0)[:, problem.margin_places])


def _conflict(problem: ControlProblem, found: InteriorSolution, between: list[np.ndarray]) -> str:
    """Which limits the least infeasible lane breaks."""
    whole = {i: b.min(axis=0) for i, b in enumerate(between) if np.isfinite(found.value[i]) and b.size}
    if not whole:
        return "no start could be simulated; check the bounds of the profiles and the initial state"
    least = max(whole, key=lambda i: float(whole[i].min()))
    broken = [
        f"{limit.name} ({limit.kind} {limit.limit:g}, broken by {-m:.2g} of it)"
        for limit, m in zip(problem.limits, whole[least], strict=True)
        if m < -FEASIBLE_PATH
    ]
    return f"no profile meets all limits. The closest one breaks {', '.join(broken)}"
