"""The recipe: what a process team executes, in plain Python and human units, with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from optim.artefact import Lineage
from optim.errors import IncompatibleError
from optim.optimisation.result import Action, DecisionValue, Optimum, ProcessOutcome
from optim.process.metrics import find_metric
from optim.recipe.rounding import broken_limits

HOURS = 24.0
VOLUME_BASIS = "starting working volume"  # stating the basis avoids the commonest hand-over error


@dataclass(frozen=True)
class Provenance:
    """When, where and by which code and configuration a recipe was made.

    Between two equal runs only `created_utc`, `run_id` and what `config` says of the output folder differ.
    """

    created_utc: str
    code_version: str
    git_commit: str
    python: str
    jax: str
    config_hash: str
    config: str
    run_id: str


@dataclass(frozen=True)
class Setpoint:
    """One set value over one phase. The range is what the model was searched over: no proven acceptable range."""

    parameter: str
    unit: str
    start_day: float
    end_day: float
    target: float
    target_end: float | None  # of a ramp
    model_suggested_low: float | None
    model_suggested_high: float | None
    rationale: str


@dataclass(frozen=True)
class Feed:
    """One feed action of one vessel, or one stretch of a continuous feed.

    Percent and production volume refer to the starting working volume; cumulative volume counts this feed;
    `vessel_volume_after_ml` is by bookkeeping: start + feeds - samples.
    """

    day: int
    clock_h: float
    feed_id: str
    mode: str  # bolus | continuous
    rate_start_ml_per_h: float | None
    rate_end_ml_per_h: float | None
    duration_h: float
    volume_ml: float
    percent_of_start_volume: float
    production_volume_l: float
    cumulative_ml: float
    vessel_volume_after_ml: float


@dataclass(frozen=True)
class Recipe:
    """A process as handed over. Status is always DRAFT: approval is the receiving organisation's act."""

    schema: ClassVar[str] = "optim.recipe/2"
    made_by: ClassVar[str] = "optim export"

    lineage: Lineage
    title: str
    status: str
    clone: str
    objective: str
    start_volume_ml: float
    production_volume_l: float
    volume_basis: str
    setpoints: tuple[Setpoint, ...]
    feeds: tuple[Feed, ...]
    harvest_criteria: tuple[str, ...]
    sampling_h: tuple[float, ...]
    sample_volume_ml: float
    decisions: tuple[DecisionValue, ...]
    process: ProcessOutcome  # simulated again after rounding
    baseline: ProcessOutcome
    rounding_loss_percent: float  # of the objective
    provenance: Provenance


def make_recipe(title: str, optimum: Optimum, rounded: ProcessOutcome, provenance: Provenance) -> Recipe:
    """The recipe of `rounded`: the optimum's decisions, rounded and simulated again.

    Its parents are the optimum and what the optimum was made from.
    Raises `IncompatibleError` when the two processes do not have the same decisions.
    """
    best = optimum.optimum
    if [d.name for d in best.decisions] != [d.name for d in rounded.decisions]:
        raise IncompatibleError("the rounded process and the optimum do not have the same decisions")
    start_ml = 1000.0 * optimum.vessel_volume_l
    before, after = best.metrics[optimum.objective].p50, rounded.metrics[optimum.objective].p50
    samples = [a for a in rounded.actions if a.kind == "sample"]
    made_from = {**optimum.lineage.parents, optimum.kind(): optimum.id}
    return Recipe(
        lineage=replace(optimum.lineage.with_notes(*_warnings(rounded)), parents=made_from),
        title=title,
        status="DRAFT",
        clone=optimum.clone,
        objective=optimum.objective,
        start_volume_ml=start_ml,
        production_volume_l=optimum.production_volume_l,
        volume_basis=VOLUME_BASIS,
        setpoints=_setpoints(rounded),
        feeds=feed_schedule(rounded.actions, start_ml, optimum.production_volume_l),
        harvest_criteria=_harvest(rounded),
        sampling_h=tuple(a.time_h for a in samples),
        sample_volume_ml=samples[0].value if samples else 0.0,
        decisions=rounded.decisions,
        process=rounded,
        baseline=optimum.baseline,
        rounding_loss_percent=-100.0 * find_metric(optimum.objective).relative_gain(after, before),
        provenance=provenance,
    )


def _warnings(rounded: ProcessOutcome) -> tuple[str, ...]:
    found = [f"the rounded process does not meet {name}" for name in broken_limits(rounded)]
    if rounded.failed_members:
        found.append(f"{rounded.failed_members} parameter sets could not be simulated and are not in the intervals")
    return tuple(found)


def _harvest_h(actions: tuple[Action, ...]) -> float:
    return next(a.time_h for a in actions if a.kind == "harvest")


def _setpoints(process: ProcessOutcome) -> tuple[Setpoint, ...]:
    decided = {d.kind: d for d in process.decisions}  # of several times, any: the range is the same
    end = _harvest_h(process.actions)
    rows = []
    named = dict.fromkeys(a.what for a in process.actions if a.kind == "setpoint")
    for parameter in sorted(named, key=lambda n: (n not in ("temperature", "pH"), n)):
        own = [a for a in process.actions if a.kind == "setpoint" and a.what == parameter]
        for i, a in enumerate(own):
            word = {"dissolved oxygen": "do", "bleed above VCD": "bleed_above"}.get(parameter, parameter.lower())
            d = (decided.get(f"shift_{word}") if i else None) or decided.get(word)
            fixed = "fixed by the platform"
            until = own[i + 1].time_h if i + 1 < len(own) else end
            rows.append(
                Setpoint(
                    parameter=parameter,
                    unit=a.unit,
                    start_day=a.time_h / HOURS,
                    end_day=until / HOURS,
                    target=a.value,
                    target_end=a.value_end,
                    model_suggested_low=d.lower if d else None,
                    model_suggested_high=d.upper if d else None,
                    rationale="optimised" + (" (at the end of its range)" if d.at_bound else "") if d else fixed,
                )
            )
    return tuple(rows)


def _harvest(process: ProcessOutcome) -> tuple[str, ...]:
    end = _harvest_h(process.actions)
    rows = [f"harvest at {end:.1f} h (day {end / HOURS:.2f})"]
    rows += [
        f"{c.name.replace('_', ' ')}: {'at least' if c.kind == 'min' else 'at most'} {c.limit:g} {c.unit.strip('-')} "
        f"(expected {c.value:.3g}); harvest earlier when it comes near"
        for c in process.constraints
        if c.where == "end"
    ]
    return tuple(rows)


def feed_schedule(actions: tuple[Action, ...], start_volume_ml: float, production_volume_l: float) -> tuple[Feed, ...]:
    """Feeds in order of time. At one time a sample is drawn before a bolus is given, as in the simulation."""
    end = _harvest_h(actions)
    changes: list[tuple[float, int, float, Feed | None]] = []  # (when counted, order, mL, row)
    for a in actions:
        if a.kind == "sample":
            changes.append((a.time_h, 1, -a.value, None))
        if a.kind not in ("bolus", "feed_rate", "perfusion"):
            continue
        length = 0.0
        volume = a.value
        stop = None
        if a.kind != "bolus":
            own = [b.time_h for b in actions if b.kind == a.kind and b.what == a.what]
            length = min((t for t in own if t > a.time_h), default=end) - a.time_h
            stop = a.value if a.value_end is None else a.value_end
            volume = 0.5 * (a.value + stop) * length
        row = Feed(
            day=int((a.time_h + 1e-6) // HOURS),
            clock_h=round(a.time_h - HOURS * int((a.time_h + 1e-6) // HOURS), 4),
            feed_id=a.what,
            mode="bolus" if stop is None else "perfusion" if a.kind == "perfusion" else "continuous",
            rate_start_ml_per_h=None if stop is None else a.value,
            rate_end_ml_per_h=stop,
            duration_h=length,
            volume_ml=volume,
            percent_of_start_volume=100.0 * volume / start_volume_ml,
            production_volume_l=volume / start_volume_ml * production_volume_l,
            cumulative_ml=0.0,
            vessel_volume_after_ml=0.0,
        )
        # a continuous feed is counted at the end of its stretch, before what happens there
        changes.append((a.time_h + length, 2 if stop is None else 0, volume, row))
    level, given, rows = start_volume_ml, dict[str, float](), list[Feed]()
    for _, _, added, draft in sorted(changes, key=lambda c: (*c[:2], c[3].feed_id if c[3] else "")):
        level += added if draft is None or draft.mode != "perfusion" else 0.0  # as much leaves as is perfused
        if draft is not None:
            given[draft.feed_id] = given.get(draft.feed_id, 0.0) + added
            rows.append(replace(draft, cumulative_ml=given[draft.feed_id], vessel_volume_after_ml=level))
    return tuple(sorted(rows, key=lambda r: (r.day, r.clock_h, r.feed_id)))
