"""The recipe: the process that a team executes, in plain Python and human units, with its provenance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from optim.artefact import Lineage
from optim.errors import IncompatibleError
from optim.optimisation.result import DecisionValue, Optimum, ProcessOutcome
from optim.process.metrics import find_metric
from optim.recipe.rounding import broken_limits
from optim.recipe.steps import HOURS, FeedStep, SetpointPhase, feed_schedule, harvest_time, setpoint_phases
from optim.result import Result
from optim.schedule.actions import Sample

VOLUME_BASIS = "starting working volume"  # stating the basis avoids the commonest hand-over error


@dataclass(frozen=True)
class Provenance:
    """When, where and by which code and configuration a recipe was made.

    Two equal runs differ only in `created_utc`, `run_id` and the output folder in `config`.
    """

    created_utc: str
    code_version: str
    git_commit: str
    python: str
    jax: str
    config_hash: str
    config: str
    run_id: str


@dataclass(frozen=True, repr=False)
class Recipe(Result):
    """A process as handed over. Status is always DRAFT: approval is the receiving organisation's act."""

    schema: ClassVar[str] = "optim.recipe/3"
    made_by: ClassVar[str] = "optim export"

    lineage: Lineage
    title: str
    status: str
    clone: str
    objective: str
    start_volume_ml: float
    production_volume_l: float
    volume_basis: str
    setpoints: tuple[SetpointPhase, ...]
    feeds: tuple[FeedStep, ...]
    harvest_criteria: tuple[str, ...]
    sampling_h: tuple[float, ...]
    sample_volume_ml: float
    decisions: tuple[DecisionValue, ...]
    process: ProcessOutcome  # simulated again after rounding
    baseline: ProcessOutcome
    rounding_loss_percent: float  # of the objective
    provenance: Provenance

    @property
    def id(self) -> str:
        """SHA-256 of the content, without the fields that differ between equal runs."""
        return str(self.view.document["id"])


def recipe_from_outcome(title: str, optimum: Optimum, rounded: ProcessOutcome, *, provenance: Provenance) -> Recipe:
    """Make the recipe of an optimum from its process after rounding.

    Args:
        title: heading of the recipe.
        optimum: the optimum; it becomes a parent of the recipe, beside its own parents.
        rounded: the process at the rounded decisions, simulated again.
        provenance: date, code version and configuration.

    Raises:
        IncompatibleError: the two processes do not have the same decisions.
    """
    best = optimum.optimum
    if [d.name for d in best.decisions] != [d.name for d in rounded.decisions]:
        raise IncompatibleError("the rounded process and the optimum do not have the same decisions")
    start_ml = 1000.0 * optimum.vessel_volume_l
    before, after = best.metrics[optimum.objective].p50, rounded.metrics[optimum.objective].p50
    samples = [a for a in rounded.actions if isinstance(a, Sample)]
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
        setpoints=setpoint_phases(rounded.actions, rounded.decisions),
        feeds=feed_schedule(rounded.actions, start_ml, optimum.production_volume_l),
        harvest_criteria=_harvest(rounded),
        sampling_h=tuple(a.time_h for a in samples),
        sample_volume_ml=samples[0].volume_ml if samples else 0.0,
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


def _harvest(process: ProcessOutcome) -> tuple[str, ...]:
    end = harvest_time(process.actions)
    rows = [f"harvest at {end:.1f} h (day {end / HOURS:.2f})"]
    rows += [
        f"{c.name.replace('_', ' ')}: {'at least' if c.kind == 'min' else 'at most'} {c.limit:g} {c.unit.strip('-')} "
        f"(expected {c.value:.3g}); harvest earlier when it comes near"
        for c in process.constraints
        if c.where == "end"
    ]
    return tuple(rows)
