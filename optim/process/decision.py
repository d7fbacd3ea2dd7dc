"""One number of a process that may be chosen: what it is, in which unit, and within which bounds."""

from __future__ import annotations

from dataclasses import dataclass

from optim.errors import ConfigError
from optim.settings.checks import require_one_of
from optim.settings.process import DecisionSettings

# kind -> unit that its numbers are given in ('' = that of the component), and what it is
DECISION_KINDS: dict[str, tuple[str, str]] = {
    "bolus": ("mL", "a feed given at once at time_h"),
    "feed_rate": ("mL/h", "a feed's rate from time_h on, held to the next"),
    "feed_node": ("mL/h", "a feed's rate at time_h, running straight to the next"),
    "feed_start": ("mL/h", "an exponential feed's rate at time 0"),
    "feed_exponent": ("1/h", "the exponent of the exponential feed"),
    "feed_component": ("", "what a feed holds of a component; its upper bound is the solubility"),
    "medium_component": ("", "what the basal medium holds of a component"),
    "inoculum": ("1e6/mL", "viable cells at the start"),
    "addition_time": ("h", "when an inducer, a virus or a transfection is added (feed: its stock)"),
    "addition_volume": ("mL", "how much of it"),
    "temperature": ("degC", "from time_h on"),
    "ph": ("-", "from time_h on"),
    "do": ("%", "dissolved oxygen from time_h on"),
    "kla": ("1/h", "oxygen transfer from time_h on"),
    "shift_time": ("h", "when temperature and pH are shifted"),
    "shift_ramp": ("h", "how long the shift takes"),
    "shift_temperature": ("degC", "from the shift on"),
    "shift_ph": ("-", "from the shift on"),
    "perfusion": (
        "vvd",
        "vessel volumes of medium per day from time_h on; as much leaves through the retention device",
    ),
    "bleed": ("mL/h", "broth taken, cells and all, from time_h on"),
    "bleed_above": ("1e6/mL", "VCD that the bleed holds, from time_h on"),
    "harvest": ("h", "the end of the run"),
}
LEVELS = ("temperature", "ph", "do", "kla")
NEEDS_FEED = ("feed_component", "addition_time", "addition_volume")
AT_TIMES = ("bolus", "feed_rate", "feed_node", "perfusion", "bleed", "bleed_above", *LEVELS)  # may act at several times


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
        if not self.lower < self.upper:
            raise ConfigError(f"{key}: lower {self.lower} must be below upper {self.upper}")
        if not self.lower <= self.platform <= self.upper:
            raise ConfigError(f"{key}: platform {self.platform} lies outside its bounds")
        if self.resolution < 0.0:
            raise ConfigError(f"{key}: resolution must not be negative")
        if self.time_h != 0.0 and self.kind not in AT_TIMES:
            raise ConfigError(f"{key}.times_h: a {self.kind} has no times; it is one number")
        if self.kind in NEEDS_FEED and not self.feed:
            raise ConfigError(f"{key}.feed: missing; name the feed or stock that is meant")
        if self.kind.endswith("_component") and not self.component:
            raise ConfigError(f"{key}.component: missing; name the component of the medium or feed")

    @property
    def unit(self) -> str:
        return DECISION_KINDS[self.kind][0] or self.component_unit
