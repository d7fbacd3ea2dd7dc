"""A dataset: measurements, and the actions that each vessel really received, in canonical units."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from optim.errors import DatasetError, nearest
from optim.schedule.actions import Action, Harvest, Setpoint, feeds_in_order
from optim.schedule.cut import actions_before
from optim.units import VARIABLES, display_unit

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """One vessel from inoculation (or induction) to its end.

    `actions` are the actions on it in order of time, without the harvest. A setpoint among them at time 0 replaces
    `temperature_c` or `ph`.
    """

    run_id: str
    experiment_id: str
    vessel_id: str
    clone_id: str
    start_volume_l: float
    medium_id: str
    temperature_c: float
    ph: float
    inoculum_vcd: float | None  # 1e9 cells/L
    end_time_h: float
    actions: tuple[Action, ...]

    def plan(self) -> tuple[Action, ...]:
        """All actions on the vessel, from the setpoints at time 0 to the harvest, in the form that `make_plan` takes.

        Actions that are recorded for the time of harvest, or later, are left out.
        """
        first = {"temperature_c": self.temperature_c, "ph": self.ph}
        for a in self.actions:
            if isinstance(a, Setpoint) and a.time_h == 0.0:
                first = {name: value for name, value in first.items() if getattr(a, name) is None}
        start = (Setpoint(0.0, **first),) if first else ()
        return (*start, *actions_before(self.actions, self.end_time_h, self.end_time_h), Harvest(self.end_time_h))

    def until(self, time_h: float) -> Run:
        """The run as if it ended at `time_h`; ramps and continuous feeds that last longer are cut there."""
        return replace(
            self, end_time_h=time_h, actions=actions_before(self.actions, time_h, max(self.end_time_h, time_h))
        )

    def feeds(self) -> tuple[str, ...]:
        """Names of the feeds that the vessel received, in order of first use."""
        return feeds_in_order(self.actions)


@dataclass(frozen=True)
class Measurements:
    """Measured values in canonical units, one entry each; excluded rows are not among them."""

    run: np.ndarray  # index into `Dataset.runs`
    time_h: np.ndarray
    variable: tuple[str, ...]
    value: np.ndarray  # for a censored entry, the limit of quantification
    censored: tuple[str, ...]  # '' | '<' | '>'
    replicate: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Dataset:
    """Validated screening data. `media` holds compositions of basal media and feeds, by id and component."""

    name: str
    description: str
    organism: str
    citation: str
    licence: str
    simulated: bool
    content_hash: str
    runs: tuple[Run, ...]
    measurements: Measurements
    media: dict[str, dict[str, float]]
    truth: dict[str, dict[str, float]] | None = None  # owner ('' = shared) -> parameter -> true value
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        m = self.measurements
        kind = "SIMULATED data" if self.simulated else "measured data"
        counts = {name: m.variable.count(name) for name in dict.fromkeys(m.variable)}
        return (
            f"Dataset {self.name}: {kind}, {self.organism}\n"
            f"  {len(self.runs)} runs of {len(self.clones)} clones, {sum(counts.values())} values\n"
            f"  values by variable: {', '.join(f'{name} {n}' for name, n in counts.items())}\n"
            f"  media and feeds: {', '.join(self.media) or 'none'}"
        )

    def _repr_html_(self) -> str:
        """The summary and the first readings, as a notebook shows them."""
        head = self.measurement_frame().head(10).to_html(index=False, border=0)
        return f"<pre>{escape(repr(self))}</pre>\n<details><summary>first readings</summary>{head}</details>"

    @cached_property
    def clones(self) -> tuple[str, ...]:
        """Clone ids in order of first appearance."""
        return tuple(dict.fromkeys(run.clone_id for run in self.runs))

    @cached_property
    def run_ids(self) -> tuple[str, ...]:
        """Run ids in order."""
        return tuple(run.run_id for run in self.runs)

    def medium(self, name: str, run_id: str = "") -> dict[str, float]:
        """Composition of a medium or feed. Raises `DatasetError` for a name that the dataset does not know."""
        if name in self.media:
            return self.media[name]
        where = f"run '{run_id}': " if run_id else ""
        raise DatasetError(
            f"{where}dataset '{self.name}' has no medium or feed '{name}'.{nearest(name, self.media)} "
            f"Known: {', '.join(self.media)}"
        )

    def select_runs(self, runs: np.ndarray, until_h: float = np.inf) -> Dataset:
        """The dataset of some runs (indices, in the wanted order), with their measurements up to `until_h`."""
        place = {int(run): i for i, run in enumerate(runs)}
        m = self.measurements
        keep = [i for i, run in enumerate(m.run) if int(run) in place and m.time_h[i] <= until_h]
        measurements = Measurements(
            run=np.array([place[int(m.run[i])] for i in keep], int),
            time_h=m.time_h[keep],
            variable=tuple(m.variable[i] for i in keep),
            value=m.value[keep],
            censored=tuple(m.censored[i] for i in keep),
            replicate=tuple(m.replicate[i] for i in keep),
        )
        return replace(self, runs=tuple(self.runs[int(run)] for run in runs), measurements=measurements)

    def initial_sample(self, run: int) -> dict[str, float]:
        """Mean measurement at time 0, by variable; censored values are left out."""
        m = self.measurements
        found: dict[str, list[float]] = {}
        for i in np.flatnonzero((m.run == run) & (m.time_h == 0.0)):
            if not m.censored[i]:
                found.setdefault(m.variable[i], []).append(float(m.value[i]))
        return {name: float(np.mean(values)) for name, values in found.items()}

    def measurement_frame(self) -> pd.DataFrame:
        """Measurements as a tidy table with units, for reports and tracking."""
        import pandas as pd  # half a second that a fit without reports need not wait for

        m = self.measurements
        return pd.DataFrame(
            {
                "run_id": [self.runs[r].run_id for r in m.run],
                "clone_id": [self.runs[r].clone_id for r in m.run],
                "time_h": m.time_h,
                "variable": m.variable,
                "value": m.value,
                "unit": [display_unit(VARIABLES[v].unit) for v in m.variable],
                "censored": m.censored,
            }
        )
