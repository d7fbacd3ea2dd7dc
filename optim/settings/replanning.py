"""Settings of re-planning a running batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from optim.settings.ranges import AtLeastTwo, FolderPath, Hours, Section, Within


@dataclass(frozen=True)
class ReplanSettings(Section, key="replan"):
    """Which batch is re-planned, from which plan, and how carefully."""

    run: str | None = None  # which run of the dataset is under way; where there is one, it need not be named
    now_h: Hours | None = None  # h; default: the time of its last reading or event
    fit: FolderPath | None = None  # output folder of the run whose fit is used; default: that of this run
    plan: FolderPath | None = None  # the optimum, recipe or earlier replan that it follows; default: the fit's optimum
    draws: AtLeastTwo = 63  # plausible parameter sets that a plan is judged by
    least_gain: Annotated[float, Within(0.0, 1.0)] = 0.001  # of the objective's logarithm; less changes no plan
