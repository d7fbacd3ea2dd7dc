"""Candidate experiments: clone x process x sampling times, each feasible with a given probability, with the information
of its readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from optim.data.dataset import Dataset, Measurements, Run
from optim.doe.posterior_normal import GaussianPosterior, fit_lanes
from optim.doe.selection import Candidates
from optim.doe.uncertain_process import UncertainProcess
from optim.errors import ConfigError, InfeasibleError, nearest
from optim.estimation.noise import MEASURED
from optim.estimation.posterior import Posterior
from optim.estimation.problem import build_problem
from optim.optimisation.solve import FEASIBLE
from optim.process.decision import DECISION_KINDS
from optim.process.design import Design
from optim.process.problem import ProcessProblem
from optim.schedule.actions import Harvest, Sample, Setpoint
from optim.schedule.decode import actions_of
from optim.schedule.schedule import Schedule
from optim.units import VARIABLES, display_unit

MEDIUM_COMPONENT, INOCULUM = "medium_component", "inoculum"
Media = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Setting:
    """What every run of a batch has in common. `media` holds the compositions of the medium and of all feeds."""

    medium_id: str
    inoculum_vcd: float | None
    experiment_id: str
    media: Media


@dataclass(frozen=True)
class Safety:
    """How runs are judged: so many processes `per_clone`, each by so many `members` of the belief.

    Those are kept that meet all limits in a share of `least` of them.
    """

    per_clone: int
    least: float
    members: int


@dataclass(frozen=True)
class CandidateRuns:
    """Candidate runs R that meet the limits with the probability asked for.

    `refused` counts clones x processes that do not.
    """

    clone: np.ndarray  # [R] place in the belief
    x: np.ndarray  # [R, D] decisions, at what pumps and controllers can do
    plan: np.ndarray  # [R]
    plans: tuple[tuple[float, ...], ...]  # hours at which each plan draws a sample; each run is also sampled at harvest
    met: np.ndarray  # [R] probability to meet all limits
    refused: int
    readings: Candidates


# --- processes to try ---


def space_filling_processes(design: Design, n: int, seed: int) -> np.ndarray:
    """Space-filling design (Sobol) of processes [n, D] within the bounds of the decisions.

    A profile of feeds is described by its level and its trend.
    """
    profiles = [kind.name for kind in DECISION_KINDS.values() if kind.is_profile]
    groups = [g for kind in profiles if len(g := [i for i, d in enumerate(design.decisions) if d.kind == kind]) > 1]
    single = [i for i in range(len(design.decisions)) if not any(i in g for g in groups)]
    size = 1 << int(np.ceil(np.log2(max(2, n))))
    u = qmc.Sobol(2 * len(groups) + len(single), rng=np.random.default_rng(seed)).random(size)[:n]
    z = np.zeros((n, len(design.decisions)))
    z[:, single] = u[:, 2 * len(groups) :]
    for k, g in enumerate(groups):
        when = np.array([design.decisions[i].time_h for i in g])
        late = 2.0 * (when - when.min()) / max(np.ptp(when), 1e-9) - 1.0
        z[:, g] = np.clip(u[:, 2 * k, None] * (1.0 + (2.0 * u[:, 2 * k + 1, None] - 1.0) * late), 0.0, 1.0)
    return rounded_processes(design, design.lower + z * (design.upper - design.lower))


def rounded_processes(design: Design, x: np.ndarray) -> np.ndarray:
    """Decisions [..., D] at the nearest step that pumps and controllers can do, within bounds."""
    step = np.array([d.resolution for d in design.decisions])
    unit = np.where(step > 0.0, step, 1.0)
    low, high = np.ceil(design.lower / unit - 1e-9) * unit, np.floor(design.upper / unit + 1e-9) * unit
    return np.where(step > 0.0, np.round(np.clip(np.round(x / unit) * unit, low, high), 10), x)


def process_coordinates(design: Design, x: np.ndarray) -> np.ndarray:
    """Coordinates of processes [..., D] between 0 and 1, weighted so that a whole profile counts as one decision."""
    kinds = [d.kind for d in design.decisions]
    weight = np.array([1.0 / np.sqrt(kinds.count(k)) if DECISION_KINDS[k].is_profile else 1.0 for k in kinds])
    z: np.ndarray = weight * (x - design.lower) / (design.upper - design.lower)
    return z


# --- runs ---


def runs_of(
    process: ProcessProblem,
    x: np.ndarray,
    setting: Setting,
    *,
    plan: np.ndarray,
    plans: Sequence[Sequence[float]],
) -> tuple[Run, ...]:
    """What would be done to vessels of processes x [R, D], clones yet to be named.

    `plans` are sampling times in hours, and `plan` [R] is the index of each run's.

    Raises `ConfigError` for a design that a run cannot state.
    """
    check_written(process.design, setting)
    found: list[Run | None] = [None] * len(x)
    for k, times in enumerate(plans):
        own = np.flatnonzero(plan == k)
        if not len(own):
            continue
        design = replace(process.design, sample_times_h=tuple(times))
        schedules = jax.tree.map(np.asarray, jax.vmap(design.schedule)(jnp.asarray(x[own])))
        for i, row in enumerate(own):
            found[row] = _run(design, jax.tree.map(lambda a, i=i: a[i], schedules), x[row], setting)
    return tuple(run for run in found if run is not None)


def check_written(design: Design, setting: Setting) -> None:
    """Whether a run can state a design. Raises `ConfigError` that names what it cannot."""
    for d in design.decisions:
        if d.component and d.component not in VARIABLES:
            raise ConfigError(
                f"suggest: design.decisions.{d.name} is about '{d.component}', which no medium of a file can "
                "state. Hold it at what the screen had, or leave it out"
            )
    for name in (setting.medium_id, *design.feeds):
        if name not in setting.media:
            raise ConfigError(
                f"suggest: medium or feed '{name}' has no composition.{nearest(name, setting.media)} "
                f"Known: {', '.join(setting.media)}"
            )


def named_media(design: Design, x: np.ndarray, setting: Setting) -> tuple[str, tuple[str, ...], Media]:
    """Names of the medium and of the feeds [J] of one process x [D], and what each holds.

    Where a component is decided, the medium or feed is one of its own, and its name says so.
    """
    holds = {"": setting.media[setting.medium_id]} | {feed: setting.media[feed] for feed in design.feeds}
    names = {"": setting.medium_id} | {feed: feed for feed in design.feeds}
    for d, value in zip(design.decisions, x, strict=True):
        if d.component:
            key = "" if d.kind == MEDIUM_COMPONENT else d.feed
            holds[key] = holds[key] | {d.component: float(value)}
            names[key] += f", {float(value):.10g} {display_unit(VARIABLES[d.component].unit)} {d.component}"
    feeds = tuple(names[feed] for feed in design.feeds)
    return names[""], feeds, {names[key]: composition for key, composition in holds.items()}


def planned_media(design: Design, x: np.ndarray, setting: Setting) -> Media:
    """What the media and feeds of processes x [R, D] hold, by name."""
    return {name: holds for row in x for name, holds in named_media(design, row, setting)[2].items()}


def _run(design: Design, s: Schedule, x: np.ndarray, setting: Setting) -> Run:
    """The run of a schedule (arrays of one vessel) of decisions x [D]."""
    medium, feeds, _ = named_media(design, x, setting)
    first, *actions, harvest = actions_of(s, feeds, perfused=[feeds[j] for j in design.perfusion_feeds])
    assert isinstance(first, Setpoint)
    assert isinstance(harvest, Harvest)
    assert first.temperature_c is not None
    assert first.ph is not None
    controlled = replace(first, temperature_c=None, ph=None)
    if controlled != Setpoint(first.time_h):
        actions = [controlled, *actions]
    inoculum = [float(v) for d, v in zip(design.decisions, x, strict=True) if d.kind == INOCULUM]
    return Run(
        run_id="",
        experiment_id=setting.experiment_id,
        vessel_id="",
        clone_id="",
        start_volume_l=design.start_volume_l,
        medium_id=medium,
        temperature_c=first.temperature_c,
        ph=first.ph,
        inoculum_vcd=inoculum[0] if inoculum else setting.inoculum_vcd,
        end_time_h=harvest.time_h,
        actions=tuple(actions),
    )


def sampled_h(run: Run) -> tuple[float, ...]:
    """When a run is measured: at every sample, and at harvest."""
    return (*dict.fromkeys(a.time_h for a in run.actions if isinstance(a, Sample)), run.end_time_h)


# --- safety ---


def safe_candidates(
    uncertain: UncertainProcess,
    pool: np.ndarray,
    safety: Safety,
    *,
    plans: Sequence[tuple[float, ...]],
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Feasible candidates: clone [R], process [R, D], sampling plan [R] and probability [R] to meet all limits.

    Of every clone at most `per_clone` processes of the pool [P, D] are looked at: the best, then those farthest from
    the ones before it, out of all that meet the limits at the estimate. Raises `InfeasibleError` when none is safe.
    """
    process, belief = uncertain.process, uncertain.belief
    clones, n, members, least = np.arange(len(belief.clones)), len(pool), safety.members, safety.least
    by_plan = [replace(process, design=replace(process.design, sample_times_h=times)) for times in plans]
    who, which = np.repeat(clones, n), np.tile(np.arange(n), len(clones))
    first = by_plan[0].evaluate(pool[which], uncertain.at_mean(who).parameters)
    met = (first.status == 0) & (first.margins.min(axis=1, initial=np.inf) >= -FEASIBLE)
    value = np.where(met, first.objective, -np.inf).reshape(len(clones), n)
    where = process_coordinates(process.design, pool)
    looked = [(c, i) for c in clones for i in _spread(value[c], where, safety.per_clone)]
    refused = len(who) - int(met.sum())
    if not looked:
        raise InfeasibleError("no process to try meets all limits at the estimate; run `optim rank` to see why")
    clone, row = (np.array(column) for column in zip(*looked, strict=True))
    drawn = np.concatenate([belief.mean[None], belief.draws(members - 1, np.random.default_rng(seed))])
    theta = np.tile(drawn, (len(clone), 1))
    p = uncertain.model_parameters(theta, np.repeat(clone, members))
    found = []
    for k, one in enumerate(by_plan):
        e = one.evaluate(pool[np.repeat(row, members)], p)
        good = (e.status == 0) & (e.margins.min(axis=1, initial=np.inf) >= -FEASIBLE)
        share = good.reshape(len(clone), members).mean(axis=1)
        found += [(c, pool[i], k, s) for c, i, s in zip(clone, row, share, strict=True) if s >= least]
        refused += int(np.sum(share < least)) if k == 0 else 0
    if not found:
        raise InfeasibleError(
            f"no run meets all limits with a probability of {least:g}; lower suggest.safe, or widen the design's bounds"
        )
    found.sort(key=lambda f: f[0])
    c, x, plan, share = zip(*found, strict=True)
    return np.array(c), np.array(x), np.array(plan), np.array(share), refused


def _spread(value: np.ndarray, where: np.ndarray, n: int) -> list[int]:
    """Places of the best of what has a value, then always the one farthest from those before."""
    able = np.flatnonzero(np.isfinite(value))
    if not len(able):
        return []
    chosen = [int(able[np.argmax(value[able])])]
    nearest_one = np.sum((where[able] - where[chosen[0]]) ** 2, axis=1)
    while len(chosen) < min(n, len(able)):
        far = int(np.argmax(nearest_one))
        if nearest_one[far] <= 0.0:
            break
        chosen.append(int(able[far]))
        nearest_one = np.minimum(nearest_one, np.sum((where[able] - where[able[far]]) ** 2, axis=1))
    return chosen


# --- what readings would say ---


def information_matrices(
    posterior: Posterior,
    belief: GaussianPosterior,
    runs: Sequence[Run],
    *,
    clone: np.ndarray,
    run: np.ndarray,
    media: Media,
) -> np.ndarray:
    """Fisher information [R, Q, Q] on the belief's parameters from runs (one per process, `run` [R]) with clones [R].

    `media` holds the compositions of their media and feeds. Every assay that was fitted is read at every sample. What
    is new in a vessel is averaged out under its prior. A run that cannot be simulated says nothing.
    """
    problem, dataset = posterior.problem, posterior.problem.dataset
    planned = planned_readings(problem.variables, runs)
    future = build_problem(
        problem.model,
        problem.table,
        _planned(replace(dataset, media=media), runs, planned),
        noise=problem.noise,
        integrator=problem.integrator,
    )
    u = fit_lanes(problem, belief, np.tile(belief.mean, (len(clone), 1)), clone=clone)
    y, status = future.predict(u, run)
    v = future.vessels
    sd = np.ones_like(y)
    for i, name in enumerate(future.variables):
        own = v.variable[run] == i
        sd[own] = problem.noise.sd_on_scale(name, y[own]) * posterior.noise.scale[problem.variables.index(name)]
    ready = future.make_lanes(run)
    none = np.full(y.shape, MEASURED, np.int32)
    told = tuple((at, part._replace(value=y[at], sd=sd[at], censored=none[at])) for at, part in ready.ready)
    hessian = replace(ready, ready=told).vessel_equations(u).hessian
    outer = len(problem.shared_specs) + len(problem.batch_specs) + len(problem.group_specs)
    own = hessian[:, outer:, outer:].copy()
    for k, row in enumerate(problem.vessel_specs):
        own[:, k, k] += row.prior_score(np.asarray(row.to_fitted(row.value)))[2]
    across = hessian[:, :outer, outer:]
    found = hessian[:, :outer, :outer] - across @ np.linalg.solve(own, np.swapaxes(across, 1, 2))
    return np.where((status == 0)[:, None, None], 0.5 * (found + np.swapaxes(found, 1, 2)), 0.0)


def planned_readings(variables: Sequence[str], runs: Sequence[Run]) -> list[tuple[int, float, str]]:
    """(run, time in h, assay) of every reading that a plan asks for."""
    return [(b, t, name) for b, run in enumerate(runs) for t in sampled_h(run) for name in variables]


def _planned(dataset: Dataset, runs: Sequence[Run], planned: list[tuple[int, float, str]]) -> Dataset:
    """A dataset of runs yet to be done, with a value of 0.5 wherever one will be read."""
    n = len(planned)
    readings = Measurements(
        run=np.array([b for b, _, _ in planned], int),
        time_h=np.array([t for _, t, _ in planned]),
        variable=tuple(name for _, _, name in planned),
        value=np.full(n, 0.5),
        censored=("",) * n,
        replicate=("1",) * n,
    )
    named = tuple(replace(run, run_id=f"R{i}", clone_id="any") for i, run in enumerate(runs))
    return replace(dataset, runs=named, measurements=readings, truth=None)


def candidate_runs(
    posterior: Posterior,
    uncertain: UncertainProcess,
    pool: np.ndarray,
    *,
    plans: Sequence[tuple[float, ...]],
    setting: Setting,
    safety: Safety,
    seed: int,
) -> CandidateRuns:
    """All candidate runs with the information of their readings.

    Raises `ConfigError` for no plan, `InfeasibleError` when no run is safe enough.
    """
    if not plans:
        raise ConfigError("suggest: no plan of sampling; give suggest.every_d or suggest.days")
    process, belief = uncertain.process, uncertain.belief
    clone, x, plan, met, refused = safe_candidates(uncertain, pool, safety, plans=plans, seed=seed)
    distinct, run = np.unique(np.column_stack([plan, x]), axis=0, return_inverse=True)
    runs = runs_of(process, distinct[:, 1:], setting, plan=distinct[:, 0].astype(int), plans=plans)
    media = planned_media(process.design, distinct[:, 1:], setting)
    info = information_matrices(posterior, belief, runs, clone=clone, run=run.ravel(), media=media)
    size, vectors = np.linalg.eigh(info)
    root = np.sqrt(np.maximum(size, 0.0))[:, :, None] * np.swapaxes(vectors, 1, 2)
    samples = np.array([len(sampled_h(r)) for r in runs])[run.ravel()]
    where = process_coordinates(process.design, x)
    readings = Candidates(root, belief.clone_columns(clone), samples, clone, where)
    return CandidateRuns(clone, x, plan, tuple(plans), met, refused, readings)
