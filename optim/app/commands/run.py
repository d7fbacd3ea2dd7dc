"""Runs the whole flow: fit, rank clones, optimise, export the recipe."""

from __future__ import annotations

from optim.app import library
from optim.app.build import build_process
from optim.app.commands.export import export_command
from optim.app.commands.fit import fit_command
from optim.app.commands.optimise import optimise_command
from optim.app.commands.rank import rank_command
from optim.app.session import Session
from optim.data.dataset import Dataset
from optim.data.open import read_dataset
from optim.data.screened import Screen
from optim.errors import ConfigError
from optim.recipe.recipe import Recipe
from optim.settings.settings import Settings


def run_command(s: Session) -> dict[str, Recipe]:
    """The whole flow: fit, rank (where there are clones), optimise, export."""
    s.reserve("fit", "ranking")
    s.reserve("optimum", "recipe", cases=("", *s.cfg.objective.also))
    dataset = read_dataset(s.cfg.dataset.name)
    # what these refuse, they refuse before the fit
    build_process(s.cfg, Screen.from_dataset(dataset))
    _require_clone(s.cfg, dataset)
    result = fit_command(s, dataset)
    ranking = rank_command(s, result) if result.group_by == "clone" and len(result.groups) > 1 else None
    optima = optimise_command(s, result, ranking)
    return export_command(s, optima, result)


def _require_clone(cfg: Settings, dataset: Dataset) -> None:
    """Refuse a clone to optimise that the data do not hold, or `best` where none can be ranked."""
    ranked = cfg.dataset.group_by == "clone"
    groups = list(dict.fromkeys(run.clone_id if ranked else run.experiment_id for run in dataset.runs))
    library.require_clone(cfg.optimise.clone, groups)
    if cfg.optimise.clone == "best" and not ranked and len(groups) > 1:
        raise ConfigError(
            "optimise.clone: 'best' is the first of a ranking, and with dataset.group_by=experiment there are no clones"
            f" to rank; name one of population, {', '.join(groups)}"
        )
