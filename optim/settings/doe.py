"""Settings of the next experiments."""

from __future__ import annotations

from dataclasses import dataclass

from optim.settings.checks import require_at_least, require_name, require_one_of, require_probability

CRITERIA = ("decision", "d_optimal", "space_filling", "random")


@dataclass(frozen=True)
class SuggestSettings:
    """Choice of the next experiments. Runs are sampled by the plan of the design, or by a plan stated here."""

    runs: int = 8  # vessels
    samples: int | None = None  # of all runs together, harvest included; default: as many as it takes
    by: str = "decision"  # decision | d_optimal | space_filling | random: the criterion
    every_d: tuple[int, ...] = ()  # days between samples, each a sampling plan to choose among; default: the design's
    days: tuple[float, ...] = ()  # one more sampling plan, of given days
    safe: float = 0.8  # least probability to meet all limits
    new_clones: int = 0  # so many clones of the population may be taken in
    experiment: str = ""  # of the new runs; default: NEXT1, NEXT2, ...
    processes: int = 64  # tried, besides the best ones
    per_clone: int = 12  # processes of each clone that are weighed
    members: int = 16  # draws that safety is judged by
    top: int = 4  # clones that processes are optimised for, for several draws
    optima: int = 4  # such draws
    scenarios: int = 64  # draws that values are simulated for
    draws: int = 1024  # that the expected gain is averaged over

    def __post_init__(self) -> None:
        require_one_of("suggest.by", self.by, CRITERIA)
        least = {"runs": 1, "processes": 1, "per_clone": 1, "members": 2, "scenarios": 16, "draws": 2}
        for key, low in (least | dict.fromkeys(("new_clones", "top", "optima"), 0)).items():
            require_at_least(f"suggest.{key}", getattr(self, key), low)
        if self.experiment:
            require_name("suggest.experiment", self.experiment)
        require_probability("suggest.safe", self.safe)
        for days in self.every_d:
            require_at_least("suggest.every_d", days, 1)
        for day in self.days:
            require_at_least("suggest.days", day, 0.0)
