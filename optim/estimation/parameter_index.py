"""Where each parameter stands in a posterior (in the shared part or in the block of a clone), and whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optim.errors import FitError, nearest
from optim.estimation.posterior import Parts, Point, Posterior
from optim.parameters import ParameterSpec


@dataclass(frozen=True)
class Place:
    """One parameter: entry `column` of the shared part (clone -1), or of the block of a clone."""

    spec: ParameterSpec
    level: str  # shared | population | clone | batch | vessel
    owner: str  # clone, batch or vessel id; '' for shared and population
    clone: int
    column: int

    @property
    def name(self) -> str:
        """The parameter and whose it is, as messages print it."""
        return f"{self.spec.name} of {self.owner}" if self.owner else self.spec.name

    def of(self, shared: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Its values in a shared part [..., n] and blocks [..., C, m]."""
        found: np.ndarray = shared[..., self.column] if self.clone < 0 else block[..., self.clone, self.column]
        return found

    def put(self, shared: np.ndarray, block: np.ndarray, value: float | bool) -> None:
        """Set it there."""
        if self.clone < 0:
            shared[..., self.column] = value
        else:
            block[..., self.clone, self.column] = value

    def only(self, point: Point) -> Parts:
        """A mask that is true here alone."""
        mask = np.zeros(point.shared.shape, bool), np.zeros(point.block.shape, bool)
        self.put(*mask, True)
        return mask


def places(p: Posterior) -> tuple[Place, ...]:
    """All parameters, in the order of the parameter table of a fit."""
    problem, ns, nc = p.problem, p.ns, p.nc
    found = [Place(spec, "shared", "", -1, i) for i, spec in enumerate(problem.shared)]
    for i, spec in enumerate(problem.clone):
        found.append(Place(spec, "population", "", -1, ns + i))
        found += [Place(spec, "clone", name, c, i) for c, name in enumerate(problem.groups)]
    for b in range(p.n_batches):
        for i, spec in enumerate(problem.batch):
            found.append(Place(spec, "batch", problem.batches[b], -1, ns + nc + b * p.nb + i))
    for i, spec in enumerate(problem.vessel):
        for b, c in enumerate(problem.vessel_clone):
            found.append(Place(spec, "vessel", problem.dataset.runs[b].run_id, int(c), int(p.columns[b][nc + i])))
    return tuple(found)


def chosen(p: Posterior, names: Sequence[str], owner: str | None = "") -> tuple[Place, ...]:
    """Parameters by name, of one owner ('': shared and population; None: all). Raises `FitError` for unknown ones."""
    every = places(p)
    known = {place.spec.name for place in every}
    for name in names:
        if name not in known:
            raise FitError(f"no estimated parameter '{name}'.{nearest(name, known)} Known: {', '.join(sorted(known))}")
    found = tuple(x for x in every if x.spec.name in names and (owner is None or x.owner == owner))
    if not found:
        owners = sorted({x.owner or "''" for x in every if x.spec.name in names})
        raise FitError(f"no parameter {', '.join(names)} of '{owner}'; owners: {', '.join(owners)}")
    return found
