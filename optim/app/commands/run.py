"""Runs the whole flow: fit, rank clones, optimise, export the recipe."""

from __future__ import annotations

from optim.app.build import build_process
from optim.app.commands.export import export_command
from optim.app.commands.fit import fit_command
from optim.app.commands.optimise import optimise_command
from optim.app.commands.rank import rank_command
from optim.app.session import Session
from optim.data.open import read_dataset
from optim.data.screened import Screen
from optim.recipe.recipe import Recipe


def run_command(s: Session) -> dict[str, Recipe]:
    """The whole flow: fit, rank (where there are clones), optimise, export."""
    s.reserve("fit", "ranking")
    s.reserve("optimum", "recipe", cases=("", *s.cfg.objective.also))
    dataset = read_dataset(s.cfg.dataset.name)
    build_process(s.cfg, Screen.from_dataset(dataset))  # what it refuses, it refuses before the fit
    result = fit_command(s, dataset)
    ranking = rank_command(s, result) if result.group_by == "clone" and len(result.groups) > 1 else None
    optima = optimise_command(s, result, ranking)
    return export_command(s, optima, result)
