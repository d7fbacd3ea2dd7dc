"""Optimal control profiles by multi-start optimisation, on a coarse grid first, with limits along the whole path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from optim.errors import ConfigError, InfeasibleError
from optim.optimal_control.interior_point import FIRST_BARRIER, solve_interior_point
from optim.optimal_control.problem import ControlProblem, LanePath
from optim.optimisation.control_starts import (
    coarsen_problem,
    neighbouring_starts,
    random_starts,
    resample_decisions,
)
from optim.optimisation.result import SolveReport
from optim.optimisation.sequential_quadratic import FEASIBLE
from optim.optimisation.solve import Answers, Bounds, Method, Program, Progress, Solution, silent, solve
from optim.runtime import require_float64
from optim.settings.optimisation import OptimiseSettings

FIRST_BARRIERS = (0.1, 1.0, 0.01, 0.001)  # first mu of each copy of a start that the caller passes
RESTART_BARRIER = 1e-3  # first mu when a solution on a coarse grid is continued
REPAIR_BARRIER = 1e-5  # first mu when a solution is continued that violates a limit between two nodes
REPAIR_ROUNDS = 8
REFINING_VIOLATION = 1e-3  # a larger violation between two nodes adds nodes between them
MOST_PARTS = 16  # of an interval
INSET = 1e-4  # distance from the bounds at which a continued solution starts
BINDING_MARGIN = 1e-4  # relative margin below which a limit is binding
SAME_VALUE = 1e-6  # relative difference in value below which two optima count as one
REACHED_VALUE = 1e-3  # relative difference in value below which a start has reached the best optimum
NEIGHBOUR_BARRIER = 0.1  # first mu of a search from beside a local optimum
BESIDE_ROUNDS = 3
OTHER_BARRIERS = (0.1, 0.01, 1e-4)  # first mu where a continued solution did not converge
TINY = np.finfo(float).tiny


@dataclass(frozen=True)
class ControlProgram:
    """The value of an optimal-control problem to maximise within its limits; decisions are in units of the controls."""

    problem: ControlProblem

    @property
    def lower(self) -> np.ndarray:
        """Lower bounds [D] of the decisions."""
        return self.problem.decision_bounds[0]

    @property
    def upper(self) -> np.ndarray:
        """Upper bounds [D] of the decisions."""
        return self.problem.decision_bounds[1]

    @property
    def method(self) -> Method:
        """By second derivatives."""
        return InteriorPoint()

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Decisions [L, D] scaled to 0..1."""
        return np.asarray((x - self.lower) / (self.upper - self.lower))

    def unscaled(self, w: np.ndarray) -> np.ndarray:
        """Decisions [L, D] in their units."""
        return np.asarray(self.lower + (self.upper - self.lower) * w)

    def answers(self, x: np.ndarray, lanes: np.ndarray) -> Answers:
        """Values and first derivatives at points x [l, D]."""
        w, width = self.scaled(x), self.upper - self.lower
        run = self.problem.simulate_decisions(w)
        gradient, jacobian = np.zeros_like(w), np.zeros((*run.margins.shape, w.shape[1]))
        good = np.flatnonzero(run.status == 0)
        if len(good):
            slopes = self.problem.first_derivatives(w[good], [run.paths[i] for i in good])
            gradient[good], jacobian[good] = slopes.value / width, slopes.margins / width
        return Answers(run.value, gradient, run.margins, jacobian, run.status == 0)


@dataclass(frozen=True)
class InteriorPoint:
    """The interior-point method, by exact second derivatives: for control profiles with hundreds of values."""

    barrier: np.ndarray | None = None  # [L] first mu of every start, relative to the size of the value
    reserve: np.ndarray | None = None  # [L, R] smallest allowed margin of every limit
    scale: float | None = None  # typical size of the value; None: its median over the starts

    def __call__(
        self, program: Program, starts: np.ndarray, options: OptimiseSettings, bounds: Bounds, progress: Progress
    ) -> list[Solution]:
        """One solution per start. Raises `ConfigError` for a program that knows no second derivatives."""
        if not isinstance(program, ControlProgram):
            raise ConfigError(
                f"the interior-point method needs second derivatives, which a {type(program).__name__} does not have; "
                "use SequentialQuadratic"
            )
        if any(np.any(own != whole) for own, whole in zip(bounds, (program.lower, program.upper), strict=True)):
            raise ConfigError("the interior-point method takes no bounds of single lanes; use SequentialQuadratic")
        problem, w = program.problem, program.scaled(starts)
        found = solve_interior_point(
            problem,
            w,
            options,
            scale=_typical_value(problem, w) if self.scale is None else self.scale,
            reserve=self.reserve,
            barrier=self.barrier,
            progress=progress,
        )
        x, violation = program.unscaled(found.w), np.maximum(-found.margins, 0.0).max(axis=1, initial=0.0)
        return [
            Solution(
                start=i,
                x=x[i],
                objective=float(found.value[i]),
                max_violation=float(violation[i]),
                kkt=float(found.kkt[i]),
                iterations=int(found.iterations[i]),
                success=bool(found.success[i] and violation[i] <= FEASIBLE),
                message=found.message[i],
                joined=int(found.joined[i]) if found.joined[i] != i else -1,
            )
            for i in range(len(x))
        ]


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
    starts: tuple[SolveReport, ...]
    joined: tuple[int, ...]  # index of the start that each was merged into, or its own

    @property
    def distinct_optima(self) -> tuple[float, ...]:
        """Values of the distinct local optima, best first."""
        optima: list[float] = []
        for value in sorted((s.objective for s in self.starts if s.success), reverse=True):
            if not optima or optima[-1] - value > SAME_VALUE * abs(optima[-1]):
                optima.append(value)
        return tuple(optima)

    @property
    def starts_at_best(self) -> int:
        """Number of starts that converged to a value within 0.1 % of the best."""
        least = self.value - REACHED_VALUE * abs(self.value)
        return sum(s.success and s.objective >= least for s in self.starts)

    def summary(self) -> str:
        """One sentence: how many starts reached the best optimum, how many others there are, and how far below."""
        optima = self.distinct_optima
        text = f"{self.starts_at_best} of {len(self.starts)} starts reached the best of {len(optima)} distinct optima"
        if len(optima) < 2:
            return text
        below = [1.0 - v / optima[0] if optima[0] else 0.0 for v in optima[1:]]
        return f"{text}; the others lie {min(below):.2%} to {max(below):.2%} below it"


def optimise_profiles(
    problem: ControlProblem,
    options: OptimiseSettings,
    *,
    seed: int = 0,
    first: np.ndarray | None = None,
    random: bool = True,
    progress: Progress = silent,
) -> ControlOptimum:
    """Maximise the value of an optimal-control problem from many starts.

    Args:
        problem: the optimal-control problem with D decisions.
        options: number of the random starts, tolerance of the KKT conditions, and the most iterations.
        seed: of the random starts.
        first: further starts [F, D], decisions scaled to 0..1. They come before the random starts. Each is run with
            several first values of mu and counts as as many starts.
        random: whether there are random starts.
        progress: called with a line of text before every iteration.

    Returns:
        The best profiles and the results of all starts.

    Raises:
        InfeasibleError: no start met all limits; the message names the limits in conflict.
        ConfigError: `first` has another number of decisions, or there are no starts.
        OptimError: JAX is set to single precision.
    """
    require_float64("optimise_profiles")
    coarse = coarsen_problem(problem)
    starts = random_starts(coarse, options.starts if random else 0, seed)
    barrier = np.full(len(starts), FIRST_BARRIER)
    if first is not None:
        if np.shape(first)[-1:] != (problem.decision_count,):
            raise ConfigError(
                f"first: expected {problem.decision_count} scaled decisions per start, not shape {np.shape(first)}"
            )
        copies = np.repeat(resample_decisions(problem, coarse, np.atleast_2d(first)), len(FIRST_BARRIERS), axis=0)
        starts = np.concatenate([copies, starts])
        barrier = np.concatenate([np.resize(FIRST_BARRIERS, len(copies)), barrier])
    if not len(starts):
        raise ConfigError("optimise_profiles: there are no starts; give `first`, or draw random ones")
    search = _Search(options, _typical_value(coarse, starts), progress)
    found = search.improve(coarse, search.solve_from(coarse, starts, barrier))
    joined, iterations = found.joined, found.iterations
    if coarse is not problem:
        found = search.continue_from(
            problem, resample_decisions(coarse, problem, found.w), found, barrier=RESTART_BARRIER
        )
        iterations = iterations + found.iterations
    problem, found, path_margins, more = _within_limits(problem, found, search)
    violation = np.array([np.max(-b, initial=0.0) for b in path_margins])
    violation[~np.isfinite(found.value)] = np.nan
    success = found.success & (violation <= FEASIBLE)
    reports = tuple(
        SolveReport(
            i, float(found.value[i]), float(violation[i]), float(found.kkt[i]), int(iterations[i] + more[i]),
            bool(success[i]), _message(found.message[i], violation[i]),
        )
        for i in range(len(starts))
    )  # fmt: skip
    usable = np.flatnonzero((violation <= FEASIBLE) & np.isfinite(found.value))
    if not len(usable):
        raise InfeasibleError(_conflict(problem, found, path_margins))
    # a start that did not converge is no success, but its feasible process may still be the best
    best = int(usable[np.argmax(found.value[usable])])
    controls, hours = problem.decode_decisions(found.w[best][None])
    close = path_margins[best].min(axis=0, initial=np.inf) < BINDING_MARGIN
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
        tuple(int(i) for i in joined),
    )


def _message(message: str, violation: float) -> str:
    if np.isfinite(violation) and violation > FEASIBLE:
        return f"a limit is violated by {violation:.2g} of it ({message})"
    return message


def _typical_value(problem: ControlProblem, starts: np.ndarray) -> float:
    """Median size of the value over the starts; 1 if none could be simulated."""
    values = np.abs(problem.simulate_decisions(starts).value)
    values = values[np.isfinite(values) & (values > 0.0)]
    return float(np.median(values)) if len(values) else 1.0


# --- continuing ---


@dataclass(frozen=True)
class _Found:
    """Where lanes L ended, with the paths of their simulations."""

    w: np.ndarray  # [L, D] decisions, scaled to 0..1
    value: np.ndarray
    margins: np.ndarray  # [L, R] at the nodes
    kkt: np.ndarray
    iterations: np.ndarray
    success: np.ndarray
    message: list[str]
    paths: list[LanePath]
    joined: np.ndarray  # [L] index of the start that each was merged into, or its own

    @classmethod
    def of(cls, problem: ControlProblem, solutions: Sequence[Solution]) -> _Found:
        """Of solutions, simulated once more."""
        w = ControlProgram(problem).scaled(np.array([s.x for s in solutions]))
        run = problem.simulate_decisions(w)
        return cls(
            w,
            run.value,
            run.margins,
            np.array([s.kkt for s in solutions]),
            np.array([s.iterations for s in solutions]),
            np.array([s.success for s in solutions]),
            [s.message for s in solutions],
            run.paths,
            np.array([i if s.joined < 0 else s.joined for i, s in enumerate(solutions)]),
        )

    def replaced(self, lanes: np.ndarray, other: _Found, *, source: np.ndarray, joined: np.ndarray) -> _Found:
        """The same with the ends of some `lanes` [L] taken from lanes `source` [L] of another search."""
        kept: dict[str, np.ndarray] = {
            name: np.where(lanes.reshape(-1, *[1] * (getattr(self, name).ndim - 1)), getattr(other, name)[source], own)
            for name, own in vars(self).items()
            if isinstance(own, np.ndarray) and name not in ("joined", "iterations")
        }
        return _Found(
            **kept,
            iterations=self.iterations + np.where(lanes, other.iterations[source], 0),
            message=[other.message[j] if take else m for take, j, m in zip(lanes, source, self.message, strict=True)],
            paths=[other.paths[j] if take else p for take, j, p in zip(lanes, source, self.paths, strict=True)],
            joined=np.where(lanes, joined, self.joined),
        )


@dataclass(frozen=True)
class _Search:
    """A search over profiles by the interior-point method, on one grid after another."""

    options: OptimiseSettings
    scale: float  # typical size of the value
    progress: Progress

    def solve_from(
        self, problem: ControlProblem, w: np.ndarray, barrier: np.ndarray, *, reserve: np.ndarray | None = None
    ) -> _Found:
        """From decisions w [L, D], scaled to 0..1."""
        program, method = ControlProgram(problem), InteriorPoint(barrier, reserve, self.scale)
        found = solve(program, program.unscaled(w), self.options, method=method, progress=self.progress)
        return _Found.of(problem, found)

    def improve(self, problem: ControlProblem, found: _Found) -> _Found:
        """Search on from beside every distinct local optimum; each start keeps the better of the two ends."""
        for _ in range(BESIDE_ROUNDS):
            value = np.where(found.success, found.value, -np.inf)
            size = max(float(np.abs(value[np.isfinite(value)]).max(initial=0.0)), TINY)
            key = np.where(found.success, np.round(value / size / SAME_VALUE) * SAME_VALUE, -2.0 - found.joined)
            _, first, group = np.unique(key, return_index=True, return_inverse=True)
            beside = np.clip(neighbouring_starts(problem, found.w[first]), INSET, 1.0 - INSET)
            moves = len(beside)
            starts = beside.reshape(moves * len(first), -1)
            tried = self.solve_from(problem, starts, np.full(len(starts), NEIGHBOUR_BARRIER))
            ends = np.where(tried.success, tried.value, -np.inf).reshape(moves, len(first))
            pick = ends.argmax(axis=0) * len(first) + np.arange(len(first))  # the best move of every optimum
            better = ends.max(axis=0) > value[first] + SAME_VALUE * size
            if not better.any():
                break
            found = found.replaced(better[group], tried, source=pick[group], joined=first[group])
        return found

    def continue_from(
        self,
        problem: ControlProblem,
        w: np.ndarray,
        before: _Found,
        *,
        barrier: float,
        reserve: np.ndarray | None = None,
    ) -> _Found:
        """Continue from decisions w of an earlier solution; merged lanes are solved once."""
        alone, back = np.unique(before.joined, return_inverse=True)
        kept = None if reserve is None else reserve[alone]
        begin = np.clip(w[alone], INSET, 1.0 - INSET)
        f = self.solve_from(problem, begin, np.full(len(alone), barrier), reserve=kept)
        # all starts may have been merged into one: it is not given up because one first value of mu does not suit it
        for other in OTHER_BARRIERS:
            left = np.flatnonzero(~f.success)
            if not len(left):
                break
            own = None if kept is None else kept[left]
            again = self.solve_from(problem, begin[left], np.full(len(left), other), reserve=own)
            source = np.zeros(len(alone), int)
            source[left] = np.arange(len(left))
            lanes = np.zeros(len(alone), bool)
            lanes[left] = again.success
            f = f.replaced(lanes, again, source=source, joined=f.joined)
        return _Found(
            f.w[back], f.value[back], f.margins[back], f.kkt[back], f.iterations[back], f.success[back],
            [f.message[i] for i in back], [f.paths[i] for i in back], before.joined,
        )  # fmt: skip


def _within_limits(
    problem: ControlProblem, solution: _Found, search: _Search
) -> tuple[ControlProblem, _Found, list[np.ndarray], np.ndarray]:
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
        again = (worst > 0.5 * FEASIBLE) & (-solution.margins.min(axis=1, initial=0.0) < REFINING_VIOLATION)
        if not again.any():
            break
        barrier = REPAIR_BARRIER
        if worst[again].max() > REFINING_VIOLATION and problem.parts < MOST_PARTS:
            problem, barrier = replace(problem, parts=2 * problem.parts), RESTART_BARRIER
            reserve = np.zeros((len(solution.w), int(problem.margin_places.sum())))
        else:
            reserve[again] = np.maximum(reserve[again], _needed_reserve(problem, solution.margins[again], short[again]))
        solution = search.continue_from(problem, solution.w, solution, barrier=barrier, reserve=reserve)
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
    needed = np.where(most > 0.0, at_nodes + 1.05 * most + 0.2 * FEASIBLE, 0.0)
    return np.asarray(np.maximum(needed, 0.0)[:, problem.margin_places])


def _conflict(problem: ControlProblem, solution: _Found, path_margins: list[np.ndarray]) -> str:
    """The message of an infeasible problem: the limits that the least infeasible lane violates."""
    whole = {i: b.min(axis=0) for i, b in enumerate(path_margins) if np.isfinite(solution.value[i]) and b.size}
    if not whole:
        return "no start could be simulated; check the bounds of the profiles and the initial state"
    least = max(whole, key=lambda i: float(whole[i].min()))
    violated = [
        f"{limit.name} ({limit.kind} {limit.limit:g}, violated by {-m:.2g} of it)"
        for limit, m in zip(problem.limits, whole[least], strict=True)
        if m < -FEASIBLE
    ]
    return f"no profile meets all limits. The closest one violates {', '.join(violated)}"
