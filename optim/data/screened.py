"""What steps after a fit need of the screening data: media, the range of each quantity, the truth of a simulation."""

from __future__ import annotations

from dataclasses import dataclass

from optim.data.dataset import Dataset

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
    def none(cls) -> Screen:
        """No screening data: a process of which the design states all media."""
        return cls("", {}, {})

    @classmethod
    def of(cls, dataset: Dataset) -> Screen:
        """What is kept of a dataset."""
        return cls(dataset.name, dataset.media, screened_ranges(dataset), dataset.truth)


def screened_ranges(dataset: Dataset) -> Ranges:
    """Screened range of each kind of decision, in its unit (mL, mL/h, h, degC, pH, 1e6 cells/mL).

    Feeds that hold nothing (a base, water) are no feeds of the cells, and are left out.
    """
    ranges: Ranges = {"harvest": (0.0, max(run.end_time_h for run in dataset.runs))}
    levels, steps, shifts, doses, starts, rates = [], [], [], [0.0], [], []
    for run in dataset.runs:
        changes = [e for e in run.events if e.kind == "temperature"]
        held = [(0.0, run.temperature_c)] + [(e.time_h, e.value) for e in changes]
        until = [t for t, _ in held[1:]] + [run.end_time_h]
        levels.append(sum(v * (b - a) for (a, v), b in zip(held, until, strict=True)) / run.end_time_h)
        if len(changes) == 1:
            steps.append(changes[0].value)
            shifts.append(changes[0].time_h)
        doses += [1000.0 * e.value for e in run.events if e.kind == "bolus" and dataset.medium(e.feed_id)]
        flows = [e for e in run.events if e.kind == "feed_rate" and dataset.medium(e.feed_id)]
        rates += [1000.0 * e.value for e in flows]
        starts += [1000.0 * e.value for e in flows if e.time_h == 0.0]
    named = {"shift_temperature": steps, "shift_time": shifts, "feed_rate": rates, "feed_start": starts}
    ranges |= {kind: (min(v), max(v)) for kind, v in named.items() if v}
    if len(doses) > 1:
        ranges["bolus"] = (min(doses), max(doses))
    if not steps:
        ranges["temperature"] = (min(levels), max(levels))
    inocula = [run.inoculum_vcd for run in dataset.runs if run.inoculum_vcd is not None]
    if inocula:
        ranges["inoculum"] = (min(inocula), max(inocula))
    ranges["ph"] = (min(run.ph for run in dataset.runs), max(run.ph for run in dataset.runs))
    return ranges
