"""Configuration: every file composes and builds; every slip names the key and the nearest match."""

from __future__ import annotations

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
GROUPS = sorted(p.name for p in CONFIGS.iterdir() if p.is_dir())
OPTIONS = [(g, f.stem) for g in GROUPS for f in sorted((CONFIGS / g).glob("*.yaml"))]
EXPERIMENTS = [name for group, name in OPTIONS if group == "experiment"]
ALIKE = [[f"{g}={name}" for group, name in OPTIONS if group == g] for g in GROUPS if g != "experiment"]
ROUNDS = [tuple(o for o in row if o) for row in zip_longest(*ALIKE)]


def test_the_groups_are_those_promised():
    assert set(GROUPS) == {
        "model", "dataset", "noise", "fit", "design", "cost", "constraints", "objective", "vessel", "integrator",
        "tracking", "experiment", "calendar", "stress",
    }  # fmt: skip


@pytest.mark.parametrize("options", ROUNDS, ids=" ".join)
def test_every_option_composes(options):
    """One of every group at a time; an experiment chooses for itself, and is built below."""
    cfg = compose(list(options))
    assert len(config_hash(cfg)) == 64


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds(name):
    cfg = compose([f"experiment={name}"])
    skip_without_data(cfg.dataset.name)
    dataset = read_dataset(cfg.dataset.name)
    build_fit(cfg, dataset)
    if name in FIT_ONLY:
        with pytest.raises(ConfigError, match=r"design\.feed_id: .* has no medium"):
            build_process(cfg, Screen.from_dataset(dataset))
    else:
        build_process(cfg, Screen.from_dataset(dataset))


@pytest.mark.parametrize("name", [n for g, n in OPTIONS if g == "model"])
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
