"""Settings of the next experiments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from optim.settings.checks import require_name, require_one_of
from optim.settings.ranges import AtLeastOne, AtLeastTwo, Count, Days, Probability, Section, Within

CRITERIA = ("decision", "d_optimal", "space_filling", "random")


@dataclass(frozen=True)
class SuggestSettings(Section, key="suggest"):
    """Choice of the next experiments. Runs are sampled by the plan of the design, or by a plan stated here."""

    runs: AtLeastOne = 8  # vessels
    samples: AtLeastOne | None = None  # of all runs together, harvest included; default: as many as it takes
    by: str = "decision"  # decision | d_optimal | space_filling | random: the criterion
    every_d: tuple[AtLeastOne, ...] = ()  # days between samples, each a plan to choose among; default: the design's
    days: tuple[Days, ...] = ()  # one more sampling plan, of given days
    safe: Probability = 0.8  # least probability to meet all limits
    new_clones: Count = 0  # so many clones of the population may be taken in
    experiment: str = ""  # of the new runs; default: NEXT1, NEXT2, ...
    processes: AtLeastOne = 64  # tried, besides the best ones
    per_clone: AtLeastOne = 12  # processes of each clone that are weighed
    members: AtLeastTwo = 16  # draws that safety is judged by
    top: Count = 4  # clones that processes are optimised for, for several draws
    optima: Count = 4  # such draws
    scenarios: Annotated[int, Within(16, 100_000)] = 64  # draws that values are simulated for
    draws: AtLeastTwo = 1024  # that the expected gain is averaged over

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("suggest.by", self.by, CRITERIA)
        if self.experiment:
            require_name("suggest.experiment", self.experiment)
