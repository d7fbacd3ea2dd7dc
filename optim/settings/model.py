"""Settings of a model: its kinetics, and the rows of its parameter table."""

from __future__ import annotations

from dataclasses import dataclass, field

from optim.settings.ranges import Factor, Number, Positive, Section


@dataclass(frozen=True)
class ParameterSettings(Section, key="model.parameters.*"):
    """One row of a parameter table, as `optim.parameters.ParameterSpec` explains it."""

    value: Number  # in `unit`: the centre of the prior, and the value where it is not estimated
    unit: str  # of the value and its bounds
    level: str  # fixed | shared | clone | batch | vessel: what it is estimated for
    source: str  # where the number comes from
    verified: bool  # whether the source supports the number
    scale: str = "log"  # log | logit | identity: the scale on which it is estimated
    lower: Number = 0.0  # least value
    upper: Number = 0.0  # largest value
    prior_sd: Positive | None = None  # standard deviation of the prior; none: no prior but the bounds
    spread: Factor | None = None  # standard deviation between clones, on the fitted scale
    prior: str = "auto"  # auto | normal | lognormal | uniform | half_normal: the prior's family
    times: str = ""  # another parameter that this one multiplies: a tie, or a ratio


@dataclass(frozen=True)
class ModelSettings(Section, key="model"):
    """A kinetic model and its parameters."""

    name: str  # of this set of parameters
    kinetics: str  # file of the equations in `optim/kinetics`
    title: str  # for people
    citation: str  # publication of the equations
    verified: bool  # whether equations and numbers were checked against the publication
    parameters: dict[str, ParameterSettings] = field(default_factory=dict)  # by name
