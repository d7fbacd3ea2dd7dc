"""The prior that each member of an earlier fit's ensemble gives for the parameters of one clone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from optim.estimation.posterior import Point, Posterior
from optim.estimation.problem import FitProblem
from optim.estimation.transfer.earlier_fit import EarlierFit
from optim.parameters import ParameterSpec, to_fitted

# bandwidth of the kernel about each member for a clone that the fit knows, in units of the ensemble's own spread
KERNEL = 0.5


@dataclass(frozen=True)
class EnsembleMembers:
    """Shared parameters and expected clone parameters of every ensemble member; member 0 is the point estimate.

    `problem` holds the runs of one clone alone. Arrays have the ensemble E first and are on the fitted scale.
    """

    earlier: EarlierFit
    problem: FitProblem
    rng: np.random.Generator

    @cached_property
    def _clones(self) -> np.ndarray:
        """Parameters of the clones of the earlier fit [E, C, nc]."""
        old, rows = self.earlier.result, self.problem.group_specs
        values = old.clone[:, :, [old.clone_names.index(row.name) for row in rows]]
        return np.asarray(to_fitted(rows, values))

    @cached_property
    def _own(self) -> np.ndarray | None:
        """Parameters of this clone [E, nc] where the earlier fit knows it."""
        old, name = self.earlier.result, self.problem.groups[0]
        return self._clones[:, old.clones.index(name)] if name in old.clones else None

    @cached_property
    def spread(self) -> np.ndarray:
        """Standard deviation of the clone's parameters about a member's expectation [nc]."""
        if self._own is None:
            return self.earlier.clone_spread(self.problem)
        return np.maximum(KERNEL * self._own[1:].std(axis=0), 1e-6)

    @cached_property
    def inherited(self) -> np.ndarray:
        """Entries of the shared part [n] that stay at the member's value: all but those of batches new to the fit."""
        e = self._posterior
        known = [name in self._batches for name in self.problem.batches[: e.n_batches] for _ in range(e.n_per_batch)]
        return np.array([True] * (e.n_shared + e.n_per_group) + known)

    @cached_property
    def _posterior(self) -> Posterior:
        return Posterior(self.problem, spread=self.spread)

    @property
    def shared_rows(self) -> tuple[ParameterSpec, ...]:
        """Specifications of the shared part [n]."""
        return self._posterior.shared_part_specs

    @cached_property
    def _batches(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p.owner for p in self.earlier.result.parameters if p.level == "batch"))

    @cached_property
    def shared(self) -> np.ndarray:
        """The shared part [E, n]."""
        old, problem, e = self.earlier.result, self.problem, self._posterior
        own = to_fitted(
            problem.shared_specs, old.shared[:, [old.shared_names.index(row.name) for row in problem.shared_specs]]
        )
        parts = np.tile(e.mean_shared, (len(own), 1))
        parts[:, : e.n_shared], parts[:, e.n_shared : e.n_shared + e.n_per_group] = own, self._expected_clone()
        columns = [old.batch_names.index(row.name) for row in problem.batch_specs]
        for b, name in enumerate(problem.batches[: e.n_batches]):
            if name in self._batches:
                values = to_fitted(problem.batch_specs, old.batch[:, self._batches.index(name)][:, columns])
                first = e.n_shared + e.n_per_group + b * e.n_per_batch
                parts[:, first : first + e.n_per_batch] = values
        return parts

    def _expected_clone(self) -> np.ndarray:
        """Expected clone parameters of each member [E, nc].

        New clone: the population mean given the member's clones (readings add nothing to what the clones say of it).
        Known clone: the member's own value, shrunk towards the ensemble mean, so that together with the spread about
        it the ensemble is as wide as before (Liu & West 2001, in Sequential Monte Carlo Methods in Practice, 197-223).
        """
        rows, clones = self.problem.group_specs, self._clones
        if (own := self._own) is not None:
            middle = own[1:].mean(axis=0)
            return np.concatenate([own[:1], middle + np.sqrt(1.0 - KERNEL**2) * (own[1:] - middle)])
        sd = np.array([row.prior_sd_fitted() or np.inf for row in rows])
        stated = np.array([row.to_fitted(row.value) for row in rows])
        precision = clones.shape[1] / self.spread**2 + 1.0 / sd**2
        mean = (clones.sum(axis=1) / self.spread**2 + stated / sd**2) / precision
        expected = mean + self.rng.standard_normal(mean.shape) / np.sqrt(precision)
        expected[0] = [self.earlier.fitted_value(row, ("population", "")) for row in rows]
        return np.clip(expected, *np.array([row.fitted_bounds() for row in rows]).reshape(-1, 2).T)

    def start_points(self) -> list[Point]:
        """One start per member, with the clone at the member's expectation and the inherited parameters fixed."""
        points = []
        for shared in self.shared:
            point = self._posterior.prior_point()
            point.shared = shared.copy()
            point.block[:, : len(self.spread)] = shared[self._posterior.n_shared :][: len(self.spread)]
            point.fixed = self.inherited, np.zeros(point.block.shape, bool)
            points.append(point)
        return points
