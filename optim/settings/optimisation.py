"""Settings of an optimisation: the search, the trade-off between two objectives, and disturbances of the optimum."""

from __future__ import annotations

from dataclasses import dataclass, field

from optim.settings.checks import require_above, require_at_least


@dataclass(frozen=True)
class OptimiseSettings:
    """Search for the best process of one clone, and of every clone when clones are ranked."""

    starts: int = 12  # of the search for one clone
    rank_starts: int = 3  # of every clone: the best processes that `starts` starts have found for one of them
    max_iterations: int = 80  # of one start
    tolerance: float = 1e-7  # of the solver: a start has converged when one more step promises a smaller gain
    clone: str = "best"  # best (of the ranking) | population | a clone's id
    choices: dict[str, dict[str, float]] = field(default_factory=dict)  # name -> decisions held at values

    def __post_init__(self) -> None:
        for key in ("starts", "rank_starts", "max_iterations"):
            require_at_least(f"optimise.{key}", getattr(self, key), 1)
        require_above("optimise.tolerance", self.tolerance, 0.0)


@dataclass(frozen=True)
class ParetoSettings:
    """The trade-off between the objective and another one."""

    against: str = "culture_time"  # the objective that is traded against the one that is maximised
    points: int = 9  # of the front

    def __post_init__(self) -> None:
        require_at_least("pareto.points", self.points, 3)


@dataclass(frozen=True)
class DriftSettings:
    """A disturbance: how the process is carried out otherwise than planned."""

    feed: float = 1.0  # factor on every volume and rate that goes in
    strength: float = 1.0  # factor on what feeds hold
    inoculum: float = 1.0  # factor on the cells at the start
    temperature_c: float = 0.0  # degC, added to every setpoint
    ph: float = 0.0  # added to every setpoint
    delay_h: float = 0.0  # h by which everything done after time 0 is late, harvest excepted
    harvest_h: float = 0.0  # h, added to the time of harvest
    missed: str = ""  # a decision that is left out, or 'largest bolus'


@dataclass(frozen=True)
class StressSettings:
    """The disturbances that an optimum is exposed to."""

    drifts: dict[str, DriftSettings] = field(default_factory=dict)  # by name
