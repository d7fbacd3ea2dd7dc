"""Optimises the process of the chosen clone."""

from __future__ import annotations

import warnings

from optim.app import library
from optim.app.process import configured_process
from optim.app.session import Session
from optim.app.stored import stored_fit, stored_ranking
from optim.errors import ExtrapolationWarning
from optim.estimation.result import FitResult
from optim.optimisation.result import Optimum, Ranking


def optimise_command(s: Session, result: FitResult | None = None, ranking: Ranking | None = None) -> dict[str, Optimum]:
    """Optimise the process of the chosen clone for every objective; reads `out/fit`, writes `out/optimum*`.

    Where there is a ranking (`out/ranking`), the process that it found for the clone is one of the starts.
    """
    s.reserve("optimum", cases=("", *s.cfg.objective.also))
    if result is None:
        result = stored_fit(s)
        ranking = stored_ranking(s, result)
    clone = s.cfg.optimise.clone
    found: dict[str, Optimum] = {}
    for case in ("", *s.cfg.objective.also):
        process = configured_process(s.cfg, result, case)
        s.begin_run()
        optimum = library.optimise(result, process, clone=clone, ranking=ranking, seed=s.cfg.seed, progress=s.progress)
        # of one clone for all objectives: the best by the first
        clone = optimum.clone
        found[case] = optimum
        s.publish(optimum, case)
        outside = sum(d.outside_screened for d in optimum.optimum.decisions)
        if outside:
            message = f"{outside} decisions for {optimum.objective} lie outside the screened range (marked *)"
            warnings.warn(message, ExtrapolationWarning, stacklevel=2)
    return found
