"""Surroundings that are not as a command needs them: one message with the remedy, exit code 2."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile

import jax
import pytest
from conftest import ROOT

from optim import runtime
from optim.app.cli import main
from optim.errors import CacheWarning

CLI = [sys.executable, "-m", "optim.app.cli"]


def refused(capsys) -> str:
    said = capsys.readouterr().err
    assert said.startswith("optim: ")
    assert "internal error" not in said
    return said


def test_a_current_folder_that_was_deleted(tmp_path):
    command = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" -m optim.app.cli simulate'
    r = subprocess.run(
        ["bash", "-c", command, sys.executable], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (r.returncode, r.stdout) == (2, "")
    assert "the current folder does not exist any more" in r.stderr
    assert "cd" in r.stderr


def test_no_place_for_temporary_files(monkeypatch, capsys):
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert main(["simulate", "tracking=off"]) == 2
    assert "set TMPDIR" in refused(capsys)


def test_a_device_that_is_not_there(tmp_path, monkeypatch, capsys):
    def fails():
        raise AssertionError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", fails)
    assert main(["simulate", "tracking=off"]) == 2
    said = refused(capsys)
    assert "JAX_PLATFORMS=cuda" in said
    assert "set it to cpu" in said
    assert not list(tmp_path.iterdir())


def test_a_folder_of_configurations_that_is_not_there(tmp_path, capsys):
    assert main(["simulate", "--config-dir", str(tmp_path / "nope"), "tracking=off"]) == 2
    assert "--config-dir:" in refused(capsys)


def test_a_cache_that_cannot_be_written_is_a_warning_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OPTIM_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    with pytest.warns(CacheWarning, match="set OPTIM_CACHE"):
        runtime.configure()


def test_a_command_that_is_refused_leaves_no_tracked_run_and_does_not_load_mlflow(tmp_path):
    code = (
        "import sys; from optim.app.cli import main\n"
        "assert main(['fit', 'dataset.name=nowhere']) == 2\n"
        "assert 'mlflow' not in sys.modules"
    )
    r = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stderr
    assert not list(tmp_path.rglob("mlflow.db"))


def test_every_text_file_is_read_and_written_as_utf8():
    """Otherwise the language of the system decides."""
    found = []
    for file in sorted((ROOT / "optim").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
            modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            text = name in ("read_text", "write_text") or (
                name == "open" and modes and not any("b" in m for m in modes) and set(modes[-1]) <= set("rwaxt+")
            )
            if text and not any(k.arg == "encoding" for k in node.keywords):
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not found
