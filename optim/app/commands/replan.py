"""Re-optimises the rest of a running batch from its data so far."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np

from optim.app.process import configured_process
from optim.app.running import followed_plan, replan, require_decisions
from optim.app.session import Session
from optim.app.stored import require_configured
from optim.artefact import load_artefact, require_parent, require_parent_id
from optim.data.open import read_dataset
from optim.errors import DisagreementWarning, IncompatibleError
from optim.estimation.result import FitResult
from optim.optimisation.result import Optimum, Series
from optim.process.problem import ProcessProblem
from optim.recipe.document import RECIPE_FILE, read_document
from optim.recipe.recipe import Recipe
from optim.replanning.result import Replan
from optim.replanning.running_batch import FollowedPlan


def replan_command(s: Session) -> Replan:
    """Re-optimise the rest of a running batch; writes `out/replan`.

    The run is `replan.run` of the configured dataset, the fit that of `replan.fit`, and the plan `replan.plan`. The
    dataset is read because it holds data that the fit lacks: the batch's readings and actions.
    """
    cfg = s.cfg.replan
    s.reserve("replan")
    folder = Path(cfg.fit) if cfg.fit else s.out
    old = load_artefact(FitResult, folder / "fit")
    require_configured(s.cfg, old, folder / "fit")
    process = configured_process(s.cfg, old)
    dataset = read_dataset(s.cfg.dataset.name)
    plan = read_plan(
        Path(cfg.plan) if cfg.plan else folder / "optimum", process.problem, old, fit_folder=folder / "fit"
    )
    s.begin_run()
    found = replan(old, process, dataset, plan=plan, seed=s.cfg.seed, progress=s.progress)
    s.publish(found)
    off = [a.variable for a in found.agreement if a.off]
    if off:
        message = f"readings of {', '.join(off)} agree with no plausible parameter set"
        warnings.warn(message, DisagreementWarning, stacklevel=2)
    return found


def read_plan(folder: Path, problem: ProcessProblem, fit: FitResult, *, fit_folder: Path) -> FollowedPlan:
    """The current plan of a batch, from the folder of an optimum, a recipe, or an earlier re-plan.

    Raises `IncompatibleError` when it is none of them, of another design, or made from another fit.
    """
    if (folder / RECIPE_FILE).exists():
        plan = _of_recipe(folder, fit, fit_folder)
    else:
        found: Optimum | Replan = (
            load_artefact(Replan, folder) if _is_replan(folder) else load_artefact(Optimum, folder)
        )
        require_parent(found, fit, child_place=folder, parent_place=fit_folder)
        plan = followed_plan(found, fit)
    require_decisions(plan, problem, str(folder))
    return plan


def _of_recipe(folder: Path, fit: FitResult, fit_folder: Path) -> FollowedPlan:
    document = read_document(folder)
    try:
        recipe = document["recipe"]
        process = recipe["process"]
        decisions = {d["name"]: float(d["value"]) for d in process["decisions"]}
        s = process["trajectory"]
        bands = (np.array(s[q], float) for q in ("p05", "p50", "p95"))
        series = Series(np.array(s["time_h"], float), tuple(s["names"]), tuple(s["units"]), *bands)
        made_from = str(recipe["lineage"]["parents"].get(fit.kind(), ""))
        if faults := series.faults():
            raise ValueError(faults[0])
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise IncompatibleError(f"{folder / RECIPE_FILE} is no recipe that can be followed: {err!r}") from err
    require_parent_id(made_from, fit, child_place=folder, parent_place=fit_folder, made_by=Recipe.made_by)
    return FollowedPlan(decisions, series, {"recipe": document["id"]})


def _is_replan(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "artefact.json").read_text(encoding="utf-8"))["schema"] == Replan.schema)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # what it is instead, and whether it can be read, is said by who reads it
