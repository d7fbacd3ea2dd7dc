"""Ranks clones by the objective, each at its own optimised process."""

from __future__ import annotations

from optim.app import library
from optim.app.process import configured_process
from optim.app.session import Session
from optim.app.stored import stored_fit
from optim.estimation.result import FitResult
from optim.optimisation.result import Ranking


def rank_command(s: Session, result: FitResult | None = None) -> Ranking:
    """Rank all clones, each at its own optimised process; reads `out/fit`, writes `out/ranking`."""
    s.reserve("ranking")
    result = result or stored_fit(s)
    process = configured_process(s.cfg, result)
    s.begin_run()
    ranking = library.rank(result, process, seed=s.cfg.seed, progress=s.progress)
    s.publish(ranking)
    return ranking
