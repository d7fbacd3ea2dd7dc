"""The functions of the library: from a dataset and a model to a recipe.

Notebooks and scripts call them as `optim.fit`, `optim.rank`, ...; the commands of the command line call the same ones.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optim import __version__
from optim.app.build import build_fit, config_hash, model_config
from optim.app.model import Model
from optim.app.process import Process
from optim.app.schema import as_yaml
from optim.artefact import Artefact, load_artefact, require_parent, save_artefact
from optim.errors import ConfigError, IncompatibleError, nearest

if TYPE_CHECKING:
    from optim.data.dataset import Dataset
    from optim.doe.result import Suggestion
    from optim.estimation.result import FitResult, ModelScore
    from optim.estimation.transfer.prediction import NewClonePrediction
    from optim.optimisation.pareto import Front
    from optim.optimisation.result import Optimum, ProcessOutcome, Ranking
    from optim.optimisation.sensitivity import Stress
    from optim.process.problem import ProcessProblem
    from optim.recipe.recipe import Recipe

Progress = Callable[[str], None]


def no_progress(text: str) -> None:
    """Report no progress."""


def changed_settings[S](section: str, settings: S, changes: dict[str, Any]) -> S:
    """Settings with some of their fields changed. Raises `ConfigError` that names an unknown field and the closest."""
    known = [f.name for f in fields(settings)]  # type: ignore[arg-type]
    for name in changes:
        if name not in known:
            raise ConfigError(f"{section}: unknown setting '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
    return replace(settings, **changes)  # type: ignore[type-var]


def fit(
    screen: Dataset, model: Model, *, seed: int = 0, progress: Progress = no_progress, **settings: Any
) -> FitResult:
    """Fit a model to all vessels of a screen at once.

    Args:
        screen: the data, from `optim.read_dataset`.
        model: from `optim.load_model`.
        seed: of the starts and of the draws.
        progress: receives a line now and then.
        settings: fields of `FitSettings`, such as `starts=8` or `leave_one_out=True`; by default those of the model.

    Returns:
        The parameters of every clone, an ensemble of plausible parameter sets, diagnostics and scores.

    Raises:
        FitError: no start could be simulated, or the data do not determine the parameters at all.
        ConfigError: an unknown setting.
    """
    from optim.estimation.fit import fit_problem
    from optim.estimation.transfer.continued_fit import update_fit

    chosen = changed_settings("fit", model.settings.fit, settings)
    named: dict[str, Any] = {"seed": seed, "model_name": model.name, "progress": progress}
    problem = build_fit(model.settings, screen)
    if chosen.continue_from:
        result = update_fit(load(Path(chosen.continue_from) / "fit"), problem, chosen, **named)
    else:
        result = fit_problem(problem, chosen, **named)
    scores = [_score(result)]
    # compared by their scores alone
    plain = replace(chosen, ensemble=2, quality=False, identify=False, profiles=(), ensemble_by="laplace")
    for name in (n for n in chosen.compare if n != model.name):
        other = build_fit(model.settings, screen, model_config(name))
        scores.append(_score(fit_problem(other, plain, **named | {"model_name": name})))
    return replace(result, comparison=tuple(sorted(scores, key=lambda m: -m.aicc)) if len(scores) > 1 else ())


def _score(r: FitResult) -> ModelScore:
    from optim.estimation.result import ModelScore
    from optim.estimation.score import log_predictive_density, r_squared

    left = r_squared(r.left_out) if r.left_out is not None else {}
    scores = [float("nan") if o is None else log_predictive_density(o) for o in (r.left_out, r.groups_left_out)]
    return ModelScore(r.lineage.model, r.n_parameters, r.log_likelihood, r.aicc, r.bic, r.r2, left, *scores)


def predict_new_clone(
    result: FitResult,
    screen: Dataset,
    model: Model,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
    **settings: Any,
) -> NewClonePrediction:
    """Predict new clones, which the fit does not hold, from their first days of samples.

    Args:
        result: the fit whose population is the prior.
        screen: runs of the new clones alone, with all that is planned for their vessels.
        model: the model of the fit.
        seed: of the draws.
        progress: receives a line now and then.
        settings: fields of `PlaceSettings`, such as `days=(0.0, 3.0)`.

    Raises:
        IncompatibleError: another model than that of the fit, or a clone that it knows.
        FitError: no plausible parameter set could be simulated.
    """
    from optim.estimation.transfer.new_clone import predict_clones

    chosen = changed_settings("place", model.settings.place, settings)
    return predict_clones(result, build_fit(model.settings, screen), chosen, seed=seed, progress=progress)


def rank(
    result: FitResult, process: Process, *, seed: int = 0, progress: Progress = no_progress, **settings: Any
) -> Ranking:
    """Rank the clones of a fit, each at its own optimised process.

    Args:
        result: the fit.
        process: from `optim.load_process`.
        seed: of the starts.
        progress: receives a line now and then.
        settings: fields of `OptimiseSettings`, such as `rank_starts=5`.

    Raises:
        ConfigError: the fit groups runs by experiment, so there are no clones.
        MisfitError: the fit does not describe an assay that matters here, and `accept_misfit` is not set.
        InfeasibleError: no clone has a process that meets all limits; names those in conflict.
    """
    from optim.optimisation.evidence import NO_PRODUCT, clone_marks, require_described
    from optim.optimisation.lineage import process_lineage
    from optim.optimisation.optimise import parameter_sets
    from optim.optimisation.rank import rank_clones
    from optim.optimisation.study import Study

    if result.group_by != "clone":
        raise ConfigError("rank: the fit groups runs by experiment, so there are no clones to rank")
    problem = process.problem
    require_described(result, problem, accepted=process.settings.accept_misfit)
    lineage = process_lineage(result, problem, seed=seed, what="ranking")
    if process.settings.calendar is not None:
        lineage = lineage.with_notes("clones are ranked without regard to working hours")
    search = changed_settings("optimise", process.settings.optimise, settings)
    study = Study(problem, search, lineage, progress=progress)
    able = [clone for clone in result.groups if clone not in result.without_product]
    ensembles = {clone: parameter_sets(result, problem.model, clone) for clone in able}
    return rank_clones(
        study,
        ensembles,
        truth=_truth(result, problem),
        marks={clone: clone_marks(result, problem, clone) for clone in result.groups},
        left_out=dict.fromkeys(result.without_product, NO_PRODUCT),
    )


def _truth(result: FitResult, problem: ProcessProblem) -> Callable[[str, np.ndarray], float] | None:
    """The true metric of a clone at decisions [D], where the data are simulated."""
    known, names = result.screen.truth, problem.model.Parameters._fields
    # some of the parameters are no truth of a process
    if known is None or any(n not in known.get("", {}) | known.get(c, {}) for c in result.groups for n in names):
        return None

    def true_metric(clone: str, x: np.ndarray) -> float:
        named = known.get("", {}) | known.get(clone, {})
        p = np.array([[named[n] for n in names]])
        return float(problem.objective.from_solver(problem.evaluate(x[None], p).objective[0]))

    return true_metric


def optimise(
    result: FitResult,
    process: Process,
    *,
    clone: str = "best",
    ranking: Ranking | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    **settings: Any,
) -> Optimum:
    """Optimise the process of one clone.

    Args:
        result: the fit.
        process: from `optim.load_process`; its settings say how uncertainty and working hours count.
        clone: an id; `best`, the first of the ranking or the only one; or `population`, a new clone of the population.
        ranking: of the same fit; the process that it found for the clone becomes one more start.
        seed: of the starts.
        progress: receives a line now and then.
        settings: fields of `OptimiseSettings`, such as `starts=20`.

    Returns:
        The best process and the platform process, each with intervals, limits, costs and trajectories.

    Raises:
        InfeasibleError: no process meets all limits; names those in conflict.
        IncompatibleError: the ranking was made from another fit, or by another objective.
        MisfitError: as for `rank`.
        ConfigError: a clone that is unknown, or makes no product that can be read.
    """
    from optim.estimation.result import NEWCOMER
    from optim.optimisation.evidence import NO_PRODUCT, clone_marks, require_described
    from optim.optimisation.lineage import process_lineage
    from optim.optimisation.optimise import optimise_process, parameter_sets
    from optim.optimisation.study import Study

    problem = process.problem
    require_described(result, problem, accepted=process.settings.accept_misfit)
    if ranking is not None:
        require_made_from(ranking, result)
    require_clone(clone, result.groups)
    best = clone == "best"
    if best and len(result.groups) == 1:
        (clone,) = result.groups
    elif best:
        clone = _best_clone(ranking, problem)
    if clone in result.without_product:
        raise ConfigError(f"optimise.clone: {clone} {NO_PRODUCT}, so it has no process to optimise; name another clone")
    first = _ranked_process(problem, ranking, clone)
    marks = () if clone == NEWCOMER else clone_marks(result, problem, clone)
    used = [ranking] if ranking is not None and (best or first is not None) else []
    study = Study(
        problem,
        changed_settings("optimise", process.settings.optimise, settings),
        process_lineage(result, problem, *used, seed=seed).with_notes(*(f"{clone}: {mark}" for mark in marks)),
        process.settings.objective.risk,
        process.settings.calendar,
        progress,
    )
    return optimise_process(study, clone, parameter_sets(result, problem.model, clone), first=first)


def require_clone(clone: str, groups: Sequence[str]) -> None:
    """Refuse a clone that is none of the data's `groups`, nor stands for one. Raises `ConfigError`."""
    from optim.estimation.result import NEWCOMER

    known = ("best", NEWCOMER, *groups)
    if clone not in known:
        raise ConfigError(f"optimise.clone: unknown '{clone}'.{nearest(clone, known)} Known: {', '.join(known)}")


def require_made_from(child: Artefact, result: FitResult) -> None:
    """Refuse a result that was made from another fit. Raises `IncompatibleError`."""
    require_parent(child, result, child_place=Path(f"this {child.kind()}"), parent_place=Path("the fit given"))


def _best_clone(ranking: Ranking | None, problem: ProcessProblem) -> str:
    if ranking is None:
        raise ConfigError("optimise.clone: 'best' needs a ranking; run `optim rank` first, or name a clone")
    if ranking.objective != problem.metric:
        raise IncompatibleError(
            f"the ranking is by {ranking.objective}, this process maximises {problem.metric}; run `optim rank` again, "
            "or name a clone (optimise.clone)"
        )
    return ranking.best


def _ranked_process(problem: ProcessProblem, ranking: Ranking | None, clone: str) -> np.ndarray | None:
    """The clone's process in the ranking, where it is of the same objective and design."""
    if ranking is None or ranking.objective != problem.metric:
        return None
    names = [d.name for d in problem.design.decisions]
    row = next((r for r in ranking.rows if r.clone == clone and list(r.decisions) == names), None)
    return np.array([row.decisions[n] for n in names]) if row else None


def suggest(
    result: FitResult,
    process: Process,
    screen: Dataset,
    *,
    ranking: Ranking | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    **settings: Any,
) -> Suggestion:
    """Choose the next experiments: clone, process and sampling days of every run.

    Args:
        result: the fit.
        process: from `optim.load_process`: what a run may vary, and the limits that it should keep.
        screen: the data of the fit; the information of a new run counts on top of that of all readings so far.
        ranking: of the same fit; its processes become candidates.
        seed: recorded in the lineage.
        progress: receives a line now and then.
        settings: fields of `SuggestSettings`, such as `runs=4`.

    Raises:
        ConfigError: the fit groups runs by experiment, or the process cannot be written as a run of the screen.
        IncompatibleError: the ranking was made from another fit.
        MisfitError: as for `rank`.
    """
    from optim.app.experiments import experiment_problem, ranked_processes
    from optim.doe.suggest import suggest_runs
    from optim.optimisation.evidence import require_described
    from optim.optimisation.lineage import process_lineage

    if result.group_by != "clone":
        raise ConfigError("suggest: the fit groups runs by experiment, so there are no clones to choose among")
    if ranking is not None:
        require_made_from(ranking, result)
    require_described(result, process.problem, accepted=process.settings.accept_misfit)
    chosen = changed_settings("suggest", process.settings.suggest, settings)
    return suggest_runs(
        experiment_problem(result, process, screen, experiment=chosen.experiment),
        chosen,
        solving=process.settings.optimise,
        lineage=process_lineage(result, process.problem, *([ranking] if ranking else []), seed=seed),
        known=ranked_processes(process.problem, ranking),
        progress=progress,
    )


def sensitivity(
    result: FitResult, process: Process, optimum: Optimum, *, seed: int = 0, progress: Progress = no_progress
) -> Stress:
    """Sensitivity analysis of an optimum to parameters, prices and disturbances.

    Args:
        result: the fit that the optimum was made from.
        process: the process that was optimised; `stress.drifts` of its settings are the disturbances.
        optimum: from `optim.optimise`.
        seed: recorded in the lineage.
        progress: receives a line now and then.
    """
    from optim.optimisation.lineage import process_lineage
    from optim.optimisation.optimise import parameter_sets
    from optim.optimisation.sensitivity import analyse_sensitivity
    from optim.optimisation.study import Study

    require_made_from(optimum, result)
    problem, cfg = process.problem, process.settings
    study = Study(problem, cfg.optimise, process_lineage(result, problem, optimum, seed=seed), progress=progress)
    return analyse_sensitivity(
        study,
        optimum.clone,
        np.array([d.value for d in optimum.optimum.decisions]),
        ensemble=parameter_sets(result, problem.model, optimum.clone),
        disturbances=cfg.stress.drifts,
        bounds=optimum.bounds,
    )


def pareto(
    result: FitResult,
    process: Process,
    optimum: Optimum,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
    **settings: Any,
) -> Front:
    """Pareto front between the objective of a process and another one, at the estimate.

    Args:
        result: the fit that the optimum was made from.
        process: the process that was optimised.
        optimum: from `optim.optimise`; one end of the front.
        seed: of the starts.
        progress: receives a line now and then.
        settings: fields of `ParetoSettings`: `against`, the other objective, and `points`.
    """
    from optim.optimisation.lineage import process_lineage
    from optim.optimisation.optimise import parameter_sets
    from optim.optimisation.pareto import pareto_front
    from optim.optimisation.study import Study

    require_made_from(optimum, result)
    problem = process.problem
    chosen = changed_settings("pareto", process.settings.pareto, settings)
    lineage = process_lineage(result, problem, optimum, seed=seed)
    return pareto_front(
        Study(problem, process.settings.optimise, lineage, progress=progress),
        optimum.clone,
        parameter_sets(result, problem.model, optimum.clone)[0],
        settings=chosen,
        bounds=optimum.bounds,
    )


def make_recipe(
    result: FitResult, process: Process, optimum: Optimum, *, created_utc: str = "", run_id: str = ""
) -> Recipe:
    """Make the recipe of an optimum: decisions rounded to pump resolution so that limits hold, then simulated again.

    Args:
        result: the fit that the optimum was made from.
        process: the process that was optimised.
        optimum: from `optim.optimise`.
        created_utc: date and time; by default now.
        run_id: of the tracked run, if there is one.
    """
    from optim.recipe.recipe import Provenance, recipe_from_outcome

    require_made_from(optimum, result)
    cfg = process.settings
    provenance = Provenance(
        created_utc=created_utc or datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        code_version=__version__,
        git_commit=_commit(),
        python=platform.python_version(),
        jax=version("jax"),
        config_hash=config_hash(cfg),
        config=as_yaml(cfg),
        run_id=run_id,
    )
    return recipe_from_outcome(cfg.title, optimum, _rounded(result, process.problem, optimum), provenance=provenance)


def _rounded(result: FitResult, problem: ProcessProblem, optimum: Optimum) -> ProcessOutcome:
    """The optimum at pump resolution, simulated again, rounded so that limits stay met where that is possible."""
    from optim.optimisation.evaluate import evaluate_process
    from optim.optimisation.optimise import parameter_sets
    from optim.recipe.rounding import kept_best, rounding_choices

    ensemble = parameter_sets(result, problem.model, optimum.clone)
    decisions = optimum.optimum.decisions
    ways = rounding_choices(decisions)
    if optimum.bounds is not None:  # working hours may end between two steps
        ways = np.clip(ways, *optimum.bounds)
    x = np.concatenate([[[d.value for d in decisions]], ways])
    e = problem.evaluate(x, np.tile(ensemble[0], (len(x), 1)))
    worst = np.where(e.status == 0, e.margins.min(axis=1, initial=np.inf), -np.inf)
    return evaluate_process(problem, "optimum", ways[kept_best(worst[1:], float(worst[0]))], ensemble=ensemble)


def _commit() -> str:
    """Commit of the checkout this package runs from; '' for an installed wheel."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


# where the class of each kind of artefact lives
ARTEFACT_HOMES = {
    "fit": ("optim.estimation.result", "FitResult"),
    "placement": ("optim.estimation.transfer.prediction", "NewClonePrediction"),
    "ranking": ("optim.optimisation.result", "Ranking"),
    "optimum": ("optim.optimisation.result", "Optimum"),
    "front": ("optim.optimisation.pareto", "Front"),
    "stress": ("optim.optimisation.sensitivity", "Stress"),
    "suggestion": ("optim.doe.result", "Suggestion"),
    "replan": ("optim.replanning.result", "Replan"),
    "run": ("optim.simulation.run", "SimulatedRun"),
}


def save(result: Artefact, folder: str | Path) -> Path:
    """Store a fit, a ranking, an optimum, ... in a folder of its own, which is replaced as a whole; `load` reads it.

    Raises:
        OptimError: the folder cannot be written.
    """
    return save_artefact(result, Path(folder))


def load(folder: str | Path) -> Any:
    """Read a result that `save` or a command stored: a fit, a ranking, an optimum, ...

    Raises:
        IncompatibleError: this version cannot read the folder; the message names the command that makes it again.
    """
    from optim.artefact import stored_kind

    folder = Path(folder)
    kind = stored_kind(folder)
    if kind not in ARTEFACT_HOMES:
        raise IncompatibleError(f"{folder} holds no result that is known ('{kind}').{nearest(kind, ARTEFACT_HOMES)}")
    module, name = ARTEFACT_HOMES[kind]
    return load_artefact(getattr(import_module(module), name), folder)
