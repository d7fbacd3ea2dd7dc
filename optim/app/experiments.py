"""What the choice of the next experiments needs: the posterior of a fit, and what the new runs have in common."""

from __future__ import annotations

import numpy as np

from optim.app.build import build_fit, feed_media
from optim.app.process import Process
from optim.data.dataset import Dataset
from optim.data.screened import Screen
from optim.doe.candidates import Setting
from optim.doe.suggest import ExperimentProblem
from optim.errors import ConfigError
from optim.estimation.result import FitResult
from optim.estimation.transfer.continued_fit import revive_posterior
from optim.optimisation.result import Ranking
from optim.process.problem import ProcessProblem
from optim.settings.process import DesignSettings


def experiment_problem(result: FitResult, process: Process, screen: Dataset, *, experiment: str) -> ExperimentProblem:
    """The problem of the next experiments; `experiment` is the id of the new runs, '' for one that is free.

    Raises `ConfigError` where the new runs could not be read again as part of the screen.
    """
    posterior, point = revive_posterior(result, build_fit(process.settings, screen))
    setting = _setting(process.settings.design, experiment, screen, result.screen)
    return ExperimentProblem(posterior, point, process.problem, setting, result.without_product)


def _setting(d: DesignSettings, name: str, dataset: Dataset, screen: Screen) -> Setting:
    """What the runs have in common; refused where it would not be read again."""
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


def ranked_processes(process: ProcessProblem, ranking: Ranking | None) -> dict[str, np.ndarray] | None:
    """The processes of a ranking by the same objective and design, to start from."""
    if ranking is None or ranking.objective != process.metric:
        return None
    names = [d.name for d in process.design.decisions]
    return {
        row.clone: np.array([row.decisions[n] for n in names])
        for row in ranking.rows
        if set(row.decisions) == set(names)
    }
