"""The lineage of what is made from a fit and a process, with a note for every kind of number that nothing supports."""

from __future__ import annotations

from optim.artefact import Artefact, Lineage
from optim.estimation.result import FitResult
from optim.optimisation.evidence import product_doubts
from optim.process.problem import ProcessProblem


def process_lineage(
    result: FitResult, problem: ProcessProblem, *others: Artefact, seed: int, what: str = "prediction"
) -> Lineage:
    """Lineage of an artefact whose parents are a fit and `others`, with a note for each kind of unverified number.

    What the fit says of its data goes along; `what` is the artefact's noun, where no product was measured.
    """
    notes = ["SIMULATED data: nothing here was measured"] if result.lineage.simulated else []
    notes += result.cautions
    notes.append(f"price book '{problem.book.title}': {problem.book.unverified_text()}")
    loose = [c.name for c in problem.constraints if not c.verified]
    if loose:
        notes.append(f"limits without a source: {', '.join(loose)}")
    unverified = sorted({p.name for p in result.parameters if not p.verified})
    if unverified:
        notes.append(f"parameters whose prior has no source: {', '.join(unverified)}")
    market = problem.objective.market
    if market is not None and not market.verified:
        notes.append(f"price and demand of the market are unverified ({market.source})")
    lineage = Lineage.from_parents(result, *others, seed=seed, notes=tuple(notes))
    return lineage.with_doubts(*product_doubts(result, problem, what))
