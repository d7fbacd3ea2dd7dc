"""The fit as one self-contained HTML page: no script, no request to anywhere."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from optim.fit.result import FitResult, Observations
from optim.fit.score import coverage, r_squared
from optim.report import plots
from optim.report.page import number, png, render, words
from optim.units import VARIABLES, display


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


def fit_page(result: FitResult, title: str) -> str:
    """The page of a fit."""
    r = result
    images = {
        "residuals": _image(plots.residuals(r)),
        "parity": _image(plots.parity(r)),
        "starts": _image(plots.starts(r)),
        "recovery": _image(plots.recovery(r)) if r.recovery else "",
        "profiles": _image(plots.profiles(r)) if r.profiles else "",
    }
    left = {} if r.left_out is None else _fits(r, r.left_out)
    covered = coverage(r.left_out) if r.left_out is not None else float("nan")
    return render(
        "fit.html.j2",
        r=r,
        title=title,
        images=images,
        fits=_fits(r, None),
        left=left,
        assays=_assays(r),
        covered=covered,
        headline=_headline(r, covered),
        rows=[p for p in r.parameters if p.level in ("shared", "population", "fixed")],
        own=[p for p in r.parameters if p.level in ("clone", "batch", "vessel")],
        search=search_text(r),
        scored=any(np.isfinite(m.log_score) for m in r.comparison),
        words=words,
        num=number,
    )


def search_text(r: FitResult) -> str:
    """How the search went, in a sentence."""
    n, failed = len(r.starts), sum(s.optimum < 0 for s in r.starts)
    best = sum(s.optimum == 0 for s in r.starts)
    ends = len({s.optimum for s in r.starts if s.optimum >= 0})
    text = f"{best} of {n} starts reached the best optimum; {ends} distinct end{'s' if ends != 1 else ''} in all"
    return text + (f"; {failed} starts failed." if failed else ".")


def _headline(r: FitResult, covered: float) -> list[tuple[str, str]]:
    worst = min(r.r2, key=lambda v: r.r2[v])
    cards = [(f"lowest R², {words(worst)}", f"{r.r2[worst]:.3f}")]
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
    clone_left = r_squared(r.clones_left_out) if r.clones_left_out is not None else {}
    rows = []
    for name in dict.fromkeys(o.variable):
        own = variable == name
        rows.append(
            _Assay(
                name=name,
                unit=display(VARIABLES[name].unit),
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


def _fits(r: FitResult, o: Observations | None) -> dict[str, list[str]]:
    shown = o or r.observations
    found = {}
    for variable in dict.fromkeys(shown.variable):
        pages = plots.panel_pages(r, variable, shown)
        found[variable] = [_image(plots.fit_assay(r, variable, o, panels)) for panels in pages]
    return found


def _image(figure: Figure) -> str:
    return "data:image/png;base64," + base64.b64encode(png(figure, 100)).decode()
