"""Configuration: every file composes and builds; every slip names the key and the nearest match."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

import pytest
import yaml
from conftest import FIT_ONLY, ROOT, skip_without_data

from optim.app.build import build_fit, build_process, compose, config_hash, model_config
from optim.data.open import read_dataset
from optim.data.screened import Screen
from optim.errors import ConfigError
from optim.kinetics import load_kinetics
from optim.parameters import parameter_table

CONFIGS = ROOT / "configs"
UNMEASURED = {"osmolality"}  # predicted by a proxy, and measured in no dataset
GROUPS = sorted(p.name for p in CONFIGS.iterdir() if p.is_dir())
OPTIONS = [(g, f.stem) for g in GROUPS for f in sorted((CONFIGS / g).glob("*.yaml"))]
EXPERIMENTS = [name for group, name in OPTIONS if group == "experiment"]
MODELS = [name for group, name in OPTIONS if group == "model"]
ALIKE = [[f"{g}={name}" for group, name in OPTIONS if group == g] for g in GROUPS if g not in ("experiment", "model")]
ROUNDS = [tuple(o for o in row if o) for row in zip_longest(*ALIKE)]


def test_the_groups_are_those_promised():
    assert set(GROUPS) == {
        "model", "dataset", "noise", "fit", "design", "cost", "constraints", "objective", "vessel", "integrator",
        "tracking", "experiment", "calendar", "stress",
    }  # fmt: skip


@pytest.mark.parametrize("options", ROUNDS, ids=" ".join)
def test_every_option_composes(options):
    """One of every group at a time; models and experiments choose for themselves, and are built below."""
    cfg = compose(list(options))
    assert len(config_hash(cfg)) == 64


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds(name):
    cfg = compose([f"experiment={name}"])
    skip_without_data(cfg.dataset.name)
    screen = Screen.without_data()
    if cfg.dataset.name:  # an experiment without data is a process to simulate
        dataset = read_dataset(cfg.dataset.name)
        build_fit(cfg, dataset)
        screen = Screen.from_dataset(dataset)
    if name in FIT_ONLY:
        with pytest.raises(ConfigError, match="needs a price book"):
            build_process(cfg, screen)
    else:
        build_process(cfg, screen)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_brings_a_process_that_needs_no_data(name):
    cfg = compose([f"model={name}"])
    assert (cfg.name, cfg.model.name, cfg.title) == (name, name, cfg.model.title)
    problem = build_process(cfg, Screen.without_data())
    assert type(problem.model) is type(load_kinetics(cfg.model.kinetics))
    assert set(cfg.noise.assays) >= set(problem.observed) - UNMEASURED
    assert problem.product.variable in problem.observed


def test_a_variant_of_a_model_states_its_differences_only():
    base, variant = model_config("ecoli_stable"), model_config("ecoli_lag")
    changed = {key for key, row in variant.parameters.items() if row != base.parameters[key]}
    assert changed == {"b_E"}
    assert (variant.parameters["b_E"].level, variant.parameters["b_E"].value) == ("fixed", 0.0)
    assert list(variant.parameters) == list(base.parameters)


def test_an_experiment_and_an_override_come_before_what_a_model_brings(tmp_path):
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\ndefaults:\n  - override /model: ecoli_lag\n  - override /vessel: ambr15\n")
    cfg = compose(["experiment=mine", "design=ecoli_free_feed"], tmp_path)
    assert (cfg.model.name, cfg.vessel.name, cfg.design.title) == (
        "ecoli_lag", "ambr15", "feed of free shape at constant temperature",
    )  # fmt: skip
    assert cfg.dataset.name == "optfed_ecoli_proteinL"


def test_a_decision_is_added_by_an_override():
    row = "{kind: temperature, lower: 30, upper: 38, platform: 36.5}"
    cfg = compose([f"+design.decisions.warmth={row}", "~design.decisions.shift_time"])
    assert cfg.design.decisions["warmth"].platform == 36.5
    assert "shift_time" not in cfg.design.decisions
    with pytest.raises(ConfigError, match=r"To add it, write '\+design\.decisions\.warmth=\{kind: \.\.\., lower: "):
        compose([f"design.decisions.warmth={row}"])
    with pytest.raises(ConfigError, match=r"no value for design\.decisions\.warmth\.upper"):
        compose(["+design.decisions.warmth={kind: temperature, lower: 30, platform: 36.5}"])
    with pytest.raises(ConfigError, match=r"warmth\.uper'.*Did you mean 'upper'"):
        compose(["+design.decisions.warmth={kind: temperature, lower: 30, uper: 38, platform: 36.5}"])


def test_a_design_that_a_model_states_itself_cannot_be_swapped_in_silence():
    with pytest.raises(ConfigError, match=r"design=\.\.\.: the chosen model states its design itself"):
        compose(["model=penicillin_bajpai_reuss", "design=cho_bolus"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["design.feed_id=broth"], r"design\.feed_id: without a dataset there is no medium 'broth'.*feed_a"),
        (["design.medium_id=broth"], r"design\.medium_id: without a dataset there is no medium 'broth'"),
        (["+design.medium_composition.glucos=1"], r"design\.medium_id: 'basal_a' cannot hold 'glucos'.*glucose"),
        (["cost=null"], "yield_per_cost needs a price book"),
    ],
)
def test_a_process_without_data_states_its_media(overrides, words):
    with pytest.raises(ConfigError, match=words):
        build_process(compose(overrides), Screen.without_data())


def test_compositions_of_the_design_come_before_those_of_the_data(screen):
    data = Screen.from_dataset(screen)
    own = build_process(compose(["+design.medium_composition={glucose: 11.0}"]), data)
    usual = build_process(compose([]), data)
    glucose = usual.model.names().index("Glc")
    assert (own.initial[glucose], usual.initial[glucose]) == (11.0, 35.0)
    other = replace(data, media=data.media | {"basal_a": data.media["basal_a"] | {"glucose": 17.0}})
    assert build_process(compose([]), other).initial[glucose] == 17.0  # before those that stand in


def test_what_needs_prices_is_refused_without_them():
    model = "model=penicillin_bajpai_reuss"
    with pytest.raises(ConfigError, match="yield_per_cost needs a price book"):
        build_process(compose([model, "objective=yield_per_cost"]), Screen.without_data())
    limit = "{variable: cost_eur, kind: max, limit: 10, unit: EUR, where: end, source: mine, verified: true}"
    with pytest.raises(ConfigError, match="cost needs a price book"):
        build_process(compose([model, f"+constraints.limits.budget={limit}"]), Screen.without_data())


@pytest.mark.parametrize("name", MODELS)
def test_every_model_states_unit_and_source_of_every_parameter(name):
    cfg = model_config(name)
    fields = load_kinetics(cfg.kinetics).Parameters._fields
    table = parameter_table(cfg.parameters, fields)
    for row in table.rows:
        assert row.unit
        assert len(row.source) > 8, row.name
        if "unverified" in row.source or "constructed" in row.source:
            assert not row.verified or "spread" in row.source, row.name


@pytest.mark.parametrize("name", [n for g, n in OPTIONS if g == "cost"])
def test_every_price_states_year_source_and_range(name):
    book = yaml.safe_load((CONFIGS / "cost" / f"{name}.yaml").read_text())
    for key, item in book["items"].items():
        assert item["year"] >= 2000, key
        assert item["source"], key
        assert item["verified"] or "unverified" in item["source"], key


SLIPS = {
    "seeed=3": ["seeed", "seed"],
    "fit.strats=3": ["fit.strats", "Did you mean 'starts'"],
    "experiment=cho_clone_scren": ["Did you mean 'cho_clone_screen'", "Available"],
    "modle=cho_moller": ["model"],
    "fit.starts=many": ["fit.starts", "many"],
    "optimise.tolerance=[1]": ["optimise.tolerance"],
    "model.parameters.mu_max.valeu=1": ["valeu", "Did you mean 'value'"],
    "fit.starts": ["fit.starts"],
    "=": ["="],
}


@pytest.mark.parametrize("override", SLIPS)
def test_a_slip_names_key_and_nearest_match(override):
    with pytest.raises(ConfigError) as caught:
        compose([override])
    for word in SLIPS[override]:
        assert word in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+model.parameters.mu_maximum.value=1"], "mu_maximum"),
        (["dataset.group_by=vessel"], "group_by"),
        (["model.kinetics=cho_moler"], "Did you mean 'cho_moller'"),
        (["model.parameters.mu_max.value=99"], "outside its bounds"),
    ],
)
def test_a_fit_config_that_makes_no_sense_is_refused(overrides, words, screen):
    with pytest.raises(ConfigError, match=words):
        build_fit(compose(overrides), screen)


def test_the_hash_follows_what_decides_the_numbers():
    a = config_hash(compose([]))
    assert a == config_hash(compose(["out=elsewhere", "tracking=off"]))
    assert a != config_hash(compose(["seed=2"]))


def test_a_folder_of_the_users_own_is_found(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\ntitle: Mine\nseed: 5\n")
    cfg = compose(["experiment=mine"], tmp_path)
    assert (cfg.name, cfg.seed) == ("mine", 5)
    assert cfg.model.name == "cho_moller"
