"""The documentation: every command in it composes, every example in Python runs, every link leads somewhere."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

from optim.app.build import compose
from optim.app.commands import command_summaries

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
    choices = [[f"{key}={v}" for v in value.split(",")] if sweep else [f"{key}={value}"]
               for key, _, value in (word.partition("=") for word in rest)]  # fmt: skip
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
