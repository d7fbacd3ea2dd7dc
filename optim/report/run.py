"""The view of a simulated run."""

from __future__ import annotations

import pandas as pd

from optim.optimisation.result import Series
from optim.report.process import draw_simulation, trajectory_lines
from optim.report.view import View
from optim.simulation.run import SimulatedRun


def run_view(run: SimulatedRun) -> View:
    """The view of a simulated run."""
    heads = [f"{n} [{u}]" for n, u in zip(run.names, run.units, strict=True)]
    series = Series(run.time_h, run.names, run.units, run.values, run.values, run.values)
    return View(
        kind=run.kind(),
        title=run.title,
        lines=trajectory_lines(series),
        doubts=run.lineage.doubts,
        notes=run.lineage.notes,
        tables={"trajectory": pd.DataFrame({"time_h": run.time_h} | dict(zip(heads, run.values, strict=True)))},
        figures={"trajectory": lambda: draw_simulation(series, run.title)},
    )
