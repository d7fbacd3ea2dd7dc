"""Turns the optimum into a recipe (JSON, CSV, HTML)."""

from __future__ import annotations

import platform
import subprocess
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from optim import __version__
from optim.app.build import config_hash
from optim.app.schema import as_yaml
from optim.app.session import Session
from optim.app.stored import folder_of, process_problem, stored_fit, stored_optimum
from optim.errors import UnverifiedWarning
from optim.estimation.result import FitResult
from optim.export.tables import export_recipe
from optim.optimisation.evaluate import outcome
from optim.optimisation.optimise import parameter_sets
from optim.optimisation.result import Optimum, ProcessOutcome
from optim.process.problem import ProcessProblem
from optim.recipe.recipe import Provenance, Recipe, make_recipe
from optim.recipe.rounding import kept_best, roundings


def export(
    s: Session,
    optima: dict[str, Optimum] | None = None,
    result: FitResult | None = None,
    created_utc: str | None = None,
) -> dict[str, Recipe]:
    """Turn every optimum into a recipe; reads `out/optimum*` and `out/fit`, writes `out/recipe*`."""
    result = result or stored_fit(s)
    recipes = {}
    for case in ("", *s.cfg.objective.also):
        problem = process_problem(s, result, case)
        optimum = optima[case] if optima else stored_optimum(s, result, problem, case)
        ensemble = parameter_sets(result, problem.model, optimum.clone)
        rounded = _rounded(problem, optimum, ensemble)
        provenance = _provenance(s, created_utc)
        recipe = make_recipe(s.cfg.title, optimum, rounded, provenance)
        folder = export_recipe(recipe, optimum, s.out / folder_of("recipe", case))
        s.tracker.folder(folder, folder.name)
        unverified = [i.name for i in recipe.process.cost_items if not i.verified]
        if unverified:
            text = f"{len(unverified)} of {len(recipe.process.cost_items)} prices behind {folder.name} are unverified"
            warnings.warn(text, UnverifiedWarning, stacklevel=2)
        s.say(f"recipe (DRAFT, rounding loss {recipe.rounding_loss_percent:.2g} %): {folder / 'recipe.html'}")
        recipes[case] = recipe
    return recipes


def _rounded(problem: ProcessProblem, optimum: Optimum, ensemble: np.ndarray) -> ProcessOutcome:
    """The optimum at what pumps can do, simulated again, rounded so that limits are kept where that can be."""
    decisions = optimum.optimum.decisions
    ways = roundings(decisions)
    if optimum.bounds is not None:  # working hours may end between two steps
        ways = np.clip(ways, *optimum.bounds)
    x = np.concatenate([[[d.value for d in decisions]], ways])
    e = problem.evaluate(x, np.tile(ensemble[0], (len(x), 1)))
    worst = np.where(e.status == 0, e.margins.min(axis=1, initial=np.inf), -np.inf)
    chosen = ways[kept_best(worst[1:], float(worst[0]))]
    return outcome(problem, "optimum", chosen, ensemble)


def _provenance(s: Session, created_utc: str | None) -> Provenance:
    return Provenance(
        created_utc=created_utc or datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        code_version=__version__,
        git_commit=_commit(),
        python=platform.python_version(),
        jax=version("jax"),
        config_hash=config_hash(s.cfg),
        config=as_yaml(s.cfg),
        run_id=s.tracker.run_id,
    )


def _commit() -> str:
    """Commit of the checkout this package runs from; '' for an installed wheel."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
