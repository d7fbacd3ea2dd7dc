"""The embedded store: made whole or not at all, in the folder that was named, mended or told of where it is broken."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from optim.errors import OptimError, TrackingWarning
from optim.settings.tracking import TrackingSettings
from optim.tracking import store
from optim.tracking.mlflow import MlflowTracker, NullTracker, open_tracker
from optim.tracking.process import HOST, PID, START, is_dead, process_tags

ONE_RUN = """
import sys, warnings
from optim.settings.tracking import TrackingSettings
from optim.tracking.mlflow import open_tracker
warnings.simplefilter("always")
with open_tracker(TrackingSettings(workspace=sys.argv[1]), "r", {}) as t:
    print(type(t).__name__, t.run_id, flush=True)
    if sys.argv[2:]:
        sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


def start(workspace: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ONE_RUN, str(workspace), *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def tracked(workspace: Path, **changes: str) -> tuple[type, list[str]]:
    """Kind of tracker of one run, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_tracker(TrackingSettings(**{"workspace": str(workspace)} | changes), "r", {}) as t:
            t.log_text("a: 1", "config.yaml")
    return type(t), [str(w.message) for w in caught if issubclass(w.category, TrackingWarning)]


def runs(workspace: Path) -> dict[str, str]:
    with closing(sqlite3.connect(workspace / "mlflow.db")) as db:
        return dict(db.execute("SELECT run_uuid, status FROM runs").fetchall())


def test_a_kill_while_the_store_is_made_leaves_none_and_the_next_command_makes_it(tmp_path):
    first = start(tmp_path)
    while not list(tmp_path.glob(".mlflow.db.part*")) and first.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2)
    first.kill()
    first.communicate()
    assert not (tmp_path / "mlflow.db").exists()
    assert tracked(tmp_path) == (MlflowTracker, [])
    assert sorted(f.name for f in tmp_path.iterdir()) == ["artifacts", "mlflow.db"]


def test_an_interrupt_while_the_store_is_made_leaves_no_file(tmp_path, monkeypatch):
    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracked(tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_first_runs_at_once_are_both_tracked(tmp_path):
    both = [start(tmp_path), start(tmp_path)]
    said = [p.communicate("") for p in both]
    assert [out.split()[0] for out, _ in said] == ["MlflowTracker"] * 2, said
    assert list(runs(tmp_path).values()) == ["FINISHED"] * 2


def test_a_store_that_was_left_unfinished_without_a_run_is_made_anew(tmp_path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db, db:
        db.execute("CREATE TABLE runs (run_uuid TEXT)")
        db.execute("CREATE TABLE alembic_version (version_num TEXT)")
    (tmp_path / "mlflow.db-journal").write_bytes(b"of the old file")
    assert tracked(tmp_path) == (MlflowTracker, [])
    assert len(runs(tmp_path)) == 1


def test_a_store_of_another_version_that_holds_runs_is_told_and_kept(tmp_path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db, db:
        db.execute("CREATE TABLE runs (run_uuid TEXT)")
        db.execute("INSERT INTO runs VALUES ('a')")
        db.execute("CREATE TABLE alembic_version (version_num TEXT)")
    before = (tmp_path / "mlflow.db").read_bytes()
    kind, (said,) = tracked(tmp_path)
    assert kind is NullTracker
    assert f"{tmp_path}/mlflow.db is a tracking store of another version" in said
    assert "mlflow db upgrade" in said
    assert "move the file away" in said
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_file_that_is_no_store_is_told_at_once_and_kept(tmp_path):
    (tmp_path / "mlflow.db").write_text("my notes, more than nothing")
    began = time.monotonic()
    kind, (said,) = tracked(tmp_path)
    assert kind is NullTracker
    assert f"{tmp_path}/mlflow.db cannot be read as a tracking store" in said
    assert "move it away" in said
    assert time.monotonic() - began < 20.0  # MLflow itself tries ten times, for 100 s
    assert (tmp_path / "mlflow.db").read_text().startswith("my notes")


@pytest.mark.parametrize("name", ["q?x", "p%20c", "a b", "h#1", "Zellzüchtung µ", "a;b&c=d"])
def test_the_store_lies_in_the_named_folder_whatever_its_name(tmp_path, name):
    place = tmp_path / name / "ml"
    assert tracked(place, experiment="50 % of #1?") == (MlflowTracker, [])
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert sorted(p.name for p in place.iterdir()) == ["artifacts", "mlflow.db"]
    assert len(runs(place)) == 1
    assert [f.read_text() for f in place.rglob("config.yaml")] == ["a: 1"]


def test_a_deleted_experiment_is_restored_and_told(tmp_path):
    import mlflow

    tracked(tmp_path)
    client = mlflow.MlflowClient(store.store_address(tmp_path / "mlflow.db"))
    client.delete_experiment(client.get_experiment_by_name("optim").experiment_id)
    kind, (said,) = tracked(tmp_path)
    assert kind is MlflowTracker
    assert "'optim' had been deleted; it was restored" in said
    assert "tracking.experiment=" in said
    assert tracked(tmp_path) == (MlflowTracker, [])
    assert list(runs(tmp_path).values()) == ["FINISHED"] * 3


def test_the_run_of_a_killed_process_is_closed_by_the_next_command_and_that_of_a_living_one_is_not(tmp_path):
    killed, living = start(tmp_path, "wait"), start(tmp_path, "wait")
    ids = [p.stdout.readline().split()[1] for p in (killed, living)]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    tracked(tmp_path)
    found = runs(tmp_path)
    assert [found[i] for i in ids] == ["KILLED", "RUNNING"]
    living.communicate("")
    assert runs(tmp_path)[ids[1]] == "FINISHED"


def test_a_process_is_known_by_host_number_and_start():
    own = process_tags()
    assert own[PID] == str(os.getpid())
    assert socket.gethostname() in own[HOST]
    assert not is_dead(own)
    assert not is_dead({})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = own | {PID: str(ended.pid)}
    assert is_dead(gone)
    assert not is_dead(gone | {HOST: "another machine"})  # cannot be known from here
    assert is_dead(own | {START: "an earlier boot/1"})  # the number was given out again


def test_the_end_is_reported_after_tracking_has_stopped_at_one_file(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_tracker(TrackingSettings(workspace=str(tmp_path)), "r", {}) as t:
            monkeypatch.setattr(t._client, "log_text", full)
            t.log_text("a: 1", "config.yaml")
    assert sum(issubclass(w.category, TrackingWarning) for w in caught) == 1
    assert list(runs(tmp_path).values()) == ["FINISHED"]


def test_an_interrupt_while_the_end_is_reported_is_a_killed_run(tmp_path, monkeypatch):
    def interrupted_once():
        with open_tracker(TrackingSettings(workspace=str(tmp_path)), "r", {}) as t:
            whole, asked = t._client.set_terminated, []

            def ends(*args, **kwargs):
                if not asked:
                    asked.append(1)
                    raise KeyboardInterrupt
                whole(*args, **kwargs)

            monkeypatch.setattr(t._client, "set_terminated", ends)

    with pytest.raises(KeyboardInterrupt):
        interrupted_once()
    assert list(runs(tmp_path).values()) == ["KILLED"]


def test_a_store_in_a_folder_that_cannot_be_made_is_one_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    kind, (said,) = tracked(tmp_path / "file" / "ml")
    assert kind is NullTracker
    assert "tracking is unavailable" in said
    with pytest.raises(OptimError, match="cannot be read"), store.open_store(_folder_at_the_store(tmp_path), ""):
        pass


def _folder_at_the_store(place: Path) -> Path:
    (place / "mlflow.db").mkdir()
    (place / "mlflow.db" / "x").touch()
    return place
