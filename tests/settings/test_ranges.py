"""Nonsense in any number of the settings is refused by the name of its key, or the declared range allows it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args, get_origin

import pytest

from optim.app.build import build_process, compose
from optim.app.overrides import declared_type
from optim.data.screened import Screen
from optim.errors import ConfigError
from optim.settings.process import CostSettings, DecisionSettings, DesignSettings, VesselSettings
from optim.settings.ranges import Section, Within, hints_of, type_and_range

NONSENSE = (math.nan, math.inf, -math.inf, -1, 0, 1e300, "many", [1.0], {"a": 1.0}, True, None)
# with calendar and market, so that every section is there
CFG = compose(["objective=profit", "calendar=weekdays", "+optimise.choices.a.harvest=300", "+objective.mix.titre=1"])


def numbers_of(settings: Section, path: str = "") -> Iterator[tuple[Section, str, str, Any]]:
    """Every number below a section: the object that holds it, its field, its full key, and its declared type."""
    for f in fields(settings):  # type: ignore[arg-type]
        hint, value, key = hints_of(type(settings))[f.name], getattr(settings, f.name), f"{path}{f.name}"
        kind, allowed = type_and_range(hint)
        if is_dataclass(kind):
            yield from numbers_of(value, f"{key}.")
        elif get_origin(kind) is dict and is_dataclass(get_args(kind)[1]):
            for name, row in list(value.items())[:1]:  # entries of a mapping are all of one class
                yield from numbers_of(row, f"{key}.{name}.")
        elif kind in (int, float) or allowed is not None:
            yield settings, f.name, key, hint


NUMBERS = {key: (owner, name, hint) for owner, name, key, hint in numbers_of(CFG)}


def entries_of(kind: Any) -> Any:
    """The type of the entries of a mapping or list, through all levels; any other type as it is."""
    inner, _ = type_and_range(kind)
    if get_origin(inner) in (dict, tuple):
        return entries_of(get_args(inner)[1 if get_origin(inner) is dict else 0])
    return kind


def outcome(settings: Section, name: str, key: str, value: Any) -> str:
    """What a value of a field comes to: refused by its name, legal, or something else, which is a fault."""
    try:
        replace(settings, **{name: value})  # type: ignore[type-var]
    except ConfigError as err:
        return "refused" if name in str(err) and str(err).startswith(type(settings).section_key) else f"silent: {err}"
    except Exception as err:
        return f"internal error: {err!r}"
    return "legal"


def is_allowed(value: Any, hint: Any) -> bool:
    """Whether the declaration alone says that the value is legal."""
    kind, allowed = type_and_range(hint)
    if value is None:
        return type(None) in get_args(hint)
    number = isinstance(value, int | float) and not isinstance(value, bool) and (kind is not int or value == int(value))
    if kind is Any and isinstance(value, list):
        return all(is_allowed(row, hint) for row in value)
    return number and not (kind is int and isinstance(value, float)) and value in (allowed or Within())


def test_the_numbers_are_all_those_of_the_settings():
    assert len(NUMBERS) > 90
    assert {k.split(".")[0] for k in NUMBERS} >= {"fit", "design", "cost", "vessel", "calendar", "stress", "seed"}


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_declares_its_range(key):
    _, allowed = type_and_range(NUMBERS[key][2])
    assert allowed is not None
    assert math.isfinite(allowed.lower)
    assert math.isfinite(allowed.upper)


@pytest.mark.parametrize("key", NUMBERS)
def test_nonsense_is_refused_by_name_or_declared_legal(key):
    owner, name, hint = NUMBERS[key]
    for value in NONSENSE:
        try:
            legal = is_allowed(value, hint)
        except (OverflowError, ValueError):  # of nan and infinity no whole number is made
            legal = False
        found = outcome(owner, name, key, value)
        # of what a range allows, another setting may still refuse it: a lower bound above the upper one
        assert found in (("legal", "refused") if legal else ("refused",)), (key, value, found)


def containers(settings: Section, path: str = "") -> Iterator[tuple[Section, str, Any]]:
    """Every mapping or list of numbers below a section."""
    for f in fields(settings):  # type: ignore[arg-type]
        kind, value = type_and_range(hints_of(type(settings))[f.name])[0], getattr(settings, f.name)
        if is_dataclass(kind):
            yield from containers(value, f"{path}{f.name}.")
        elif get_origin(kind) is dict and is_dataclass(get_args(kind)[1]):
            for row in list(value.values())[:1]:
                yield from containers(row, f"{path}{f.name}.*.")
        elif get_origin(kind) in (dict, tuple) and type_and_range(entries_of(kind))[0] in (int, float):
            yield settings, f.name, kind


CONTAINERS = list(containers(CFG))


@pytest.mark.parametrize("place", range(len(CONTAINERS)), ids=[name for _, name, _ in CONTAINERS])
def test_nonsense_in_a_mapping_or_a_list_is_refused_by_the_name_of_its_entry(place):
    owner, name, kind = CONTAINERS[place]
    assert type_and_range(entries_of(kind))[1] is not None
    for value in (math.nan, math.inf, 1e300, "many", True, None):
        row: Any = value
        inner = kind
        while get_origin(inner := type_and_range(inner)[0]) in (dict, tuple):
            row = {"entry": row} if get_origin(inner) is dict else (row,)
            inner = get_args(inner)[1 if get_origin(inner) is dict else 0]
        assert outcome(owner, name, name, row) == "refused", (name, value)


def outcomes() -> Counter[str]:
    """How often nonsense was refused or legal, over all numbers."""
    return Counter(outcome(o, n, k, v).split(":")[0] for k, (o, n, _) in NUMBERS.items() for v in NONSENSE)


def test_a_setting_without_a_check_would_be_found():
    class Loose(VesselSettings):
        def __post_init__(self) -> None:
            pass

    assert outcome(Loose("v", 13.0), "start_volume_ml", "vessel.start_volume_ml", math.nan) == "legal"


def decision(**changes: Any) -> DecisionSettings:
    return DecisionSettings(**{"kind": "bolus", "lower": 0.0, "upper": 2.0, "platform": 1.0} | changes)


def design(**changes: Any) -> DesignSettings:
    return DesignSettings(
        **{"title": "t", "feed_id": "", "medium_id": "", "temperature_c": 37.0, "end_h": 96.0} | changes
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lower": 3.0}, r"design\.decisions\.feed: lower 3 must be below upper 2"),
        ({"platform": 2.5}, r"design\.decisions\.feed\.platform: 2\.5 lies outside"),
        ({"platform": (1.0, 2.5), "times_h": (0.0, 24.0)}, r"feed\.platform: 2\.5 lies outside"),
        ({"resolution": 5.0}, r"design\.decisions\.feed\.resolution: 5 is a longer step"),
        ({"times_h": (24.0, 24.0)}, r"design\.decisions\.feed\.times_h: 24, 24 h is not in increasing order"),
        ({"times_h": (24.0, 97.0)}, r"times_h: 97 h lies after the latest harvest, 96 h \(design\.end_h\)"),
    ],
)
def test_numbers_of_a_decision_that_contradict_each_other_are_refused(changes, words):
    assert design(decisions={"feed": decision(times_h=(24.0, 96.0))}).decisions
    with pytest.raises(ConfigError, match=words):
        design(decisions={"feed": decision(**changes)})


def test_a_grid_without_bound_is_refused_with_its_number_of_nodes():
    with pytest.raises(ConfigError, match=r"design: 96,000,000 nodes .* at 96 h \(design\.end_h\), at most 10,000"):
        design(node_step_h=1e-6)
    harvest = decision(kind="harvest", lower=24.0, upper=1e9, platform=96.0)
    with pytest.raises(ConfigError, match=r"41,666,667 nodes.*\(design\.decisions\.harvest\.upper\)"):
        design(decisions={"harvest": harvest})
    with pytest.raises(ConfigError, match=r"harvest\.upper: 20000 is out of range.*10,000 h"):
        design(decisions={"harvest": replace(harvest, upper=20_000.0)})
    assert design(node_step_h=0.01).node_step_h == 0.01


def test_a_book_with_prices_has_a_downstream_train():
    book = CFG.cost
    assert isinstance(book, CostSettings)
    with pytest.raises(ConfigError, match=r"cost\.stage_yields: empty"):
        replace(book, stage_yields={})
    with pytest.raises(ConfigError, match=r"cost\.stage_yields=\{\} takes nothing away.*~cost\.stage_yields\.NAME"):
        compose(["cost.stage_yields={}"])
    with pytest.raises(ConfigError, match=r"cost\.stage_yields: empty"):
        compose([f"~cost.stage_yields.{name}" for name in book.stage_yields])


def test_a_sample_that_empties_the_vessel_is_refused():
    with pytest.raises(ConfigError, match=r"vessel\.sample_volume_ml: a sample of 20 mL empties"):
        VesselSettings("v", 13.0, 20.0)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("design.decisions.shift_temperature.upper=309.95", r"shift_temperature\.upper: 309\.95 is.*at most 100 degC"),
        ("design.decisions.feed_volume.lower=-1", r"design\.decisions\.feed_volume\.lower: -1 is.*at least 0"),
    ],
)
def test_bounds_that_no_decision_of_a_kind_can_have_are_refused(override, words):
    with pytest.raises(ConfigError, match=words):
        build_process(compose([override]), Screen.without_data())


# through Hydra, an entry is known by its name, and a wrong type by the declared one
REFUSED = {
    "model.parameters.mu_max.value=nan": r"^model\.parameters\.mu_max\.value: nan is out of range\. Set a number",
    "cost.items.feed_medium.year=0": r"^cost\.items\.feed_medium\.year: 0 is out of range",
    "cost.stage_yields.capture=1.5": r"^cost\.stage_yields\.capture: 1\.5 is out of range.*above 0 and at most 1$",
    "stress.drifts.pH 0.1 high.ph=inf": "cannot read the override",
    "design.decisions.feed_volume.times_h=[-5,72]": r"^design\.decisions\.feed_volume\.times_h: -5 is out of range",
    "fit.starts=1e300": r"^fit\.starts: '1e\+300' is no whole number\. Set a whole number that is at least 1",
    "fit.tolerance=low": r"^fit\.tolerance: 'low' is no number\. Set a number that is above 0 and at most 0\.1$",
    "constraints.limits.lactate.kind=most": r"^constraints\.limits\.lactate\.kind: unknown 'most'",
}


@pytest.mark.parametrize("override", REFUSED)
def test_nonsense_of_the_command_line_is_refused_by_its_full_key(override):
    with pytest.raises(ConfigError, match=REFUSED[override]):
        compose([override])


def test_the_declared_type_of_a_key_is_found_by_its_path():
    assert type_and_range(declared_type("cost.stage_yields.capture"))[1] == Within(0.0, 1.0, open=True)
    assert type_and_range(declared_type("design.decisions.feed.feed"))[0] is str
    assert declared_type("cost.stage_yield.capture") is None


if __name__ == "__main__":  # the table of the documentation
    print(f"{len(NUMBERS)} numbers x {len(NONSENSE)} values: {dict(outcomes())}")
