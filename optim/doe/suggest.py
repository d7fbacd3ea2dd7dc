"""Sequential design of experiments: the batch of runs that informs the choice of clone and process most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from optim.artefact import Lineage
from optim.data.dataset import Run
from optim.doe.alternatives import Alternatives, best_processes, find_alternatives
from optim.doe.candidates import (
    CandidateRuns,
    Safety,
    Setting,
    candidate_runs,
    check_written,
    planned_media,
    rounded_processes,
    runs_of,
    sampled_h,
    space_filling_processes,
)
from optim.doe.posterior_normal import GaussianPosterior, gaussian_posterior
from optim.doe.result import CloneChance, SuggestedRun, Suggestion
from optim.doe.selection import Chosen, Knowledge, LinearValues, select_batch
from optim.doe.uncertain_process import UncertainProcess
from optim.errors import ConfigError
from optim.estimation.posterior import Point, Posterior
from optim.optimisation.evaluate import decision_values
from optim.optimisation.solve import Progress, silent
from optim.process.problem import ProcessProblem
from optim.runtime import require_float64
from optim.settings.doe import SuggestSettings
from optim.settings.optimisation import OptimiseSettings

NEW = "NEW"  # clones that no run has seen: NEW1, NEW2, ...


@dataclass(frozen=True)
class ExperimentProblem:
    """What experiments are designed for: the posterior of a fit at its mode, the process to decide on, and what all
    runs have in common. Clones `left_out` make no product."""

    posterior: Posterior
    point: Point
    process: ProcessProblem
    setting: Setting
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeighedCandidates:
    """The candidate runs of a batch, the alternatives that it is to decide between, and the posterior of both."""

    belief: GaussianPosterior
    alternatives: Alternatives
    candidates: CandidateRuns
    screened: tuple[str, ...]  # clones that have runs


def weigh_candidates(
    problem: ExperimentProblem,
    options: SuggestSettings,
    *,
    solving: OptimiseSettings,
    seed: int,
    known: Mapping[str, np.ndarray] | None = None,
    progress: Progress = silent,
) -> WeighedCandidates:
    """The alternatives (clone and process) to decide between, and all candidate runs that meet the limits.

    Raises `InfeasibleError` when no clone has a process within the limits, or no run is safe.
    """
    require_float64("weigh_candidates")
    posterior, process, setting = problem.posterior, problem.process, problem.setting
    if process.objective.target.signed or process.objective.target.less_is_better:
        raise ConfigError(
            f"objective.maximise: runs are weighed by metrics of which more is better, not by {process.metric}; "
            "yield_per_cost asks the same as cogs"
        )
    fit, taken = posterior.problem, set(posterior.problem.groups)
    fresh = [name for i in range(len(taken) + options.new_clones) if (name := f"{NEW}{i + 1}") not in taken]
    belief = gaussian_posterior(posterior, problem.point, fresh[: options.new_clones], left_out=problem.left_out)
    check_written(process.design, setting)
    progress("suggest: the best process of every clone")
    uncertain = UncertainProcess(process, fit, belief)
    own = best_processes(uncertain, solving, seed=seed, known=known, progress=progress)
    decided = find_alternatives(uncertain, own, options, solving=solving, seed=seed, progress=progress)
    progress("suggest: runs that meet the limits")
    pool = _pool(process, decided.x, options.processes, seed)
    safety = Safety(options.per_clone, options.safe, options.members)
    plans = _plans(process, options)
    found = candidate_runs(posterior, uncertain, pool, plans=plans, setting=setting, safety=safety, seed=seed)
    return WeighedCandidates(belief, decided, found, posterior.problem.groups)


def suggest_runs(
    problem: ExperimentProblem,
    options: SuggestSettings,
    *,
    solving: OptimiseSettings,
    lineage: Lineage,
    known: Mapping[str, np.ndarray] | None = None,
    progress: Progress = silent,
) -> Suggestion:
    """The next batch of runs by an acquisition function, from the posterior of a fit at its mode.

    `known` are processes [D] by clone from which the best process of each is searched.

    Raises `ConfigError` when runs and samples do not suffice for each other, `InfeasibleError` when nothing is safe.
    """
    require_float64("suggest_runs")
    w = weigh_candidates(problem, options, solving=solving, seed=lineage.seed, known=known, progress=progress)
    progress(f"suggest: the worth of {len(w.candidates.clone)} runs")
    batch = select_runs(w, options, lineage.seed)
    return _suggestion(problem, w, batch, options, lineage)


def select_runs(w: WeighedCandidates, options: SuggestSettings, seed: int) -> list[Chosen]:
    """The batch of runs that the acquisition function `options.by` selects among the candidates."""
    return select_batch(w.belief.covariance, w.alternatives.values, w.candidates.readings, options=options, seed=seed)


def runs_to_do(
    process: ProcessProblem, w: WeighedCandidates, batch: list[Chosen], *, setting: Setting
) -> tuple[Run, ...]:
    """The runs of a batch as records to execute, each with its name and its clone."""
    picked = np.array([c.run for c in batch])
    runs = runs_of(process, w.candidates.x[picked], setting, plan=w.candidates.plan[picked], plans=w.candidates.plans)
    names = [f"{setting.experiment_id}-{k + 1}" for k in range(len(runs))]
    clones = [w.belief.clones[c] for c in w.candidates.clone[picked]]
    rows = zip(runs, names, clones, strict=True)
    return tuple(replace(run, run_id=name, vessel_id=name, clone_id=clone) for run, name, clone in rows)


def _pool(process: ProcessProblem, best: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Processes to try: the platform, the best ones, those half way between, and some that fill the design."""
    design = process.design
    half = 0.5 * (best + design.platform)
    tried = np.concatenate([design.platform[None], best, half])
    return np.unique(
        np.concatenate([rounded_processes(design, tried), space_filling_processes(design, n, seed)]), axis=0
    )


def _plans(process: ProcessProblem, options: SuggestSettings) -> tuple[tuple[float, ...], ...]:
    """When samples are drawn, in hours; what lies after a run's harvest falls away."""
    end = process.design.longest_h()
    plans = [tuple(float(t) for t in np.arange(24.0 * d, end - 1e-9, 24.0 * d)) for d in options.every_d]
    if options.days:
        plans.append(tuple(sorted({24.0 * d for d in options.days if 24.0 * d < end})))
    if not plans:
        plans.append(process.design.sample_times_h)
    return tuple(dict.fromkeys(plans))


def _suggestion(
    problem: ExperimentProblem, w: WeighedCandidates, batch: list[Chosen], options: SuggestSettings, lineage: Lineage
) -> Suggestion:
    process, setting = problem.process, problem.setting
    belief, decided, found = w.belief, w.alternatives, w.candidates
    before = Knowledge(belief.covariance, decided.values, draws=options.draws, seed=lineage.seed)
    loss, chance = before.expected_loss_and_probability()
    rows, covariance = [], belief.covariance
    for c, run in zip(batch, runs_to_do(process, w, batch, setting=setting), strict=True):
        places = found.readings.places[c.run]
        rows.append(
            SuggestedRun(
                run=run,
                new_clone=run.clone_id not in w.screened,
                decisions=decision_values(process, found.x[c.run]),
                sample_days=tuple(t / 24.0 for t in sampled_h(run)),
                gain=c.gain,
                gain_error=c.error,
                information=c.information,
                loss=c.loss,
                chance=c.chance,
                met=float(found.met[c.run]),
                reason=_reason(belief, decided.values, places, covariance, c),
            )
        )
        covariance = c.covariance
    return Suggestion(
        lineage=lineage.with_notes(*_notes(belief, found, rows)),
        by=options.by,
        objective=process.metric,
        unit=process.metrics[process.metric].unit,
        runs=tuple(rows),
        media=planned_media(process.design, found.x[[c.run for c in batch]], setting),
        samples=sum(len(row.sample_days) for row in rows),
        clones=_chances(belief, decided, before),
        chance_before=chance,
        chance_after=batch[-1].chance,
        loss_before=loss,
        loss_after=batch[-1].loss,
        considered=len(found.clone),
        refused=found.refused,
        least_met=options.safe,
    )


def _notes(belief: GaussianPosterior, found: CandidateRuns, rows: list[SuggestedRun]) -> tuple[str, ...]:
    notes = list[str]()
    never = [c for i, c in enumerate(belief.clones) if not np.any(found.clone == i)]
    if never:
        notes.append(f"no run of {', '.join(never)} is safe enough, so none was weighed")
    outside = list(dict.fromkeys(d.name for row in rows for d in row.decisions if d.outside_screened))
    if outside:
        notes.append(f"outside the screened range, where the model extrapolates: {', '.join(outside)}")
    return tuple(notes)


def _chances(belief: GaussianPosterior, alternatives: Alternatives, before: Knowledge) -> tuple[CloneChance, ...]:
    a, chance = alternatives.values, before.probability_best()
    rows = []
    for c in np.unique(a.group):
        own = np.flatnonzero(a.group == c)
        lead = own[np.argmax(a.mean[own])]
        sd = float(np.sqrt(a.slope[lead] @ belief.covariance @ a.slope[lead]) / max(a.mean[lead], 1e-12))
        value, likely = alternatives.scale * float(a.mean[lead]), float(chance[own].sum())
        rows.append(CloneChance(belief.clones[c], value, sd, likely))
    return tuple(sorted(rows, key=lambda row: (-row.chance, -row.value)))


def _reason(belief: GaussianPosterior, a: LinearValues, places: np.ndarray, before: np.ndarray, c: Chosen) -> str:
    """The contrast that a run sharpens most by what it counts, and the parameter by which it does so."""
    lead = int(np.argmax(a.mean))
    gone = before - c.covariance
    contrast = a.slope - a.slope[lead]
    sd = np.sqrt(np.maximum(np.einsum("ad,de,ae->a", contrast, before, contrast), 1e-30))
    fall = np.einsum("ad,de,ae->a", contrast, gone, contrast)
    # a contrast counts by how near the two are to each other
    count = fall * np.exp(-0.5 * ((a.mean[lead] - a.mean) / sd) ** 2) / sd**2
    count[a.group == a.group[lead]] *= 0.5
    rival = int(np.argmax(count))
    by = contrast[rival] if fall[rival] > 0.0 else a.slope[lead]
    j = int(places[np.argmax(by[places] ** 2 * np.diag(gone)[places])])
    owner = belief.owners[j] or "all clones"
    was, is_now = np.sqrt(before[j, j]), np.sqrt(c.covariance[j, j])
    text = f"sharpens {belief.rows[j].name} of {owner} (sd {100 * was:.2g} to {100 * is_now:.2g} %)"
    if fall[rival] <= 0.0:
        return text
    first, second = belief.clones[a.group[lead]], belief.clones[a.group[rival]]
    left = np.sqrt(max(sd[rival] ** 2 - fall[rival], 0.0))
    what = f"{first} against {second}" if first != second else f"{first} in one process against another"
    return f"{text} and so {what} (sd {100 * sd[rival]:.2g} to {100 * left:.2g} %)"
