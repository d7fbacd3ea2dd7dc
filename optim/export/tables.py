"""A recipe as files: JSON, CSV tables with units in their headers, and one HTML page."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from optim.artefact import whole_folder
from optim.estimation.result import FitResult
from optim.estimation.transfer.prediction import NewClonePrediction
from optim.optimisation.pareto import Front
from optim.optimisation.result import Optimum, Ranking, Series
from optim.optimisation.sensitivity import Stress
from optim.recipe.document import FILE, recipe_document
from optim.recipe.recipe import Recipe
from optim.replanning.result import DecisionChange
from optim.report.page import page
from optim.schedule.actions import Action, Harvest
from optim.schedule.events import event_rows


def export_recipe(recipe: Recipe, optimum: Optimum, folder: Path) -> Path:
    """Write all formats to `folder`, replacing it; it is complete or it is not there. Raises `OptimError`."""
    files = {
        FILE: json.dumps(recipe_document(recipe), indent=1, allow_nan=False) + "\n",
        "setpoints.csv": _csv(recipe.setpoints),
        "feed_schedule.csv": _csv(recipe.feeds),
        "trajectories.csv": trajectory_csv(recipe.process.trajectory),
        "cost.csv": _csv(recipe.process.cost_items),
        "limits.csv": _csv(recipe.process.constraints),
        "decisions.csv": _csv(recipe.decisions),
        "recipe.html": page(recipe, optimum),
    }
    with whole_folder(folder) as draft:
        for name, text in files.items():
            (draft / name).write_text(text, encoding="utf-8")
    return folder


def _csv(rows: tuple[Any, ...]) -> str:
    return str(pd.DataFrame([asdict(row) for row in rows]).to_csv(index=False, lineterminator="\n"))


def parameter_csv(result: FitResult) -> str:
    """All parameters of a fit with intervals, priors and sources."""
    return _csv(result.parameters)


def placement_csv(placement: NewClonePrediction) -> str:
    """One row per new clone, day and parameter."""
    rows = []
    for placed in placement.placed:
        for p in placed.parameters:
            rows.append(
                {"clone": placed.clone, "day": placed.day, "readings": placed.readings, "shrinkage": p.shrinkage}
                | asdict(p)
            )
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def actions_csv(actions: tuple[Action, ...]) -> str:
    """Actions as rows of events, and the harvest as the last one."""
    ends = [a.time_h for a in actions if isinstance(a, Harvest)]
    rows = [asdict(row) for row in event_rows(actions, max(ends, default=0.0))]
    rows += [{"time_h": t, "kind": "harvest"} for t in ends]
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def decision_changes_csv(rows: tuple[DecisionChange, ...]) -> str:
    """Decisions of a running batch, planned and now."""
    return _csv(rows)


def ranking_csv(ranking: Ranking) -> str:
    """One row per clone; intervals and decisions in columns of their own."""
    rows = []
    for c in ranking.rows:
        row: dict[str, Any] = {"rank": c.rank, "clone": c.clone}
        for name, value in (("", c.objective), ("at_platform_", c.at_platform)):
            row |= {f"{name}{ranking.objective}_{q}": getattr(value, q) for q in ("p05", "p50", "p95")}
        row |= {"probability_best": c.probability_best, "expected_loss": c.expected_loss, "truth": c.truth}
        rows.append(row | {"truth_rank": c.truth_rank, "message": c.message} | c.decisions)
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def drifts_csv(found: Stress) -> str:
    """One row per drift."""
    return str(pd.DataFrame([asdict(d) for d in found.drifts]).to_csv(index=False, lineterminator="\n"))


def influences_csv(found: Stress) -> str:
    """One row per end of a parameter's or price's range."""
    rows = [
        {"name": r.name, "kind": r.kind, "unit": r.unit, "at_estimate": r.value, "end": end} | asdict(side)
        for r in found.influences
        for end, side in (("low", r.low), ("high", r.high))
    ]
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def front_csv(found: Front) -> str:
    """One row per process of the front, its decisions in columns of their own."""
    rows = [{found.first: p.first, found.second: p.second, "success": p.success} | p.decisions for p in found.points]
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def trajectory_csv(s: Series) -> str:
    """A table of trajectories, unit in every column name."""
    table: dict[str, Any] = {"time_h": s.time_h}
    for i, (name, unit) in enumerate(zip(s.names, s.units, strict=True)):
        label = f"{name} [{unit}]"
        table |= {f"{label} p05": s.p05[i], f"{label} p50": s.p50[i], f"{label} p95": s.p95[i]}
    return str(pd.DataFrame(table).to_csv(index=False, lineterminator="\n"))
