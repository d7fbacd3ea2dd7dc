"""The evidence behind a decision: what the data say of each clone, and whether the model describes them at all."""

from __future__ import annotations

import numpy as np

from optim.errors import MisfitError
from optim.estimation.misfit import find_misfits, misfit_sentence
from optim.estimation.result import FitResult, Observations
from optim.process.problem import ProcessProblem

# why a clone is not ranked
NO_PRODUCT = "makes no product that can be read"


def require_described(result: FitResult, problem: ProcessProblem, *, accepted: bool) -> None:
    """Refuse a decision that rests on an assay which the model does not describe.

    That is the product, the count of the cells, or the variable of a limit.

    Args:
        result: the fit.
        problem: the process to decide on.
        accepted: whether the misfit was seen and is accepted (`accept_misfit`).

    Raises:
        MisfitError: names the assays, and what to do.
    """
    used = {problem.model.product, problem.model.inoculum.variable, *(c.variable for c in problem.constraints)}
    serious = tuple(m for m in result.misfit if m.variable in used)
    if serious and not accepted:
        raise MisfitError(
            f"{misfit_sentence(serious)}. A decision would rest on it. Look at the page of the fit (fit.html), mend "
            "the data, the noise or the model, and fit again; to go on all the same, set accept_misfit=true"
        )


def product_doubts(result: FitResult, problem: ProcessProblem, what: str) -> tuple[str, ...]:
    """A doubt where the product was never measured; `what` then rests on the prior."""
    product = problem.model.product
    if product in result.observations.variable:
        return ()
    return (f"no {product} was measured: the {what} rests on the prior",)


def clone_marks(result: FitResult, problem: ProcessProblem, clone: str) -> tuple[str, ...]:
    """What speaks against the estimate of a clone, in a few words each."""
    product, o = problem.model.product, _of_clone(result.observations, clone)
    own = [c for v, c in zip(o.variable, o.censored, strict=True) if v == product]
    marks = list[str]()
    if not o.variable:
        marks.append("nothing was read")
    elif not own:
        marks.append(f"no reading of {product}")
    elif "" not in own:
        marks.append(f"no reading of {product} within the limits of quantification")
    rows = [p for p in result.parameters if p.level == "clone" and p.owner == clone]
    if vague := [p.name for p in rows if p.is_vague]:
        marks.append(f"by the prior only: {', '.join(vague)}")
    if bound := [p.name for p in rows if p.at_bound]:
        marks.append(f"at a bound: {', '.join(bound)}")
    if missed := [m.variable for m in find_misfits(o, result.noise_scale)]:
        marks.append(f"not described: {', '.join(missed)}")
    return tuple(marks)


def _of_clone(o: Observations, clone: str) -> Observations:
    """The readings of one clone."""
    own = np.flatnonzero(np.array(o.clone) == clone)

    def _rows(column: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(column[i] for i in own)

    return Observations(
        vessel=_rows(o.vessel),
        clone=_rows(o.clone),
        variable=_rows(o.variable),
        time_h=o.time_h[own],
        value=o.value[own],
        sd=o.sd[own],
        predicted=o.predicted[own],
        lower90=o.lower90[own],
        upper90=o.upper90[own],
        censored=_rows(o.censored),
    )
