"""The cultivation: the initial state of a culture, the schedule of its vessel, and the vessel itself."""

from __future__ import annotations

from typing import Any, NamedTuple

from optim.schedule.grid import IntervalGrid
from optim.simulation.balance import Vessel
from optim.types import Array


class Cultivation(NamedTuple):
    """What a simulation needs beside the model and its parameters.

    Every leaf is an array without a batch axis for one cultivation, or with a leading axis B for B cultivations. The
    shape comments below leave that axis out.
    """

    initial: Any  # concentrations at node 0 as the model's State (or a tuple in its order), each in the species' unit
    volume: Array  # L of broth at node 0
    grid: IntervalGrid  # actions and sample times
    vessel: Vessel  # feed media, retention device, titrant
