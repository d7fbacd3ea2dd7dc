"""Settings of an optimisation: the search, the trade-off between two objectives, and disturbances of the optimum."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from optim.settings.ranges import LONGEST_H, AtLeastOne, Factor, Hours, Number, Section, Tolerance, Within


@dataclass(frozen=True)
class OptimiseSettings(Section, key="optimise"):
    """Search for the best process of one clone, and of every clone when clones are ranked."""

    starts: AtLeastOne = 12  # of the search for one clone
    rank_starts: AtLeastOne = 3  # of every clone: the best processes that `starts` starts have found for one of them
    max_iterations: AtLeastOne = 80  # of one start
    tolerance: Tolerance = 1e-7  # of the solver: a start has converged when one more step promises a smaller gain
    clone: str = "best"  # best (of the ranking) | population | a clone's id
    choices: dict[str, dict[str, Number]] = field(default_factory=dict)  # name -> decisions held at values


@dataclass(frozen=True)
class ParetoSettings(Section, key="pareto"):
    """The trade-off between the objective and another one."""

    against: str = "culture_time"  # the objective that is traded against the one that is maximised
    points: Annotated[int, Within(3, 1_000)] = 9  # of the front


@dataclass(frozen=True)
class DriftSettings(Section, key="stress.drifts.*"):
    """A disturbance: how the process is carried out otherwise than planned."""

    feed: Factor = 1.0  # factor on every volume and rate that goes in
    strength: Factor = 1.0  # factor on what feeds hold
    inoculum: Factor = 1.0  # factor on the cells at the start
    temperature_c: Annotated[float, Within(-50.0, 50.0, "degC")] = 0.0  # degC, added to every setpoint
    ph: Annotated[float, Within(-7.0, 7.0)] = 0.0  # added to every setpoint
    delay_h: Hours = 0.0  # h by which everything done after time 0 is late, harvest excepted
    harvest_h: Annotated[float, Within(-LONGEST_H, LONGEST_H, "h")] = 0.0  # h, added to the time of harvest
    missed: str = ""  # a decision that is left out, or 'largest bolus'


@dataclass(frozen=True)
class StressSettings(Section, key="stress"):
    """The disturbances that an optimum is exposed to."""

    drifts: dict[str, DriftSettings] = field(default_factory=dict)  # by name
