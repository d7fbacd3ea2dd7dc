"""Artefacts of the output folder, checked against the configuration and against each other."""

from __future__ import annotations

from pathlib import Path

from optim.app.build import build_table
from optim.app.session import Session, folder_of
from optim.artefact import load_artefact, require_parent
from optim.errors import IncompatibleError
from optim.estimation.result import FitResult, require_table
from optim.kinetics import load_kinetics
from optim.optimisation.result import Optimum, Ranking
from optim.process.problem import ProcessProblem
from optim.settings.settings import Settings


def data_folder(name: str) -> str:
    """The last part of the path by which a dataset is configured."""
    return Path(name).expanduser().resolve().name


def require_configured(cfg: Settings, result: FitResult, place: Path) -> None:
    """Refuse a configuration that contradicts the fit at `place`: another model, or other parameters.

    Raises `IncompatibleError`.
    """
    if result.lineage.model != cfg.model.name:
        raise IncompatibleError(
            f"{place} is a fit of model '{result.lineage.model}', the configuration says '{cfg.model.name}'; "
            "run `optim fit` with this configuration first"
        )
    require_table(result, build_table(cfg.model, load_kinetics(cfg.model.kinetics)), place)


def stored_fit(s: Session) -> FitResult:
    """The fit of the output folder. Raises `IncompatibleError` when it is not of the configured data or model."""
    place = s.out / "fit"
    result = load_artefact(FitResult, place)
    require_configured(s.cfg, result, place)
    fitted, wanted = result.screen.folder, data_folder(s.cfg.dataset.name)
    if fitted and fitted != wanted:
        raise IncompatibleError(
            f"{place} was made from dataset '{fitted}', the configuration says '{wanted}'; run `optim fit` with this "
            "configuration first, or name the data of the fit (dataset.name=...)"
        )
    return result


def stored_ranking(s: Session, result: FitResult) -> Ranking | None:
    """The ranking of the output folder, where there is one. Raises `IncompatibleError` when it is of another fit."""
    folder = s.out / "ranking"
    if result.group_by != "clone" or not folder.exists():
        return None
    ranking = load_artefact(Ranking, folder)
    require_parent(ranking, result, child_place=folder, parent_place=s.out / "fit")
    return ranking


def stored_optimum(s: Session, result: FitResult, problem: ProcessProblem, *, case: str = "") -> Optimum:
    """The optimum of the output folder. Raises `IncompatibleError` when it is of another fit or another design."""
    folder = s.out / folder_of("optimum", case)
    optimum = load_artefact(Optimum, folder)
    require_parent(optimum, result, child_place=folder, parent_place=s.out / "fit")
    if [d.name for d in problem.design.decisions] != [d.name for d in optimum.optimum.decisions]:
        raise IncompatibleError(
            f"{folder} has other decisions than the configured design ('{s.cfg.design.title}'); "
            "use the design that it was made with, or run `optim optimise` with this one"
        )
    return optimum
