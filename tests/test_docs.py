"""The documentation: every command in it composes, every example in Python runs, every link leads somewhere."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

import optim
from optim.app.build import compose
from optim.app.commands import command_summaries
from optim.data.open import read_dataset

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(file: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / file).read_text(), re.M | re.S)


def commands() -> list[tuple[str, str]]:
    """Every `optim ...` line of every shell block, with its page."""
    found = []
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        lines = [line for block in blocks(name, "bash") for line in block.replace("\\\n", " ").splitlines()]
        found += [(name, line) for line in lines if line.split()[:1] == ["optim"]]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_of_the_documentation_composes(page, line, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\ntitle: mine\n")
    words = shlex.split(line.split("  #")[0])[1:]
    config_dir = None
    if "--config-dir" in words:
        i = words.index("--config-dir")
        config_dir, words = tmp_path, words[:i] + words[i + 2 :]
    command, *rest = [w for w in words if not w.startswith("-")]
    assert command in command_summaries()
    sweep = "-m" in words
    choices = [[f"{key}={v}" for v in value.split(",")] if sweep else [f"{key}{equals}{value}"]
               for key, equals, value in (word.partition("=") for word in rest)]  # fmt: skip
    for overrides in itertools.product(*choices):
        assert compose(list(overrides), config_dir)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_of_the_documentation_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / Path(target)).exists(), target


def test_the_perfusion_of_the_documentation_holds_its_vcd(capsys):
    (code,) = blocks("docs/simulator.md")
    exec(compile(code, "docs/simulator.md", "exec"), {})
    vcd, product = (float(x) for x in re.findall(r"[\d.]+(?=e6/mL| g)", capsys.readouterr().out))
    assert vcd == pytest.approx(12.0, rel=0.02)
    assert product > 0.1


def test_the_optimal_control_of_the_documentation_converges_from_all_starts(capsys):
    (code,) = blocks("docs/optimal_control.md")
    exec(compile(code, "docs/optimal_control.md", "exec"), {})
    out = capsys.readouterr().out
    assert "8 of 8 starts converged" in out
    assert "binding: biomass" in out


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_library_goes_from_data_to_a_recipe_with_one_import(whole, tmp_path, small_screen, monkeypatch):
    """The page and the notebook hold the same code; it runs from top to bottom and leaves a recipe.

    Every time on a screen of four clones, whose programs other tests share, and in the slow tests as it is written.
    """
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code"]
    assert code == blocks("docs/python.md")
    text = "".join(code)
    assert re.findall(r"^(?:import|from) .*", text, re.M) == ["import optim"]
    assert len([line for line in text.splitlines() if line.strip()]) <= 20
    assert text.count('"cho_clone_screen"') == 1
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    used = text if whole else text.replace('"cho_clone_screen"', repr(str(small_screen)))
    exec(compile(used, "docs/python.md", "exec"), names)
    best, ranking = names["best"], names["ranking"]
    document = json.loads((tmp_path / "recipe" / "recipe.json").read_text())
    assert document["id"] == names["recipe"].id
    assert ranking.best == ("C01" if whole else min(ranking.rows, key=lambda row: row.rank).clone)
    assert best.optimum.metrics[best.objective].p50 > best.baseline.metrics[best.objective].p50
    assert optim.load(optim.save(best, tmp_path / "optimum")).id == best.id


def test_new_runs_are_appended_as_the_documentation_says(tmp_path, monkeypatch):
    (code,) = blocks("docs/next_experiments.md")
    old = tmp_path / "path" / "to" / "screen"
    new = tmp_path / "outputs" / "cho_clone_screen" / "next"
    for folder, ids in ((old, "C"), (new, "N")):
        shutil.copytree(ROOT / "datasets" / "cho_clone_screen", folder)
        for file in folder.glob("*.csv"):
            file.write_text(re.sub(r"\bC(\d\d)", rf"{ids}\1", file.read_text()))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/next_experiments.md", "exec"), {})
    assert len(read_dataset("path/to/both").clones) == 48


def test_every_name_of_the_face_loads_and_says_what_it_is():
    for name in dir(optim):
        assert getattr(optim, name) is not None
        assert name.startswith("_") or getattr(optim, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'ft'"):
        _ = optim.ft
