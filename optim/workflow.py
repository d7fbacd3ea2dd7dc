"""The commands as functions: each reads the artefacts before it and its own configuration, and writes its own artefact.

`run` is the whole flow: fit, rank, optimise, export, in one tracked run.
"""

from __future__ import annotations

import platform
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from optim import __version__
from optim.artefact import load
from optim.config import build_process, build_table, config_hash
from optim.data.dataset import Dataset
from optim.data.registry import open_dataset
from optim.errors import (
    ConfigError,
    ExtrapolationWarning,
    IncompatibleError,
    UnverifiedWarning,
    nearest,
)
from optim.fit.result import FitResult
from optim.fitting import fit, place
from optim.optimise.optimise import NEWCOMER, About, parameter_sets
from optim.optimise.optimise import optimise as optimise_process
from optim.optimise.optimise import rank as rank_clones
from optim.optimise.outcome import outcome
from optim.optimise.pareto import Front
from optim.optimise.pareto import pareto as find_front
from optim.optimise.result import Optimum, ProcessOutcome, Ranking
from optim.optimise.rounding import kept_best, roundings
from optim.optimise.stress import Happening, Stress
from optim.optimise.stress import stress as put_under_stress
from optim.process.drift import Drift
from optim.process.problem import ProcessProblem
from optim.replanning import replan
from optim.report import plots, terminal
from optim.report.export import (
    drifts_csv,
    export_recipe,
    front_csv,
    influences_csv,
    ranking_csv,
    trajectory_csv,
)
from optim.report.plots_decision import drifts, front, robustness, tornado
from optim.report.recipe import Provenance, Recipe, make_recipe
from optim.report.terminal_process import front_lines, stress_lines
from optim.session import Session, session
from optim.suggesting import suggest
from optim.terms import about as _about
from optim.terms import calendar, risk, screened_ranges
from optim.terms import solve_options as _options

# --- rank and optimise ------------------------------------------------------------------------------------------------


def _problem(s: Session, result: FitResult, dataset: Dataset, case: str = "") -> ProcessProblem:
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


def _ensembles(
    s: Session, problem: ProcessProblem, result: FitResult, clones: tuple[str, ...]
) -> dict[str, np.ndarray]:
    fixed = {n: float(p.value) for n, p in s.cfg.model.parameters.items() if p.level == "fixed"}
    return {c: parameter_sets(result, fixed, problem.model, c) for c in clones}


def rank(s: Session, result: FitResult | None = None) -> Ranking:
    """Rank all clones, each at its own optimised process; reads `out/fit`, writes `out/ranking`."""
    result = result or load(FitResult, s.out / "fit")
    dataset = open_dataset(s.cfg.dataset.name)
    problem = _problem(s, result, dataset)
    if result.group_by != "clone":
        raise ConfigError("rank: the fit groups runs by experiment, so there are no clones to rank")
    ensembles = _ensembles(s, problem, result, result.clones)
    truth = None
    if dataset.truth is not None:
        known = dataset.truth

        def truth(clone: str, x: np.ndarray) -> float:
            named = known[""] | known[clone]
            p = np.array([[named[n] for n in problem.model.Parameters._fields]])
            return float(problem.objective.natural(problem.evaluate(x[None], p).objective[0]))

    about = _about(s, problem, result, dataset)
    if s.cfg.calendar is not None:
        about = replace(about, notes=(*about.notes, "clones are ranked without regard to working hours"))
    ranking = rank_clones(problem, ensembles, _options(s.cfg), about, truth, s.progress)
    s.keep(ranking, "ranking")
    s.lines(terminal.ranking_lines(ranking))
    s.tracker.metrics(terminal.ranking_metrics(ranking))
    s.table(ranking_csv(ranking), "ranking")
    s.figure(plots.ranking(ranking), "ranking")
    return ranking


def optimise(s: Session, result: FitResult | None = None, ranking: Ranking | None = None) -> dict[str, Optimum]:
    """Optimise the process of the chosen clone for every objective; reads `out/fit`, writes `out/optimum*`."""
    result = result or load(FitResult, s.out / "fit")
    dataset = open_dataset(s.cfg.dataset.name)
    clone = _chosen_clone(s, result, ranking)
    found: dict[str, Optimum] = {}
    for case in ("", *s.cfg.objective.also):
        problem = _problem(s, result, dataset, case)
        ensemble = _ensembles(s, problem, result, (clone,))[clone]
        about = _about(s, problem, result, dataset)
        first = _ranked_process(problem, ranking, clone) if not case else None
        choices = {str(name): dict(values) for name, values in s.cfg.optimise.choices.items()}
        optimum = optimise_process(
            problem, clone, ensemble, _options(s.cfg), about, first, s.progress, risk(s.cfg), calendar(s.cfg), choices
        )
        s.keep(optimum, _folder("optimum", case))
        found[case] = optimum
        _report_optimum(s, result, optimum, case)
    return found


def _folder(kind: str, case: str) -> str:
    return f"{kind}_{case}" if case else kind


def _chosen_clone(s: Session, result: FitResult, ranking: Ranking | None) -> str:
    wanted = str(s.cfg.optimise.clone)
    if wanted == "best":
        ranking = ranking or load(Ranking, s.out / "ranking")
        metric = build_process(s.cfg, open_dataset(s.cfg.dataset.name)).metric
        if (ranking.objective, ranking.dataset_hash, ranking.model) != (metric, result.dataset_hash, result.model):
            raise IncompatibleError(
                f"{s.out / 'ranking'} ranks by {ranking.objective}, of model '{ranking.model}'; this asks for {metric} "
                f"of '{result.model}' on these data: run `optim rank` again, or name a clone (optimise.clone)"
            )
        return ranking.rows[0].clone
    allowed = (*result.clones, NEWCOMER, "best")
    if wanted not in allowed:
        raise ConfigError(f"optimise.clone: unknown '{wanted}'.{nearest(wanted, allowed)} Known: {', '.join(allowed)}")
    return wanted


def _ranked_process(problem: ProcessProblem, ranking: Ranking | None, clone: str) -> np.ndarray | None:
    row = next((r for r in ranking.rows if r.clone == clone and r.decisions), None) if ranking else None
    return np.array([row.decisions[d.name] for d in problem.design.decisions]) if row else None


def _report_optimum(s: Session, result: FitResult, o: Optimum, case: str) -> None:
    s.lines(terminal.optimum_lines(o))
    for note in o.notes:
        s.note(note)
    outside = sum(d.outside_screened for d in o.optimum.decisions)
    if outside:
        message = f"{outside} decisions for {o.objective} lie outside the screened range (marked *)"
        warnings.warn(message, ExtrapolationWarning, stacklevel=2)
    prefix = case or "optimum"
    s.tracker.metrics({f"{prefix}/{k}": m.p50 for k, m in o.optimum.metrics.items()})
    s.tracker.metrics({f"{prefix}_platform/{k}": m.p50 for k, m in o.baseline.metrics.items()})
    s.tracker.metrics({f"{prefix}/worst_margin": min([c.margin for c in o.optimum.constraints], default=0.0)})
    s.tracker.history(f"{prefix}/objective_per_evaluation", o.history)
    s.figure(plots.processes(o), _folder("processes", case))
    s.figure(plots.feeds(o), _folder("feeds", case))
    s.figure(plots.cost(o), _folder("cost", case))
    s.figure(plots.convergence(result, o), _folder("convergence", case))
    if o.robustness:
        s.figure(robustness(o), _folder("robustness", case))
        last = o.robustness.rows[-1]
        s.tracker.metrics({f"{prefix}/limits_met": last.met_seen, f"{prefix}/limits_met_held_out": last.met_held_out})


def stress(s: Session) -> Stress:
    """What parameters, prices and drifts do to the optimum; reads `out/fit` and `out/optimum`, writes `out/stress`."""
    result, dataset, problem, optimum = _optimised(s)
    ensemble = _ensembles(s, problem, result, (optimum.clone,))[optimum.clone]
    x = np.array([d.value for d in optimum.optimum.decisions])
    happenings = tuple(
        Happening(
            str(name),
            Drift(d.feed, d.strength, d.inoculum, d.temperature_c, d.ph, d.delay_h),
            d.harvest_h,
            d.missed,
        )
        for name, d in s.cfg.stress.drifts.items()
    )
    about = _about(s, problem, result, dataset)
    options = _options(s.cfg)
    found = put_under_stress(
        problem,
        optimum.clone,
        x,
        ensemble,
        happenings,
        options,
        result.simulated,
        about.notes,
        s.progress,
        optimum.bounds,
    )
    s.keep(found, "stress")
    s.lines(stress_lines(found))
    s.table(drifts_csv(found), "drifts")
    s.table(influences_csv(found), "influences")
    s.figure(tornado(found), "tornado")
    s.figure(drifts(found), "drifts")
    return found


def pareto(s: Session) -> Front:
    """The trade-off between two objectives at the estimate; reads `out/fit` and `out/optimum`, writes `out/front`."""
    result, dataset, problem, optimum = _optimised(s)
    parameters = _ensembles(s, problem, result, (optimum.clone,))[optimum.clone][0]
    about = _about(s, problem, result, dataset)
    c = s.cfg.pareto
    found = find_front(
        problem, optimum.clone, c.against, parameters, c.points, _options(s.cfg), s.cfg.seed, result.simulated,
        about.notes, s.progress, optimum.bounds,
    )  # fmt: skip
    s.keep(found, "front")
    s.lines(front_lines(found))
    s.table(front_csv(found), "front")
    s.tracker.metrics({"front/hypervolume": found.hypervolume, "front/points": float(len(found.points))})
    s.figure(front(found), "front")
    return found


def _optimised(s: Session) -> tuple[FitResult, Dataset, ProcessProblem, Optimum]:
    """A fit and its optimum, as they lie in the output folder."""
    result, optimum = load(FitResult, s.out / "fit"), load(Optimum, s.out / "optimum")
    dataset = open_dataset(s.cfg.dataset.name)
    problem = _problem(s, result, dataset)
    if [d.name for d in problem.design.decisions] != [d.name for d in optimum.optimum.decisions]:
        raise IncompatibleError(
            f"{s.out / 'optimum'} has other decisions than the configured design ('{s.cfg.design.title}'); "
            "run `optim optimise` with this one"
        )
    return result, dataset, problem, optimum


# --- export, simulate, run ------------------------------------------------------------------------------------------


def export(
    s: Session,
    optima: dict[str, Optimum] | None = None,
    result: FitResult | None = None,
    created_utc: str | None = None,
) -> dict[str, Recipe]:
    """Turn every optimum into a recipe; reads `out/optimum*` and `out/fit`, writes `out/recipe*`."""
    cases = ("", *s.cfg.objective.also)
    optima = optima or {case: load(Optimum, s.out / _folder("optimum", case)) for case in cases}
    result = result or load(FitResult, s.out / "fit")
    dataset = open_dataset(s.cfg.dataset.name)
    recipes = {}
    for case, optimum in optima.items():
        problem = _problem(s, result, dataset, case)
        ensemble = _ensembles(s, problem, result, (optimum.clone,))[optimum.clone]
        about = _about(s, problem, result, dataset)
        if [d.name for d in problem.design.decisions] != [d.name for d in optimum.optimum.decisions]:
            raise IncompatibleError(
                f"{s.out / _folder('optimum', case)} has other decisions than the configured design "
                f"('{s.cfg.design.title}'); export with its design, or run `optim optimise` with this one"
            )
        rounded = _rounded(problem, optimum, ensemble, about)
        provenance = _provenance(s, dataset, created_utc)
        recipe = make_recipe(s.cfg.title, optimum, rounded, provenance)
        folder = export_recipe(recipe, optimum, s.out / _folder("recipe", case))
        s.tracker.folder(folder, folder.name)
        unverified = [i.name for i in recipe.process.cost_items if not i.verified]
        if unverified:
            text = f"{len(unverified)} of {len(recipe.process.cost_items)} prices behind {folder.name} are unverified"
            warnings.warn(text, UnverifiedWarning, stacklevel=2)
        s.say(f"recipe (DRAFT, rounding loss {recipe.rounding_loss_percent:.2g} %): {folder / 'recipe.html'}")
        recipes[case] = recipe
    return recipes


def _rounded(problem: ProcessProblem, optimum: Optimum, ensemble: np.ndarray, about: About) -> ProcessOutcome:
    """The optimum at what pumps can do, simulated again, rounded so that limits are kept where that can be."""
    decisions = optimum.optimum.decisions
    ways = roundings(decisions)
    if optimum.bounds is not None:  # working hours may end between two steps
        ways = np.clip(ways, *optimum.bounds)
    x = np.concatenate([[[d.value for d in decisions]], ways])
    e = problem.evaluate(x, np.tile(ensemble[0], (len(x), 1)))
    worst = np.where(e.status == 0, e.margins.min(axis=1, initial=np.inf), -np.inf)
    chosen = ways[kept_best(worst[1:], float(worst[0]))]
    return outcome(problem, "optimum", chosen, ensemble, about.feed, about.screened)


def _provenance(s: Session, dataset: Dataset, created_utc: str | None) -> Provenance:
    return Provenance(
        created_utc=created_utc or datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        code_version=__version__,
        git_commit=_commit(),
        python=platform.python_version(),
        jax=version("jax"),
        config_hash=config_hash(s.cfg),
        config=OmegaConf.to_yaml(s.cfg),
        dataset=dataset.name,
        dataset_hash=dataset.content_hash,
        seed=s.cfg.seed,
        run_id=s.tracker.run_id,
    )


def _commit() -> str:
    """Commit of the checkout this package runs from; '' for an installed wheel."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def simulate(s: Session) -> ProcessOutcome:
    """Simulate the platform process with the model's configured parameter values; writes `out/simulation.csv`."""
    dataset = open_dataset(s.cfg.dataset.name)
    problem = build_process(s.cfg, dataset)
    values = build_table(s.cfg.model, problem.model).values()
    p = np.array([[values[n] for n in problem.model.Parameters._fields]])
    ranges = screened_ranges(dataset)
    found = outcome(problem, "platform", problem.design.platform, p, s.cfg.design.feed_id, ranges)
    file = s.out / "simulation.csv"
    file.write_text(trajectory_csv(found.trajectory))
    s.say(f"{s.cfg.title}: platform process at the model's published parameters")
    s.lines(terminal.trajectory_lines(found.trajectory))
    s.say(f"  written to {file}")
    s.tracker.metrics({f"simulation/{k}": m.p50 for k, m in found.metrics.items()})
    return found


def run(s: Session) -> dict[str, Recipe]:
    """The whole flow: fit, rank (where there are clones), optimise, export."""
    build_process(s.cfg, open_dataset(s.cfg.dataset.name))  # what it refuses, it refuses before the fit
    result = fit(s)
    ranking = rank(s, result) if result.group_by == "clone" and len(result.clones) > 1 else None
    optima = optimise(s, result, ranking)
    return export(s, optima, result)


COMMANDS: dict[str, Callable[[Session], Any]] = {
    "run": run,
    "simulate": simulate,
    "fit": fit,
    "place": place,
    "rank": rank,
    "suggest": suggest,
    "optimise": optimise,
    "stress": stress,
    "pareto": pareto,
    "export": export,
    "replan": replan,
}

__all__ = [
    "COMMANDS",
    "Session",
    "export",
    "fit",
    "optimise",
    "pareto",
    "place",
    "rank",
    "replan",
    "run",
    "session",
    "simulate",
    "stress",
    "suggest",
]
