"""Settings of an objective: what is maximised, what product sells for, and how uncertainty is judged."""

from __future__ import annotations

from dataclasses import dataclass, field

from optim.errors import ConfigError
from optim.settings.checks import require_above, require_at_least, require_name, require_one_of, require_probability

MEASURES = ("nominal", "expectation", "cvar", "quantile")


@dataclass(frozen=True)
class CaseSettings:
    """A further optimum beside the main one."""

    maximise: str  # its objective
    hold: dict[str, float] = field(default_factory=dict)  # decisions kept at a value in this case


@dataclass(frozen=True)
class MarketSettings:
    """What product sells for, and how much of it: what profit needs."""

    price_eur_per_g: float  # EUR per g sold
    demand_g_per_year: float  # g per year that the market takes
    suite_days_per_year: float  # days per year on which the suite can be used
    source: str  # where the numbers come from
    verified: bool  # whether the source supports them

    def __post_init__(self) -> None:
        for key in ("price_eur_per_g", "demand_g_per_year", "suite_days_per_year"):
            require_above(f"objective.market.{key}", getattr(self, key), 0.0)


@dataclass(frozen=True)
class ExecutionSettings:
    """Errors of execution: standard deviations of the executed actions around the planned ones."""

    feed: float = 0.0  # of the factor on every volume and rate that goes in
    strength: float = 0.0  # of the factor on what feeds hold
    inoculum: float = 0.0  # of the factor on the cells at the start
    temperature_c: float = 0.0  # degC, of the error of every setpoint
    ph: float = 0.0  # of the error of every setpoint
    delay_h: float = 0.0  # h by which everything done after time 0 is late, harvest excepted

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            require_at_least(f"objective.risk.execution.{key}", value, 0.0)

    @property
    def has_errors(self) -> bool:
        """Whether any standard deviation is above zero."""
        return any(vars(self).values())


@dataclass(frozen=True)
class RiskSettings:
    """Risk measure over the parameter ensemble, and chance constraints."""

    measure: str = "nominal"  # nominal (the estimate) | expectation | cvar (mean of the tail) | quantile (its edge)
    tail: float = 0.2  # fraction of the worst parameter sets
    chance: float = 0.0  # fraction of parameter sets in which all limits are met at once; 0: at the estimate only
    members: int = 16  # scenarios used for the search (parameter sets, with errors of execution); others judge it
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)  # errors of execution

    def __post_init__(self) -> None:
        require_one_of("objective.risk.measure", self.measure, MEASURES)
        if not 0.0 < self.tail <= 1.0:
            raise ConfigError(f"objective.risk.tail: {self.tail:g} is not a fraction above 0 and up to 1")
        require_probability("objective.risk.chance", self.chance)
        require_at_least("objective.risk.members", self.members, 2)

    @property
    def is_active(self) -> bool:
        """Whether uncertainty counts: another measure than the nominal one, or a chance constraint."""
        return self.measure != "nominal" or self.chance > 0.0


@dataclass(frozen=True)
class ObjectiveSettings:
    """What a process is optimised for."""

    maximise: str = "yield_per_cost"  # one of `optim.process.objective.OBJECTIVES`
    mix: dict[str, float] = field(default_factory=dict)  # further objectives by weight; that of `maximise` is 1
    market: MarketSettings | None = None  # what profit needs
    risk: RiskSettings = field(default_factory=RiskSettings)  # how an uncertain process is judged
    also: dict[str, CaseSettings] = field(default_factory=dict)  # further optima, by name

    def __post_init__(self) -> None:
        for name in self.also:
            require_name("objective.also", name)
