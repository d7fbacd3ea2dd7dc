"""Self-contained HTML pages: no script, no request to anywhere."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from optim.cells import safe_cell


def embedded_image(pictures: Mapping[str, bytes]) -> dict[str, str]:
    """Pictures as data addresses for HTML: PNG files encoded in base 64, by name."""
    return {name: "data:image/png;base64," + base64.b64encode(content).decode() for name, content in pictures.items()}


def render_page(template: str, **values: object) -> str:
    """Render a template of the package. A name that the template uses and that is not given raises an error."""
    environment = Environment(
        loader=PackageLoader("optim.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=safe_cell,  # a spreadsheet opens pages, too, and would run formulas in their tables
    )
    return environment.get_template(template).render(**values)


def number_text(value: float) -> str:
    """A number with four significant digits, without an exponent between 1e-3 and 1e5; "–" where it is not finite."""
    if not math.isfinite(value):
        return "–"
    if value == 0.0 or 1e-3 <= abs(value) < 1e5:
        text = f"{value:.4g}"
        return text if "e" not in text else f"{value:.0f}"
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.2e}"
