"""Settings are stated once: every key has a meaning, one default and one class, which functions take as it is."""

from __future__ import annotations

import ast
import importlib
from dataclasses import fields, is_dataclass, make_dataclass
from typing import get_args, get_type_hints

import pytest
import yaml
from conftest import ROOT
from omegaconf import OmegaConf

from optim.app.build import compose
from optim.app.schema import as_yaml, schema_of, typed_settings
from optim.errors import ConfigError
from optim.settings.estimation import FitSettings
from optim.settings.ranges import Section
from optim.settings.settings import Settings
from optim.settings.typed import inner_type, settings_of

FILES = sorted((ROOT / "optim" / "settings").glob("*.py"))
SOURCES = sorted(f for f in (ROOT / "optim").rglob("*.py") if f not in FILES)


def settings_classes() -> dict[str, type]:
    """Every section of the configuration by the name of its class."""
    found: dict[str, type] = {}
    for file in FILES:
        module = importlib.import_module(f"optim.settings.{file.stem}".removesuffix(".__init__"))
        found |= {
            n: c
            for n, c in vars(module).items()
            if is_dataclass(c) and issubclass(c, Section) and c.__module__ == module.__name__
        }
    return found


CLASSES = settings_classes()


def keys_of(cls: type, path: str = "") -> dict[str, type]:
    """Every key below a section, with the class that states it; `*` stands for a name of the user's."""
    found = {}
    for name, hint in get_type_hints(cls).items():
        kind = inner_type(hint)
        own = f"{path}{name}"
        found[own] = cls
        while get_args(kind) and not is_dataclass(kind) and get_args(kind)[0] is str and len(get_args(kind)) == 2:
            kind, own = get_args(kind)[1], f"{own}.*"
        if is_dataclass(kind):
            found |= keys_of(kind, f"{own}.")
    return found


KEYS = keys_of(Settings)


def test_every_settings_class_is_a_section_of_the_configuration():
    assert set(KEYS.values()) == set(CLASSES.values())


@pytest.mark.parametrize("name", CLASSES)
def test_hydra_has_every_field_of_a_class_as_a_key(name):
    cls = CLASSES[name]
    assert list(OmegaConf.structured(schema_of(cls))) == [f.name for f in fields(cls)]


@pytest.mark.parametrize("name", CLASSES)
def test_every_setting_says_what_it_means(name):
    cls = CLASSES[name]
    (file,) = (f for f in FILES if f.stem == cls.__module__.rsplit(".", 1)[1])
    lines = file.read_text().splitlines()
    (node,) = (n for n in ast.parse("\n".join(lines)).body if isinstance(n, ast.ClassDef) and n.name == name)
    assert ast.get_docstring(node)
    stated = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    silent = [ast.unparse(n.target) for n in stated if "  # " not in lines[n.end_lineno - 1]]
    assert not silent


def test_a_class_knows_the_key_of_its_section():
    keys = {cls.section_key: cls for cls in CLASSES.values()}
    stated = {path.rsplit(".", 1)[0] if "." in path else "": cls for path, cls in KEYS.items()}
    assert keys == stated


@pytest.mark.parametrize("name", CLASSES)
def test_settings_cannot_be_changed(name):
    assert CLASSES[name].__dataclass_params__.frozen


def restated(node: ast.ClassDef) -> dict[str, list[str]]:
    """Fields of a class that a settings class has with the same type and default; None says too little to count."""
    own = {}
    for n in node.body:
        if isinstance(n, ast.AnnAssign) and isinstance(n.value, ast.Constant) and n.value.value is not None:
            own[ast.unparse(n.target)] = (ast.unparse(n.annotation), n.value.value)
    return {
        name: [f.name for f in fields(cls) if own.get(f.name) == (plain_type(cls, f.name), f.default)]
        for name, cls in CLASSES.items()
    }


def plain_type(cls: type, name: str) -> str:
    """The type of a field as other classes write it, without its range."""
    hint = get_type_hints(cls)[name]
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)


def test_no_other_class_states_defaults_of_settings_again():
    again = [
        f"{file.relative_to(ROOT)}: {node.name} states {', '.join(both)} of {name} again"
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
        for name, both in restated(node).items()
        if len(both) > 1
    ]
    assert not again, "\n".join(again)


def test_a_class_that_states_defaults_again_is_found():
    text = "class Options:\n    quality: bool = True\n    draws: int = 300\n    starts: int = FitSettings.starts"
    assert restated(ast.parse(text).body[0])["FitSettings"] == ["quality", "draws"]


def test_a_setting_costs_one_line():
    """One more field, and it is a key with a default that reaches who takes the settings."""
    longer = make_dataclass("FitSettings", [("patience", int, 3)], bases=(FitSettings,), frozen=True)
    schema = OmegaConf.structured(schema_of(longer))
    assert typed_settings(longer, schema).patience == 3
    assert typed_settings(longer, OmegaConf.merge(schema, {"patience": 5, "starts": 2})) == longer(patience=5, starts=2)


WITHOUT_FILES = ("fit", "place", "replan", "objective", "integrator", "optimise", "pareto", "suggest", "tracking")


@pytest.mark.parametrize("section", WITHOUT_FILES)
def test_settings_from_python_and_from_the_command_line_have_the_same_defaults(section):
    of_command_line = getattr(compose([]), section)
    assert of_command_line == type(of_command_line)()


@pytest.mark.parametrize("group", ["fit", "integrator", "tracking"])
def test_no_option_states_a_default_again(group):
    cls = CLASSES[next(str(f.type) for f in fields(Settings) if f.name == group)]
    for file in sorted((ROOT / "configs" / group).glob("*.yaml")):
        stated = yaml.safe_load(file.read_text()) or {}
        usual = settings_of(cls, {})
        again = [k for k, v in stated.items() if getattr(settings_of(cls, {k: v}), k) == getattr(usual, k)]
        assert not again, f"{file.name}: {', '.join(again)}"


def test_settings_survive_the_text_that_is_kept_with_a_run():
    cfg = compose(["calendar=weekdays", "objective=profit", "fit.profiles=[mu_max]"])
    assert settings_of(Settings, yaml.safe_load(as_yaml(cfg))) == cfg


REFUSED = {
    "fit.starts=0": "fit.starts: 0 is out of range. Set a whole number that is at least 1",
    "fit.tolerance=0": "fit.tolerance: 0 is out of range. Set a number that is above 0",
    "fit.ensemble_by=boostrap": "fit.ensemble_by: unknown 'boostrap'. Did you mean 'bootstrap'",
    "dataset.group_by=vessel": "dataset.group_by: unknown 'vessel'",
    "noise.assays.vcd.floor=0": "noise.assays.vcd.floor: must be above 0",
    "integrator.stepper=explict": "integrator.stepper: unknown 'explict'. Did you mean 'explicit'",
    "integrator.rtol=-1": "integrator.rtol: -1 is out of range",
    "optimise.starts=0": "optimise.starts: 0 is out of range",
    "objective.risk.chance=1.5": "objective.risk.chance: 1.5 is out of range. Set a number that is at least 0 and",
    "objective.risk.execution.feed=-0.1": "objective.risk.execution.feed: -0.1 is out of range",
    "suggest.safe=2": "suggest.safe: 2 is out of range",
    "replan.draws=1": "replan.draws: 1 is out of range",
    "pareto.points=2": "pareto.points: 2 is out of range. Set a whole number that is at least 3",
    "cost.success=0": "cost.success: 0 is out of range. Set a number that is above 0",
    "cost.currency=USD": "must be in USD",
    "vessel.start_volume_ml=0": "Set a number that is above 0 and at most 1,000,000,000 mL",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_setting_that_makes_no_sense_is_refused_by_its_full_name(override):
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert REFUSED[override] in str(caught.value)
