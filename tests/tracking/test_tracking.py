"""Tracking: the embedded store, a store that is away, and no call to anywhere else."""

from __future__ import annotations

import socket
import warnings
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

from optim.errors import TrackingWarning
from optim.settings.tracking import TrackingSettings
from optim.tracking.mlflow import NullTracker, open_tracker


@pytest.fixture
def lonely(monkeypatch):
    """Every look-up or connection that leaves this machine is noted and refused."""
    seen: list[str] = []
    real = socket.getaddrinfo

    def look_up(host, *args, **kwargs):
        if host not in ("localhost", "127.0.0.1", "::1", None):
            seen.append(str(host))
            raise socket.gaierror(f"no network in this test: {host}")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return seen


def options(folder: Path, **changes) -> TrackingSettings:
    return TrackingSettings(**{"experiment": "test", "workspace": str(folder)} | changes)


def test_a_run_lands_in_the_embedded_store(tmp_path, lonely, screen):
    import mlflow

    picture = tmp_path / "p.png"
    matplotlib.figure.Figure().savefig(picture)
    with open_tracker(options(tmp_path / "ml"), "a run", {"t": "1"}) as t:
        t.log_parameters({"seed": 1})
        t.log_metrics({"good": 2.0, "none": float("nan")})
        t.log_history("cost", [3.0, 2.0, np.inf, 1.0])
        t.log_file(picture, "plots")
        t.log_text("a: 1", "config.yaml")
        t.log_dataset(screen, "fit")
        t.log_child_run("clone C01", {"clone": "C01"}, {"qP": 0.1})
        run_id = t.run_id
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'ml' / 'mlflow.db'}")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "1"
    assert run.data.metrics["good"] == 2.0
    assert "none" not in run.data.metrics
    assert [m.value for m in client.get_metric_history(run_id, "cost")] == [3.0, 2.0, 1.0]
    assert run.inputs.dataset_inputs[0].dataset.digest == screen.content_hash[:32]
    assert [a.path for a in client.list_artifacts(run_id, "plots")] == ["plots/p.png"]
    children = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert [c.info.run_name for c in children] == ["clone C01"]
    assert lonely == []


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_the_status_tells_how_a_run_ended(tmp_path, lonely, error, status):
    import mlflow

    run_id = []

    def fails():
        with open_tracker(options(tmp_path), "r", {}) as t:
            run_id.append(t.run_id)
            raise error

    with pytest.raises(error):
        fails()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert client.get_run(run_id[0]).info.status == status


def test_a_server_that_is_away_is_one_warning(tmp_path, lonely):
    away = options(tmp_path, uri="http://127.0.0.1:9")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_tracker(away, "r", {}) as t:
            assert isinstance(t, NullTracker)
            t.log_metrics({"a": 1.0})
    assert [w.category for w in caught if "tracking is unavailable" in str(w.message)] == [TrackingWarning]


def _gone(*args, **kwargs):
    raise ConnectionError("the store is gone")


def test_a_store_that_goes_away_is_one_warning_and_no_error(tmp_path, lonely, monkeypatch):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_tracker(options(tmp_path), "r", {}) as t:
            monkeypatch.setattr(t._client, "log_batch", _gone)
            t.log_metrics({"a": 1.0})
            t.log_metrics({"b": 1.0})
    assert sum(issubclass(w.category, TrackingWarning) for w in caught) == 1


def test_off_means_off(tmp_path, lonely):
    with open_tracker(options(tmp_path / "ml", enabled=False), "r", {}) as t:
        t.log_metrics({"a": 1.0})
    assert t.run_id == ""
    assert not (tmp_path / "ml").exists()


def test_the_users_address_wins(tmp_path, lonely, monkeypatch):
    elsewhere = tmp_path / "elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    with open_tracker(options(tmp_path / "ml"), "r", {}):
        pass
    assert elsewhere.exists()
    assert not (tmp_path / "ml").exists()
