"""Self-contained HTML pages: no script, no request to anywhere."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined


def embedded_image(pictures: Mapping[str, bytes]) -> dict[str, str]:
    """Pictures as addresses that hold the picture itself."""
    return {name: "data:image/png;base64," + base64.b64encode(content).decode() for name, content in pictures.items()}


def render_page(template: str, **values: object) -> str:
    """A page from one of the package's templates; a name that a template lacks is an error."""
    environment = Environment(
        loader=PackageLoader("optim.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)


def number_text(value: float) -> str:
    """Four significant digits, no exponent in the range people read."""
    if not math.isfinite(value):
        return "–"
    if value == 0.0 or 1e-3 <= abs(value) < 1e5:
        text = f"{value:.4g}"
        return text if "e" not in text else f"{value:.0f}"
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.2e}"
