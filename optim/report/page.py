"""HTML pages, self-contained: no script, no request to anywhere. The page of a recipe."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import asdict

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from optim.artefact import SHORT_ID
from optim.optimisation.result import Optimum
from optim.process.metrics import find_metric, name_of_metric, readable_name, relative_change
from optim.recipe.document import recipe_document
from optim.recipe.recipe import Recipe
from optim.report import plots

HEADLINE = ("yield_per_cost", "product_per_biomass", "titre", "cost")  # metrics on the cards, besides the objective


def png(figure: Figure) -> bytes:
    """A figure as PNG without a time stamp, so that equal figures are equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def page(recipe: Recipe, optimum: Optimum) -> str:
    """The page of a recipe; `optimum` supplies the comparison with the platform process."""
    shown = _as_rounded(recipe, optimum)
    figures = {"feeds": plots.feeds(shown), "processes": plots.processes(shown), "cost": plots.cost(shown)}
    images = {name: "data:image/png;base64," + base64.b64encode(png(f)).decode() for name, f in figures.items()}
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
    return render(
        "recipe.html.j2",
        r=recipe,
        images=images,
        provenance=provenance,
        rates=any(f.mode == "continuous" for f in recipe.feeds),
        headline=[k for k in keys if k in shared][:4],
        readable_name=readable_name,
        num=number,
        metric=lambda name, value: find_metric(name).text(value) if find_metric(name).format else number(value),
        change=lambda new, old: f"{100.0 * relative_change(new, old):+.0f} %" if old else "",
    )


def render(template: str, **values: object) -> str:
    """A page from one of the package's templates; a name that a template lacks is an error."""
    environment = Environment(
        loader=PackageLoader("optim.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)


def number(value: float) -> str:
    """Four significant digits, no exponent in the range people read."""
    if not math.isfinite(value):
        return "–"
    if value == 0.0 or 1e-3 <= abs(value) < 1e5:
        text = f"{value:.4g}"
        return text if "e" not in text else f"{value:.0f}"
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.2e}"


def _as_rounded(recipe: Recipe, optimum: Optimum) -> Optimum:
    from dataclasses import replace

    return replace(optimum, optimum=recipe.process)
