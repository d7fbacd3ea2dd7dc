"""A process as a library user holds it: decisions, limits, price book and objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optim.app.build import build_process, compose
from optim.settings.settings import Settings

if TYPE_CHECKING:
    from optim.estimation.result import FitResult
    from optim.process.problem import ProcessProblem


@dataclass(frozen=True, repr=False)
class Process:
    """A family of processes: decisions, limits, price book and objective, for one kinetic model.

    Attributes:
        settings: the composed configuration, which also says how uncertainty and working hours count.
        problem: what is simulated and optimised.
    """

    settings: Settings
    problem: ProcessProblem

    def __repr__(self) -> str:
        p = self.problem
        rows = self.settings.design.decisions
        decisions = [f"{name} ({d.lower:g} to {d.upper:g})" for name, d in rows.items()]
        return (
            f"Process {self.settings.design.title}: maximises {p.metric}\n"
            f"  {len(p.design.decisions)} decisions: {', '.join(decisions)}\n"
            f"  limits: {', '.join(c.name for c in p.constraints) or 'none'}\n"
            f"  price book: {p.book.title}"
        )


def load_process(name: str, result: FitResult, *overrides: str) -> Process:
    """Load a family of processes for the model of a fit, with the media and the screened ranges of its data.

    Args:
        name: a file of `configs/design`; '' takes the design that the model brings.
        result: a fit, from `optim.fit`.
        overrides: settings as on the command line, such as `objective=robust` or `calendar=weekdays`.

    Raises:
        ConfigError: an unknown design, medium, decision or key; names the closest one.
    """
    design = [f"design={name}"] if name else []
    return configured_process(compose([f"model={result.lineage.model}", *design, *overrides]), result)


def configured_process(cfg: Settings, result: FitResult, case: str = "") -> Process:
    """The process of a composed configuration; `case` names one of its further objectives (`objective.also`)."""
    if not case:
        return Process(cfg, build_process(cfg, result.screen))
    chosen = cfg.objective.also[case]
    return Process(cfg, build_process(cfg, result.screen, maximise=chosen.maximise, hold=dict(chosen.hold)))
