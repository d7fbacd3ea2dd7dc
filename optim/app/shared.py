"""What commands on a process state alike: notes, settings of the solver, and what they refuse."""

from __future__ import annotations

from pathlib import Path

from optim.app.build import build_process, build_table
from optim.app.session import Session
from optim.artefact import Artefact, Lineage, load, require_parent
from optim.data.dataset import Dataset
from optim.data.open import open_dataset
from optim.errors import IncompatibleError
from optim.estimation.result import FitResult, require_table
from optim.kinetics import kinetics
from optim.optimisation.result import Optimum, Ranking
from optim.process.problem import ProcessProblem
from optim.settings.settings import Settings


def process_lineage(s: Session, problem: ProcessProblem, result: FitResult, *others: Artefact) -> Lineage:
    """The lineage of an artefact that is made from a fit, other artefacts, prices and limits."""
    notes = ["SIMULATED data: nothing here was measured"] if result.lineage.simulated else []
    notes.append(f"price book '{problem.book.title}': {problem.book.unverified_text()}")
    loose = [c.name for c in problem.constraints if not c.verified]
    if loose:
        notes.append(f"limits without a source: {', '.join(loose)}")
    unverified = sorted({p.name for p in result.parameters if not p.verified})
    if unverified:
        notes.append(f"parameters whose prior has no source: {', '.join(unverified)}")
    market = s.cfg.objective.market
    if market is not None and not market.verified:
        notes.append(f"price and demand of the market are unverified ({market.source})")
    return Lineage.of(result, *others, seed=s.cfg.seed, notes=tuple(notes))


def require_configured(cfg: Settings, result: FitResult, place: Path) -> None:
    """Refuse a configuration that contradicts the fit at `place`: another model, or other parameters.

    Raises `IncompatibleError`.
    """
    if result.lineage.model != cfg.model.name:
        raise IncompatibleError(
            f"{place} is a fit of model '{result.lineage.model}', the configuration says '{cfg.model.name}'; "
            "run `optim fit` with this configuration first"
        )
    require_table(result, build_table(cfg.model, kinetics(cfg.model.kinetics)), place)


def process_problem(s: Session, result: FitResult, dataset: Dataset, case: str = "") -> ProcessProblem:
    require_configured(s.cfg, result, s.out / "fit")
    if result.lineage.dataset_hash != dataset.content_hash:
        raise IncompatibleError(
            f"{s.out / 'fit'} was made from other data than '{dataset.name}' now holds; run `optim fit` again"
        )
    chosen = s.cfg.objective.also[case] if case else None
    if chosen is None:
        return build_process(s.cfg, dataset)
    return build_process(s.cfg, dataset, chosen.maximise, dict(chosen.hold))


def optimised_process(s: Session) -> tuple[FitResult, ProcessProblem, Optimum]:
    """A fit and its optimum, as they lie in the output folder."""
    result, optimum = load(FitResult, s.out / "fit"), load(Optimum, s.out / "optimum")
    require_parent(optimum, s.out / "optimum", result, s.out / "fit")
    dataset = open_dataset(s.cfg.dataset.name)
    problem = process_problem(s, result, dataset)
    if [d.name for d in problem.design.decisions] != [d.name for d in optimum.optimum.decisions]:
        raise IncompatibleError(
            f"{s.out / 'optimum'} has other decisions than the configured design ('{s.cfg.design.title}'); "
            "run `optim optimise` with this one"
        )
    return result, problem, optimum


def folder_of(kind: str, case: str) -> str:
    return f"{kind}_{case}" if case else kind


def stored_ranking(s: Session, result: FitResult) -> Ranking | None:
    """The ranking of the output folder, where there is one. Raises `IncompatibleError` when it is of another fit."""
    folder = s.out / "ranking"
    if result.group_by != "clone" or not folder.exists():
        return None
    ranking = load(Ranking, folder)
    require_parent(ranking, folder, result, s.out / "fit")
    return ranking
