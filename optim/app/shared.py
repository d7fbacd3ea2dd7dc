"""Options of the solver, of risk and of working hours, from the configuration."""

from __future__ import annotations

from optim.errors import ConfigError
from optim.optimisation.robust import Risk
from optim.optimisation.slsqp import OptimiseOptions
from optim.process.calendar import Calendar
from optim.process.disturbance import Drift
from optim.settings.settings import Settings


def solve_options(cfg: Settings) -> OptimiseOptions:
    """Settings of the solver. Raises `ConfigError`."""
    o = cfg.optimise
    if o.starts < 1 or o.rank_starts < 1:
        raise ConfigError("optimise: starts and rank_starts must be at least 1")
    return OptimiseOptions(o.starts, o.rank_starts, o.max_iterations, o.tolerance)


def risk(cfg: Settings) -> Risk:
    """How an uncertain process is judged."""
    r = cfg.objective.risk
    e = r.execution
    execution = Drift(e.feed, e.strength, e.inoculum, e.temperature_c, e.ph, e.delay_h)
    return Risk(r.measure, r.tail, r.chance, r.members, execution)


def calendar(cfg: Settings) -> Calendar | None:
    """When people are there; None: always."""
    if cfg.calendar is None:
        return None
    c = cfg.calendar
    days = tuple(c.start_days), tuple(c.working_days)
    return Calendar(days[0], c.start_hour, days[1], c.first_hour, c.last_hour, tuple(c.by_hand))
