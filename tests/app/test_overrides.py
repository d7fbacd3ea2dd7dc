"""Overrides: identifiers and paths are taken as they were written, and no message of Hydra's grammar is shown."""

from __future__ import annotations

import pytest

from optim.app.build import compose
from optim.app.overrides import completed_overrides
from optim.errors import ConfigError

TEXTS = (
    "1.10",
    "1E5",
    "1_0",
    "007",
    "true",
    "null",
    "nan",
    "C 01",
    "Größe",
    "a,b",
    "[a]",
    "{a: b}",
    "a=b",
    "it's",
    "x\\",
)


@pytest.mark.parametrize("text", TEXTS)
def test_an_identifier_is_taken_as_it_was_written(text):
    cfg = compose([f"optimise.clone={text}", f"dataset.name={text}", f"title={text}"])
    assert (cfg.optimise.clone, cfg.dataset.name, cfg.title) == (text, text, text)


PATHS = (
    "/data/Screen (final)",
    "/data/run=3",
    "/data/Größe",
    "/data/2024#1",
    "/data/a,b",
    "C:\\data\\x",
    "/data/$1 ~ %",
)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_may_have_any_signs(path):
    cfg = compose([f"dataset.name={path}", f"out={path}", f"replan.fit={path}"])
    assert (cfg.dataset.name, cfg.out, cfg.replan.fit) == (path, path, path)


def test_a_path_begins_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    cfg = compose(["dataset.name=~/screen", "out=~/out", "replan.plan=~/plan", "title=~/title"])
    assert (cfg.dataset.name, cfg.out, cfg.replan.plan) == ("/home/me/screen", "/home/me/out", "/home/me/plan")
    assert cfg.title == "~/title"


def test_what_was_quoted_for_hydra_and_what_refers_to_other_keys_stays_so():
    cfg = compose(["dataset.name='/data/Größe'", "out=here/${name}", "replan.run=null"])
    assert (cfg.dataset.name, cfg.out, cfg.replan.run) == ("/data/Größe", f"here/{cfg.name}", None)


def test_commas_part_the_values_of_a_sweep():
    given = ["optimise.clone=1.10,1.2", "seed=1,2", "dataset.name='a,b',c", "out=choice(a,b)", "title=${name},x"]
    taken = completed_overrides(given, sweep=True)
    assert taken == [
        "optimise.clone='1.10','1.2'",
        "seed=1,2",
        "dataset.name='a,b','c'",
        *given[3:4],
        "title='${name}','x'",
    ]


@pytest.mark.parametrize("override", ["fit.starts=(", "fit.profiles=[µ]", "fit.starts", "optimise.tolerance=1 # 2"])
def test_what_cannot_be_read_is_explained_without_the_grammar(override):
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert override.split("=")[0] in str(caught.value)
    for word in ("Lexer", "hydra.cc", "mismatched", "extraneous", "reference_type"):
        assert word not in str(caught.value)
