"""Transfection and exchange of medium."""

from __future__ import annotations

import numpy as np
from support.cases import Process, schedule, state

from optim.schedule.schedule import Schedule
from optim.simulation.balance import Vessel


def transfection() -> Schedule:
    """Plasmids at the start, most of the medium exchanged at 6 h, samples."""
    return schedule(
        72.0,
        {"withdraw": dict.fromkeys([12.0, 24.0, 48.0], 0.01), "bolus": {6.0: 0.7}, "remove": {6.0: 0.7}},
        [(0.0, 0.0, 0.0)],
        {"t": [0.0], "temperature": [37.0], "ph": [7.0]},
        also=(60.0,),
    )


def process() -> Process:
    # everything is in the cells, which are held back
    vessel = Vessel(np.zeros((1, 22)), np.ones(22))
    start = state("raav_nguyen", Xv=1.0, RC_E=7.6e4, Vec_E=7.6e4, Hel_E=7.6e4)
    return Process(("raav_nguyen",), vessel, start, 1.0, transfection())
