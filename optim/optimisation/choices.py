"""Discrete choices by enumeration: weekdays to begin on, windows in which people are there, feeding patterns.

Every variant is a set of bounds, so all variants are lanes of one compiled program. A time that has to fall into a
working window is first left free; then the windows around where it wants to be are tried.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from optim.errors import ConfigError, InfeasibleError
from optim.optimisation.process_program import ProcessProgram
from optim.optimisation.solve import Bounds, Progress, Solution, best_solution, silent, solve
from optim.process.calendar import bounds_with, fixed_decisions, hours_allow, idle_decisions, timed_decisions
from optim.process.design import Design
from optim.process.lanes import Lanes
from optim.process.problem import ProcessProblem
from optim.settings.optimisation import OptimiseSettings
from optim.settings.process import CalendarSettings

AROUND = 2  # windows tried on each side of where a time wants to be


@dataclass(frozen=True)
class Choice:
    """One way to go about it: bounds [2, D], and a name that says what was chosen."""

    name: str
    bounds: np.ndarray
    solution: Solution | None = None  # None: no process within working hours meets all limits


def solve_choices(
    problem: ProcessProblem,
    starts: np.ndarray,
    lane: Lanes,
    *,
    calendar: CalendarSettings | None,
    options: OptimiseSettings,
    progress: Progress = silent,
) -> tuple[Choice, ...]:
    """Every variant at its best in a lane, from starts [L, D]; the best first.

    Without a calendar people are always there; without choices there is one, with nothing held. Raises
    `InfeasibleError` where no variant has a process that meets all limits.
    """
    design, choices = problem.design, options.choices
    patterns = {
        name: fixed_decisions(design, dict(values), f"optimise.choices.{name}") for name, values in choices.items()
    } or {"": {}}
    days = calendar.start_days if calendar else ("",)
    relaxed, timed, names = [], [], []
    for day, (pattern, fixed) in itertools.product(days, patterns.items()):
        idle = dict.fromkeys(idle_decisions(calendar, design, day), 0.0) if calendar else {}
        for i in idle:
            if design.lower[i] > 0.0:
                raise ConfigError(
                    f"design.decisions.{design.decisions[i].name}: nobody is there on a start on {day}, and its lower "
                    f"bound is {design.lower[i]:g}; let it begin at 0"
                )
        name = ", ".join(part for part in (f"start on {day}" if day else "", pattern) if part)
        names.append(name)
        if calendar and not hours_allow(calendar, design, day, fixed=fixed):
            continue
        relaxed.append(Choice(name, bounds_with(design, fixed | idle, {})))
        timed.append((fixed | idle, timed_decisions(calendar, design, day) if calendar else {}))
    found = _solved(problem, relaxed, starts, lane, options, progress)
    if any(times for _, times in timed):
        narrow, begin = [], []
        for v, (fixed, times) in zip(found, timed, strict=True):
            if v.solution is None:
                continue
            for bounds in solve_in_hours(design, fixed, times, wanted=v.solution.x):
                narrow.append(replace(v, bounds=bounds, solution=None))
                begin.append(v.solution.x)
        found = _each(problem, narrow, np.array(begin).reshape(-1, len(design.lower)), lane, options, progress)
    able = [v for v in found if v.solution is not None]
    if not able:
        raise InfeasibleError(
            "no choice of days and patterns has a process that meets all limits and falls into working hours"
        )
    able.sort(key=lambda v: -v.solution.objective if v.solution else np.inf)
    first: dict[str, Choice] = {}
    for v in able:
        first.setdefault(v.name, v)
    lost = [Choice(name, bounds_with(design, {}, {})) for name in names if name not in first]
    return (*first.values(), *lost)


def solve_in_hours(
    design: Design, fixed: dict[int, float], times: dict[int, list[tuple[float, float]]], *, wanted: np.ndarray
) -> list[np.ndarray]:
    """Bounds [2, D] for every choice of working windows around where times are wanted [D]; none where none is left."""
    free = {i: parts for i, parts in times.items() if i not in fixed}
    tried = [[(i, part) for part in _around(parts, float(wanted[i]))] for i, parts in free.items()]
    return [bounds_with(design, fixed, dict(chosen)) for chosen in itertools.product(*tried)]


def _around(parts: list[tuple[float, float]], wanted: float) -> list[tuple[float, float]]:
    """The windows nearest to a time."""
    far = sorted(parts, key=lambda p: max(p[0] - wanted, wanted - p[1], 0.0))
    below = [p for p in far if p[0] <= wanted][:AROUND]
    above = [p for p in far if p[0] > wanted][:AROUND]
    return below + above


def _solved(
    problem: ProcessProblem,
    rows: list[Choice],
    starts: np.ndarray,
    lane: Lanes,
    options: OptimiseSettings,
    progress: Progress,
) -> list[Choice]:
    """Every variant from all starts."""
    many = [v for v in rows for _ in starts]
    found = _each(problem, many, np.tile(starts, (len(rows), 1)), lane, options, progress)
    ends = [found[i * len(starts) : (i + 1) * len(starts)] for i in range(len(rows))]
    return [
        replace(v, solution=best_solution([e.solution for e in own if e.solution is not None]))
        for v, own in zip(rows, ends, strict=True)
    ]


def _each(
    problem: ProcessProblem,
    rows: list[Choice],
    starts: np.ndarray,
    lane: Lanes,
    options: OptimiseSettings,
    progress: Progress,
) -> list[Choice]:
    """Every variant from a start of its own."""
    if not rows:
        return []
    bounds = Bounds(*np.stack([v.bounds for v in rows], axis=1))
    program = ProcessProgram(problem, lane.tiled(len(rows)))
    found = solve(program, starts, options, bounds=bounds, progress=progress)
    return [replace(v, solution=best_solution([s])) for v, s in zip(rows, found, strict=True)]
