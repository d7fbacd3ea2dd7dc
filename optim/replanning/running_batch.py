"""Forecast of a running batch: posterior parameters given its readings, open decisions, and what was done.

The state now is that of a simulation, from inoculation on, of what was really done, with the updated parameters: the
two always belong together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

from optim.data.dataset import Run
from optim.estimation.problem import FitProblem
from optim.estimation.result import FitResult
from optim.estimation.transfer.running_vessel import VesselPosterior, follow_vessel
from optim.optimisation.result import Series
from optim.optimisation.solve import Progress, silent
from optim.process.lanes import Lanes, VesselStart
from optim.process.problem import ProcessProblem
from optim.replanning.remaining import Passed, Remaining, remaining_design


@dataclass(frozen=True)
class FollowedPlan:
    """The process that a batch follows: decisions by name in their units, and what was predicted of it.

    `source` is the artefact that it was read from, its id by its kind.
    """

    decisions: dict[str, float]
    trajectory: Series
    source: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchRecord:
    """Record of a running batch: the run with what was done to it, the time now, and the names of feeds.

    `feeds` [J] are those of the process problem.
    """

    run: Run
    now_h: float
    feeds: tuple[str, ...]


@dataclass(frozen=True)
class RunningBatch:
    """All that is known of a running batch: its record, its plan, its vessel alone as a fit problem until now, and the
    fit that came before it."""

    record: BatchRecord
    plan: FollowedPlan
    fitting: FitProblem
    old: FitResult


@dataclass(frozen=True)
class BatchForecast:
    """Forecast of a running batch: the process problem of its open decisions, with E posterior parameter sets."""

    problem: ProcessProblem
    passed: tuple[Passed, ...]
    followed: VesselPosterior
    lanes: Lanes
    planned: np.ndarray  # the plan's values of the open decisions, as far as they are still possible

    @property
    def design(self) -> Remaining:
        assert isinstance(self.problem.design, Remaining)
        return self.problem.design


def forecast_batch(
    problem: ProcessProblem,
    running: RunningBatch,
    *,
    draws: int = 63,
    seed: int = 0,
    progress: Progress = silent,
) -> BatchForecast:
    """Condition the fit's ensemble on the batch's readings, and set up what is left of `problem`.

    Raises `ConfigError` when nothing is left to decide, `FitError` when no parameter set can be simulated.
    """
    record = running.record
    design, passed = remaining_design(problem.design, record.run, now_h=record.now_h, feeds=record.feeds)
    followed = follow_vessel(running.old, running.fitting, draws=draws, seed=seed, progress=progress)
    planned = np.array([running.plan.decisions[d.name] for d in design.decisions])
    return BatchForecast(
        problem=replace(problem, design=design),
        passed=passed,
        followed=followed,
        lanes=known_lanes(running.fitting, followed.lanes),
        planned=np.clip(planned, design.lower, design.upper),
    )


def known_lanes(fitting: FitProblem, u: np.ndarray) -> Lanes:
    """Lanes of a process problem from parameters u [E, Q] of one vessel: model parameters, and its start."""
    v, layout = fitting.vessels, fitting.layout

    def row(u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        named = layout.natural_parameters(u, jnp.asarray(fitting.fixed_values))
        p, state, volume = layout.initial_conditions(named, jnp.asarray(v.initial[0]), jnp.asarray(v.volume[0]))
        columns = [jnp.stack([jnp.asarray(x, float) for x in rows]) for rows in (p, state)]
        return columns[0], columns[1], jnp.asarray(volume, float)

    p, state, volume = (np.asarray(x) for x in jax.vmap(row)(jnp.asarray(u)))
    return Lanes(p, VesselStart(state, volume))
