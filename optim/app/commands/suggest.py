"""Chooses the next experiments: clone, process, sampling days."""

from __future__ import annotations

from optim.app.library import suggest
from optim.app.process import configured_process
from optim.app.session import Session
from optim.app.stored import stored_fit, stored_ranking
from optim.data.open import read_dataset
from optim.doe.result import Suggestion
from optim.estimation.problem import observable_names
from optim.estimation.result import FitResult
from optim.export.lab_sheet import write_plan


def suggest_command(s: Session, result: FitResult | None = None) -> Suggestion:
    """The next runs; reads `out/fit` (and `out/ranking`, where there is one), writes `out/suggestion` and `out/next`.

    `out/next` is a dataset that lacks its measurements: done and filled in, it is read like any other. The dataset of
    the fit is read again, since the information of a new run counts on top of that of all readings so far.
    """
    s.reserve("suggestion", "next")
    result = result or stored_fit(s)
    dataset = read_dataset(s.cfg.dataset.name)
    process = configured_process(s.cfg, result)
    ranking = stored_ranking(s, result)
    s.begin_run()
    found = suggest(result, process, dataset, ranking=ranking, seed=s.cfg.seed, progress=s.progress)
    s.publish(found)
    measured = set(result.observations.variable)
    variables = tuple(v for v in observable_names(process.problem.model, result.table) if v in measured)
    folder = write_plan(found, dataset, variables, folder=s.out / "next")
    s.keep_folder(folder)
    s.say(f"  runs and events to execute, and a table to fill in: {folder}")
    return found
