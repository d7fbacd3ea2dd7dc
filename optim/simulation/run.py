"""A simulated run: states, assays and harvested amounts of one vessel over time, as a result for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from optim.artefact import Artefact, Lineage
from optim.schedule.actions import Action


@dataclass(frozen=True, repr=False)
class SimulatedRun(Artefact):
    """The simulation of one vessel.

    Attributes:
        time_h: times [T] of the nodes of the plan: of its actions, and those that were asked for.
        names: name of each row of `values`: `volume`, the states of the model, its assays, and `harvested_NAME` for
            what left through the retention device until then.
        units: unit of each row.
        values: [row, T], just before the actions of that time.
        actions: what was done to the vessel.
    """

    schema: ClassVar[str] = "optim.run/1"
    made_by: ClassVar[str] = "optim.simulate"

    title: str
    time_h: np.ndarray
    names: tuple[str, ...]
    units: tuple[str, ...]
    values: np.ndarray
    actions: tuple[Action, ...]
    lineage: Lineage

    def __getitem__(self, name: str) -> np.ndarray:
        """One row of `values` [T]. Raises `KeyError` with the known names."""
        if name not in self.names:
            raise KeyError(f"no '{name}' in this run. Known: {', '.join(self.names)}")
        row: np.ndarray = self.values[self.names.index(name)]
        return row
