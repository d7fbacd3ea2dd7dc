"""Simulates the platform process at the configured parameter values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from optim.app.build import build_process, build_table
from optim.app.session import Session
from optim.data.csv_table import csv_text
from optim.data.open import is_at_hand, read_dataset
from optim.data.screened import Screen
from optim.optimisation.evaluate import evaluate_process
from optim.optimisation.result import ProcessOutcome
from optim.report.process import draw_simulation, simulation_lines, trajectory_frame
from optim.report.view import View


def simulate_command(s: Session) -> ProcessOutcome:
    """Simulate the platform process with the model's configured parameter values.

    Needs neither data nor a price book. Media are those of the dataset where one is configured and at hand, and else
    those that the design states. Writes `out/simulation.csv` and `out/plots/simulation.png`.
    """
    name = s.cfg.dataset.name
    screen = Screen.from_dataset(read_dataset(name)) if is_at_hand(name) else Screen.without_data()
    problem = build_process(s.cfg, screen)
    s.begin_run()
    values = build_table(s.cfg.model, problem.model).natural_values()
    p = np.array([[values[n] for n in problem.model.Parameters._fields]])
    found = evaluate_process(problem, "platform", problem.design.platform, ensemble=p)
    title = f"{s.cfg.model.title}: {s.cfg.design.title}"
    s.say(f"{title}, at the configured parameter values")
    view = View(
        "simulation",
        title,
        lines=simulation_lines(found),
        notes=() if s.cfg.model.verified else ("this model has not been checked against its publication",),
        metrics={f"simulation/{k}": m.p50 for k, m in found.metrics.items()},
        figures={"simulation": lambda: draw_simulation(found.trajectory, title)},
    )
    s.show_view(view)
    file = s.write_file(csv_text(trajectory_frame(found.trajectory)).encode(), Path("simulation.csv"))
    s.say(f"  written to {file} and {s.out / 'plots' / 'simulation.png'}")
    return found
