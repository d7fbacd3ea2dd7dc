"""Settings of experiment tracking."""

from __future__ import annotations

from dataclasses import dataclass

from optim.settings.ranges import FolderPath, Section


@dataclass(frozen=True)
class TrackingSettings(Section, key="tracking"):
    """Where runs are tracked by MLflow."""

    enabled: bool = True  # false: nothing is tracked
    uri: str | None = None  # default: MLFLOW_TRACKING_URI, else an SQLite store in the folder `workspace`
    experiment: str = "optim"  # MLflow experiment that runs belong to
    workspace: FolderPath = "outputs/mlflow"  # folder of the SQLite store and its artefacts
    child_runs: bool = False  # a run of its own for every clone of a fit
