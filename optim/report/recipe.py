"""The view of a recipe: set values, feeds, bill and limits as tables, the document, and the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

from optim.process.metrics import find_metric, name_of_metric, readable_name, relative_change
from optim.recipe.document import recipe_document
from optim.recipe.recipe import Recipe
from optim.report.html import embedded_image, number_text, render_page
from optim.report.process import Comparison, draw_cost, draw_feeds, draw_processes, frame_of, process_tables
from optim.report.view import View
from optim.result import SHORT_ID

HEADLINE = ("yield_per_cost", "product_per_biomass", "titre", "cost")  # metrics on the cards, besides the objective


def recipe_view(recipe: Recipe) -> View:
    """The view of a recipe."""
    compared = Comparison(recipe.clone, recipe.baseline, recipe.process, recipe.lineage.simulated)
    return View(
        kind="recipe",
        title=recipe.title,
        doubts=recipe.lineage.doubts,
        notes=recipe.lineage.notes,
        tables={
            "setpoints": frame_of(recipe.setpoints),
            "feed_schedule": frame_of(recipe.feeds),
            **process_tables(recipe.process),
        },
        figures={
            "feeds": lambda: draw_feeds(compared),
            "processes": lambda: draw_processes(compared),
            **({"cost": lambda: draw_cost(compared)} if recipe.process.cost_items else {}),
        },
        page=partial(recipe_page, recipe),
        document=recipe_document(recipe),
    )


def recipe_page(recipe: Recipe, title: str, pictures: Mapping[str, bytes]) -> str:
    """The page of a recipe, with its figures as pictures by name."""
    lineage = recipe.lineage
    made_from = ", ".join(f"{kind} {parent[:SHORT_ID]}" for kind, parent in lineage.parents.items())
    provenance = {k: v for k, v in asdict(recipe.provenance).items() if k != "config" and v != ""} | {
        "dataset": lineage.dataset,
        "dataset_hash": lineage.dataset_hash,
        "seed": lineage.seed,
        "recipe_id": recipe_document(recipe)["id"],
        "made_from": made_from,
    }
    shared = [name for name in recipe.process.metrics if name in recipe.baseline.metrics]
    keys = dict.fromkeys([recipe.objective, *(name_of_metric(key, shared) for key in HEADLINE)])
    return render_page(
        "recipe.html.j2",
        r=recipe,
        title=title,
        images=embedded_image(pictures),
        provenance=provenance,
        rates=any(f.mode == "continuous" for f in recipe.feeds),
        headline=[k for k in keys if k in shared][:4],
        readable_name=readable_name,
        num=number_text,
        metric=lambda name, value: find_metric(name).text(value) if find_metric(name).format else number_text(value),
        change=lambda new, old: f"{100.0 * relative_change(new, old):+.0f} %" if old else "",
    )
