"""Fits the model to the dataset."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from optim.app.build import build_fit, model_config
from optim.app.session import Session
from optim.app.stored import data_folder
from optim.artefact import load
from optim.data.dataset import Dataset
from optim.data.open import open_dataset
from optim.errors import BoundActiveWarning, UnidentifiableWarning
from optim.estimation.fit import fit as fit_problem
from optim.estimation.result import FitResult, ModelScore
from optim.estimation.score import log_predictive_density, r_squared
from optim.estimation.transfer.continued_fit import update
from optim.export.tables import parameter_csv
from optim.report import terminal
from optim.report.fit_page import fit_images, fit_page

VAGUE = 0.9  # of the prior's standard deviation: a posterior wider than this has learnt nothing


def fit(s: Session, dataset: Dataset | None = None) -> FitResult:
    """Fit the configured model (and those it is compared with) to the dataset; writes `out/fit`."""
    cfg = s.cfg
    dataset = dataset or open_dataset(cfg.dataset.name)
    label = "SIMULATED data" if dataset.simulated else "measured data"
    s.say(
        f"{cfg.title}: {label}, {len(dataset.runs)} runs of {_groups(dataset)}, "
        f"{len(dataset.measurements.value)} values"
    )
    problem = build_fit(cfg, dataset)
    named: dict[str, Any] = {"seed": cfg.seed, "model_name": cfg.model.name, "progress": s.progress}
    if cfg.fit.continue_from:
        result = update(load(FitResult, Path(cfg.fit.continue_from) / "fit"), problem, cfg.fit, **named)
    else:
        result = fit_problem(problem, cfg.fit, **named)
    scores = [_compared(s, dataset, name) for name in cfg.fit.compare if name != cfg.model.name]
    scores.append(_score(result))
    compared = tuple(sorted(scores, key=lambda m: -m.aicc)) if len(scores) > 1 else ()
    screen = replace(result.screen, folder=data_folder(cfg.dataset.name))
    result = replace(result, comparison=compared, screen=screen)
    s.keep(result, "fit")
    _report_fit(s, result, dataset)
    return result


def _groups(dataset: Dataset) -> str:
    if len(dataset.clones) > 1:
        return f"{len(dataset.clones)} clones"
    return f"one strain in {len({run.experiment_id for run in dataset.runs})} campaigns"


def _compared(s: Session, dataset: Dataset, name: str) -> ModelScore:
    problem = build_fit(s.cfg, dataset, model_config(name))
    # compared by their scores alone
    one = replace(s.cfg.fit, ensemble=2, quality=False, identify=False, profiles=(), ensemble_by="laplace")
    return _score(fit_problem(problem, one, seed=s.cfg.seed, model_name=name, progress=s.progress))


def _score(r: FitResult) -> ModelScore:
    left = r_squared(r.left_out) if r.left_out is not None else {}
    scores = [float("nan") if o is None else log_predictive_density(o) for o in (r.left_out, r.clones_left_out)]
    return ModelScore(r.lineage.model, r.n_parameters, r.log_likelihood, r.aicc, r.bic, r.r2, left, *scores)


def _report_fit(s: Session, r: FitResult, dataset: Dataset) -> None:
    s.lines(terminal.fit_lines(r))
    for note in r.lineage.notes:
        s.note(note)
    bound = [f"{p.name} {p.owner}".strip() for p in r.parameters if p.at_bound]
    if bound:
        warnings.warn(f"estimates at their bounds: {', '.join(bound)}", BoundActiveWarning, stacklevel=2)
    vague = [p.name for p in r.parameters if p.level in ("shared", "population") and p.shrinkage > VAGUE]
    if vague:
        message = f"the data say little about {', '.join(vague)}: their intervals are as wide as the prior"
        warnings.warn(message, UnidentifiableWarning, stacklevel=2)
    s.tracker.dataset(dataset, "fit")
    s.tracker.metrics(terminal.fit_metrics(r))
    s.tracker.history("fit/cost_per_iteration", r.history)
    s.table(parameter_csv(r), "parameters")
    images = fit_images(r)
    for name, content in images.items():
        s.image(content, name)
    s.page(fit_page(r, s.cfg.title, images), "fit.html")
    if s.cfg.tracking.child_runs:
        for clone in r.clones:
            own = {p.name: p.estimate for p in r.parameters if p.owner == clone and p.level == "clone"}
            s.tracker.child(f"clone {clone}", {"clone": clone}, {f"clone/{k}": v for k, v in own.items()})
