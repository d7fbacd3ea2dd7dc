"""Sweeps: slips, failing jobs, folders and printed configurations, as for a single run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
import yaml

from optim.app import cli, sweep
from optim.errors import SimulationError


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """`run(*args)`: a sweep whose jobs write their seed into a file, and fail as `faults` says by seed."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str, faults: dict[int, Exception] | None = None) -> int:
        def command(s):
            s.begin_run()
            if s.cfg.seed in (faults or {}):
                raise faults[s.cfg.seed]
            (s.out / "done").write_text(str(s.cfg.seed))

        monkeypatch.setattr(cli, "load_command", lambda name: command)
        return cli.main(["simulate", "-m", "tracking=off", *args])

    return run


def done(place: Path) -> dict[str, str]:
    return {f"{f.parent.relative_to(place)}": f.read_text() for f in sorted(place.rglob("done"))}


SLIPS = {
    "key": (["fit.strats=1,2"], "unknown key 'fit.strats'. Did you mean 'starts'?"),
    "option": (["model=cho_moller,cho_moler"], "Did you mean 'cho_moller'"),
    "type": (["seed=1,two"], "seed"),
    "syntax": (["seed=1,2", "fit.starts=)("], "fit.starts=)("),
    "folders": (["seed=1,2", "out=a,b"], "each job has its own"),
    "configurations": (["seed=1,2", "--config-dir", "nowhere"], "nowhere is not a folder"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_one_message_exit_2_and_leaves_nothing(name, swept, tmp_path, capsys):
    args, words = SLIPS[name]
    assert swept(*args) == 2
    said = capsys.readouterr().err
    assert said.startswith("optim: ")
    assert said.count("optim: ") == 1
    assert words in said
    assert not list(tmp_path.iterdir())


def test_a_failing_job_is_named_and_the_others_go_on(swept, tmp_path, capsys):
    assert swept("seed=1,2,3", "out=all", faults={2: SimulationError("no cells")}) == 2
    assert done(tmp_path / "all") == {"0": "1", "2": "3"}
    said = capsys.readouterr().err
    assert "optim: job 1 (tracking=off seed=2 out='all'): no cells\n" in said
    assert "2 of 3 jobs are done; not done: job 1 (" in said


def test_a_fault_of_optim_in_a_job_is_exit_1_and_the_others_go_on(swept, tmp_path, capsys):
    assert swept("seed=1,2", "out=all", faults={1: ZeroDivisionError("zero")}) == 1
    assert done(tmp_path / "all") == {"1": "2"}
    assert "internal error: ZeroDivisionError: zero" in capsys.readouterr().err


def test_a_value_that_is_refused_in_every_job_is_told_once(swept, capsys):
    assert swept("seed=1,2,3", "fit.starts=0") == 2
    said = capsys.readouterr().err
    assert said.count("at least 1") == 1
    assert "0 of 3 jobs are done" in said


def test_cfg_prints_the_configuration_of_every_job_and_stops(swept, tmp_path, capsys):
    assert swept("--cfg", "seed=1,2", "model=penicillin_bajpai_reuss") == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [d["seed"] for d in documents] == [1, 2]
    assert {d["model"]["name"] for d in documents} == {"penicillin_bajpai_reuss"}
    assert not list(tmp_path.iterdir())


def test_two_sweeps_of_one_second_have_folders_of_their_own(swept, tmp_path, monkeypatch):
    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2030, 1, 2, 3, 4, 5)

    monkeypatch.setattr(sweep, "datetime", Frozen)
    assert swept("seed=1,2") == swept("seed=3,4") == swept("seed=5") == 0
    assert done(tmp_path / "multirun" / "2030-01-02") == {
        "03-04-05/0": "1", "03-04-05/1": "2", "03-04-05-2/0": "3", "03-04-05-2/1": "4", "03-04-05-3/0": "5",
    }  # fmt: skip


def test_the_users_folder_of_a_sweep_is_taken(swept, tmp_path):
    assert swept("seed=1,2", "hydra.sweep.dir=mine") == 0
    assert done(tmp_path / "mine") == {"0": "1", "1": "2"}
    assert not (tmp_path / "multirun").exists()


def test_configurations_of_the_user_come_before_the_shipped_ones(swept, tmp_path, capsys):
    own = tmp_path / "own, of mine" / "fit"
    own.mkdir(parents=True)
    (own / "quick.yaml").write_text("starts: 77\n")
    args = ["fit=quick", "--config-dir", str(own.parent)]
    assert swept(*args, "--cfg") == 0
    assert yaml.safe_load(capsys.readouterr().out)["fit"]["starts"] == 77
    assert swept(*args, "out=all") == 0
    assert yaml.safe_load((tmp_path / "all" / "0" / "config.yaml").read_text())["fit"]["starts"] == 77
