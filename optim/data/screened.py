"""The part of the screening data that a fit carries on: media, screened ranges, and the truth of simulated data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optim.data.dataset import Dataset, Run
from optim.schedule.actions import Action, Bleed, Bolus, Feed, Perfusion, used_feed
from optim.schedule.lines import setpoint_changes
from optim.units import HOURS_PER_DAY

Ranges = dict[str, tuple[float, float]]  # quantity -> lowest and highest value, in the unit of decisions
Plan = tuple[Action, ...]
Quantity = Callable[[Run, Plan], list[float]]


@dataclass(frozen=True)
class Screen:
    """Screening data as steps after the fit see them. Outside `ranges` a fitted model extrapolates.

    `media` holds compositions of basal media and feeds by id and component, `truth` the parameters of simulated data
    by owner ('' = shared), `folder` the last part of the path by which the data were configured ('' = not known).
    """

    name: str
    media: dict[str, dict[str, float]]
    ranges: Ranges
    truth: dict[str, dict[str, float]] | None = None
    folder: str = ""

    @classmethod
    def without_data(cls) -> Screen:
        """No screening data: the design states all media."""
        return cls("", {}, {})

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Screen:
        """The media, screened ranges and truth of a dataset."""
        return cls(dataset.name, dataset.media, screened_ranges(dataset), dataset.truth)


def screened_ranges(dataset: Dataset) -> Ranges:
    """Screened range of every quantity that the runs state, by the name that `DecisionKind.screened` refers to.

    In mL, mL/h, h, degC, pH, 1e6 cells/mL, and vessel volumes per day. Feeds that hold nothing (a base, water) are no
    feeds of the cells, and are left out.
    """
    found: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for run in dataset.runs:
        plan = run.plan()
        own = tuple(a for a in plan if not used_feed(a) or dataset.medium(used_feed(a)))
        for name, values in QUANTITIES.items():
            found[name] += values(run, own)
    if found["shift_temperature"]:  # the level of a run with a shift is no level that was held
        found["temperature"] = []
    # a run without a bolus was given none; a run may be harvested at any time before its end
    below = {"harvest": [0.0], "bolus": [0.0]}
    return {name: (min(both), max(both)) for name, v in found.items() if v and (both := [*below.get(name, ()), *v])}


def _mean_temperature(run: Run, plan: Plan) -> list[float]:
    changes = setpoint_changes(plan, "temperature_c")
    until = [t for t, *_ in changes[1:]] + [run.end_time_h]
    return [sum(v * (b - a) for (a, v, _), b in zip(changes, until, strict=True)) / run.end_time_h]


def _shift(place: int) -> Quantity:
    """The time (0) or the temperature (1) of a run's only change of temperature."""

    def values(run: Run, plan: Plan) -> list[float]:
        changes = setpoint_changes(plan, "temperature_c")
        return [changes[1][place]] if len(changes) == 2 else []

    return values


def _levels(name: str) -> Quantity:
    return lambda run, plan: [value for _, value, _ in setpoint_changes(plan, name)]


def _stated(kind: type, field: str) -> Quantity:
    return lambda run, plan: [
        float(value) for a in plan if isinstance(a, kind) and (value := getattr(a, field)) is not None
    ]


def _perfused(run: Run, plan: Plan) -> list[float]:
    """Vessel volumes per day."""
    rates = [a for a in plan if isinstance(a, Perfusion)]
    per_ml_h = HOURS_PER_DAY / (1000.0 * run.start_volume_l)
    return [(a.rate_ml_per_h or 0.0) * per_ml_h if a.rate_vvd is None else a.rate_vvd for a in rates]


# quantity -> its values in one run, from its plan without feeds that hold nothing
QUANTITIES: dict[str, Quantity] = {
    "harvest": lambda run, plan: [run.end_time_h],
    "shift_temperature": _shift(1),
    "shift_time": _shift(0),
    "feed_rate": _stated(Feed, "rate_ml_per_h"),
    "feed_start": lambda run, plan: [a.rate_ml_per_h for a in plan if isinstance(a, Feed) and a.start_h == 0.0],
    "bolus": _stated(Bolus, "volume_ml"),
    "temperature": _mean_temperature,
    "inoculum": lambda run, plan: [] if run.inoculum_vcd is None else [run.inoculum_vcd],
    "ph": _levels("ph"),
    "do": _levels("do_percent"),
    "kla": _levels("kla_per_h"),
    "perfusion": _perfused,
    "bleed": _stated(Bleed, "rate_ml_per_h"),
    "bleed_above": _stated(Bleed, "above_vcd_1e6_per_ml"),
}
