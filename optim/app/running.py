"""The rest of a running batch, optimised again: the function of the library, and what it takes from a dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from optim.app.build import build_fit
from optim.app.library import changed_settings, no_progress, require_made_from
from optim.app.process import Process
from optim.artefact import Lineage
from optim.errors import ConfigError, IncompatibleError, nearest
from optim.replanning.running_batch import BatchRecord, FollowedPlan, RunningBatch
from optim.schedule.actions import start_time, used_feed, with_feed
from optim.schedule.grid import padded_length

if TYPE_CHECKING:
    from optim.app.library import Progress
    from optim.data.dataset import Dataset
    from optim.estimation.problem import FitProblem
    from optim.estimation.result import FitResult
    from optim.optimisation.result import Optimum
    from optim.process.problem import ProcessProblem
    from optim.replanning.result import Replan
    from optim.settings.settings import Settings

RUN_ENDS_AFTER_H = 0.01  # actions at the present moment lie within the run


def replan(
    result: FitResult,
    process: Process,
    dataset: Dataset,
    *,
    plan: Optimum | Replan | FollowedPlan,
    seed: int = 0,
    progress: Progress = no_progress,
    **settings: Any,
) -> Replan:
    """Optimise the rest of a running batch again, from its readings and actions so far.

    Args:
        result: the fit that came before the batch.
        process: from `optim.load_process`: what may still be decided, and the limits.
        dataset: it holds the run that is under way, with all that has happened and nothing that has not.
        plan: what the batch follows: an optimum, or an earlier re-plan.
        seed: of the draws and starts.
        progress: receives a line now and then.
        settings: fields of `ReplanSettings`, such as `run="B07"` or `now_h=120.0`.

    Returns:
        The rest of the plan as it was and as it should be, with bands, limits and the agreement of the readings.

    Raises:
        ConfigError: the run is not in the dataset, or the present lies before its last reading or action.
        IncompatibleError: the plan was made from another fit, or for other decisions.
        MisfitError: the fit does not describe an assay that matters here, and `accept_misfit` is not set.
    """
    from optim.optimisation.evidence import require_described
    from optim.replanning.replan import ReplanOptions, replan_batch

    cfg = process.settings
    require_described(result, process.problem, accepted=cfg.accept_misfit)
    chosen = changed_settings("replan", cfg.replan, settings)
    index = chosen_run(dataset, chosen.run)
    now = now_of(dataset, index, chosen.now_h)
    problem, batch = running_batch_problem(process.problem, dataset, index, now_h=now)
    followed = plan if isinstance(plan, FollowedPlan) else followed_plan(plan, result)
    require_decisions(followed, problem, "the plan")
    fitting = problem_until_now(cfg, dataset, index, now_h=now)
    options = ReplanOptions(cfg.optimise, chosen, cfg.objective.risk, cfg.calendar)
    notes: tuple[str, ...] = (
        ("SIMULATED data: nothing here was measured",) if dataset.simulated or result.lineage.simulated else ()
    )
    notes += result.cautions
    started, meant = 1000.0 * batch.run.start_volume_l, float(cfg.vessel.start_volume_ml)
    if abs(started - meant) > 1e-3 * meant:
        notes += (f"the run started with {started:g} mL, the design is for {meant:g} mL: doses are not scaled",)
    lineage = Lineage.from_parents(result, seed=seed, notes=notes)
    lineage = lineage.with_data(dataset.name, dataset.content_hash, dataset.simulated)
    lineage = replace(lineage, parents={**lineage.parents, **followed.source})
    running = RunningBatch(batch, followed, fitting, result)
    return replan_batch(problem, running, options, lineage=lineage, progress=progress)


def followed_plan(plan: Optimum | Replan, result: FitResult) -> FollowedPlan:
    """The plan of an optimum or an earlier re-plan. Raises `IncompatibleError` where it was made from another fit."""
    from optim.optimisation.result import Optimum

    require_made_from(plan, result)
    if isinstance(plan, Optimum):
        best = plan.optimum
        return FollowedPlan({d.name: d.value for d in best.decisions}, best.trajectory, {plan.kind(): plan.id})
    decisions = {d.name: d.planned if np.isnan(d.now) else d.now for d in plan.decisions}
    return FollowedPlan(decisions, plan.replanned.trajectory, {plan.kind(): plan.id})


def require_decisions(plan: FollowedPlan, problem: ProcessProblem, place: str) -> None:
    """Refuse a plan of another design. Raises `IncompatibleError`."""
    wanted = [d.name for d in problem.design.decisions]
    if list(plan.decisions) != wanted:
        differ = ", ".join(sorted(set(plan.decisions) ^ set(wanted))) or "their order"
        raise IncompatibleError(f"{place} has other decisions than the configured design ({differ})")


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


def problem_until_now(cfg: Settings, dataset: Dataset, index: int, *, now_h: float) -> FitProblem:
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
