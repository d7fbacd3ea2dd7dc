"""Experiment tracking: the only module that imports mlflow. A run never depends on it."""

from __future__ import annotations

import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optim.artefact import content_id
from optim.data.dataset import Dataset
from optim.errors import OptimError, TrackingWarning
from optim.result import SHORT_ID
from optim.settings.tracking import TrackingSettings, without_secret
from optim.storage import name_fault
from optim.tracking.process import HOST, host, is_dead, process_tags
from optim.tracking.store import open_store


class Tracker(ABC):
    """Record of one run: parameters, metrics, files and child runs; nothing is raised when it cannot be written."""

    @property
    @abstractmethod
    def run_id(self) -> str:
        """Id of the run in the store; '' without one."""

    @abstractmethod
    def log_parameters(self, values: Mapping[str, Any]) -> None:
        """Log configuration values, as text of at most 500 characters each."""

    @abstractmethod
    def log_metrics(self, values: Mapping[str, float]) -> None:
        """Log final values; nan is skipped."""

    @abstractmethod
    def log_history(self, name: str, values: Sequence[float]) -> None:
        """Log one metric per step; values that are not finite are skipped."""

    @abstractmethod
    def log_dataset(self, dataset: Dataset, context: str) -> None:
        """Log a dataset as an input of the run, with its content hash."""

    @abstractmethod
    def log_file(self, file: Path, folder: str) -> None:
        """Copy a file into a folder of the run's artefacts ('': the top folder)."""

    @abstractmethod
    def log_text(self, text: str, name: str) -> None:
        """Store text as an artefact file of this name."""

    @abstractmethod
    def log_folder(self, folder: Path, name: str) -> None:
        """Copy a folder into the run's artefacts under this name."""

    @abstractmethod
    def log_child_run(self, name: str, parameters: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Log a finished child run with parameters and metrics of its own."""


class NullTracker(Tracker):
    """Tracker that records nothing."""

    run_id = ""

    def log_parameters(self, values: Mapping[str, Any]) -> None:
        pass

    def log_metrics(self, values: Mapping[str, float]) -> None:
        pass

    def log_history(self, name: str, values: Sequence[float]) -> None:
        pass

    def log_dataset(self, dataset: Dataset, context: str) -> None:
        pass

    def log_file(self, file: Path, folder: str) -> None:
        pass

    def log_text(self, text: str, name: str) -> None:
        pass

    def log_folder(self, folder: Path, name: str) -> None:
        pass

    def log_child_run(self, name: str, parameters: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        pass


class MlflowTracker(Tracker):
    """Tracker of one MLflow run; when the store fails it warns once and records nothing more."""

    def __init__(self, client: Any, mlflow: Any, run_id: str, *, experiment_id: str, address: str):
        self._client, self._mlflow, self._run, self._experiment = client, mlflow, run_id, experiment_id
        self._address = address
        self._lost = False

    @property
    def run_id(self) -> str:
        return self._run

    def _try(self, what: str, call: Any, *args: Any, **kwargs: Any) -> None:
        if self._lost:
            return
        try:
            call(*args, **kwargs)
        except Exception as err:  # whatever the store raises: a failed log must never lose a result
            self._lost = True
            message = f"tracking stopped at '{what}' ({_reason(err, self._address)}); results are in the output folder"
            warnings.warn(message, TrackingWarning, stacklevel=3)

    def end(self, status: str) -> None:
        """Report the end of the run, also where tracking has stopped before: the store may be well again by now."""
        stopped, self._lost = self._lost, False
        with warnings.catch_warnings():
            if stopped:  # it was told already
                warnings.simplefilter("ignore", TrackingWarning)
            self._try("end of run", self._client.set_terminated, self._run, status=status)

    def log_parameters(self, values: Mapping[str, Any]) -> None:
        entities = self._mlflow.entities
        items = [entities.Param(k, str(v)[:500]) for k, v in values.items()]
        self._try("parameters", self._client.log_batch, self._run, params=items)

    def log_metrics(self, values: Mapping[str, float]) -> None:
        entities = self._mlflow.entities
        items = [entities.Metric(k, float(v), 0, 0) for k, v in values.items() if v == v]
        self._try("metrics", self._client.log_batch, self._run, metrics=items)

    def log_history(self, name: str, values: Sequence[float]) -> None:
        entities = self._mlflow.entities
        items = [
            entities.Metric(name, float(v), i, i) for i, v in enumerate(values) if v == v and abs(v) != float("inf")
        ]
        for first in range(0, len(items), 1000):
            self._try(name, self._client.log_batch, self._run, metrics=items[first : first + 1000])

    def log_dataset(self, dataset: Dataset, context: str) -> None:
        def _log() -> None:
            from mlflow.data.code_dataset_source import CodeDatasetSource

            source = CodeDatasetSource(tags={"name": dataset.name, "licence": dataset.licence})
            entry = self._mlflow.data.from_pandas(
                dataset.measurement_frame(), source=source, name=dataset.name, digest=dataset.content_hash[:32]
            )
            tag = self._mlflow.entities.InputTag("mlflow.data.context", context)
            self._client.log_inputs(self._run, [self._mlflow.entities.DatasetInput(entry._to_mlflow_entity(), [tag])])

        self._try("dataset", _log)

    def log_file(self, file: Path, folder: str) -> None:
        self._try(file.name, self._client.log_artifact, self._run, str(file), folder)

    def log_text(self, text: str, name: str) -> None:
        self._try(name, self._client.log_text, self._run, text, name)

    def log_folder(self, folder: Path, name: str) -> None:
        self._try(name, self._client.log_artifacts, self._run, str(folder), name)

    def log_child_run(self, name: str, parameters: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        def _log() -> None:
            entities = self._mlflow.entities
            tags = {"mlflow.parentRunId": self._run, "mlflow.runName": name} | process_tags()
            run = self._client.create_run(self._experiment, tags=tags, run_name=name)
            self._client.log_batch(
                run.info.run_id,
                params=[entities.Param(k, str(v)) for k, v in parameters.items()],
                metrics=[entities.Metric(k, float(v), 0, 0) for k, v in metrics.items() if v == v],
            )
            self._client.set_terminated(run.info.run_id)

        self._try(name, _log)


@contextmanager
def open_tracker(options: TrackingSettings, run_name: str, tags: Mapping[str, str]) -> Iterator[Tracker]:
    """Context with the tracker of one run, which ends as FINISHED, FAILED on an error, or KILLED on an interrupt.

    A store that cannot be reached gives a `TrackingWarning` and a `NullTracker`, never an error.
    """
    if not options.enabled:
        yield NullTracker()
        return
    tracker = _start(options, run_name, tags)
    status = "FINISHED"
    try:
        yield tracker
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except BaseException:
        status = "FAILED"
        raise
    finally:
        if isinstance(tracker, MlflowTracker):
            try:
                tracker.end(status)
            except KeyboardInterrupt:
                tracker.end("KILLED")
                raise


def _start(options: TrackingSettings, run_name: str, tags: Mapping[str, str]) -> Tracker:
    # no telemetry, and a server that is away is noticed in seconds, unless the user has set otherwise
    for key, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(key, value)
    for logger in ("alembic", "mlflow"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its tracebacks; the warning below is enough
    address = options.uri or os.environ.get("MLFLOW_TRACKING_URI")
    try:
        import mlflow
        import mlflow.data

        with _store(options) as (uri, artefacts):
            client = mlflow.MlflowClient(tracking_uri=uri)
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or options.experiment
            experiment_id = _experiment(client, name, artefacts)
            _end_dead_runs(client, experiment_id)
            run = client.create_run(experiment_id, tags=dict(tags) | process_tags(), run_name=run_name)
    except Exception as err:
        message = (
            f"tracking is unavailable ({_reason(err, address)}); the run goes on, results are in the output folder"
        )
        warnings.warn(message, TrackingWarning, stacklevel=3)
        return NullTracker()
    return MlflowTracker(client, mlflow, run.info.run_id, experiment_id=experiment_id, address=uri)


def _reason(err: Exception, address: str | None) -> str:
    """An error in one line, without the secrets of an address: own messages in full, of others the first line."""
    text = without_secret(str(err).strip(), address)
    if isinstance(err, OptimError):
        return text
    return text.splitlines()[0][:200] if text else type(err).__name__


def _store(options: TrackingSettings) -> AbstractContextManager[tuple[str, str | None]]:
    """Context with the address of the store, and the folder of its artefacts (None: the server decides)."""
    uri = options.uri or os.environ.get("MLFLOW_TRACKING_URI")
    return nullcontext((uri, None)) if uri else _embedded_store(Path(options.workspace).expanduser().resolve())


@contextmanager
def _embedded_store(workspace: Path) -> Iterator[tuple[str, str]]:
    # artefacts go beside the database; by default MLflow would use the working directory
    artefacts = (workspace / "artifacts").as_uri()
    with open_store(workspace, artefacts) as uri:
        yield uri, artefacts


def _experiment(client: Any, name: str, artefacts: str | None) -> str:
    """Id of the MLflow experiment of this name, which is made where there is none and restored where it was deleted."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            # a name that is no name of a folder could lead out of the workspace
            folder = f"experiment-{content_id('name', name)[:SHORT_ID]}" if name_fault(name) else name
            location = f"{artefacts}/{quote(folder, safe='')}" if artefacts else None
            return str(client.create_experiment(name, artifact_location=location))
        except Exception:
            # another process may have made it between the two calls
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
        message = (
            f"the MLflow experiment '{name}' had been deleted; it was restored with its runs, to hold this one. "
            "Choose another with tracking.experiment=NAME"
        )
        warnings.warn(message, TrackingWarning, stacklevel=4)
    return str(experiment.experiment_id)


def _end_dead_runs(client: Any, experiment_id: str) -> None:
    """Mark runs as KILLED whose process on this machine ended without a word (kill -9, no memory, a power cut)."""
    # MLflow quotes a value and knows no escape
    wanted = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{host()}'"
    for run in client.search_runs([experiment_id], wanted):
        if is_dead(run.data.tags):
            client.set_terminated(run.info.run_id, status="KILLED")
