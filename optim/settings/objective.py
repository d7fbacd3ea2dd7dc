"""Settings of an objective: what is maximised, what product sells for, and how uncertainty is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from optim.settings.checks import require_name, require_one_of
from optim.settings.ranges import AtLeastTwo, Hours, Number, Positive, Probability, Section, Share, Within

MEASURES = ("nominal", "expectation", "cvar", "quantile")


@dataclass(frozen=True)
class CaseSettings(Section, key="objective.also.*"):
    """A further optimum beside the main one."""

    maximise: str  # its objective
    hold: dict[str, Number] = field(default_factory=dict)  # decisions kept at a value in this case


@dataclass(frozen=True)
class MarketSettings(Section, key="objective.market"):
    """What product sells for, and how much of it: what profit needs."""

    price_eur_per_g: Positive  # EUR per g sold
    demand_g_per_year: Positive  # g per year that the market takes
    suite_days_per_year: Annotated[float, Within(0.0, 366.0, "d", open=True)]  # on which the suite can be used
    source: str  # where the numbers come from
    verified: bool  # whether the source supports them


@dataclass(frozen=True)
class ExecutionSettings(Section, key="objective.risk.execution"):
    """Errors of execution: standard deviations of the executed actions around the planned ones."""

    feed: Probability = 0.0  # of the factor on every volume and rate that goes in
    strength: Probability = 0.0  # of the factor on what feeds hold
    inoculum: Probability = 0.0  # of the factor on the cells at the start
    temperature_c: Annotated[float, Within(0.0, 20.0, "degC")] = 0.0  # degC, of the error of every setpoint
    ph: Annotated[float, Within(0.0, 3.0)] = 0.0  # of the error of every setpoint
    delay_h: Hours = 0.0  # h by which everything done after time 0 is late, harvest excepted

    @property
    def has_errors(self) -> bool:
        """Whether any standard deviation is above zero."""
        return any(vars(self).values())


@dataclass(frozen=True)
class RiskSettings(Section, key="objective.risk"):
    """Risk measure over the parameter ensemble, and chance constraints."""

    measure: str = "nominal"  # nominal (the estimate) | expectation | cvar (mean of the tail) | quantile (its edge)
    tail: Share = 0.2  # fraction of the worst parameter sets
    chance: Probability = 0.0  # fraction of parameter sets in which all limits are met at once; 0: at the estimate only
    members: AtLeastTwo = 16  # scenarios of the search (parameter sets, with errors of execution); others judge it
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)  # errors of execution

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("objective.risk.measure", self.measure, MEASURES)

    @property
    def is_active(self) -> bool:
        """Whether uncertainty counts: another measure than the nominal one, or a chance constraint."""
        return self.measure != "nominal" or self.chance > 0.0


@dataclass(frozen=True)
class ObjectiveSettings(Section, key="objective"):
    """What a process is optimised for."""

    maximise: str = "yield_per_cost"  # one of `optim.process.objective.OBJECTIVES`
    mix: dict[str, Positive] = field(default_factory=dict)  # further objectives by weight; that of `maximise` is 1
    market: MarketSettings | None = None  # what profit needs
    risk: RiskSettings = field(default_factory=RiskSettings)  # how an uncertain process is judged
    also: dict[str, CaseSettings] = field(default_factory=dict)  # further optima, by name

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.also:
            require_name("objective.also", name)
