"""From induction on."""

from __future__ import annotations

import numpy as np
from support.cases import Process, schedule, state

from optim.schedule.schedule import Schedule
from optim.simulation.balance import Vessel


def protein() -> Schedule:
    """From induction: exponential feed, a pulse, a ramp of temperature, samples."""
    return schedule(
        12.0,
        {"withdraw": {2.0: 0.01, 5.0: 0.01, 9.0: 0.01}, "bolus": {6.0: 0.02}},
        [(0.0, 0.030768, 0.030768), (8.0, 0.05, 0.04)],
        {"t": [0.0, 3.0, 7.0], "temperature": [31.0, 31.0, 35.0], "ph": [7.0, 7.0, 7.0]},
        also=(10.0,),
        growth=[0.09017, 0.0],
        ends={"temperature": [31.0, 35.0, 29.0], "ph": [7.0, 7.0, 7.0]},
    )


def process() -> Process:
    configs = ("ecoli_protein_l", "ecoli_damage", "ecoli_published")
    vessel = Vessel(np.array([state("ecoli_protein", G=360.87)]))
    return Process(configs, vessel, state("ecoli_protein", X=30.0), 1.3, protein())
