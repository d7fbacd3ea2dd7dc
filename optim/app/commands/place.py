"""Predicts new clones from their first days of samples."""

from __future__ import annotations

from pathlib import Path

from optim.app.build import build_fit
from optim.app.session import Session
from optim.app.stored import require_configured
from optim.artefact import load
from optim.data.open import open_dataset
from optim.estimation.result import FitResult
from optim.estimation.transfer.new_clone import predict_new_clone
from optim.estimation.transfer.prediction import NewClonePrediction
from optim.export.tables import placement_csv
from optim.report import plots, terminal


def place(s: Session) -> NewClonePrediction:
    """Place the clones of the configured dataset, which are new, under the population of a fit; writes `out/placement`.

    The fit is that of `place.fit`, the output folder of an earlier run.
    """
    cfg = s.cfg
    folder = Path(cfg.place.fit or s.out) / "fit"
    old = load(FitResult, folder)
    require_configured(cfg, old, folder)
    dataset = open_dataset(cfg.dataset.name)
    problem = build_fit(cfg, dataset)
    known = old.lineage.dataset
    s.say(f"{len(dataset.clones)} new clones of '{dataset.name}' under the population of the fit of '{known}'")
    found = predict_new_clone(old, problem, cfg.place, seed=cfg.seed, progress=s.progress)
    s.keep(found, "placement")
    s.lines(terminal.placement_lines(found))
    s.table(placement_csv(found), "placement")
    for clone in found.clones:
        s.figure(plots.placement(found, clone, dataset), f"placement_{clone}")
    return found
