"""Chooses the next experiments: clone, process, sampling days."""

from __future__ import annotations

import numpy as np

from optim.app.build import build_fit, feed_media
from optim.app.process import configured_process
from optim.app.session import Session
from optim.app.stored import stored_fit, stored_ranking
from optim.data.dataset import Dataset
from optim.data.open import read_dataset
from optim.data.screened import Screen
from optim.doe.candidates import Setting
from optim.doe.result import Suggestion
from optim.doe.suggest import ExperimentProblem, suggest_runs
from optim.errors import ConfigError
from optim.estimation.result import FitResult
from optim.estimation.transfer.continued_fit import revive_posterior
from optim.export.lab_sheet import write_plan
from optim.optimisation.lineage import process_lineage
from optim.optimisation.result import Ranking
from optim.process.problem import ProcessProblem
from optim.settings.settings import Settings


def suggest_command(s: Session, result: FitResult | None = None) -> Suggestion:
    """The next runs; reads `out/fit` (and `out/ranking`, where there is one), writes `out/suggestion` and `out/next`.

    `out/next` is a dataset that lacks its measurements: done and filled in, it is read like any other. The dataset of
    the fit is read again, since the information of a new run counts on top of that of all readings so far.
    """
    cfg = s.cfg
    result = result or stored_fit(s)
    if result.group_by != "clone":
        raise ConfigError("suggest: the fit groups runs by experiment, so there are no clones to choose among")
    dataset = read_dataset(cfg.dataset.name)
    process = configured_process(s.cfg, result).problem
    posterior, point = revive_posterior(result, build_fit(cfg, dataset))
    setting = _setting(cfg, dataset, result.screen)
    ranking = stored_ranking(s, result)
    found = suggest_runs(
        ExperimentProblem(posterior, point, process, setting),
        cfg.suggest,
        solving=cfg.optimise,
        lineage=process_lineage(result, process, *([ranking] if ranking else []), seed=cfg.seed),
        known=_ranked(process, ranking),
        progress=s.progress,
    )
    s.publish(found)
    folder = write_plan(found, dataset, posterior.problem.variables, folder=s.out / "next")
    s.tracker.log_folder(folder, folder.name)
    s.say(f"  runs and events to execute, and a table to fill in: {folder}")
    return found


def _setting(cfg: Settings, dataset: Dataset, screen: Screen) -> Setting:
    """What the runs have in common; refused where it would not be read again."""
    d, name = cfg.design, cfg.suggest.experiment
    if d.initial:
        raise ConfigError("suggest: design.initial states a first sample; runs yet to be done have none")
    known = {run.experiment_id for run in dataset.runs}
    if not name:
        name = next(n for i in range(len(known) + 1) if (n := f"NEXT{i + 1}") not in known)
    if name in known:
        raise ConfigError(
            f"suggest.experiment: '{name}' is already in '{dataset.name}'; give the new runs another name"
        )
    feeds = feed_media(d, screen)
    for feed, holds in feeds.items():
        if screen.media.get(feed, holds) != holds:
            raise ConfigError(
                f"suggest: feed '{feed}' of the design holds something else than that of '{dataset.name}'; "
                "give the design's feed another name"
            )
    return Setting(d.medium_id, d.inoculum_vcd_1e6_per_ml, name, screen.media | feeds)


def _ranked(process: ProcessProblem, ranking: Ranking | None) -> dict[str, np.ndarray] | None:
    """The processes of a ranking by the same objective and design, to start from."""
    if ranking is None or ranking.objective != process.metric:
        return None
    names = [d.name for d in process.design.decisions]
    return {
        row.clone: np.array([row.decisions[n] for n in names])
        for row in ranking.rows
        if set(row.decisions) == set(names)
    }
