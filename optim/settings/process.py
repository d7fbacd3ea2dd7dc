"""Settings of a process: vessel, design with its decisions, limits, price book, working hours."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any

from optim.errors import ConfigError
from optim.settings.checks import require_one_of
from optim.settings.ranges import (
    LONGEST_H,
    Composition,
    HourOfDay,
    Hours,
    Interval,
    Millilitres,
    NotNegative,
    Number,
    Positive,
    Section,
    Share,
    Within,
)

LIMIT_KINDS = ("max", "min")
LIMIT_PLACES = ("path", "end")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MOST_NODES = 10_000  # of one batch: one every 2 minutes for two weeks
BY_HAND = ("bolus", "addition_time", "harvest")


@dataclass(frozen=True)
class VesselSettings(Section, key="vessel"):
    """The vessel that a process is designed for."""

    name: str  # of the vessel
    start_volume_ml: Annotated[float, Within(0.0, 1e9, "mL", open=True)]  # mL of broth at the start
    sample_volume_ml: Millilitres = 0.0  # mL taken by each sample

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_volume_ml >= self.start_volume_ml:
            raise ConfigError(
                f"vessel.sample_volume_ml: a sample of {self.sample_volume_ml:g} mL empties a vessel that starts with "
                f"{self.start_volume_ml:g} mL (vessel.start_volume_ml); take less"
            )


@dataclass(frozen=True)
class DecisionSettings(Section, key="design.decisions.*"):
    """A number of the process that may be chosen, or one such number for each of several times."""

    kind: str  # what is chosen, one of `optim.process.decision.DECISION_KINDS`
    lower: Annotated[float, Within(-1e9, 1e9)]  # least value, in the unit of the kind
    upper: Annotated[float, Within(-1e9, 1e9)]  # largest value
    platform: Annotated[Any, Within(-1e9, 1e9)]  # value in the platform process: a number, or one per time
    resolution: NotNegative = 0.0  # step to which a recipe rounds it; 0: none
    times_h: tuple[Hours, ...] = ()  # h, when it acts: one decision per time
    feed: str = ""  # which feed or stock; '' = that of the design
    component: str = ""  # of a medium or feed, where that is what is chosen

    def check_decision(self, key: str) -> None:
        """Refuse numbers of a decision that contradict each other; `key` is its full name. Raises `ConfigError`."""
        if not self.lower < self.upper:
            raise ConfigError(f"{key}: lower {self.lower:g} must be below upper {self.upper:g}")
        several, n = isinstance(self.platform, list | tuple), len(self.times_h) or 1
        if several and len(self.platform) != n:
            raise ConfigError(f"{key}.platform: {self.platform!r} is neither a number nor a list of {n} numbers")
        for value in self.platform if several else (self.platform,):
            if not self.lower <= value <= self.upper:
                raise ConfigError(
                    f"{key}.platform: {value:g} lies outside its bounds, lower {self.lower:g} and upper {self.upper:g}"
                )
        if self.resolution > self.upper - self.lower:
            raise ConfigError(
                f"{key}.resolution: {self.resolution:g} is a longer step than from lower {self.lower:g} to upper "
                f"{self.upper:g}; take a shorter one, or 0 for none"
            )
        if any(late <= early for early, late in pairwise(self.times_h)):
            raise ConfigError(
                f"{key}.times_h: {', '.join(f'{t:g}' for t in self.times_h)} h is not in increasing order"
            )


@dataclass(frozen=True)
class DesignSettings(Section, key="design"):
    """A family of processes: what is fixed, and what may be chosen."""

    title: str  # for people
    feed_id: str  # the first feed, as the dataset or `media` names it; empty: no feed
    medium_id: str  # the basal medium, as the dataset or `media` names it; empty: it holds nothing that the model uses
    temperature_c: Annotated[float, Within(0.0, 100.0, "degC")]  # degC, where no decision says otherwise
    end_h: Interval  # h, harvest where it is no decision
    inoculum_vcd_1e6_per_ml: Annotated[float, Within(0.0, 1e5, "1e6/mL")] | None = None  # viable cells at the start
    initial: Composition = field(default_factory=dict)  # first sample of a microbial process, by variable
    medium_composition: Composition = field(default_factory=dict)  # of the basal medium; empty: the dataset's
    feed_composition: Composition = field(default_factory=dict)  # canonical units; empty: the dataset's feed
    further_feeds: dict[str, Composition] = field(default_factory=dict)  # compositions; empty: the dataset's
    media: dict[str, Composition] = field(default_factory=dict)  # compositions that no dataset states, by name
    second_feed_id: str = ""  # what flows with the first feed: a further feed, or a medium of the dataset
    second_feed_ratio: Annotated[float, Within(0.0, 1e3, "L/L")] = 0.0  # of it with the first feed
    ph: Annotated[float, Within(0.0, 14.0)] = 7.0  # where no decision says otherwise
    do_percent: Annotated[float, Within(0.0, 500.0, "%")] | None = None  # of saturation with air; none: not controlled
    kla_per_h: Annotated[float, Within(0.0, 1e5, "1/h")] | None = None  # oxygen transfer, 1/h; none: not stated
    node_step_h: Interval = 24.0  # h between nodes, at which limits are checked and trajectories reported
    sample_every_h: Interval | None = None  # h between samples; none: no samples
    sample_until_h: Hours = 0.0  # h, of the last sample
    decisions: dict[str, DecisionSettings] = field(default_factory=dict)  # by name

    def __post_init__(self) -> None:
        super().__post_init__()
        latest, key = self.end_h, "design.end_h"
        for name, row in self.decisions.items():
            row.check_decision(f"design.decisions.{name}")
            if row.kind == "harvest":
                latest, key = row.upper, f"design.decisions.{name}.upper"
        for name, row in self.decisions.items():
            late = ", ".join(f"{t:g}" for t in row.times_h if t > latest)
            if late:
                raise ConfigError(
                    f"design.decisions.{name}.times_h: {late} h lies after the latest harvest, {latest:g} h ({key}). "
                    "Leave out what comes too late, or harvest later"
                )
        samples = self.sample_until_h / self.sample_every_h if self.sample_every_h else 0.0
        nodes = latest / self.node_step_h + samples + sum(len(row.times_h) for row in self.decisions.values())
        if nodes > MOST_NODES:
            raise ConfigError(
                f"design: {nodes:,.0f} nodes from the start to the latest harvest at {latest:g} h ({key}), at most "
                f"{MOST_NODES:,}. Raise design.node_step_h ({self.node_step_h:g} h) or design.sample_every_h, or "
                "harvest sooner"
            )
        Within(0.0, LONGEST_H, "h", open=True).require(key, latest)


@dataclass(frozen=True)
class PriceSettings(Section, key="cost.items.*"):
    """One item of a price book: cost = price * driver * (V/V_ref)^a * (titre/titre_ref)^b."""

    category: str  # of `optim.process.cost.CATEGORIES`
    driver: str  # of `optim.process.cost.DRIVERS`: what the price is paid for
    price: NotNegative  # in currency per unit of the driver, at the reference scale
    unit: str  # of the price, e.g. EUR/L
    low: NotNegative  # least plausible price
    high: NotNegative  # largest plausible price
    year: Annotated[int, Within(1900, 2200)]  # of the price
    source: str  # where it comes from
    grade: str  # list | bulk | derived
    verified: bool  # whether the source supports it
    scale_exponent: Annotated[float, Within(-5.0, 5.0)] = 0.0  # a: of the production volume V
    scale_reference_l: Annotated[float, Within(0.0, 1e9, "L", open=True)] = 1.0  # V_ref, L
    titre_exponent: Annotated[float, Within(-5.0, 5.0)] = 0.0  # b: of the titre
    titre_reference: Positive = 1.0  # titre_ref, g/L


@dataclass(frozen=True)
class CostSettings(Section, key="cost"):
    """A price book, and the numbers that turn a harvest into released product."""

    name: str  # of the book
    title: str  # for people
    currency: str  # of every price
    production_volume_l: Annotated[float, Within(0.0, 1e9, "L", open=True)]  # broth at the start, at that scale
    turnaround_h: Hours  # h between two batches of a suite
    success: Share  # fraction of batches that are released
    stage_yields: dict[str, Share] = field(default_factory=dict)  # fraction of product kept by each downstream stage
    assumptions: dict[str, str] = field(default_factory=dict)  # where volume, turnaround, success and yields come from
    items: dict[str, PriceSettings] = field(default_factory=dict)  # by name

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.items and not self.stage_yields:
            raise ConfigError(
                "cost.stage_yields: empty; state the fraction that each downstream stage keeps, 1 where nothing is lost"
            )
        for key in ("production_volume_l", "turnaround_h", "success", "stage_yields"):
            if not self.assumptions.get(key):
                raise ConfigError(f"cost.assumptions.{key}: missing; say where the number comes from, or 'unverified'")
        for name, item in self.items.items():
            if not item.unit.startswith(self.currency):
                raise ConfigError(f"cost.items.{name}.unit: {item.unit!r} must be in {self.currency}")


@dataclass(frozen=True)
class ConstraintSettings(Section, key="constraints.limits.*"):
    """A limit: variable <= limit (kind max) or >= limit (kind min)."""

    variable: str  # what the model predicts, `volume` (mL), or a metric of the whole batch
    kind: str  # max | min
    limit: Number  # in `unit`
    unit: str  # of the limit
    source: str  # where the limit comes from
    verified: bool  # whether the source supports it
    where: str = "path"  # path (at all times) | end (at harvest)

    def __post_init__(self) -> None:
        super().__post_init__()
        key = self.entry_key
        require_one_of(f"{key}.kind", self.kind, LIMIT_KINDS)
        require_one_of(f"{key}.where", self.where, LIMIT_PLACES)
        if self.limit == 0.0:
            raise ConfigError(f"{key}.limit: 0 gives the constraint no scale; use a small number")


@dataclass(frozen=True)
class ConstraintsSettings(Section, key="constraints"):
    """The limits of a process."""

    limits: dict[str, ConstraintSettings] = field(default_factory=dict)  # by name


@dataclass(frozen=True)
class CalendarSettings(Section, key="calendar"):
    """Working hours of a plant. What is `by_hand` happens within them; controllers and pumps work always."""

    start_days: tuple[str, ...]  # weekdays on which a run may begin; the best is chosen
    start_hour: HourOfDay = 9.0  # hour of the day at which a run begins
    working_days: tuple[str, ...] = WEEKDAYS[:5]  # weekdays on which people are there
    first_hour: HourOfDay = 6.0  # hour of the day at which they come
    last_hour: HourOfDay = 18.0  # hour of the day at which they leave
    by_hand: tuple[str, ...] = BY_HAND  # kinds of decisions that need people

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("start_days", "working_days"):
            for day in getattr(self, key):
                require_one_of(f"calendar.{key}", day, WEEKDAYS)
        for kind in self.by_hand:
            require_one_of("calendar.by_hand", kind, BY_HAND)
        if not 0.0 <= self.first_hour < self.last_hour <= 24.0:
            raise ConfigError(
                f"calendar.first_hour {self.first_hour:g} to calendar.last_hour {self.last_hour:g} are no part of a day"
            )
        if not self.start_days or not self.working_days:
            raise ConfigError("calendar.start_days and calendar.working_days need a day each")
        if not self.first_hour <= self.start_hour <= self.last_hour:
            raise ConfigError(f"calendar.start_hour: {self.start_hour:g} is outside the working hours")
        for day in self.start_days:
            if day not in self.working_days:
                raise ConfigError(f"calendar.start_days: {day} is no working day")
