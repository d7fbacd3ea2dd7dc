"""The house itself: floors, file sizes, what a wheel holds, what no file may say."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from support.house import MOST_ONE_WORD
from support.house import count as count_house

SOURCES = sorted((ROOT / "optim").rglob("*.py"))


def test_imports_go_down_the_floors_only():
    linter = Path(sys.executable).parent / "lint-imports"
    r = subprocess.run([str(linter)], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 0, r.stdout


def test_no_file_is_longer_than_five_hundred_lines():
    long = {str(f.relative_to(ROOT)): n for f in SOURCES if (n := len(f.read_text().splitlines())) > 500}
    assert not long


def test_names_arguments_and_homes_keep_their_measures():
    """`python tests/support/house.py` prints the counts."""
    counts = count_house()
    assert not counts.many_parameters
    assert not counts.many_positional
    assert not counts.several_homes
    assert counts.one_word <= MOST_ONE_WORD


def test_every_module_says_what_it_is():
    assert not [str(f) for f in SOURCES if f.stat().st_size and not f.read_text().startswith('"""')]


def test_style_and_types_hold():
    bin_ = Path(sys.executable).parent
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        r = subprocess.run([str(bin_ / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
        assert r.returncode == 0, r.stdout + r.stderr


def test_no_lock_names_a_host_and_every_dependency_is_pinned():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    pinned = {re.split(r"[=\[; ]", line)[0].lower() for line in text.splitlines() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(w for extra in extras.values() for w in extra)]
    names = {re.split(r"[\[<>=~! ;]", w)[0].lower() for w in wanted}
    assert names <= pinned, names - pinned


def test_a_constant_of_a_name_has_one_home():
    """Two constants of one name are two numbers that a reader takes for one; kinetic models have theirs by paper."""
    homes: dict[str, list[str]] = {}
    for file in SOURCES:
        if "kinetics" in file.parts:
            continue
        for node in ast.parse(file.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
            for name in names:
                if isinstance(name, ast.Name) and name.id.isupper():
                    homes.setdefault(name.id, []).append(str(file.relative_to(ROOT)))
    assert not {name: files for name, files in homes.items() if len(files) > 1}


@pytest.mark.slow
def test_a_wheel_works_from_any_folder(tmp_path):
    """Configs and datasets lie inside the wheel and are found without the checkout."""
    copy = tmp_path / "src"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "*cache*", "outputs"))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(copy)], check=True
    )
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert "optim/configs/config.yaml" in names
    assert "optim/datasets/cho_clone_screen/measurements.csv" in names
    assert "optim/report/templates/recipe.html.j2" in names
    assert not [n for n in names if n.startswith(("tests/", "experiments/"))]
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import optim, optim.app.cli\n"
        f"assert optim.__file__.startswith({str(site)!r}), optim.__file__\n"
        "sys.exit(optim.app.cli.main(['simulate', 'tracking=off', '--quiet']))"
    )
    away = tmp_path / "away"
    away.mkdir()
    r = subprocess.run([sys.executable, "-P", "-c", code], cwd=away, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert list(away.rglob("simulation.csv"))
