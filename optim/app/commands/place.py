"""Predicts new clones from their first days of samples."""

from __future__ import annotations

from pathlib import Path

from optim.app.build import build_fit
from optim.app.session import Session
from optim.app.stored import require_configured
from optim.artefact import load_artefact
from optim.data.open import open_dataset
from optim.estimation.result import FitResult
from optim.estimation.transfer.new_clone import predict_new_clone
from optim.estimation.transfer.prediction import NewClonePrediction


def place(s: Session) -> NewClonePrediction:
    """Place the clones of the configured dataset, which are new, under the population of a fit; writes `out/placement`.

    The fit is that of `place.fit`, the output folder of an earlier run.
    """
    cfg = s.cfg
    folder = Path(cfg.place.fit or s.out) / "fit"
    old = load_artefact(FitResult, folder)
    require_configured(cfg, old, folder)
    dataset = open_dataset(cfg.dataset.name)
    problem = build_fit(cfg, dataset)
    known = old.lineage.dataset
    s.say(f"{len(dataset.clones)} new clones of '{dataset.name}' under the population of the fit of '{known}'")
    found = predict_new_clone(old, problem, cfg.place, seed=cfg.seed, progress=s.progress)
    s.publish(found)
    return found
