"""Index of every parameter in a posterior: its place in the shared part or in the block of a group, and its owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optim.errors import FitError, nearest
from optim.estimation.posterior import Parts, Point, Posterior
from optim.parameters import ParameterSpec


@dataclass(frozen=True)
class ParameterIndex:
    """Index of one parameter: entry `column` of the shared part (`group` -1), or of the block of a group."""

    spec: ParameterSpec
    level: str  # shared | population | clone | batch | vessel
    owner: str  # group, batch or vessel id; '' for shared and population
    group: int
    column: int

    @property
    def full_name(self) -> str:
        """Name and owner of the parameter, as messages print them."""
        return f"{self.spec.name} of {self.owner}" if self.owner else self.spec.name

    def value_in(self, shared: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Values of the parameter in a shared part [..., n] and blocks [..., C, m]."""
        return np.asarray(shared[..., self.column] if self.group < 0 else block[..., self.group, self.column])

    def set_in(self, shared: np.ndarray, block: np.ndarray, value: float | bool) -> None:
        """Set the parameter in a shared part [..., n] and blocks [..., C, m], in place."""
        if self.group < 0:
            shared[..., self.column] = value
        else:
            block[..., self.group, self.column] = value

    def mask_of(self, point: Point) -> Parts:
        """Mask of the shape of a point's parts that is true for this parameter alone."""
        mask = np.zeros(point.shared.shape, bool), np.zeros(point.block.shape, bool)
        self.set_in(*mask, True)
        return mask


def all_parameters(p: Posterior) -> tuple[ParameterIndex, ...]:
    """Indices of all parameters of a posterior, in the order in which a fit lists them."""
    problem, ns, nc = p.problem, p.n_shared, p.n_per_group
    indices = [ParameterIndex(spec, "shared", "", -1, i) for i, spec in enumerate(problem.shared_specs)]
    for i, spec in enumerate(problem.group_specs):
        indices.append(ParameterIndex(spec, "population", "", -1, ns + i))
        indices += [ParameterIndex(spec, "clone", name, c, i) for c, name in enumerate(problem.groups)]
    for b in range(p.n_batches):
        for i, spec in enumerate(problem.batch_specs):
            indices.append(ParameterIndex(spec, "batch", problem.batches[b], -1, ns + nc + b * p.n_per_batch + i))
    for i, spec in enumerate(problem.vessel_specs):
        for b, c in enumerate(problem.vessel_group):
            indices.append(
                ParameterIndex(spec, "vessel", problem.dataset.runs[b].run_id, int(c), int(p.block_columns[b][nc + i]))
            )
    return tuple(indices)


def select_parameters(p: Posterior, names: Sequence[str], owner: str | None = "") -> tuple[ParameterIndex, ...]:
    """Select parameters by name and owner ('': shared and population; None: any owner).

    Raises `FitError` for a name that is not estimated, or when the owner has none of the parameters.
    """
    every = all_parameters(p)
    known = {x.spec.name for x in every}
    for name in names:
        if name not in known:
            raise FitError(f"no estimated parameter '{name}'.{nearest(name, known)} Known: {', '.join(sorted(known))}")
    selected = tuple(x for x in every if x.spec.name in names and (owner is None or x.owner == owner))
    if not selected:
        owners = sorted({x.owner or "''" for x in every if x.spec.name in names})
        raise FitError(f"no parameter {', '.join(names)} of '{owner}'; owners: {', '.join(owners)}")
    return selected
