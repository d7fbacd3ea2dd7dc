"""The part of the screening data that a fit carries on: media, screened ranges, and the truth of simulated data."""

from __future__ import annotations

from dataclasses import dataclass

from optim.data.dataset import Dataset
from optim.schedule.actions import Bolus, Feed, used_feed
from optim.schedule.lines import setpoint_changes

Ranges = dict[str, tuple[float, float]]  # kind of decision -> lowest and highest value, in the unit of decisions


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
    """Screened range of each kind of decision, in its unit (mL, mL/h, h, degC, pH, 1e6 cells/mL).

    Feeds without a component (a base, water) do not feed the cells and are left out.
    """
    ranges: Ranges = {"harvest": (0.0, max(run.end_time_h for run in dataset.runs))}
    levels, steps, shifts, doses, starts, rates, ph = [], [], [], [0.0], [], [], []
    for run in dataset.runs:
        plan = run.plan()
        found = setpoint_changes(plan, "temperature_c")
        until = [t for t, *_ in found[1:]] + [run.end_time_h]
        levels.append(sum(v * (b - a) for (a, v, _), b in zip(found, until, strict=True)) / run.end_time_h)
        if len(found) == 2:
            shifts.append(found[1][0])
            steps.append(found[1][1])
        own = [a for a in plan if used_feed(a) and dataset.medium(used_feed(a))]
        doses += [a.volume_ml for a in own if isinstance(a, Bolus)]
        flows = [a for a in own if isinstance(a, Feed)]
        rates += [a.rate_ml_per_h for a in flows]
        starts += [a.rate_ml_per_h for a in flows if a.start_h == 0.0]
        ph += [v for _, v, _ in setpoint_changes(plan, "ph")]
    named = {"shift_temperature": steps, "shift_time": shifts, "feed_rate": rates, "feed_start": starts}
    ranges |= {kind: (min(v), max(v)) for kind, v in named.items() if v}
    if len(doses) > 1:
        ranges["bolus"] = (min(doses), max(doses))
    if not steps:
        ranges["temperature"] = (min(levels), max(levels))
    inocula = [run.inoculum_vcd for run in dataset.runs if run.inoculum_vcd is not None]
    if inocula:
        ranges["inoculum"] = (min(inocula), max(inocula))
    ranges["ph"] = (min(ph), max(ph))
    return ranges
