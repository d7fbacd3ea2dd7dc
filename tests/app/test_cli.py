"""The command line as a user meets it: exit codes, messages, light imports, sweeps, interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optim.app.cli import main
from optim.app.commands import command_summaries, load_command
from optim.artefact import load_artefact
from optim.estimation.result import FitResult
from optim.storage import MANIFEST

QUICK = ["tracking=off", "fit=quick", "--quiet"]


def optim(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, from a foreign folder."""
    command = [sys.executable, "-m", "optim.app.cli", *args]
    return subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=300)


def test_help_names_every_command_and_imports_neither_jax_nor_mlflow(tmp_path):
    code = (
        "import sys; from optim.app.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'jax', 'mlflow', 'pandas', 'hydra', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    for command in command_summaries():
        assert command in r.stdout


def test_every_file_of_a_command_holds_its_function():
    for name in command_summaries():
        assert load_command(name).__module__ == f"optim.app.commands.{name}"


def test_an_unknown_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["optimize"])
    assert caught.value.code == 2
    assert "optimise" in capsys.readouterr().err


BAD = {
    "typo in an override": (["fit", "fit.strats=2"], "Did you mean 'starts'"),
    "unknown option": (["fit", "model=cho_moler"], "Did you mean 'cho_moller'"),
    "unknown dataset": (["fit", "dataset.name=cho_clone_scren"], "Did you mean 'cho_clone_screen'"),
    "wrong type": (["fit", "seed=one"], "seed"),
    "nothing fitted yet": (["rank"], "optim fit"),
    "nothing optimised yet": (["export"], "run `optim fit`"),
    "clone that is not there": (["simulate", "vessel=ambr16"], "ambr15"),
    "zero starts": (["fit", "fit.starts=0"], "at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_exit_2(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args, words = BAD[name]
    assert main([*args, "tracking=off", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("optim: ")
    assert words in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("artefact.json"))


def test_a_bad_dataset_lists_its_faults_and_writes_nothing(tmp_path, monkeypatch, capsys):
    place = tmp_path / "mine"
    place.mkdir()
    (place / "dataset.yaml").write_text("name: mine\n")
    (place / "measurements.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main(["fit", f"dataset.name={place}", *QUICK]) == 2
    err = capsys.readouterr().err
    for words in ("measurements.csv", "file is empty", "runs.csv", "file is missing", "dataset.yaml"):
        assert words in err
    assert not list(tmp_path.rglob("artefact.json"))


def test_an_unwritable_output_folder(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert main(["fit", f"out={blocked}/inside", *QUICK]) == 2
    assert "cannot write to out=" in capsys.readouterr().err
    assert blocked.read_text() == "in the way"


def test_debug_shows_the_traceback(tmp_path):
    r = optim("fit", "fit.strats=2", "--debug", cwd=tmp_path)
    assert "Traceback" in r.stderr
    assert r.returncode == 1


def test_cfg_prints_and_stops(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--cfg", "seed=7"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_doctor_is_content(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for words in ("jax", "float64", "configs", "datasets", "cache", "tracking", "all is well"):
        assert words in out
    monkeypatch.setenv("OPTIM_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["doctor"]) == 2
    out = capsys.readouterr().out
    assert "OPTIM_DATA" in out
    assert "does not answer" in out


def test_a_sweep_gives_every_job_its_own_folder(tmp_path, small_screen):
    r = optim(
        "simulate", "-m", "design.temperature_c=36,37", "tracking=off", f"hydra.sweep.dir={tmp_path}/sweep",
        "--quiet", cwd=tmp_path,
    )  # fmt: skip
    assert r.returncode == 0, r.stderr
    files = sorted((tmp_path / "sweep").rglob("simulation.csv"))
    assert len(files) == 2
    texts = {f.read_text() for f in files}
    assert len(texts) == 2


@pytest.mark.slow
def test_an_interrupted_run_says_what_it_kept_and_can_go_on(tmp_path, small_screen, monkeypatch):
    args = [
        "run", f"dataset.name={small_screen}", "tracking=off", "fit=quick", f"out={tmp_path}/out",
        "optimise.rank_starts=40", "optimise.max_iterations=400", "optimise.tolerance=1e-14",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "optim.app.cli", *args],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    ready = tmp_path / "out" / "fit" / "artefact.json"
    for _ in range(6000):
        if ready.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    if not ready.exists():
        process.kill()
    assert ready.exists(), process.communicate()[1]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert f"kept in {tmp_path}/out: fit." in err
    assert [f.name for f in (tmp_path / "out").glob(".*")] == [MANIFEST]  # nothing half-written
    assert load_artefact(FitResult, tmp_path / "out" / "fit").groups
    few = ["optimise.starts=1", "optimise.rank_starts=1", "optimise.max_iterations=5"]
    monkeypatch.chdir(tmp_path)
    for command in ("rank", "optimise", "export"):
        assert main([command, *args[1:5], *few, "--quiet"]) == 0
    assert (tmp_path / "out" / "recipe" / "recipe.html").exists()
