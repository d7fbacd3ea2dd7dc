"""The fit as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optim.estimation.result import FitResult, Observations
from optim.estimation.score import interval_coverage, r_squared
from optim.process.metrics import readable_name
from optim.report.html import embedded_image, number_text, render_page
from optim.units import VARIABLES, display_unit


@dataclass(frozen=True)
class _Assay:
    name: str
    unit: str
    readings: int
    censored: int
    vessels: int
    r2: float
    left: float
    clone_left: float
    noise: float


def fit_page(r: FitResult, title: str, pictures: Mapping[str, bytes]) -> str:
    """The page of a fit, with its figures as pictures by name."""
    shown = embedded_image(pictures)
    covered = interval_coverage(r.left_out) if r.left_out is not None else float("nan")
    return render_page(
        "fit.html.j2",
        r=r,
        title=title,
        images={
            name: shown.get(name, "") for name in ("residuals", "parity", "starts", "search", "recovery", "profiles")
        },
        fits=_fits(r, r.observations, "fit", shown),
        left=_fits(r, r.left_out, "left_out", shown),
        assays=_assays(r),
        covered=covered,
        headline=_headline(r, covered),
        rows=[p for p in r.parameters if p.level in ("shared", "population", "fixed")],
        own=[p for p in r.parameters if p.level in ("clone", "batch", "vessel")],
        search=search_text(r),
        scored=any(np.isfinite(m.log_score) for m in r.comparison),
        readable_name=readable_name,
        num=number_text,
    )


def search_text(r: FitResult) -> str:
    """A sentence on the multi-start search: starts that reached the best optimum, distinct ends, failures."""
    n, failed = len(r.starts), sum(s.optimum < 0 for s in r.starts)
    best = sum(s.optimum == 0 for s in r.starts)
    ends = len({s.optimum for s in r.starts if s.optimum >= 0})
    text = f"{best} of {n} starts reached the best optimum; {ends} distinct end{'s' if ends != 1 else ''} in all"
    return text + (f"; {failed} starts failed." if failed else ".")


def _headline(r: FitResult, covered: float) -> list[tuple[str, str]]:
    worst = min(r.r2, key=lambda v: r.r2[v])
    cards = [(f"lowest R², {readable_name(worst)}", f"{r.r2[worst]:.3f}")]
    if r.left_out is not None:
        cards.append(("readings of left-out runs in their 90 % bands", f"{covered:.0%}"))
    best = sum(s.optimum == 0 for s in r.starts)
    cards.append(("starts that reached the best optimum", f"{best} of {len(r.starts)}"))
    errors = sum(f.severity == "error" for f in r.findings)
    warned = sum(f.severity == "warning" for f in r.findings)
    cards.append(("faults found in the data", f"{errors}" + (f" and {warned} doubts" if warned else "")))
    return cards


def _assays(r: FitResult) -> list[_Assay]:
    o, variable = r.observations, np.array(r.observations.variable)
    censored = np.array([c != "" for c in o.censored])
    left = r_squared(r.left_out) if r.left_out is not None else {}
    clone_left = r_squared(r.groups_left_out) if r.groups_left_out is not None else {}
    rows = []
    for name in dict.fromkeys(o.variable):
        own = variable == name
        rows.append(
            _Assay(
                name=name,
                unit=display_unit(VARIABLES[name].unit),
                readings=int(own.sum()),
                censored=int((own & censored).sum()),
                vessels=len(set(np.array(o.vessel)[own])),
                r2=r.r2.get(name, float("nan")),
                left=left.get(name, float("nan")),
                clone_left=clone_left.get(name, float("nan")),
                noise=r.noise_scale.get(name, float("nan")),
            )
        )
    return rows


def _fits(r: FitResult, o: Observations | None, kind: str, images: dict[str, str]) -> dict[str, list[str]]:
    """Images of every assay, in order."""
    variables = dict.fromkeys(o.variable) if o is not None else ()

    def _is_of(name: str, stem: str) -> bool:
        return name == stem or (name.startswith(f"{stem}_") and name.removeprefix(f"{stem}_").isdigit())

    return {v: [image for name, image in images.items() if _is_of(name, f"{kind}_{v}")] for v in variables}
