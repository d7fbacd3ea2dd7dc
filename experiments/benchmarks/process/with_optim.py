"""optim's own way: its vessels go into the screen; fit, rank all clones, optimise the best; and the truth's optimum."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from laboratory import VALUE, Laboratory, Recommendation

from optim.app.build import build_fit, build_process, compose
from optim.artefact import Lineage
from optim.data.open import read_dataset
from optim.estimation.fit import fit_problem
from optim.optimisation.optimise import optimise_process, parameter_sets
from optim.optimisation.rank import best_of_each, rank_clones
from optim.optimisation.result import Optimum
from optim.optimisation.study import Study
from optim.process.lanes import Lanes
from optim.settings.objective import RiskSettings
from optim.settings.optimisation import OptimiseSettings
from optim.synthetic import ScreenOptions, make_screen

# where optim is asked to be careful: the best process at the estimate that keeps all limits in 95 % of the ensemble
CAREFUL = RiskSettings("nominal", chance=0.95, members=32)


class Learnt(NamedTuple):
    """What optim would make after its screen, and what it says of it."""

    recommended: Recommendation
    predicted: tuple[float, float, float]  # 5 %, 50 % and 95 % of the yield per cost, g/EUR
    met: dict[str, float]  # by limit, the probability that it is met
    ranked: tuple[str, ...]  # clones, the best first
    converged: int
    starts: int
    seconds: float


@lru_cache(maxsize=1)
def learn(seed: int, mismatch: bool = False) -> tuple[Learnt, Learnt]:
    """Fit the screen of a generator's seed, rank, optimise, with the configuration of `optim run`; and the same with
    limits that most of the ensemble keeps.

    What a fit tells of faults in the data and of identifiability is left out: nothing after it depends on that.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        made = make_screen(Path(folder) / "screen", f"screen {seed}", ScreenOptions(seed=seed, mismatch=mismatch))
        cfg = compose(["tracking=off", f"dataset.name={made}"])
        dataset = read_dataset(cfg.dataset.name)
    options = replace(cfg.fit, quality=False, identify=False)
    found = fit_problem(build_fit(cfg, dataset), options, seed=cfg.seed, model_name=cfg.model.name)
    problem = build_process(cfg, found.screen)
    sets = {c: parameter_sets(found, problem.model, c) for c in found.clones}
    lineage = Lineage.from_parents(found, seed=cfg.seed)
    search = cfg.optimise
    study = Study(problem, search, lineage)
    ranking = rank_clones(study, sets)
    clone = ranking.rows[0].clone
    x = np.array([ranking.rows[0].decisions[d.name] for d in problem.design.decisions])
    best = optimise_process(study, clone, sets[clone], first=x)
    seconds = time.perf_counter() - start
    order, runs = tuple(r.clone for r in ranking.rows), len(dataset.runs)
    careful = optimise_process(replace(study, risk=CAREFUL), clone, sets[clone], first=x)
    return _learnt(best, order, runs, seconds), _learnt(careful, order, runs, time.perf_counter() - start)


def _learnt(best: Optimum, order: tuple[str, ...], runs: int, seconds: float) -> Learnt:
    value = best.optimum.metrics[VALUE]
    return Learnt(
        Recommendation(runs, best.clone, np.array([d.value for d in best.optimum.decisions])),
        (value.p05, value.p50, value.p95),
        {c.name: c.probability_met for c in best.optimum.constraints},
        order,
        sum(s.success for s in best.starts),
        len(best.starts),
        seconds,
    )


def attainable(lab: Laboratory) -> dict[str, tuple[float, np.ndarray]]:
    """Value and decisions of every clone's true optimum, by clone: what nobody can beat."""
    truth, problem = lab.truth(), lab.problem
    clones = list(truth)
    estimates = Lanes(np.array([truth[c].ravel() for c in clones]))
    found = best_of_each(problem, estimates, OptimiseSettings(), seed=0)
    # `best_of_each` keeps what is feasible only
    return {c: (float(np.exp(s.objective)), s.x) for c, s in zip(clones, found, strict=True) if s is not None}
