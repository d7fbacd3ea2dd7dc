"""What `optim suggest` leaves: the next runs, what each is expected to be worth, and how sure the decision then is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optim.artefact import Artefact, Lineage
from optim.data.dataset import Run
from optim.optimisation.result import DecisionValue


@dataclass(frozen=True)
class SuggestedRun:
    """One run to do. What it is worth is given the runs before it.

    `gain` and `loss` are relative: of the metric that is maximised, 0.01 is one percent.
    """

    run: Run  # what is done to the vessel
    new_clone: bool  # a clone that no run has seen
    decisions: tuple[DecisionValue, ...]
    sample_days: tuple[float, ...]  # the last at harvest
    gain: float  # expected increase of what the clone and process decided for give
    gain_error: float  # of `gain`, from the number of draws
    information: float  # on all parameters, nats
    loss: float  # expected shortfall after it, for not knowing the best clone and process
    chance: float  # that the clone decided for after it is the best
    met: float  # probability to meet all limits
    reason: str


@dataclass(frozen=True)
class CloneChance:
    """What is known of a clone now: value at its best process, and the probability that it is the best."""

    clone: str
    value: float  # expected of the maximised metric, in the process that is best on the whole
    relative_sd: float
    chance: float


@dataclass(frozen=True, repr=False)
class Suggestion(Artefact):
    """The next experiments."""

    schema: ClassVar[str] = "optim.suggestion/3"
    made_by: ClassVar[str] = "optim suggest"

    lineage: Lineage
    by: str  # decision | d_optimal | space_filling | random
    objective: str  # name of the metric that the decision is about
    unit: str
    runs: tuple[SuggestedRun, ...]
    media: dict[str, dict[str, float]]  # what their media and feeds hold, by name and component
    samples: int
    clones: tuple[CloneChance, ...]  # the likeliest first
    chance_before: float  # that the clone one would decide for is the best
    chance_after: float
    loss_before: float  # expected shortfall, relative
    loss_after: float
    considered: int  # runs that were weighed
    refused: int  # clones x processes that were not safe enough
    least_met: float  # probability to meet all limits that was asked for
