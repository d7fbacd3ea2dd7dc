"""Ctrl-C, SIGTERM and SIGHUP: a killed run in tracking, what was kept, and the exit code of the signal."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing

import pytest

from optim.app import cli
from optim.app.interrupts import Interrupts, watched_interrupts


@pytest.fixture
def asked_to_end(tmp_path, monkeypatch):
    """`ask(number, *args)`: `optim fit` whose process gets a signal after an artefact is finished."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def ask(number: int, *args: str, kept: tuple[str, ...] = ("fit",)) -> int:
        def command(s):
            s.begin_run()
            s.kept += kept
            os.kill(os.getpid(), number)
            time.sleep(5.0)

        monkeypatch.setattr(cli, "load_command", lambda name: command)
        return cli.main(["fit", "out=out", *args])

    return ask


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_every_signal_leaves_a_killed_run_and_says_what_was_kept(asked_to_end, tmp_path, capsys, name, code):
    before = signal.getsignal(getattr(signal, name))
    assert asked_to_end(getattr(signal, name)) == code
    with closing(sqlite3.connect(tmp_path / "outputs" / "mlflow" / "mlflow.db")) as db:
        assert db.execute("SELECT status FROM runs").fetchall() == [("KILLED",)]
    assert f"interrupted. Finished and kept in {tmp_path}/out: fit." in capsys.readouterr().err
    assert signal.getsignal(getattr(signal, name)) == before


def test_what_lay_there_before_was_not_kept_by_this_command(asked_to_end, tmp_path, capsys):
    (tmp_path / "out" / "fit").mkdir(parents=True)
    (tmp_path / "out" / "fit" / "artefact.json").write_text("{}")
    assert asked_to_end(signal.SIGTERM, "tracking=off", kept=()) == 143
    assert "nothing of this command was kept" in capsys.readouterr().err


def test_a_sweep_names_the_jobs_that_were_finished_and_the_one_under_way(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def command(s):
        if s.cfg.seed == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5.0)

    monkeypatch.setattr(cli, "load_command", lambda name: command)
    assert cli.main(["fit", "-m", "seed=1,2,3", "tracking=off", "out=all"]) == 143
    said = capsys.readouterr().err
    assert "nothing of this command was kept. This was job 1 (seed=2 " in said
    assert "Finished and kept: job 0 (seed=1 tracking=off out='all') in all/0." in said
    assert "job 2" not in said


def test_a_repeated_signal_does_not_disturb_the_end_and_a_lost_one_is_raised_again():
    asked = Interrupts()
    asked.raise_pending()
    with pytest.raises(KeyboardInterrupt):
        asked.note(signal.SIGHUP, None)
    asked.note(signal.SIGHUP, None)  # a closed terminal sends two
    with pytest.raises(KeyboardInterrupt):
        asked.raise_pending()
    assert asked.exit_code == 129


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with watched_interrupts() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
        assert asked.signals == []
    finally:
        signal.signal(signal.SIGHUP, before)
