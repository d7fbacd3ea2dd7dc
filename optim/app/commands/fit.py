"""Fits the model to the dataset."""

from __future__ import annotations

import warnings
from dataclasses import replace

from optim.app import library
from optim.app.build import build_fit
from optim.app.model import Model
from optim.app.session import Session
from optim.app.stored import data_folder
from optim.data.dataset import Dataset
from optim.data.open import read_dataset
from optim.errors import BoundActiveWarning, UnidentifiableWarning
from optim.estimation.result import FitResult


def fit_command(s: Session, dataset: Dataset | None = None) -> FitResult:
    """Fit the configured model (and those it is compared with) to the dataset; writes `out/fit`."""
    cfg = s.cfg
    s.reserve("fit")
    dataset = dataset or read_dataset(cfg.dataset.name)
    build_fit(cfg, dataset)  # what it refuses, it refuses before the run is tracked
    s.begin_run()
    label = "SIMULATED data" if dataset.simulated else "measured data"
    s.say(
        f"{cfg.title}: {label}, {len(dataset.runs)} runs of {_groups(dataset)}, "
        f"{len(dataset.measurements.value)} values"
    )
    result = library.fit(dataset, Model(cfg), seed=cfg.seed, progress=s.progress)
    screen = replace(result.screen, folder=data_folder(cfg.dataset.name))
    result = replace(result, screen=screen)
    s.tracker.log_dataset(dataset, "fit")
    s.publish(result)
    _warn_of(result)
    if cfg.tracking.child_runs:
        for clone in result.groups:
            own = {p.name: p.estimate for p in result.parameters if p.owner == clone and p.level == "clone"}
            s.tracker.log_child_run(f"clone {clone}", {"clone": clone}, {f"clone/{k}": v for k, v in own.items()})
    return result


def _groups(dataset: Dataset) -> str:
    if len(dataset.clones) > 1:
        return f"{len(dataset.clones)} clones"
    return f"one strain in {len({run.experiment_id for run in dataset.runs})} campaigns"


def _warn_of(r: FitResult) -> None:
    bound = [f"{p.name} {p.owner}".strip() for p in r.parameters if p.at_bound]
    if bound:
        warnings.warn(f"estimates at their bounds: {', '.join(bound)}", BoundActiveWarning, stacklevel=2)
    vague = [p.name for p in r.parameters if p.level in ("shared", "population") and p.is_vague]
    if vague:
        message = f"the data say little about {', '.join(vague)}: their intervals are as wide as the prior"
        warnings.warn(message, UnidentifiableWarning, stacklevel=2)
