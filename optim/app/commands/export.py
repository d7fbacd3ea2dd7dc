"""Turns the optimum into a recipe (JSON, CSV, HTML)."""

from __future__ import annotations

import warnings

from optim.app import library
from optim.app.process import configured_process
from optim.app.session import Session, folder_of
from optim.app.stored import stored_fit, stored_optimum
from optim.errors import UnverifiedWarning
from optim.estimation.result import FitResult
from optim.optimisation.result import Optimum
from optim.recipe.recipe import Recipe


def export_command(
    s: Session,
    optima: dict[str, Optimum] | None = None,
    result: FitResult | None = None,
    *,
    created_utc: str = "",
) -> dict[str, Recipe]:
    """Turn every optimum into a recipe; reads `out/optimum*` and `out/fit`, writes `out/recipe*`."""
    s.reserve("recipe", cases=("", *s.cfg.objective.also))
    result = result or stored_fit(s)
    recipes = {}
    for case in ("", *s.cfg.objective.also):
        process = configured_process(s.cfg, result, case)
        optimum = optima[case] if optima else stored_optimum(s, result, process.problem, case=case)
        recipe = library.make_recipe(result, process, optimum, created_utc=created_utc, run_id=s.tracker.run_id)
        folder = recipe.write(s.out / folder_of("recipe", case))
        s.keep_folder(folder)
        unverified = [i.name for i in recipe.process.cost_items if not i.verified]
        if unverified:
            text = f"{len(unverified)} of {len(recipe.process.cost_items)} prices behind {folder.name} are unverified"
            warnings.warn(text, UnverifiedWarning, stacklevel=2)
        for doubt in recipe.lineage.doubts:
            s.say(f"  warning: {doubt}")
        s.say(f"recipe (DRAFT, rounding loss {recipe.rounding_loss_percent:.2g} %): {folder / 'recipe.html'}")
        recipes[case] = recipe
    return recipes
