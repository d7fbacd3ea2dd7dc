"""Settings of a process: vessel, design with its decisions, limits, price book, working hours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from optim.errors import ConfigError
from optim.settings.checks import require_above, require_at_least, require_one_of

LIMIT_KINDS = ("max", "min")
LIMIT_PLACES = ("path", "end")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
BY_HAND = ("bolus", "addition_time", "harvest")


@dataclass(frozen=True)
class VesselSettings:
    """The vessel that a process is designed for."""

    name: str  # of the vessel
    start_volume_ml: float  # mL of broth at the start
    sample_volume_ml: float = 0.0  # mL taken by each sample

    def __post_init__(self) -> None:
        require_above("vessel.start_volume_ml", self.start_volume_ml, 0.0)
        require_at_least("vessel.sample_volume_ml", self.sample_volume_ml, 0.0)


@dataclass(frozen=True)
class DecisionSettings:
    """A number of the process that may be chosen, or one such number for each of several times."""

    kind: str  # what is chosen, one of `optim.process.decision.DECISION_KINDS`
    lower: float  # least value, in the unit of the kind
    upper: float  # largest value
    platform: Any  # value in the platform process: a number, or one per time
    resolution: float = 0.0  # step to which a recipe rounds it; 0: none
    times_h: tuple[float, ...] = ()  # h, when it acts: one decision per time
    feed: str = ""  # which feed or stock; '' = that of the design
    component: str = ""  # of a medium or feed, where that is what is chosen


@dataclass(frozen=True)
class DesignSettings:
    """A family of processes: what is fixed, and what may be chosen."""

    title: str  # for people
    feed_id: str  # the first feed, as the dataset or `media` names it; empty: no feed
    medium_id: str  # the basal medium, as the dataset or `media` names it; empty: it holds nothing that the model uses
    temperature_c: float  # degC, where no decision says otherwise
    end_h: float  # h, harvest where it is no decision
    inoculum_vcd_1e6_per_ml: float | None = None  # viable cells at the start
    initial: dict[str, float] = field(default_factory=dict)  # first sample of a microbial process, by variable
    medium_composition: dict[str, float] = field(default_factory=dict)  # of the basal medium; empty: the dataset's
    feed_composition: dict[str, float] = field(default_factory=dict)  # canonical units; empty: the dataset's feed
    further_feeds: dict[str, dict[str, float]] = field(default_factory=dict)  # compositions; empty: the dataset's
    media: dict[str, dict[str, float]] = field(default_factory=dict)  # compositions that no dataset states, by name
    second_feed_id: str = ""  # what flows with the first feed: a further feed, or a medium of the dataset
    second_feed_ratio: float = 0.0  # L of it that flow with every L of the first feed
    ph: float = 7.0  # where no decision says otherwise
    do_percent: float | None = None  # dissolved oxygen, % of saturation with air; none: not controlled
    kla_per_h: float | None = None  # oxygen transfer, 1/h; none: not stated
    node_step_h: float = 24.0  # h between nodes, at which limits are checked and trajectories reported
    sample_every_h: float | None = None  # h between samples; none: no samples
    sample_until_h: float = 0.0  # h, of the last sample
    decisions: dict[str, DecisionSettings] = field(default_factory=dict)  # by name

    def __post_init__(self) -> None:
        require_above("design.end_h", self.end_h, 0.0)
        require_above("design.node_step_h", self.node_step_h, 0.0)
        require_at_least("design.second_feed_ratio", self.second_feed_ratio, 0.0)
        if self.sample_every_h is not None:
            require_at_least("design.sample_every_h", self.sample_every_h, 0.0)


@dataclass(frozen=True)
class PriceSettings:
    """One item of a price book: cost = price * driver * (V/V_ref)^a * (titre/titre_ref)^b."""

    category: str  # of `optim.process.cost.CATEGORIES`
    driver: str  # of `optim.process.cost.DRIVERS`: what the price is paid for
    price: float  # in currency per unit of the driver, at the reference scale
    unit: str  # of the price, e.g. EUR/L
    low: float  # least plausible price
    high: float  # largest plausible price
    year: int  # of the price
    source: str  # where it comes from
    grade: str  # list | bulk | derived
    verified: bool  # whether the source supports it
    scale_exponent: float = 0.0  # a: of the production volume V
    scale_reference_l: float = 1.0  # V_ref, L
    titre_exponent: float = 0.0  # b: of the titre
    titre_reference: float = 1.0  # titre_ref, g/L


@dataclass(frozen=True)
class CostSettings:
    """A price book, and the numbers that turn a harvest into released product."""

    name: str  # of the book
    title: str  # for people
    currency: str  # of every price
    production_volume_l: float  # L of broth at the start, in the production vessel
    turnaround_h: float  # h between two batches of a suite
    success: float  # fraction of batches that are released
    stage_yields: dict[str, float] = field(default_factory=dict)  # fraction of product kept by each downstream stage
    assumptions: dict[str, str] = field(default_factory=dict)  # where volume, turnaround, success and yields come from
    items: dict[str, PriceSettings] = field(default_factory=dict)  # by name

    def __post_init__(self) -> None:
        for stage, share in {**self.stage_yields, "success": self.success}.items():
            if not 0.0 < share <= 1.0:
                raise ConfigError(f"cost: {stage} must be a fraction above 0 and up to 1, not {share}")
        for key in ("production_volume_l", "turnaround_h", "success", "stage_yields"):
            if not self.assumptions.get(key):
                raise ConfigError(f"cost.assumptions.{key}: missing; say where the number comes from, or 'unverified'")
        for name, item in self.items.items():
            if not item.unit.startswith(self.currency):
                raise ConfigError(f"cost.items.{name}.unit: {item.unit!r} must be in {self.currency}")


@dataclass(frozen=True)
class ConstraintSettings:
    """A limit: variable <= limit (kind max) or >= limit (kind min)."""

    variable: str  # what the model predicts, `volume` (mL), or a metric of the whole batch
    kind: str  # max | min
    limit: float  # in `unit`
    unit: str  # of the limit
    source: str  # where the limit comes from
    verified: bool  # whether the source supports it
    where: str = "path"  # path (at all times) | end (at harvest)


@dataclass(frozen=True)
class ConstraintsSettings:
    """The limits of a process."""

    limits: dict[str, ConstraintSettings] = field(default_factory=dict)  # by name


@dataclass(frozen=True)
class CalendarSettings:
    """Working hours of a plant. What is `by_hand` happens within them; controllers and pumps work always."""

    start_days: tuple[str, ...]  # weekdays on which a run may begin; the best is chosen
    start_hour: float = 9.0  # hour of the day at which a run begins
    working_days: tuple[str, ...] = WEEKDAYS[:5]  # weekdays on which people are there
    first_hour: float = 6.0  # hour of the day at which they come
    last_hour: float = 18.0  # hour of the day at which they leave
    by_hand: tuple[str, ...] = BY_HAND  # kinds of decisions that need people

    def __post_init__(self) -> None:
        for key in ("start_days", "working_days"):
            for day in getattr(self, key):
                require_one_of(f"calendar.{key}", day, WEEKDAYS)
        for kind in self.by_hand:
            require_one_of("calendar.by_hand", kind, BY_HAND)
        if not 0.0 <= self.first_hour < self.last_hour <= 24.0:
            raise ConfigError(f"calendar: hours {self.first_hour:g} to {self.last_hour:g} are no part of a day")
        if not self.start_days or not self.working_days:
            raise ConfigError("calendar: start_days and working_days need a day each")
        if not self.first_hour <= self.start_hour <= self.last_hour:
            raise ConfigError(f"calendar.start_hour: {self.start_hour:g} is outside the working hours")
        for day in self.start_days:
            if day not in self.working_days:
                raise ConfigError(f"calendar.start_days: {day} is no working day")
