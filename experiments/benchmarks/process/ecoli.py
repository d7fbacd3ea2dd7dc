"""The E. coli screen of measured data: its optimum with bands, as `optim run experiment=ecoli_protein_l` finds it.

There is no hidden truth here, so this compares with nothing; the numbers stand beside those of the simulated screen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optim.app.build import compose
from optim.app.commands import load_command
from optim.app.session import open_session
from optim.optimisation.result import Interval, Optimum, ProcessOutcome

Row = dict[str, Any]
# the comparison of models and the runs left out take most of the time, and the optimum does not depend on them
SHORT = ("fit.compare=[]", "fit.leave_one_out=false")


def optima(folder: Path, overrides: tuple[str, ...] = ()) -> dict[str, Row]:
    """Every configured optimum beside the reference process, by objective."""
    cfg = compose(["experiment=ecoli_protein_l", "tracking=off", f"out={folder}", *SHORT, *overrides])
    with open_session(cfg, "run", say=lambda text: None) as s:
        result = load_command("fit")(s)
        found = load_command("optimise")(s, result)
    return {o.objective: _row(o) for o in found.values()}


def _row(o: Optimum) -> Row:
    return {
        "clone": o.clone,
        "model": o.lineage.model,
        "decisions": {d.name: [d.value, d.unit, d.outside_screened] for d in o.optimum.decisions},
        "optimum": _bands(o.optimum),
        "reference": _bands(o.baseline),
        "limits": {c.name: {"margin": c.margin, "probability_met": c.probability_met} for c in o.optimum.constraints},
        "converged": [sum(s.success for s in o.starts), len(o.starts)],
    }


def _bands(p: ProcessOutcome) -> dict[str, list[float]]:
    def of(i: Interval) -> list[float]:
        return [i.p05, i.p50, i.p95]

    return {name: of(value) for name, value in p.metrics.items()}


def text(found: dict[str, Row]) -> str:
    """The optima in Markdown."""
    lines = [
        "| objective | process | reference [90 %] | optimum [90 %] | least probability of a limit |",
        "|---|---|---|---|---|",
    ]
    for name, row in found.items():
        decisions = ", ".join(
            f"{d} {value:.4g} {unit}{'*' if outside else ''}" for d, (value, unit, outside) in row["decisions"].items()
        )
        low, middle, high = row["reference"][name]
        a, b, c = row["optimum"][name]
        least = min((v["probability_met"] for v in row["limits"].values()), default=1.0)
        lines.append(
            f"| {name} | {decisions} | {middle:.4g} [{low:.3g}, {high:.3g}] | {b:.4g} [{a:.3g}, {c:.3g}] | "
            f"{least:.2f} |"
        )
    return "\n".join([*lines, "", "`*` outside the screened range."])
