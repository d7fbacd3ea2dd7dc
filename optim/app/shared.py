"""What commands on a process state alike: notes, the ranges that were screened, settings of the solver."""

from __future__ import annotations

import numpy as np

from optim.app.build import build_process
from optim.app.session import Session
from optim.artefact import load
from optim.data.dataset import Dataset
from optim.data.open import open_dataset
from optim.errors import ConfigError, IncompatibleError
from optim.estimation.result import FitResult
from optim.optimisation.evaluate import Ranges
from optim.optimisation.optimise import About, parameter_sets
from optim.optimisation.result import Optimum
from optim.optimisation.robust import Risk
from optim.optimisation.slsqp import OptimiseOptions
from optim.process.calendar import Calendar
from optim.process.disturbance import Drift
from optim.process.problem import ProcessProblem
from optim.settings.settings import Settings


def about(s: Session, problem: ProcessProblem, result: FitResult, dataset: Dataset) -> About:
    """What an artefact says of itself."""
    notes = ["SIMULATED data: nothing here was measured"] if dataset.simulated else []
    notes.append(f"price book '{problem.book.title}': {problem.book.unverified_text()}")
    loose = [c.name for c in problem.constraints if not c.verified]
    if loose:
        notes.append(f"limits without a source: {', '.join(loose)}")
    unverified = sorted({p.name for p in result.parameters if not p.verified})
    if unverified:
        notes.append(f"parameters whose prior has no source: {', '.join(unverified)}")
    market = s.cfg.objective.market
    if market is not None and not market.verified:
        notes.append(f"price and demand of the market are unverified ({market.source})")
    return About(result, s.cfg.seed, screened_ranges(dataset), tuple(notes))


def screened_ranges(dataset: Dataset) -> Ranges:
    """Range of each kind of decision in the data: what the screen can speak for.

    Feeds that hold nothing (a base, water) are no feeds of the cells, and are left out.
    """
    ranges: Ranges = {"harvest": (0.0, max(run.end_time_h for run in dataset.runs))}
    levels, steps, shifts, doses, starts, rates = [], [], [], [0.0], [], []
    for run in dataset.runs:
        changes = [e for e in run.events if e.kind == "temperature"]
        held = [(0.0, run.temperature_c)] + [(e.time_h, e.value) for e in changes]
        until = [t for t, _ in held[1:]] + [run.end_time_h]
        levels.append(sum(v * (b - a) for (a, v), b in zip(held, until, strict=True)) / run.end_time_h)
        if len(changes) == 1:
            steps.append(changes[0].value)
            shifts.append(changes[0].time_h)
        doses += [1000.0 * e.value for e in run.events if e.kind == "bolus" and dataset.medium(e.feed_id)]
        flows = [e for e in run.events if e.kind == "feed_rate" and dataset.medium(e.feed_id)]
        rates += [1000.0 * e.value for e in flows]
        starts += [1000.0 * e.value for e in flows if e.time_h == 0.0]
    named = {"shift_temperature": steps, "shift_time": shifts, "feed_rate": rates, "feed_start": starts}
    ranges |= {kind: (min(v), max(v)) for kind, v in named.items() if v}
    if len(doses) > 1:
        ranges["bolus"] = (min(doses), max(doses))
    if not steps:
        ranges["temperature"] = (min(levels), max(levels))
    inocula = [run.inoculum_vcd for run in dataset.runs if run.inoculum_vcd is not None]
    if inocula:
        ranges["inoculum"] = (min(inocula), max(inocula))
    ranges["ph"] = (min(run.ph for run in dataset.runs), max(run.ph for run in dataset.runs))
    return ranges


def solve_options(cfg: Settings) -> OptimiseOptions:
    """Settings of the solver. Raises `ConfigError`."""
    o = cfg.optimise
    if o.starts < 1 or o.rank_starts < 1:
        raise ConfigError("optimise: starts and rank_starts must be at least 1")
    return OptimiseOptions(o.starts, o.rank_starts, o.max_iterations, o.tolerance)


def risk(cfg: Settings) -> Risk:
    """How an uncertain process is judged."""
    r = cfg.objective.risk
    e = r.execution
    execution = Drift(e.feed, e.strength, e.inoculum, e.temperature_c, e.ph, e.delay_h)
    return Risk(r.measure, r.tail, r.chance, r.members, execution)


def calendar(cfg: Settings) -> Calendar | None:
    """When people are there; None: always."""
    if cfg.calendar is None:
        return None
    c = cfg.calendar
    days = tuple(c.start_days), tuple(c.working_days)
    return Calendar(days[0], c.start_hour, days[1], c.first_hour, c.last_hour, tuple(c.by_hand))


def process_problem(s: Session, result: FitResult, dataset: Dataset, case: str = "") -> ProcessProblem:
    if result.model != s.cfg.model.name:
        raise IncompatibleError(
            f"{s.out / 'fit'} is a fit of model '{result.model}', the configuration says '{s.cfg.model.name}'; "
            "run `optim fit` with this configuration first"
        )
    if result.dataset_hash != dataset.content_hash:
        raise IncompatibleError(
            f"{s.out / 'fit'} was made from other data than '{dataset.name}' now holds; run `optim fit` again"
        )
    chosen = s.cfg.objective.also[case] if case else None
    if chosen is None:
        return build_process(s.cfg, dataset)
    return build_process(s.cfg, dataset, chosen.maximise, dict(chosen.hold))


def parameter_ensembles(
    s: Session, problem: ProcessProblem, result: FitResult, clones: tuple[str, ...]
) -> dict[str, np.ndarray]:
    fixed = {n: float(p.value) for n, p in s.cfg.model.parameters.items() if p.level == "fixed"}
    return {c: parameter_sets(result, fixed, problem.model, c) for c in clones}


def optimised_process(s: Session) -> tuple[FitResult, Dataset, ProcessProblem, Optimum]:
    """A fit and its optimum, as they lie in the output folder."""
    result, optimum = load(FitResult, s.out / "fit"), load(Optimum, s.out / "optimum")
    dataset = open_dataset(s.cfg.dataset.name)
    problem = process_problem(s, result, dataset)
    if [d.name for d in problem.design.decisions] != [d.name for d in optimum.optimum.decisions]:
        raise IncompatibleError(
            f"{s.out / 'optimum'} has other decisions than the configured design ('{s.cfg.design.title}'); "
            "run `optim optimise` with this one"
        )
    return result, dataset, problem, optimum


def folder_of(kind: str, case: str) -> str:
    return f"{kind}_{case}" if case else kind
