"""Simulates the platform process at the configured parameter values."""

from __future__ import annotations

import numpy as np

from optim.app.build import build_process, build_table
from optim.app.session import Session
from optim.data.open import read_dataset
from optim.data.screened import Screen
from optim.export.text_files import csv_text
from optim.optimisation.evaluate import evaluate_process
from optim.optimisation.result import ProcessOutcome
from optim.report.process import trajectory_frame, trajectory_lines


def simulate_command(s: Session) -> ProcessOutcome:
    """Simulate the platform process with the model's configured parameter values; writes `out/simulation.csv`."""
    dataset = read_dataset(s.cfg.dataset.name)
    problem = build_process(s.cfg, Screen.from_dataset(dataset))
    values = build_table(s.cfg.model, problem.model).natural_values()
    p = np.array([[values[n] for n in problem.model.Parameters._fields]])
    found = evaluate_process(problem, "platform", problem.design.platform, ensemble=p)
    file = s.out / "simulation.csv"
    file.write_text(csv_text(trajectory_frame(found.trajectory)))
    s.say(f"{s.cfg.title}: platform process at the model's published parameters")
    s.say_lines(trajectory_lines(found.trajectory))
    s.say(f"  written to {file}")
    s.tracker.log_metrics({f"simulation/{k}": m.p50 for k, m in found.metrics.items()})
    return found
