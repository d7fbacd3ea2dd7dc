"""What an optimisation leaves: processes with bands and prices, all starts, and a ranking of clones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optim.artefact import Artefact, Checked, Lineage
from optim.schedule.actions import Action


@dataclass(frozen=True)
class Interval:
    """A number with its 90 % interval over the parameter ensemble."""

    p05: float
    p50: float
    p95: float
    mean: float

    @classmethod
    def of(cls, draws: np.ndarray) -> Interval:
        p05, p50, p95 = (float(q) for q in np.quantile(draws, (0.05, 0.5, 0.95)))
        return cls(p05, p50, p95, float(np.mean(draws)))


@dataclass(frozen=True)
class DecisionValue:
    """One decision of a process, in the unit a process team reads."""

    name: str
    kind: str
    unit: str
    value: float
    lower: float
    upper: float
    at_bound: bool
    screened_low: float | None  # range of this quantity in the screening data, where it has one
    screened_high: float | None
    outside_screened: bool
    resolution: float  # step that pumps or controllers can do; 0 = none


@dataclass(frozen=True)
class Series(Checked):
    """Predicted trajectories with a 90 % band. p05, p50 and p95 are [variable, time]."""

    time_h: np.ndarray
    names: tuple[str, ...]
    units: tuple[str, ...]
    p05: np.ndarray
    p50: np.ndarray
    p95: np.ndarray

    def faults(self) -> list[str]:
        """What does not fit together."""
        shape = (len(self.names), len(self.time_h))
        wrong = [q for q in ("p05", "p50", "p95") if getattr(self, q).shape != shape]
        units = [] if len(self.units) == len(self.names) else [f"{len(self.units)} units of {len(self.names)} names"]
        return [f"{q} has the shape {getattr(self, q).shape}, expected {shape}" for q in wrong] + units


@dataclass(frozen=True)
class CostItem:
    """One line of the bill of a production batch."""

    name: str
    category: str
    amount: float
    amount_unit: str
    price: float
    price_unit: str
    cost: float
    verified: bool
    source: str


@dataclass(frozen=True)
class ConstraintValue:
    """A constraint at the solution, met when margin >= 0."""

    name: str
    unit: str
    kind: str  # max | min
    where: str  # path | end
    limit: float
    value: float  # worst value along the path (or that at the end), at the estimate
    margin: float
    active: bool
    probability_met: float  # over the parameter ensemble


@dataclass(frozen=True)
class ProcessOutcome:
    """One process, simulated over the parameter ensemble."""

    name: str
    decisions: tuple[DecisionValue, ...]
    actions: tuple[Action, ...]  # in order of time, from the setpoints at time 0 to the harvest
    trajectory: Series
    metrics: dict[str, Interval]
    metric_units: dict[str, str]
    cost_items: tuple[CostItem, ...]
    currency: str
    constraints: tuple[ConstraintValue, ...]
    failed_members: int  # ensemble members whose simulation did not end well; left out of the intervals


@dataclass(frozen=True)
class SolveReport:
    """One start of the optimiser."""

    start: int
    objective: float  # of the re-simulated process; nan when the start failed
    max_violation: float
    kkt_residual: float
    iterations: int
    success: bool
    message: str


@dataclass(frozen=True)
class RiskComparison:
    """One process over the parameter ensemble: the measure of risk, and the share of sets in which all limits are met.

    `seen` is over the members that the search used, `held_out` over those that it did not (nan where there are none).
    """

    process: str
    seen: float
    held_out: float
    met_seen: float
    met_held_out: float


@dataclass(frozen=True)
class Robustness:
    """An optimum under uncertainty beside the one for the estimate alone."""

    measure: str  # expectation | cvar | quantile; nominal where only the limits are to be safe
    tail: float
    chance: float
    members: int  # scenarios used for the search: parameter sets, with errors of the plant where it makes some
    held_out: int
    rows: tuple[RiskComparison, ...]
    nominal: ProcessOutcome


@dataclass(frozen=True)
class VariantReport:
    """One discrete choice at its best, at the estimate."""

    name: str
    objective: float  # nan where there is none
    message: str  # '' or why there is none


@dataclass(frozen=True, repr=False)
class Optimum(Artefact):
    """The best process found for one clone, beside the process it is compared with."""

    schema: ClassVar[str] = "optim.optimum/4"
    made_by: ClassVar[str] = "optim optimise"

    lineage: Lineage
    clone: str
    objective: str  # name of the metric that was maximised
    optimum: ProcessOutcome
    baseline: ProcessOutcome
    starts: tuple[SolveReport, ...]
    vessel_volume_l: float
    production_volume_l: float
    history: tuple[float, ...] = ()  # best feasible metric over all starts after each evaluation
    robustness: Robustness | None = None  # where uncertainty was part of the question
    variants: tuple[VariantReport, ...] = ()  # discrete choices that were compared, the best first
    bounds: np.ndarray | None = None  # [2, D] of the choice that was taken


@dataclass(frozen=True)
class RankedClone:
    """One clone at its own optimised process."""

    clone: str
    rank: int
    objective: Interval
    at_platform: Interval  # the same metric at the platform process
    probability_best: float
    expected_loss: float  # mean shortfall against the best clone of each ensemble member
    decisions: dict[str, float]
    truth: float | None  # true objective at the same process, where the data are simulated
    truth_rank: int | None
    message: str  # '' or why this clone has no optimum
    marks: tuple[str, ...] = ()  # what speaks against its estimate or its search, in a few words each


def bounded_share(share: float, draws: int) -> float:
    """The share of draws in which something holds, as a probability: n draws that agree say n / (n + 1) at least."""
    return min(max(share, 1.0 / (draws + 1)), draws / (draws + 1)) if draws > 1 else share


def probability_text(share: float, draws: int) -> str:
    """A probability in words, from the share of draws in which something holds; never 0 or 1."""
    bounded = bounded_share(share, draws)
    return f"{'> ' if share > bounded else '< ' if share < bounded else ''}{bounded:.2f}"


@dataclass(frozen=True, repr=False)
class Ranking(Artefact, Checked):
    """Clones by yield per cost."""

    schema: ClassVar[str] = "optim.ranking/4"
    made_by: ClassVar[str] = "optim rank"

    lineage: Lineage
    objective: str
    unit: str
    rows: tuple[RankedClone, ...]
    price_flips: tuple[str, ...] = ()  # prices within whose range another clone leads
    draws: int = 0  # joint draws of the parameters in which the clones were compared

    def faults(self) -> list[str]:
        """What does not fit together."""
        return [] if self.rows else ["no clone is ranked"]

    @property
    def best(self) -> str:
        """Id of the clone in the first place."""
        return self.rows[0].clone
