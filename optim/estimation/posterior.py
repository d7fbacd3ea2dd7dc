"""The posterior of a fit problem: the order of its parameters, its cost and its arrow-shaped normal equations.

Shared part: the shared parameters, the population mean of each group parameter, the parameters of each batch. Block of
a group (a clone, or an experiment): its group parameters, then the vessel parameters of each of its vessels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from optim.estimation.normal_equations import Arrow
from optim.estimation.problem import FitProblem, VesselLanes
from optim.parameters import ParameterSpec

Z90 = 1.6448536269514722  # half the width of a 90 % interval, in standard deviations
# vessels that are simulated in one call: bounds the memory of the prepared arrays
VESSELS_AT_ONCE = 512


class ResidualSlopes(NamedTuple):
    """Derivatives of the residuals of every vessel with respect to its own parameters."""

    jacobian: np.ndarray  # [B, Q, M]
    weight: np.ndarray  # [B, M]


class Readings(NamedTuple):
    """Readings that replace those of the dataset."""

    value: np.ndarray  # [B, M]
    censored: np.ndarray  # [B, M]


# one entry per parameter: shared part [n], blocks of the groups [C, m]
Parts = tuple[np.ndarray, np.ndarray]


@dataclass
class Point:
    """Parameters on the fitted scale, with the cost and its derivatives there once they are evaluated.

    `fixed` marks parameters that no search moves. `prior_weight` is a factor on the prior of each parameter (of a group
    parameter: on its pooling), 0 to leave the prior out. `readings` replace those of the dataset.
    """

    shared: np.ndarray  # [n]
    block: np.ndarray  # [C, m]
    weight: np.ndarray  # [B] 1; 0 for a vessel that is left out; more for one that counts several times
    cost: float = np.inf
    arrow: Arrow | None = None
    data_cost: float = np.nan  # the cost without the priors
    residual: np.ndarray | None = None  # [B, M] whitened
    slopes: ResidualSlopes | None = None
    damping: float = 1e-2
    needs_acceleration: bool = False  # the linear model predicted the last step badly
    iterations: int = 0
    reason: str = ""
    history: list[float] = field(default_factory=list)
    fixed: Parts | None = None
    prior_weight: Parts | None = None
    readings: Readings | None = None


@dataclass(frozen=True)
class Noise:
    """Noise in use: the estimated factor on the stated noise of each variable, and the noise of every reading."""

    scale: np.ndarray  # [V]
    sd: np.ndarray  # [B, M] standard deviation on the scale on which the assay scatters


class Posterior:
    """Negative log-posterior (cost) and its normal equations, with priors and partial pooling between groups.

    `noise` and `spread` (standard deviation between groups on the fitted scale [n_per_group]) replace what the problem
    states. Numbers of parameters: `n_shared`, and `n_per_group`, `n_per_batch`, `n_per_vessel` of each group, batch and
    vessel. `shared_columns` [B, n_shared + n_per_batch] and `block_columns` [B, n_per_group + n_per_vessel] are the
    columns of a vessel's parameters in the shared part and in the block of its group.
    """

    def __init__(self, problem: FitProblem, noise: Noise | None = None, spread: np.ndarray | None = None):
        self.problem = problem
        self.noise = Noise(np.ones(len(problem.variables)), problem.vessels.sd) if noise is None else noise
        group, batch = problem.vessel_group, problem.vessel_batch
        self.n_shared, self.n_per_group, self.n_per_vessel, self.n_per_batch = (
            len(rows) for rows in (problem.shared_specs, problem.group_specs, problem.vessel_specs, problem.batch_specs)
        )
        self.n_groups, self.n_batches = len(problem.groups), len(problem.batches) if self.n_per_batch else 0
        self.vessel_slot = np.array([int(np.sum(group[:b] == group[b])) for b in range(len(group))])
        self.n_slots = int(self.vessel_slot.max()) + 1
        self.block_width = self.n_per_group + self.n_per_vessel * self.n_slots
        # specifications in the order of the shared part, and of the vessels' part of a block
        self.shared_part_specs: tuple[ParameterSpec, ...] = (
            *problem.shared_specs,
            *problem.group_specs,
            *(problem.batch_specs * self.n_batches),
        )
        self.vessel_part_specs: tuple[ParameterSpec, ...] = problem.vessel_specs * self.n_slots
        self.lower_shared, self.upper_shared, self.mean_shared = _columns(self.shared_part_specs)
        self.lower_block, self.upper_block, self.mean_block = _columns((*problem.group_specs, *self.vessel_part_specs))
        stated = np.array([row.spread or 1.0 for row in problem.group_specs])
        self.spread = stated if spread is None else np.asarray(spread, float)
        self.pooling = 1.0 / self.spread**2
        first = self.n_shared + self.n_per_group + batch * self.n_per_batch
        self.shared_columns = np.concatenate(
            [
                np.tile(np.arange(self.n_shared), (len(group), 1)),
                first[:, None] + np.arange(self.n_per_batch)[None, :],
            ],
            axis=1,
        ).astype(int)
        self._lanes: dict[int, VesselLanes] = {}
        own = np.arange(self.n_per_vessel)[None, :] + self.n_per_group + (self.vessel_slot * self.n_per_vessel)[:, None]
        self.block_columns = np.concatenate(
            [np.tile(np.arange(self.n_per_group), (len(group), 1)), own], axis=1
        ).astype(int)

    @property
    def n_parameters(self) -> int:
        """Number of estimated parameters: shared part, group parameters and vessel parameters."""
        return (
            len(self.shared_part_specs)
            + self.n_groups * self.n_per_group
            + len(self.problem.vessel_group) * self.n_per_vessel
        )

    def prior_point(self) -> Point:
        """A point with every parameter at the centre of its prior."""
        block = np.tile(self.mean_block, (self.n_groups, 1))
        return Point(self.mean_shared.copy(), block, np.ones(len(self.problem.vessel_group)))

    def random_point(self, rng: np.random.Generator, spread: float) -> Point:
        """A start drawn from the prior, `spread` times as wide as that (from the bounds where there is no prior)."""
        point = self.prior_point()
        sd = np.array([row.prior_sd_fitted() or 0.0 for row in self.shared_part_specs])
        sd = np.minimum(np.where(sd > 0.0, sd, 0.25 * (self.upper_shared - self.lower_shared)), 3.0)
        shared = point.shared + spread * sd * rng.standard_normal(len(sd))
        point.shared = np.clip(shared, self.lower_shared, self.upper_shared)
        away = rng.standard_normal((self.n_groups, self.n_per_group)) * self.spread
        point.block[:, : self.n_per_group] = point.shared[self.n_shared : self.n_shared + self.n_per_group] + away
        point.block = np.clip(point.block, self.lower_block, self.upper_block)
        return point

    def lane_parameters(self, point: Point) -> np.ndarray:
        """Parameters of every vessel [B, Q]: its columns of the shared part, then those of its block."""
        own = np.take_along_axis(point.block[self.problem.vessel_group], self.block_columns, axis=1)
        return np.concatenate([point.shared[self.shared_columns], own], axis=1)

    def evaluate(self, points: list[Point]) -> None:
        """Fill in cost, residuals and normal equations of several points, by one batched simulation."""
        for point, own in self._of_each(points, lambda lanes, u: lanes.vessel_equations(u)):
            point.data_cost = _weighted_sum(own.cost, point.weight)
            point.arrow = self._arrow(point, own.gradient, own.hessian)
            point.residual, point.slopes = own.residual, ResidualSlopes(own.jacobian, own.weight)
            point.cost = _finite(point.data_cost + self._prior_cost(point))

    def evaluate_cost(self, points: list[Point]) -> None:
        """Fill in cost and residuals alone, in a tenth of the time; the normal equations are dropped."""
        for point, (cost, residual) in self._of_each(points, lambda lanes, u: lanes.vessel_costs(u)):
            point.residual, point.data_cost = residual, _weighted_sum(cost, point.weight)
            point.cost, point.arrow = _finite(point.data_cost + self._prior_cost(point)), None

    def acceleration_equations(
        self, point: Point, step_s: np.ndarray, step_c: np.ndarray, *, ahead: Point, fraction: float
    ) -> Arrow:
        """Normal equations of the geodesic acceleration along a step.

        `ahead` is a point with residuals, a `fraction` of the step away. The gradient of the equations is J^T r'', with
        r'' the second derivative of the residuals along the step.
        """
        assert point.arrow is not None
        assert point.slopes is not None
        assert point.residual is not None
        assert ahead.residual is not None
        jacobian, weight = point.slopes
        step = self.lane_parameters(Point(step_s, step_c, point.weight))
        straight = (step[:, None, :] @ jacobian)[:, 0]
        second = 2.0 / fraction * ((ahead.residual - point.residual) / fraction - straight)
        second = second * weight * point.weight[:, None]
        gs, gc = self._gathered((jacobian @ second[..., None])[..., 0])
        return replace(point.arrow, gs=gs, gc=gc)

    def _gathered(self, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum over vessels of a gradient by their own parameters [B, Q]: shared part [n], blocks [C, m]."""
        inner = self.n_shared + self.n_per_batch
        gs, gc = np.zeros(len(self.shared_part_specs)), np.zeros((self.n_groups, self.block_width))
        np.add.at(gs, self.shared_columns, gradient[:, :inner])
        np.add.at(gc, (self.problem.vessel_group[:, None], self.block_columns), gradient[:, inner:])
        return gs, gc

    def _of_each(
        self, points: list[Point], run: Callable[[VesselLanes, np.ndarray], Any]
    ) -> Iterator[tuple[Point, Any]]:
        """Every point with the results of a program for its vessels, `VESSELS_AT_ONCE` at a time."""
        n = len(self.problem.vessel_group)
        together = max(1, VESSELS_AT_ONCE // n)
        for first in range(0, len(points), together):
            some = points[first : first + together]
            if len(some) not in self._lanes:
                self._lanes[len(some)] = self.problem.make_lanes(np.tile(np.arange(n), len(some)), self.noise.sd)
            lanes, own = self._lanes[len(some)], self.problem.vessels
            if any(p.readings is not None for p in some):
                readings = [p.readings or Readings(own.value, own.censored) for p in some]
                lanes = lanes.with_readings(*(np.concatenate(part) for part in zip(*readings, strict=True)))
            results = run(lanes, np.concatenate([self.lane_parameters(p) for p in some]))
            for i, point in enumerate(some):
                yield point, jax.tree.map(lambda a, i=i: a[i * n : (i + 1) * n], results)

    def _prior_cost(self, point: Point) -> float:
        away = point.block[:, : self.n_per_group] - point.shared[self.n_shared : self.n_shared + self.n_per_group]
        weight_s, weight_c = self._prior_weight(point)
        total = 0.5 * float(np.sum(weight_c[:, : self.n_per_group] * self.pooling * away**2))
        for i, row in enumerate(self.shared_part_specs):
            total += float(weight_s[i] * row.prior_score(point.shared[i])[0])
        for k, row in enumerate(self.vessel_part_specs):
            total += float(
                np.sum(weight_c[:, self.n_per_group + k] * row.prior_score(point.block[:, self.n_per_group + k])[0])
            )
        return total

    def _prior_weight(self, point: Point) -> Parts:
        return point.prior_weight or (np.ones(len(self.shared_part_specs)), np.ones((self.n_groups, self.block_width)))

    def _arrow(self, point: Point, gradient: np.ndarray, hessian: np.ndarray) -> Arrow:
        """Normal equations of all parameters, assembled from those of each vessel over its own parameters."""
        group, w, n = self.problem.vessel_group, point.weight, len(self.shared_part_specs)
        inner = self.n_shared + self.n_per_batch  # number of a lane's parameters in the shared part
        hessian = hessian * w[:, None, None]
        ss = np.zeros((n, n))
        gs, gc = self._gathered(gradient * w[:, None])
        cs = np.zeros((self.n_groups, self.block_width, n))
        cc = np.zeros((self.n_groups, self.block_width, self.block_width))
        for b in range(max(self.n_batches, 1)):
            use = self.problem.vessel_batch == b if self.n_per_batch else slice(None)
            to = self.shared_columns[use][0]
            ss[np.ix_(to, to)] += hessian[use, :inner, :inner].sum(axis=0)
        for slot in range(self.n_slots):
            # at most one vessel of each group, so that no entry is added to twice in one statement
            v = np.flatnonzero(self.vessel_slot == slot)
            rows, cols, outer = group[v][:, None], self.block_columns[v], self.shared_columns[v]
            cc[rows[..., None], cols[:, :, None], cols[:, None, :]] += hessian[v, inner:, inner:]
            cs[rows[..., None], cols[:, :, None], outer[:, None, :]] += hessian[v, inner:, :inner]
        own, pop = np.arange(self.n_per_group), self.n_shared + np.arange(self.n_per_group)
        weight_s, weight_c = self._prior_weight(point)
        away = point.block[:, : self.n_per_group] - point.shared[pop]
        pool = weight_c[:, : self.n_per_group] * self.pooling
        cc[:, own, own] += pool
        gc[:, : self.n_per_group] += pool * away
        ss[pop, pop] += pool.sum(axis=0)
        gs[pop] -= (pool * away).sum(axis=0)
        cs[:, own, pop] -= pool
        for i, row in enumerate(self.shared_part_specs):
            _, slope, curvature = row.prior_score(point.shared[i])
            gs[i] += weight_s[i] * slope
            ss[i, i] += weight_s[i] * curvature
        for k, row in enumerate(self.vessel_part_specs):
            _, slope, curvature = row.prior_score(point.block[:, self.n_per_group + k])
            gc[:, self.n_per_group + k] += weight_c[:, self.n_per_group + k] * slope
            cc[:, self.n_per_group + k, self.n_per_group + k] += weight_c[:, self.n_per_group + k] * curvature
        return Arrow(ss, cs, cc, gs, gc)

    def move_point(self, point: Point, step_s: np.ndarray, step_c: np.ndarray) -> Point:
        """The point one step away (parts [n] and [C, m]), clipped to the bounds and not yet evaluated."""
        if point.fixed is not None:
            step_s, step_c = np.where(point.fixed[0], 0.0, step_s), np.where(point.fixed[1], 0.0, step_c)
        return replace(
            point,
            shared=np.clip(point.shared + step_s, self.lower_shared, self.upper_shared),
            block=np.clip(point.block + step_c, self.lower_block, self.upper_block),
            cost=np.inf,
            arrow=None,
            slopes=None,
        )

    def immovable_parameters(self, point: Point) -> Parts:
        """Mask of parameters that cannot move: fixed ones, and those at a bound beyond which the cost would fall."""
        assert point.arrow is not None
        a = point.arrow
        fixed_s = _at_bound(point.shared, self.lower_shared, self.upper_shared, a.gs)
        fixed_c = _at_bound(point.block, self.lower_block, self.upper_block, a.gc)
        return (fixed_s, fixed_c) if point.fixed is None else (fixed_s | point.fixed[0], fixed_c | point.fixed[1])


def _weighted_sum(cost: np.ndarray, weight: np.ndarray) -> float:
    used = weight > 0.0
    return float(np.sum(cost[used] * weight[used]))


def _finite(cost: float) -> float:
    return cost if np.isfinite(cost) else np.inf


def _columns(rows: tuple[ParameterSpec, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    bounds = np.array([row.fitted_bounds() for row in rows]).reshape(-1, 2)
    return bounds[:, 0], bounds[:, 1], np.array([row.to_fitted(row.value) for row in rows])


def _at_bound(x: np.ndarray, lower: np.ndarray, upper: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    return ((x <= lower) & (gradient > 0.0)) | ((x >= upper) & (gradient < 0.0))
