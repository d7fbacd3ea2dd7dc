"""What a process team does to a vessel, in its own words and units; `optim.schedule.plan` makes the schedule of it.

Every unit stands in the name of its field. `feed` names whatever goes in: a feed, a base medium, a culture, a virus.
A flow without `stop_h` runs until harvest. At equal times the order is: samples and drains, exchange, additions,
top-ups; then everything flows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Addition:
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
class Removal:
    """A volume of broth taken at once, cells and all."""

    time_h: float
    volume_ml: float


class Sample(Removal):
    """For an assay. One at the time of harvest changes nothing."""


class Drain(Removal):
    """Broth drawn off: to seed the next vessel, or to make room."""


@dataclass(frozen=True)
class Exchange:
    """Medium without its cells is taken, and the same volume of feed is given."""

    time_h: float
    volume_ml: float
    feed: str


@dataclass(frozen=True)
class TopUp:
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
class Feed:
    """Feed that flows at a rate: constant, linear to `end_rate_ml_per_h`, or times exp(growth_per_h (t - start_h))."""

    feed: str
    start_h: float
    rate_ml_per_h: float
    end_rate_ml_per_h: float | None = None
    growth_per_h: float | None = None
    stop_h: float | None = None


@dataclass(frozen=True)
class Perfusion:
    """Feed in; as much as flows in, less evaporation and bleed, leaves through the retention device as harvest.

    So the volume holds, other feeds included. One of `rate_vvd` (vessel volumes per day) and `rate_ml_per_h`.
    """

    start_h: float
    feed: str
    rate_vvd: float | None = None
    rate_ml_per_h: float | None = None
    stop_h: float | None = None


@dataclass(frozen=True)
class Chemostat:
    """Feed in, and as much broth out. Whatever else flows changes the volume, and with it the dilution rate."""

    start_h: float
    feed: str
    dilution_per_h: float
    stop_h: float | None = None


@dataclass(frozen=True)
class Bleed:
    """Broth, cells and all: at a rate, or as much as holds the VCD once it is reached."""

    start_h: float
    rate_ml_per_h: float | None = None
    above_vcd_1e6_per_ml: float | None = None
    stop_h: float | None = None


@dataclass(frozen=True)
class Evaporation:
    """Water that is lost; everything dissolved stays."""

    start_h: float
    rate_ml_per_h: float
    stop_h: float | None = None


@dataclass(frozen=True)
class Setpoint:
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
class Harvest:
    """The end of the run."""

    time_h: float


Action = Addition | Removal | Exchange | TopUp | Feed | Perfusion | Chemostat | Bleed | Evaporation | Setpoint | Harvest
