"""Settings of re-planning a running batch."""

from __future__ import annotations

from dataclasses import dataclass

from optim.settings.checks import require_at_least


@dataclass(frozen=True)
class ReplanSettings:
    """Which batch is re-planned, from which plan, and how carefully."""

    run: str | None = None  # which run of the dataset is under way; where there is one, it need not be named
    now_h: float | None = None  # h; default: the time of its last reading or event
    fit: str | None = None  # output folder of the run whose fit is used; default: that of this run
    plan: str | None = None  # the optimum, recipe or earlier replan that it follows; default: the fit's optimum
    draws: int = 63  # plausible parameter sets that a plan is judged by
    least_gain: float = 0.001  # of the objective's logarithm, below which the plan is left as it is

    def __post_init__(self) -> None:
        require_at_least("replan.draws", self.draws, 2)
        require_at_least("replan.least_gain", self.least_gain, 0.0)
