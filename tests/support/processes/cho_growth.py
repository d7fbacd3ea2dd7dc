"""A culture that is sampled only."""

from __future__ import annotations

import numpy as np
from support.cases import Process, schedule, state

from optim.schedule.schedule import Schedule
from optim.simulation.balance import Vessel


def unfed() -> Schedule:
    """Samples, and nothing else."""
    return schedule(
        264.0,
        {"withdraw": dict.fromkeys([48.0, 120.0, 200.0], 0.01), "bolus": {}},
        [(0.0, 0.0, 0.0)],
        {"t": [0.0], "temperature": [37.0], "ph": [7.0]},
    )


def process() -> Process:
    start = state("cho_growth", Xv=0.4, Xd=0.012, S=1.0)
    return Process(("cho_growth",), Vessel(np.zeros((1, 4))), start, 1.0, unfed())
