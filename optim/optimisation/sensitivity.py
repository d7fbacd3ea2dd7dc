"""What an optimum leans on: parameters and prices that move it, and drifts of the plant that it has to bear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optim.artefact import Artefact, Lineage
from optim.errors import ConfigError, nearest
from optim.optimisation.process_program import ProcessProgram, limit_rows, tiled_bounds
from optim.optimisation.sequential_quadratic import FEASIBLE
from optim.optimisation.solve import Progress, SequentialQuadratic, Solution, solve
from optim.optimisation.study import Study
from optim.process.disturbance import drift_of
from optim.process.lanes import Lanes
from optim.process.problem import Evaluation, ProcessProblem
from optim.runtime import require_float64
from optim.settings.optimisation import DriftSettings, OptimiseSettings

LARGEST_BOLUS = "largest bolus"
LEAST_MOVE = 0.02  # of a decision's span: less is no other process
LEAST_RELATIVE_GAIN = 0.001  # relative gain of changing the process: less is not worth it


@dataclass(frozen=True)
class Side:
    """One end of an influence's range: the metric if the process stays as it is, and if it is optimised anew."""

    value: float
    stay: float  # nan where it could not be simulated
    anew: float  # nan where no process meets the limits
    broken: str  # the limit that staying breaks most; '' for none
    gain: float  # what optimising anew is worth, of the logarithm; nan where the limits leave no choice
    moved: str  # the decision that optimising anew moves most, as text; '' where nothing worth it changes


@dataclass(frozen=True)
class Influence:
    """A parameter over its 90 % interval, or a price over its range, with all else at the estimate."""

    name: str
    kind: str  # parameter | price
    unit: str
    value: float
    low: Side
    high: Side

    @property
    def swing(self) -> float:
        """How far the metric moves over the range if the process stays as it is."""
        return abs(self.high.stay - self.low.stay)

    @property
    def flips(self) -> bool:
        """Whether another process is worth it at one end."""
        return bool(self.low.moved or self.high.moved)


@dataclass(frozen=True)
class DriftRow:
    """A drift over the parameter ensemble: change of the metric, and what becomes of the limits."""

    name: str
    change: float  # relative, median over the parameter sets
    change_p05: float
    change_p95: float
    met: float  # share of the parameter sets in which all limits are met; a failed simulation meets none
    breaks: str  # the limit broken most often; '' for none
    failed: int


@dataclass(frozen=True, repr=False)
class Stress(Artefact):
    """The optimum of one clone under stress."""

    schema: ClassVar[str] = "optim.stress/2"
    made_by: ClassVar[str] = "optim stress"

    lineage: Lineage
    clone: str
    objective: str
    unit: str
    value: float  # of the metric at the estimate
    met: float  # share of the parameter sets in which all limits are met when nothing drifts
    influences: tuple[Influence, ...]  # by swing, largest first
    drifts: tuple[DriftRow, ...]


def analyse_sensitivity(
    study: Study,
    clone: str,
    x: np.ndarray,
    *,
    ensemble: np.ndarray,
    disturbances: Mapping[str, DriftSettings],
    bounds: np.ndarray | None = None,
) -> Stress:
    """Analyse the sensitivity of a process to parameters, prices and disturbances.

    Args:
        study: the problem and its settings.
        clone: its id, for the result.
        x: the decisions [D].
        ensemble: plausible parameter sets [E, P]; the first is the estimate.
        disturbances: errors of the plant, by name. Those that cannot happen to this design are left out with a note.
        bounds: of the decisions [2, D], where choices were made.

    Raises:
        ConfigError: a disturbance names a decision that the design does not have.
    """
    require_float64("analyse_sensitivity")
    problem, options, lineage, progress = study.problem, study.search, study.lineage, study.progress
    asked = {name: d for name, d in disturbances.items() if _can_happen(problem, x, name, d)}
    if missing := ", ".join(name for name in disturbances if name not in asked):
        lineage = lineage.with_notes(f"cannot happen to this design, so not asked: {missing}")
    base = problem.evaluate(np.tile(x, (len(ensemble), 1)), ensemble)
    place = list(problem.metrics).index(problem.metric)
    met = (base.status == 0) & (base.margins >= -FEASIBLE).all(axis=1)
    return Stress(
        lineage=lineage,
        clone=clone,
        objective=problem.metric,
        unit=problem.metrics[problem.metric].unit,
        value=float(base.metrics[0, place]),
        met=float(np.mean(met)),
        influences=_influences(problem, x, ensemble, options, bounds, progress),
        drifts=tuple(_drifted(problem, x, ensemble, base.metrics[:, place], name, d) for name, d in asked.items()),
    )


# --- influences ---


def _influences(
    problem: ProcessProblem,
    x: np.ndarray,
    ensemble: np.ndarray,
    options: OptimiseSettings,
    bounds: np.ndarray | None,
    progress: Progress,
) -> tuple[Influence, ...]:
    names = problem.model.Parameters._fields
    free = [i for i in range(len(names)) if np.ptp(ensemble[:, i]) > 0.0]
    items, prices = problem.book.rows, problem.book.prices()
    moving = [k for k, item in enumerate(items) if item.high > item.low]
    ends = [(i, float(q)) for i in free for q in np.quantile(ensemble[:, i], (0.05, 0.95))]
    paid = [(k, float(v)) for k in moving for v in (items[k].low, items[k].high)]
    p = np.tile(ensemble[0], (len(ends) + len(paid), 1))
    c = np.tile(prices, (len(p), 1))
    for lane, (i, value) in enumerate(ends):
        p[lane, i] = value
    for lane, (k, value) in enumerate(paid, start=len(ends)):
        c[lane, k] = value
    # asked of the best process at the estimate: a robust one gives up some of the metric anyway
    estimate, lanes = ProcessProgram(problem, Lanes(ensemble[:1])), Lanes(p, prices=c)
    (known,) = solve(estimate, x[None], options, bounds=tiled_bounds(bounds, 1), progress=progress)
    best = known.x if known.feasible else x
    stay, base = (problem.evaluate(np.tile(here, (len(p), 1)), lanes) for here in (x, best))
    found = solve(
        ProcessProgram(problem, lanes),
        np.tile(best, (len(p), 1)),
        options,
        bounds=tiled_bounds(bounds, len(p)),
        method=SequentialQuadratic.near([known] * len(p)),
        progress=progress,
    )
    values = [v for _, v in (*ends, *paid)]
    sides = [
        _side(problem, v, best, lane, stay, base, s) for lane, (v, s) in enumerate(zip(values, found, strict=True))
    ]
    rows = [
        Influence(names[i], "parameter", "", float(ensemble[0, i]), sides[2 * n], sides[2 * n + 1])
        for n, i in enumerate(free)
    ]
    rows += [
        Influence(items[k].name, "price", items[k].unit, float(prices[k]), *sides[len(ends) + 2 * n :][:2])
        for n, k in enumerate(moving)
    ]
    return tuple(sorted(rows, key=lambda r: -np.nan_to_num(r.swing, nan=np.inf)))


def _side(
    problem: ProcessProblem, value: float, best: np.ndarray, lane: int, stay: Evaluation, base: Evaluation, s: Solution
) -> Side:
    """`stay` is the process itself in every lane, `base` the best one at the estimate, `s` the lane's own best."""
    place = list(problem.metrics).index(problem.metric)
    able = stay.status[lane] == 0
    anew = float(problem.objective.from_solver(np.array(s.objective))) if s.max_violation <= FEASIBLE else float("nan")
    kept = bool(base.status[lane] == 0 and (base.margins[lane] >= -FEASIBLE).all())
    moved = ""
    if np.isfinite(anew) and (not kept or s.objective - float(base.objective[lane]) > LEAST_RELATIVE_GAIN):
        far = np.abs(s.x - best) / (problem.design.upper - problem.design.lower)
        k = int(far.argmax())
        d = problem.design.decisions[k]
        if far[k] > LEAST_MOVE:
            moved = f"{d.name} {best[k]:.4g} -> {s.x[k]:.4g} {d.unit}"
    return Side(
        value=value,
        stay=float(stay.metrics[lane, place]) if able else float("nan"),
        anew=anew,
        broken=_worst(problem, stay.margins[lane]) if able else "cannot be simulated",
        gain=float(s.objective - base.objective[lane]) if kept and np.isfinite(anew) else float("nan"),
        moved=moved,
    )


def _worst(problem: ProcessProblem, margins: np.ndarray) -> str:
    if not margins.size or margins.min() >= -FEASIBLE:
        return ""
    return limit_rows(problem, len(margins))[int(margins.argmin())]


# --- drifts ---


def _drifted(
    problem: ProcessProblem, x: np.ndarray, ensemble: np.ndarray, planned: np.ndarray, name: str, h: DriftSettings
) -> DriftRow:
    design = problem.design
    there = x.copy()
    if h.missed:
        there[_missed(problem, x, name, h)] = 0.0
    if h.harvest_h:
        i = _harvest(problem)
        there[i] = min(there[i] + h.harvest_h, design.longest_h())  # no later than the vessel is simulated for
    e = problem.evaluate(np.tile(there, (len(ensemble), 1)), Lanes(ensemble, drift=drift_of(h)))
    good = e.status == 0
    place = list(problem.metrics).index(problem.metric)
    both = good & np.isfinite(planned)
    change = (e.metrics[both, place] - planned[both]) / np.abs(planned[both])
    broken = (e.margins < -FEASIBLE) & good[:, None]
    names = limit_rows(problem, e.margins.shape[1])
    counts = {
        n: int(np.any(broken[:, [i for i, m in enumerate(names) if m == n]], axis=1).sum())
        for n in dict.fromkeys(names)
    }
    often = max(counts, key=lambda n: counts[n]) if counts and max(counts.values()) else ""
    low, middle, high = np.quantile(change, (0.05, 0.5, 0.95)) if both.any() else (np.nan,) * 3
    return DriftRow(
        name=name,
        change=float(middle),
        change_p05=float(low),
        change_p95=float(high),
        met=float(np.mean(good & ~broken.any(axis=1))),
        breaks=often,
        failed=int((~good).sum()),
    )


def _harvest(problem: ProcessProblem) -> int:
    return [d.kind for d in problem.design.decisions].index("harvest")


def _can_happen(problem: ProcessProblem, x: np.ndarray, name: str, h: DriftSettings) -> bool:
    kinds = [d.kind for d in problem.design.decisions]
    if h.harvest_h and ("harvest" not in kinds or x[_harvest(problem)] + h.harvest_h <= 0.0):
        return False
    if h.missed == LARGEST_BOLUS:
        return "bolus" in kinds
    return not h.missed or _missed(problem, x, name, h) >= 0


def _missed(problem: ProcessProblem, x: np.ndarray, name: str, h: DriftSettings) -> int:
    decisions = problem.design.decisions
    if h.missed == LARGEST_BOLUS:
        return max((i for i, d in enumerate(decisions) if d.kind == "bolus"), key=lambda i: x[i])
    names = [d.name for d in decisions]
    if h.missed not in names:
        raise ConfigError(
            f"stress.drifts.{name}.missed: no decision '{h.missed}'.{nearest(h.missed, names)} "
            f"Known: {', '.join(names)}, or '{LARGEST_BOLUS}'"
        )
    return names.index(h.missed)
