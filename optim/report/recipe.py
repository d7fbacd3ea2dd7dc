"""The recipe: a process in the words and numbers that the people who run it use, always a DRAFT for them to review."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import optim
from optim.optimise.result import ConstraintValue, Interval, Series
from optim.report.feeds import FeedRow, SampleRow


@dataclass(frozen=True)
class Provenance:
    """Where a recipe comes from. `created_utc` is passed in, so that the same input gives the same recipe."""

    run_id: str
    created_utc: str
    code_version: str
    git_commit: str | None
    python_version: str
    jax_version: str
    config_hash: str  # SHA-256 of config_text
    config_text: str


@dataclass(frozen=True)
class Setpoint:
    """One set value over one phase. Ranges are None where there is none to state.

    `model_suggested_range` is what the model suggests and nothing more: no characterisation study stands behind it.
    """

    parameter: str
    unit: str
    phase: str
    start_day: float
    end_day: float
    target: float
    platform: float | None
    model_suggested_range_low: float | None
    model_suggested_range_high: float | None
    searched_low: float | None
    searched_high: float | None
    screened_low: float | None
    screened_high: float | None
    outside_screened: bool
    rationale: str


@dataclass(frozen=True)
class HarvestCriterion:
    """When to harvest, and what must hold until then."""

    criterion: str
    rule: str  # at | not below | not above
    value: float
    unit: str
    expected: float
    note: str


@dataclass(frozen=True)
class Expected:
    """One predicted trajectory with its 90 % band, beside the process it is compared with."""

    name: str
    unit: str
    time_h: tuple[float, ...]
    p05: tuple[float, ...]
    p50: tuple[float, ...]
    p95: tuple[float, ...]
    baseline_time_h: tuple[float, ...]
    baseline_p05: tuple[float, ...]
    baseline_p50: tuple[float, ...]
    baseline_p95: tuple[float, ...]


@dataclass(frozen=True)
class Metric:
    """One figure of merit of the recipe, of the optimum before rounding, and of the baseline."""

    name: str
    unit: str
    recipe: Interval
    optimum: Interval
    baseline: Interval | None


@dataclass(frozen=True)
class CostRow:
    """One line of the bill of a production batch, at the estimate."""

    name: str
    category: str
    amount: float
    amount_unit: str
    price: float
    price_unit: str
    cost: float
    share: float
    baseline_cost: float | None
    verified: bool
    source: str


@dataclass(frozen=True)
class Rounded:
    """One decision before and after rounding to what pumps and controllers can set."""

    name: str
    unit: str
    optimum: float
    rounded: float
    resolution: float


@dataclass(frozen=True)
class Recipe:
    """An executable process description. Everything in it is plain Python, ready to be written as a table."""

    schema: ClassVar[str] = "optim.recipe/1"

    title: str
    status: str  # DRAFT: nothing here releases a recipe
    clone: str
    model: str
    dataset: str
    dataset_hash: str
    simulated: bool
    seed: int
    objective: str  # name of the metric that was maximised
    baseline_name: str
    vessel_volume_ml: float
    production_volume_l: float
    volume_basis: str
    setpoints: tuple[Setpoint, ...]
    feeds: tuple[FeedRow, ...]
    baseline_feeds: tuple[FeedRow, ...]
    harvest: tuple[HarvestCriterion, ...]
    sampling: tuple[SampleRow, ...]
    expected: tuple[Expected, ...]
    metrics: tuple[Metric, ...]
    currency: str
    costs: tuple[CostRow, ...]
    unverified_prices: str
    constraints: tuple[ConstraintValue, ...]
    rounding: tuple[Rounded, ...]
    rounding_loss: float  # 1 - recipe/optimum of the objective's median; negative where rounding gained
    failed_members: int
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    provenance: Provenance

    def metric(self, name: str) -> Metric | None:
        """The figure of merit of that name, None where the process has none."""
        return next((m for m in self.metrics if m.name == name), None)

    def harvest_time_h(self) -> float:
        """Culture time at harvest, h."""
        return next(c.value for c in self.harvest if c.rule == "at")

    def series(self, baseline: bool = False) -> Series:
        """Expected trajectories as the arrays that plots take, those of the baseline on request."""
        rows = self.expected
        times = [r.baseline_time_h if baseline else r.time_h for r in rows]

        def stack(name: str) -> np.ndarray:
            return np.array([getattr(r, f"baseline_{name}" if baseline else name) for r in rows], float)

        return Series(
            time_h=np.asarray(times[0] if times else (), float),
            names=tuple(r.name for r in rows),
            units=tuple(r.unit for r in rows),
            p05=stack("p05"),
            p50=stack("p50"),
            p95=stack("p95"),
        )


def make_provenance(run_id: str, created_utc: str, config_text: str, git_commit: str | None = None) -> Provenance:
    """Provenance of this installation; `created_utc` in ISO 8601, `config_text` the whole composed configuration."""
    return Provenance(
        run_id=run_id,
        created_utc=created_utc,
        code_version=optim.__version__,
        git_commit=git_commit,
        python_version=platform.python_version(),
        jax_version=importlib.metadata.version("jax"),
        config_hash=hashlib.sha256(config_text.encode()).hexdigest(),
        config_text=config_text,
    )
