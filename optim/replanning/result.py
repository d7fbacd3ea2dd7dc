"""What re-planning a running batch leaves: next actions, both plans beside each other, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optim.artefact import Artefact, Lineage
from optim.optimisation.result import ProcessOutcome
from optim.schedule.actions import Action


@dataclass(frozen=True)
class DecisionChange:
    """One decision of the design: planned, and done or planned anew, in its unit."""

    name: str
    unit: str
    open: bool  # False: its time has passed, and `now` is what was done
    planned: float
    now: float  # NaN where a passed decision cannot be told from what was done
    reason: str

    @property
    def change(self) -> float:
        return self.now - self.planned


@dataclass(frozen=True)
class SeenReading:
    """One reading of the batch beside the plan and the updated model, in canonical units."""

    variable: str
    time_h: float
    value: float
    censored: bool
    planned: float  # of the plan's prediction; NaN where it has none
    explained: float  # by the estimate, now that the reading is known
    z: float  # reading less explained, in standard deviations of both; NaN where censored


@dataclass(frozen=True)
class AssayAgreement:
    """How the readings of one assay agree with the updated parameter sets."""

    variable: str
    readings: int
    rms: float  # of standardised residuals: about 1 when all is well
    chance: float  # of residuals as large as these or larger
    off: bool
    statement: str  # '' when all is well


@dataclass(frozen=True)
class MovedParameter:
    """One parameter before and after the batch's readings."""

    name: str
    level: str
    unit: str
    before: float
    now: float
    moved: float  # on the fitted scale, in standard deviations before
    width: float  # standard deviation now, as a share of that before


@dataclass(frozen=True)
class LimitForecast:
    """Forecast of a limit from now on, under the plan and as re-optimised."""

    name: str
    unit: str
    kind: str  # max | min
    where: str  # path | end
    limit: float
    planned_value: float  # worst value to come, at the estimate
    value: float
    planned_chance: float  # of its being met, over the parameter sets
    chance: float
    planned_broken_h: float  # when it is broken under the plan; NaN where hardly any parameter set breaks it
    broken_h: float
    past_h: float  # when it was broken before now, at the estimate; NaN where it was not
    past_value: float
    eased_to: float  # NaN; or what it was eased to, since nothing left to decide can meet it


@dataclass(frozen=True, repr=False)
class Replan(Artefact):
    """A running batch planned anew. Both processes share the past as it was done, and the updated parameter sets."""

    schema: ClassVar[str] = "optim.replan/3"
    made_by: ClassVar[str] = "optim replan"

    lineage: Lineage  # data are those of the running batch
    run: str
    clone: str
    known_clone: bool
    now_h: float
    next_sample_h: float
    objective: str
    kept: bool  # the plan is left as it is
    next_actions: tuple[Action, ...]  # until the next sample
    actions: tuple[Action, ...]  # all that remain
    done: tuple[Action, ...]  # all that was done
    decisions: tuple[DecisionChange, ...]
    plan: ProcessOutcome
    replanned: ProcessOutcome
    chance_better: float  # that the new plan does better than the old one
    gain: float  # of the objective at the estimate, as a share
    limits: tuple[LimitForecast, ...]
    readings: tuple[SeenReading, ...]
    agreement: tuple[AssayAgreement, ...]
    parameters: tuple[MovedParameter, ...]
    members: float  # of the fit's ensemble, how many have a say
    ensemble: np.ndarray  # [E, P] parameters in model order, the first is the estimate
    start: np.ndarray  # [E, N + 1] concentrations and volume (L) at the start
    seen: tuple[str, ...]  # what was seen and done, in sentences
