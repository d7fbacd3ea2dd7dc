"""Where each parameter stands in a posterior (in the shared part or in the block of a clone), and whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optim.errors import FitError, nearest
from optim.estimation.posterior import Parts, Point, Posterior
from optim.parameters import ParameterSpec


@dataclass(frozen=True)
class ParameterIndex:
    """One parameter: entry `column` of the shared part (clone -1), or of the block of a clone."""

    spec: ParameterSpec
    level: str  # shared | population | clone | batch | vessel
    owner: str  # clone, batch or vessel id; '' for shared and population
    group: int
    column: int

    @property
    def full_name(self) -> str:
        """The parameter and whose it is, as messages print it."""
        return f"{self.spec.name} of {self.owner}" if self.owner else self.spec.name

    def value_in(self, shared: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Its values in a shared part [..., n] and blocks [..., C, m]."""
        found: np.ndarray = shared[..., self.column] if self.group < 0 else block[..., self.group, self.column]
        return found

    def set_in(self, shared: np.ndarray, block: np.ndarray, value: float | bool) -> None:
        """Set it there."""
        if self.group < 0:
            shared[..., self.column] = value
        else:
            block[..., self.group, self.column] = value

    def mask_of(self, point: Point) -> Parts:
        """A mask that is true here alone."""
        mask = np.zeros(point.shared.shape, bool), np.zeros(point.block.shape, bool)
        self.set_in(*mask, True)
        return mask


def all_parameters(p: Posterior) -> tuple[ParameterIndex, ...]:
    """All parameters, in the order of the parameter table of a fit."""
    problem, ns, nc = p.problem, p.n_shared, p.n_per_group
    found = [ParameterIndex(spec, "shared", "", -1, i) for i, spec in enumerate(problem.shared_specs)]
    for i, spec in enumerate(problem.group_specs):
        found.append(ParameterIndex(spec, "population", "", -1, ns + i))
        found += [ParameterIndex(spec, "clone", name, c, i) for c, name in enumerate(problem.groups)]
    for b in range(p.n_batches):
        for i, spec in enumerate(problem.batch_specs):
            found.append(ParameterIndex(spec, "batch", problem.batches[b], -1, ns + nc + b * p.n_per_batch + i))
    for i, spec in enumerate(problem.vessel_specs):
        for b, c in enumerate(problem.vessel_group):
            found.append(
                ParameterIndex(spec, "vessel", problem.dataset.runs[b].run_id, int(c), int(p.block_columns[b][nc + i]))
            )
    return tuple(found)


def select_parameters(p: Posterior, names: Sequence[str], owner: str | None = "") -> tuple[ParameterIndex, ...]:
    """Parameters by name, of one owner ('': shared and population; None: all). Raises `FitError` for unknown ones."""
    every = all_parameters(p)
    known = {place.spec.name for place in every}
    for name in names:
        if name not in known:
            raise FitError(f"no estimated parameter '{name}'.{nearest(name, known)} Known: {', '.join(sorted(known))}")
    found = tuple(x for x in every if x.spec.name in names and (owner is None or x.owner == owner))
    if not found:
        owners = sorted({x.owner or "''" for x in every if x.spec.name in names})
        raise FitError(f"no parameter {', '.join(names)} of '{owner}'; owners: {', '.join(owners)}")
    return found
