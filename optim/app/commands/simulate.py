"""Simulates the platform process at the configured parameter values."""

from __future__ import annotations

import numpy as np

from optim.app.build import build_process, build_table
from optim.app.session import Session
from optim.data.open import is_at_hand, open_dataset
from optim.data.screened import Screen
from optim.export.tables import trajectory_csv
from optim.optimisation.evaluate import outcome
from optim.optimisation.result import ProcessOutcome
from optim.report import plots, terminal


def simulate(s: Session) -> ProcessOutcome:
    """Simulate the platform process with the model's configured parameter values.

    Needs neither data nor a price book. Media are those of the dataset where one is configured and at hand, and else
    those that the design states. Writes `out/simulation.csv` and `out/plots/simulation.png`.
    """
    name = s.cfg.dataset.name
    screen = Screen.of(open_dataset(name)) if is_at_hand(name) else Screen.none()
    problem = build_process(s.cfg, screen)
    values = build_table(s.cfg.model, problem.model).values()
    p = np.array([[values[n] for n in problem.model.Parameters._fields]])
    found = outcome(problem, "platform", problem.design.platform, p)
    file = s.out / "simulation.csv"
    file.write_text(trajectory_csv(found.trajectory))
    s.figure(plots.simulated_process(found.trajectory, f"{s.cfg.model.title}: {s.cfg.design.title}"), "simulation")
    s.say(f"{s.cfg.model.title}: {s.cfg.design.title}, at the configured parameter values")
    if not s.cfg.model.verified:
        s.note("equations or numbers of this model have not been checked against a publication")
    s.lines(terminal.simulation_lines(found))
    s.say(f"  written to {file} and {s.out / 'plots' / 'simulation.png'}")
    s.tracker.metrics({f"simulation/{k}": m.p50 for k, m in found.metrics.items()})
    return found
