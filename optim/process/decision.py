"""One number of a process that may be chosen: what it is, in which unit, and within which bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from optim.errors import ConfigError
from optim.schedule.actions import Bleed, Bolus, Feed, Harvest, Perfusion, Setpoint
from optim.settings.checks import require_one_of
from optim.settings.process import DecisionSettings
from optim.settings.ranges import LONGEST_H, Within

NOT_NEGATIVE, DEGREES, PH, TIMES = Within(0.0, 1e9), Within(0.0, 100.0), Within(0.0, 14.0), Within(0.0, LONGEST_H)


@dataclass(frozen=True)
class DecisionKind:
    """A kind of decision: its unit, what it means, and the action that carries it out.

    A new kind is one record of `DECISION_KINDS` and its part in the schedule of `optim.process.design`. Recipes, lab
    sheets and calendars follow from both; a kind that a running batch cannot continue is refused there.
    """

    name: str
    unit: str  # of its value; '' = that of the component
    meaning: str
    action: type | None = None  # what a team does to the vessel; None: to medium, feed or cells, before the run
    at_times: bool = False  # there may be several, each acting from its `time_h` on
    is_time: bool = False  # its value is when the action happens
    is_profile: bool = False  # several of them are one profile over time
    by_hand: bool = False  # people do it; pumps and controllers do the rest
    needs_feed: bool = False  # the feed or stock that is meant must be named
    needs_component: bool = False  # what is dissolved must be named
    setpoint: str = ""  # of the environment, that it sets
    screened: str = ""  # quantity of the screening data that its value is compared with; '' = none
    allowed: Within = NOT_NEGATIVE  # values that it can have at all, in its unit
    replanned: str = ""  # 'open' as long as its time has not passed | decided once at the 'start' | '' cannot be


def _setpoint(name: str, unit: str, meaning: str, allowed: Within, replanned: str = "") -> DecisionKind:
    return DecisionKind(
        name,
        unit,
        meaning,
        Setpoint,
        at_times=True,
        setpoint=name,
        screened=name,
        allowed=allowed,
        replanned=replanned,
    )


DECISION_KINDS: dict[str, DecisionKind] = {
    kind.name: kind
    for kind in (
        DecisionKind(
            "bolus",
            "mL",
            "a feed given at once at time_h",
            Bolus,
            at_times=True,
            is_profile=True,
            by_hand=True,
            screened="bolus",
            replanned="open",
        ),
        DecisionKind(
            "feed_rate",
            "mL/h",
            "a feed's rate from time_h on, held to the next",
            Feed,
            at_times=True,
            is_profile=True,
            screened="feed_rate",
            replanned="open",
        ),
        DecisionKind(
            "feed_node",
            "mL/h",
            "a feed's rate at time_h, running straight to the next",
            Feed,
            at_times=True,
            is_profile=True,
            screened="feed_rate",
        ),
        DecisionKind(
            "feed_start",
            "mL/h",
            "an exponential feed's rate at time 0",
            Feed,
            screened="feed_start",
            replanned="open",
        ),
        DecisionKind(
            "feed_exponent",
            "1/h",
            "the exponent of the exponential feed",
            Feed,
            allowed=Within(-10.0, 10.0),
            replanned="open",
        ),
        DecisionKind(
            "feed_component",
            "",
            "what a feed holds of a component; its upper bound is the solubility",
            needs_feed=True,
            needs_component=True,
        ),
        DecisionKind(
            "medium_component",
            "",
            "what the basal medium holds of a component",
            needs_component=True,
            replanned="start",
        ),
        DecisionKind(
            "inoculum",
            "1e6/mL",
            "viable cells at the start",
            screened="inoculum",
            allowed=Within(0.0, 1e5),
            replanned="start",
        ),
        DecisionKind(
            "addition_time",
            "h",
            "when an inducer, a virus or a transfection is added (feed: its stock)",
            Bolus,
            allowed=TIMES,
            is_time=True,
            by_hand=True,
            needs_feed=True,
        ),
        DecisionKind("addition_volume", "mL", "how much of it", Bolus, needs_feed=True),
        _setpoint("temperature", "degC", "from time_h on", DEGREES, replanned="start"),
        _setpoint("ph", "-", "from time_h on", PH),
        _setpoint("do", "%", "dissolved oxygen from time_h on", Within(0.0, 500.0)),
        _setpoint("kla", "1/h", "oxygen transfer from time_h on", Within(0.0, 1e5)),
        DecisionKind(
            "shift_time",
            "h",
            "when temperature and pH are shifted",
            Setpoint,
            allowed=TIMES,
            is_time=True,
            screened="shift_time",
            replanned="open",
        ),
        DecisionKind("shift_ramp", "h", "how long the shift takes", Setpoint, allowed=TIMES),
        DecisionKind(
            "shift_temperature",
            "degC",
            "from the shift on",
            Setpoint,
            screened="shift_temperature",
            allowed=DEGREES,
            replanned="open",
        ),
        DecisionKind("shift_ph", "-", "from the shift on", Setpoint, screened="ph", allowed=PH),
        DecisionKind(
            "perfusion",
            "vvd",
            "vessel volumes of medium per day from time_h on; as much leaves through the retention device",
            Perfusion,
            at_times=True,
            screened="perfusion",
        ),
        DecisionKind(
            "bleed", "mL/h", "broth taken, cells and all, from time_h on", Bleed, at_times=True, screened="bleed"
        ),
        DecisionKind(
            "bleed_above",
            "1e6/mL",
            "VCD that the bleed holds, from time_h on",
            Bleed,
            at_times=True,
            screened="bleed_above",
        ),
        DecisionKind(
            "harvest",
            "h",
            "the end of the run",
            Harvest,
            allowed=TIMES,
            is_time=True,
            by_hand=True,
            screened="harvest",
            replanned="open",
        ),
    )
}
SETPOINT_KINDS = tuple(kind.name for kind in DECISION_KINDS.values() if kind.setpoint)
TIMED_KINDS = tuple(kind.name for kind in DECISION_KINDS.values() if kind.at_times)


def require_allowed(setting: DecisionSettings, key: str) -> None:
    """Refuse bounds that no decision of its kind can have; `key` is its full name. Raises `ConfigError`."""
    require_one_of(f"{key}.kind", setting.kind, DECISION_KINDS)
    kind = DECISION_KINDS[setting.kind]
    allowed = replace(kind.allowed, unit=kind.unit.strip("-"))
    allowed.require(f"{key}.lower", setting.lower)
    allowed.require(f"{key}.upper", setting.upper)


@dataclass(frozen=True)
class Decision:
    """One number to choose. `platform` is its value in the platform process, `time_h` when it begins to act.

    `feed` names the feed or stock that is meant ('' = the design's own), `component` what is dissolved.
    """

    name: str
    kind: str
    lower: float
    upper: float
    platform: float
    resolution: float
    time_h: float = 0.0
    feed: str = DecisionSettings.feed
    component: str = DecisionSettings.component
    component_unit: str = ""

    def __post_init__(self) -> None:
        key = f"design.decisions.{self.name}"
        require_one_of(f"{key}.kind", self.kind, DECISION_KINDS)
        if not self.lower <= self.platform <= self.upper:
            raise ConfigError(f"{key}: platform {self.platform} lies outside its bounds")
        if self.time_h != 0.0 and not self.what.at_times:
            raise ConfigError(f"{key}.times_h: a {self.kind} has no times; it is one number")
        if self.what.needs_feed and not self.feed:
            raise ConfigError(f"{key}.feed: missing; name the feed or stock that is meant")
        if self.what.needs_component and not self.component:
            raise ConfigError(f"{key}.component: missing; name the component of the medium or feed")

    @property
    def what(self) -> DecisionKind:
        """What kind of decision it is."""
        return DECISION_KINDS[self.kind]

    @property
    def unit(self) -> str:
        """The unit of its value."""
        return self.what.unit or self.component_unit
