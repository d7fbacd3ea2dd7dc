"""Estimates of an earlier fit, looked up by the name and the owner of each parameter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from optim.errors import IncompatibleError
from optim.estimation.posterior import Point, Posterior
from optim.estimation.problem import FitProblem
from optim.estimation.result import FitResult
from optim.parameters import ParameterSpec, to_fitted


@dataclass(frozen=True)
class EarlierFit:
    """Estimates of an earlier fit by name, as starting values and as prior knowledge for new runs."""

    result: FitResult

    @cached_property
    def estimates(self) -> dict[tuple[str, str, str], float]:
        """Estimates on the natural scale by (level, name, owner)."""
        return {(p.level, p.name, p.owner): p.estimate for p in self.result.parameters}

    def fitted_value(self, row: ParameterSpec, *owners: tuple[str, str]) -> float:
        """Value of a parameter on the fitted scale.

        It is that of the first of `owners` (level, owner) which the fit has, or the stated value where it has none.
        """
        estimates = self.estimates
        known = (estimates[level, row.name, owner] for level, owner in owners if (level, row.name, owner) in estimates)
        return float(to_fitted((row,), np.array([next(known, row.value)]))[0])

    def clone_spread(self, problem: FitProblem) -> np.ndarray:
        """Standard deviation between clones [nc] on the fitted scale; the stated one where the fit has none."""
        return np.array([self.result.spread.get(row.name, row.spread or 1.0) for row in problem.group_specs])

    def noise_scale(self, problem: FitProblem) -> np.ndarray:
        """Factor on the stated noise of each variable [V]; 1 for a variable that the fit did not have."""
        return np.array([self.result.noise_scale.get(name, 1.0) for name in problem.variables])

    def start_point(self, posterior: Posterior) -> Point:
        """A point with every parameter at the estimate of the fit, also where its level has changed since.

        A parameter that the fit does not have starts at the centre of its prior.
        """
        e, problem, point = posterior, posterior.problem, posterior.prior_point()
        common = (("shared", ""), ("population", ""), ("fixed", ""))
        first = [self.fitted_value(row, *common) for row in problem.shared_specs]
        first += [self.fitted_value(row, ("population", ""), *common) for row in problem.group_specs]
        first += [
            self.fitted_value(row, ("batch", name))
            for name in problem.batches[: e.n_batches]
            for row in problem.batch_specs
        ]
        point.shared = np.array(first)
        for c, group in enumerate(problem.groups):
            point.block[c, : e.n_per_group] = [
                self.fitted_value(row, ("clone", group), ("population", ""), *common) for row in problem.group_specs
            ]
        for b, c in enumerate(problem.vessel_group):
            run = problem.dataset.runs[b].run_id
            point.block[c, e.block_columns[b][e.n_per_group :]] = [
                self.fitted_value(row, ("vessel", run)) for row in problem.vessel_specs
            ]
        return point

    def check_parameters(self, problem: FitProblem) -> None:
        """Raise `IncompatibleError` unless fit and problem have the same parameters, fixed ones at the same values.

        The ensemble of the fit must have at least two draws besides the estimate.
        """
        old = self.result
        for what, ours, theirs in (
            ("shared", problem.shared_specs, old.shared_names),
            ("clone", problem.group_specs, old.clone_names),
            ("batch", problem.batch_specs, old.batch_names),
        ):
            names = {row.name for row in ours}
            if names != set(theirs):
                differ = ", ".join(sorted(names ^ set(theirs)))
                raise IncompatibleError(f"the fit and the new runs differ in their {what} parameters: {differ}")
        for row in problem.table.of_level("fixed"):
            if not np.isclose(self.estimates.get(("fixed", row.name, ""), np.nan), row.value, rtol=1e-9, atol=0.0):
                raise IncompatibleError(f"parameter '{row.name}' is not fixed at {row.value:g} in the fit")
        if len(old.shared) < 3:
            raise IncompatibleError(
                "the fit's ensemble is too small to place a clone with; fit again with fit.ensemble=32"
            )
