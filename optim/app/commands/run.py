"""Runs the whole flow: fit, rank clones, optimise, export the recipe."""

from __future__ import annotations

from optim.app.build import build_process
from optim.app.commands.export import export
from optim.app.commands.fit import fit
from optim.app.commands.optimise import optimise
from optim.app.commands.rank import rank
from optim.app.session import Session
from optim.data.open import open_dataset
from optim.data.screened import Screen
from optim.recipe.recipe import Recipe


def run(s: Session) -> dict[str, Recipe]:
    """The whole flow: fit, rank (where there are clones), optimise, export."""
    dataset = open_dataset(s.cfg.dataset.name)
    build_process(s.cfg, Screen.of(dataset))  # what it refuses, it refuses before the fit
    result = fit(s, dataset)
    ranking = rank(s, result) if result.group_by == "clone" and len(result.clones) > 1 else None
    optima = optimise(s, result, ranking)
    return export(s, optima, result)
