"""Re-optimises the rest of a running batch from its data so far."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from optim.app.build import build_fit, build_process
from optim.app.session import Session
from optim.app.stored import require_configured
from optim.artefact import Lineage, load_artefact, require_parent, require_parent_id
from optim.data.dataset import Dataset
from optim.data.open import read_dataset
from optim.errors import ConfigError, DisagreementWarning, IncompatibleError, nearest
from optim.estimation.problem import FitProblem
from optim.estimation.result import FitResult
from optim.optimisation.result import Optimum, Series
from optim.process.problem import ProcessProblem
from optim.recipe.document import RECIPE_FILE, read_document
from optim.recipe.recipe import Recipe
from optim.replanning.replan import ReplanOptions, replan_batch
from optim.replanning.result import Replan
from optim.replanning.running_batch import BatchRecord, FollowedPlan, RunningBatch
from optim.schedule.actions import start_time, used_feed, with_feed
from optim.schedule.grid import padded_length

RUN_ENDS_AFTER_H = 0.01  # actions at the present moment lie within the run


def replan_command(s: Session) -> Replan:
    """Re-optimise the rest of a running batch; writes `out/replan`.

    The run is `replan.run` of the configured dataset, the fit that of `replan.fit`, and the plan `replan.plan`. The
    dataset is read because it holds data that the fit lacks: the batch's readings and actions.
    """
    cfg = s.cfg.replan
    folder = Path(cfg.fit) if cfg.fit else s.out
    old = load_artefact(FitResult, folder / "fit")
    require_configured(s.cfg, old, folder / "fit")
    dataset = read_dataset(s.cfg.dataset.name)
    index = chosen_run(dataset, cfg.run)
    now = now_of(dataset, index, cfg.now_h)
    problem, batch = running_batch_problem(build_process(s.cfg, old.screen), dataset, index, now_h=now)
    plan = read_plan(Path(cfg.plan) if cfg.plan else folder / "optimum", problem, old, fit_folder=folder / "fit")
    fitting = problem_until_now(s.cfg, dataset, index, now_h=now)
    options = ReplanOptions(s.cfg.optimise, cfg, s.cfg.objective.risk, s.cfg.calendar)
    notes: tuple[str, ...] = (
        ("SIMULATED data: nothing here was measured",) if dataset.simulated or old.lineage.simulated else ()
    )
    started, meant = 1000.0 * batch.run.start_volume_l, float(s.cfg.vessel.start_volume_ml)
    if abs(started - meant) > 1e-3 * meant:
        notes += (f"the run started with {started:g} mL, the design is for {meant:g} mL: doses are not scaled",)
    lineage = Lineage.from_parents(old, seed=s.cfg.seed, notes=notes)
    lineage = lineage.with_data(dataset.name, dataset.content_hash, dataset.simulated)
    lineage = replace(lineage, parents={**lineage.parents, **plan.source})
    running = RunningBatch(batch, plan, fitting, old)
    found = replan_batch(problem, running, options, lineage=lineage, progress=s.progress)
    s.publish(found)
    off = [a.variable for a in found.agreement if a.off]
    if off:
        message = f"readings of {', '.join(off)} agree with no plausible parameter set"
        warnings.warn(message, DisagreementWarning, stacklevel=2)
    return found


def chosen_run(dataset: Dataset, wanted: str | None) -> int:
    """The running batch among the runs of a dataset; where there is one run, it need not be named."""
    known = dataset.run_ids
    if wanted is None and len(known) == 1:
        return 0
    if wanted is None:
        raise ConfigError(f"replan.run: say which run is under way. Runs of '{dataset.name}': {', '.join(known)}")
    if wanted not in known:
        raise ConfigError(
            f"replan.run: dataset '{dataset.name}' has no run '{wanted}'.{nearest(wanted, known)} "
            f"Known: {', '.join(known)}"
        )
    return known.index(wanted)


def now_of(dataset: Dataset, index: int, wanted: float | None) -> float:
    """The present time of a batch in h: as given, or the time of its last reading or action.

    Raises `ConfigError` where the batch has a later reading or action.
    """
    run, m = dataset.runs[index], dataset.measurements
    times = [(float(t), f"a reading of {m.variable[i]}") for i, t in enumerate(m.time_h) if int(m.run[i]) == index]
    for a in run.actions:
        what = type(a).__name__.lower()
        times.append((start_time(a), f"a {what}"))
        stop = getattr(a, "stop_h", None)
        if stop is not None:
            times.append((float(stop), f"the end of a {what}"))
    last, what = max(times, default=(0.0, "nothing"))
    if wanted is None:
        return last
    if wanted < 0.0 or not np.isfinite(wanted):
        raise ConfigError(f"replan.now_h: {wanted:g} is no time of a run")
    if last > wanted + 1e-6:
        raise ConfigError(
            f"replan.now_h: {wanted:g} h lies before {what} of run '{run.run_id}' at {last:g} h. The dataset may hold "
            "only what has happened: leave later rows out, or give a later time"
        )
    return float(wanted)


def running_batch_problem(
    problem: ProcessProblem, dataset: Dataset, index: int, *, now_h: float
) -> tuple[ProcessProblem, BatchRecord]:
    """The process problem of a running batch (its own start and feeds), and the batch itself."""
    run, model = dataset.runs[index], problem.model
    names, rows = list(problem.design.feeds), list(problem.feeds)
    renamed: dict[str, str] = {}
    for feed in run.feeds():
        own = np.asarray(model.feed(dataset.medium(feed, run.run_id)), float)
        if feed in names and np.allclose(own, rows[names.index(feed)]):
            continue
        # a feed of another composition than the design's is part of the past, and no decision of the design
        renamed[feed] = feed if feed not in names else f"{feed} (as given)"
        names.append(renamed[feed])
        rows.append(own)
    actions = tuple(with_feed(a, renamed.get(used_feed(a), used_feed(a))) for a in run.actions)
    start = model.initial(dataset.medium(run.medium_id, run.run_id), run.inoculum_vcd, dataset.initial_sample(index))
    problem = replace(problem, feeds=np.array(rows, float), initial=np.array([start[n] for n in model.names()], float))
    return problem, BatchRecord(replace(run, actions=actions), now_h, tuple(names))


def problem_until_now(cfg: Any, dataset: Dataset, index: int, *, now_h: float) -> FitProblem:
    """The fit problem of the running vessel alone, with its actions and readings until now.

    Raises `DatasetError` when there is no reading in the dataset at all.
    """
    run = dataset.runs[index]
    # actions at the very end would not count
    own = run.until(now_h + RUN_ENDS_AFTER_H)
    runs = tuple(own if i == index else r for i, r in enumerate(dataset.runs))
    whole = replace(dataset, runs=runs)
    alone = whole.select_runs(np.array([index]))
    if len(alone.measurements.value):
        return _roomy(build_fit(cfg, alone))
    return build_fit(cfg, whole).select_vessels(np.array([index]))


def _roomy(problem: FitProblem) -> FitProblem:
    """The same with room for more readings, so that a compiled program serves for some days of a batch."""
    v = problem.vessels
    more = padded_length(v.value.shape[1]) - v.value.shape[1]
    rows: dict[str, Any] = {"node": 0, "variable": 0, "value": 0.0, "sd": 1.0, "censored": 0, "weight": 0.0}
    padded: dict[str, Any] = {
        k: np.pad(getattr(v, k), ((0, 0), (0, more)), constant_values=fill) for k, fill in rows.items()
    }
    return replace(problem, vessels=v._replace(**padded))


def read_plan(folder: Path, problem: ProcessProblem, fit: FitResult, *, fit_folder: Path) -> FollowedPlan:
    """The current plan of a batch, from the folder of an optimum, a recipe, or an earlier re-plan.

    Raises `IncompatibleError` when it is none of them, of another design, or made from another fit.
    """
    if (folder / RECIPE_FILE).exists():
        plan = _of_recipe(folder, fit, fit_folder)
    elif _is_replan(folder):
        earlier = load_artefact(Replan, folder)
        require_parent(earlier, fit, child_place=folder, parent_place=fit_folder)
        decisions = {d.name: d.planned if np.isnan(d.now) else d.now for d in earlier.decisions}
        plan = FollowedPlan(decisions, earlier.replanned.trajectory, {earlier.kind(): earlier.id})
    else:
        optimum = load_artefact(Optimum, folder)
        require_parent(optimum, fit, child_place=folder, parent_place=fit_folder)
        best = optimum.optimum
        plan = FollowedPlan({d.name: d.value for d in best.decisions}, best.trajectory, {optimum.kind(): optimum.id})
    wanted = [d.name for d in problem.design.decisions]
    if list(plan.decisions) != wanted:
        differ = ", ".join(sorted(set(plan.decisions) ^ set(wanted))) or "their order"
        raise IncompatibleError(f"{folder} has other decisions than the configured design ({differ})")
    return plan


def _of_recipe(folder: Path, fit: FitResult, fit_folder: Path) -> FollowedPlan:
    document = read_document(folder)
    try:
        recipe = document["recipe"]
        process = recipe["process"]
        decisions = {d["name"]: float(d["value"]) for d in process["decisions"]}
        s = process["trajectory"]
        bands = (np.array(s[q], float) for q in ("p05", "p50", "p95"))
        series = Series(np.array(s["time_h"], float), tuple(s["names"]), tuple(s["units"]), *bands)
        made_from = str(recipe["lineage"]["parents"].get(fit.kind(), ""))
    except (KeyError, TypeError, ValueError) as err:
        raise IncompatibleError(f"{folder / RECIPE_FILE} is no recipe that can be followed: {err!r}") from err
    require_parent_id(made_from, fit, child_place=folder, parent_place=fit_folder, made_by=Recipe.made_by)
    return FollowedPlan(decisions, series, {"recipe": document["id"]})


def _is_replan(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "artefact.json").read_text())["schema"] == Replan.schema)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # what it is instead, and whether it can be read, is said by who reads it
