"""An optimisation study: what every search for the processes of one fit has in common."""

from __future__ import annotations

from dataclasses import dataclass

from optim.artefact import Lineage
from optim.optimisation.robust import ESTIMATE
from optim.optimisation.solve import Progress, silent
from optim.process.problem import ProcessProblem
from optim.settings.objective import RiskSettings
from optim.settings.optimisation import OptimiseSettings
from optim.settings.process import CalendarSettings


@dataclass(frozen=True)
class Study:
    """The problem, how it is searched, and where its results come from.

    Attributes:
        problem: the family of processes with its objective, limits and prices.
        search: starts, iterations, tolerance, and choices to be compared.
        lineage: of the results; its seed draws the starts.
        risk: how uncertainty counts; by default, the estimate is optimised.
        calendar: working hours; None: people are always there.
        progress: receives a line now and then.
    """

    problem: ProcessProblem
    search: OptimiseSettings
    lineage: Lineage
    risk: RiskSettings = ESTIMATE
    calendar: CalendarSettings | None = None
    progress: Progress = silent
