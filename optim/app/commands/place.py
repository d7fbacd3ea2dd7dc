"""Predicts new clones from their first days of samples."""

from __future__ import annotations

from pathlib import Path

from optim.app import library
from optim.app.model import Model
from optim.app.session import Session
from optim.app.stored import require_configured
from optim.artefact import load_artefact
from optim.data.open import read_dataset
from optim.estimation.result import FitResult
from optim.estimation.transfer.prediction import NewClonePrediction


def place_command(s: Session) -> NewClonePrediction:
    """Predict the new clones of the configured dataset from the population of a fit; writes `out/placement`.

    The fit is that of `place.fit`, the output folder of an earlier run.
    """
    cfg = s.cfg
    s.reserve("placement")
    folder = Path(cfg.place.fit or s.out) / "fit"
    old = load_artefact(FitResult, folder)
    require_configured(cfg, old, folder)
    dataset = read_dataset(cfg.dataset.name)
    s.begin_run()
    known = old.lineage.dataset
    s.say(f"{len(dataset.clones)} new clones of '{dataset.name}' under the population of the fit of '{known}'")
    found = library.predict_new_clone(old, dataset, Model(cfg), seed=cfg.seed, progress=s.progress)
    s.publish(found)
    return found
