"""Chooses the next experiments: clone, process, sampling days."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from optim.app.build import build_fit, build_process, feed_media
from optim.app.session import Session
from optim.app.shared import about, solve_options
from optim.artefact import load
from optim.data.dataset import Dataset
from optim.data.open import open_dataset
from optim.doe.candidates import Setting
from optim.doe.result import Suggestion
from optim.doe.suggest import SuggestOptions
from optim.doe.suggest import suggest as suggest_runs
from optim.errors import ConfigError, IncompatibleError
from optim.estimation.result import FitResult
from optim.estimation.transfer.continued_fit import revive_posterior
from optim.export.lab_sheet import suggestion_csv, write_plan
from optim.optimisation.result import Ranking
from optim.process.problem import ProcessProblem
from optim.report import plots_suggest, terminal_suggest
from optim.settings.settings import Settings


def suggest(s: Session, result: FitResult | None = None) -> Suggestion:
    """The next runs; reads `out/fit` (and `out/ranking`, where there is one), writes `out/suggestion` and `out/next`.

    `out/next` is a dataset that lacks its measurements: done and filled in, it is read like any other.
    """
    cfg = s.cfg
    options = _options(cfg)
    result = result or load(FitResult, s.out / "fit")
    if result.group_by != "clone":
        raise ConfigError("suggest: the fit groups runs by experiment, so there are no clones to choose among")
    if result.model != cfg.model.name:
        raise IncompatibleError(
            f"{s.out / 'fit'} is a fit of model '{result.model}', the configuration says '{cfg.model.name}'; "
            "run `optim fit` with this configuration first"
        )
    dataset = open_dataset(cfg.dataset.name)
    process = build_process(cfg, dataset)
    posterior, point = revive_posterior(result, build_fit(cfg, dataset))
    setting = _setting(cfg, dataset)
    found = suggest_runs(
        posterior,
        point,
        process,
        setting,
        options,
        solve_options(cfg),
        about(s, process, result, dataset),
        _ranked(s, process, result),
        s.progress,
    )
    s.keep(found, "suggestion")
    folder = write_plan(found, replace(dataset, media=setting.media), posterior.problem.variables, s.out / "next")
    s.tracker.folder(folder, folder.name)
    s.lines(terminal_suggest.suggestion_lines(found))
    for note in found.notes:
        s.note(note)
    s.say(f"  runs and events to execute, and a table to fill in: {folder}")
    s.tracker.metrics(terminal_suggest.suggestion_metrics(found))
    s.table(suggestion_csv(found), "suggestion")
    s.figure(plots_suggest.suggestion(found), "suggestion")
    return found


def _options(cfg: Settings) -> SuggestOptions:
    o = cfg.suggest
    return SuggestOptions(
        runs=o.runs,
        samples=o.samples,
        by=o.by,
        every_d=tuple(o.every_d),
        days=tuple(o.days),
        safe=o.safe,
        new_clones=o.new_clones,
        processes=o.processes,
        per_clone=o.per_clone,
        members=o.members,
        top=o.top,
        optima=o.optima,
        scenarios=o.scenarios,
        draws=o.draws,
    )


def _setting(cfg: Settings, dataset: Dataset) -> Setting:
    """What the runs have in common; refused where it would not be read again."""
    d, name = cfg.design, str(cfg.suggest.experiment)
    if d.initial:
        raise ConfigError("suggest: design.initial states a first sample; runs yet to be done have none")
    known = {run.experiment_id for run in dataset.runs}
    if not name:
        name = next(n for i in range(len(known) + 1) if (n := f"NEXT{i + 1}") not in known)
    if name in known:
        raise ConfigError(
            f"suggest.experiment: '{name}' is already in '{dataset.name}'; give the new runs another name"
        )
    feeds = feed_media(d, dataset)
    for feed, holds in feeds.items():
        if dataset.media.get(feed, holds) != holds:
            raise ConfigError(
                f"suggest: feed '{feed}' of the design holds something else than that of '{dataset.name}'; "
                "give the design's feed another name"
            )
    return Setting(d.medium_id, d.inoculum_vcd_1e6_per_ml, name, dict(dataset.media) | feeds)


def _ranked(s: Session, process: ProcessProblem, result: FitResult) -> dict[str, np.ndarray] | None:
    """The processes of a ranking of the same data, to start from."""
    folder: Path = s.out / "ranking"
    try:
        ranking = load(Ranking, folder)
    except IncompatibleError:
        return None
    names = [d.name for d in process.design.decisions]
    if ranking.dataset_hash != result.dataset_hash or ranking.objective != process.metric:
        return None
    return {
        row.clone: np.array([row.decisions[n] for n in names])
        for row in ranking.rows
        if set(row.decisions) == set(names)
    }
