"""Vocabulary of actions: everything that can be done to a vessel, in the words and units of a process team.

Data files, designs, lab sheets, recipes and re-planning all speak it. `optim.schedule.plan` makes the schedule of a
list of actions, `optim.schedule.decode` the actions of a schedule, and `optim.schedule.events` the rows of a file.

Every unit stands in the name of its field. `feed` names whatever goes in: a feed, a base medium, a culture, a virus.
A flow without `stop_h` runs until harvest. At equal times the order is: samples and drains, exchange, additions,
top-ups; then everything flows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from optim.artefact import NamedByClass


@dataclass(frozen=True)
class Addition(NamedByClass):
    """A volume given at once. The kinds below do the same to a vessel; their names are for those who read the plan."""

    time_h: float
    feed: str
    volume_ml: float


class Bolus(Addition):
    """Feed."""


class Inoculate(Addition):
    """Cells: `feed` is the seed culture. At time 0, the vessel's initial state is that before inoculation."""


class Transfect(Addition):
    """DNA with its transfection agent."""


class Infect(Addition):
    """A stock of virus."""


class Induce(Addition):
    """An inducer."""


@dataclass(frozen=True)
class Removal(NamedByClass):
    """A volume of broth taken at once, cells and all."""

    time_h: float
    volume_ml: float


class Sample(Removal):
    """For an assay. One at the time of harvest changes nothing."""


class Drain(Removal):
    """Broth drawn off: to seed the next vessel, or to make room."""


@dataclass(frozen=True)
class Exchange(NamedByClass):
    """Medium without its cells is taken, and the same volume of feed is given."""

    time_h: float
    volume_ml: float
    feed: str


@dataclass(frozen=True)
class TopUp(NamedByClass):
    """Feed given only when the vessel holds less of something than `below`, and as much as brings it to `to`.

    `component` is a component of media (then both numbers are in its canonical unit, such as mmol/L of glucose) or a
    species of the model (then in that species' unit). At `times_h`, or every `every_h` from `start_h` to `stop_h`.
    """

    feed: str
    component: str
    below: float
    to: float
    times_h: tuple[float, ...] = ()
    every_h: float | None = None
    start_h: float = 0.0
    stop_h: float | None = None


@dataclass(frozen=True)
class Feed(NamedByClass):
    """Feed that flows at a rate: constant, linear to `end_rate_ml_per_h`, or times exp(growth_per_h (t - start_h))."""

    feed: str
    start_h: float
    rate_ml_per_h: float
    end_rate_ml_per_h: float | None = None
    growth_per_h: float | None = None
    stop_h: float | None = None


@dataclass(frozen=True)
class Perfusion(NamedByClass):
    """Feed in; as much as flows in, less evaporation and bleed, leaves through the retention device as harvest.

    So the volume holds, other feeds included. One of `rate_vvd` (vessel volumes per day) and `rate_ml_per_h`.
    """

    start_h: float
    feed: str
    rate_vvd: float | None = None
    rate_ml_per_h: float | None = None
    stop_h: float | None = None


@dataclass(frozen=True)
class Chemostat(NamedByClass):
    """Feed in, and as much broth out. Whatever else flows changes the volume, and with it the dilution rate."""

    start_h: float
    feed: str
    dilution_per_h: float
    stop_h: float | None = None


@dataclass(frozen=True)
class Bleed(NamedByClass):
    """Broth, cells and all: at a rate, or as much as holds the VCD once it is reached."""

    start_h: float
    rate_ml_per_h: float | None = None
    above_vcd_1e6_per_ml: float | None = None
    stop_h: float | None = None


@dataclass(frozen=True)
class Evaporation(NamedByClass):
    """Water that is lost; everything dissolved stays."""

    start_h: float
    rate_ml_per_h: float
    stop_h: float | None = None


@dataclass(frozen=True)
class Setpoint(NamedByClass):
    """New setpoints, held until the next of their kind: a step, or a straight line over `ramp_h`.

    Every plan needs temperature and pH at time 0; dissolved oxygen (% of air saturation) and kLa only where used.
    """

    time_h: float
    temperature_c: float | None = None
    ph: float | None = None
    do_percent: float | None = None
    kla_per_h: float | None = None
    ramp_h: float = 0.0


@dataclass(frozen=True)
class Aeration(NamedByClass):
    """Gas that is supplied from `time_h` on: L/h (at 0 degC and 1 atm, dry), and % of oxygen (mol/mol) in it.

    It is recorded for the balance of the exhaust; what reaches the broth is the kLa of a `Setpoint`.
    """

    time_h: float
    gas_l_per_h: float | None = None
    oxygen_percent: float | None = None


@dataclass(frozen=True)
class Harvest(NamedByClass):
    """The end of the run."""

    time_h: float


Instant = Bolus | Inoculate | Transfect | Infect | Induce | Sample | Drain | Exchange
Lasting = Feed | Perfusion | Chemostat | Bleed | Evaporation
Action = Instant | TopUp | Lasting | Setpoint | Aeration | Harvest


def start_time(action: Action) -> float:
    """When an action happens or begins, h; of a top-up, its first check."""
    match action:
        case TopUp():
            return min(action.times_h, default=action.start_h)
        case Feed() | Perfusion() | Chemostat() | Bleed() | Evaporation():
            return action.start_h
        case _:
            return action.time_h


def used_feed(action: Action) -> str:
    """The feed that an action gives, by name; '' where it gives none."""
    return str(getattr(action, "feed", ""))


def feeds_in_order(actions: Iterable[Action]) -> tuple[str, ...]:
    """Names of all feeds that are given, in order of first use by time."""
    return tuple(dict.fromkeys(used_feed(a) for a in sorted(actions, key=start_time) if used_feed(a)))


def with_feed(action: Action, feed: str) -> Action:
    """The same action with another name of its feed; an action without a feed as it is."""
    return replace(action, feed=feed) if used_feed(action) else action  # type: ignore[arg-type]
