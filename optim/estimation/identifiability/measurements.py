"""Candidate measurements: the gain in information of further readings or vessels on a combination of parameters.

Candidates are every assay with a stated noise at every node of every vessel, at times between nodes as far as the
padding of the grids allows, and whole vessels run again, unchanged or with another design.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optim.estimation.data_quality.finding import time_text, value_text
from optim.estimation.data_quality.robust_fit import lane_covariance
from optim.estimation.likelihood import Vessels
from optim.estimation.noise import MEASURED
from optim.estimation.normal_equations import Arrow
from optim.estimation.posterior import Point, Posterior
from optim.estimation.problem import FitProblem, observable_names
from optim.schedule.grid import IntervalGrid, split_interval

MOST_ADDED_NODES = 16  # nodes that are added between those of the grids
LEAST_VARIANCE_SHARE = 0.1  # fraction of the variance that a proposal must remove
APART_H = 12.0  # least time between proposals of one assay

# designs of a repeated vessel: factors on feeds, medium and inoculum, and words
REPEAT_DESIGNS: tuple[tuple[float, float, float, str], ...] = (
    (1.0, 1.0, 1.0, "once more as it was"),
    (0.0, 1.0, 1.0, "without feeds"),
    (0.5, 1.0, 1.0, "with half of the feeds"),
    (2.0, 1.0, 1.0, "with twice the feeds"),
    (1.0, 0.25, 1.0, "in medium diluted to a quarter"),
    (1.0, 1.0, 2.0, "with twice the inoculum"),
)


@dataclass(frozen=True)
class Proposal:
    """A proposed measurement or vessel, with the fraction of a combination's variance that it removes (`gain`)."""

    kind: str  # reading | vessel
    vessel: str
    variable: str  # '' for a vessel
    time_h: float | None
    design: str  # '' for a reading
    gain: float
    sentence: str


class CandidateMeasurements:
    """Candidate readings in the vessels as they were run, with their derivatives; repeated vessels when needed."""

    def __init__(self, posterior: Posterior, point: Point):
        self.posterior, self.point = posterior, point
        p = posterior.problem
        names = observable_names(p.model, p.table)
        self.variables = tuple(dict.fromkeys((*p.variables, *(n for n in names if n in p.noise.assays))))
        # a further assay needs another program; with the same assays none is compiled
        self.problem = p if self.variables == p.variables else replace(p, variables=self.variables)
        self.scale = np.ones(len(self.variables))
        self.scale[: len(p.variables)] = posterior.noise.scale
        self.u = posterior.lane_parameters(point)
        self.grid = _refined(p.vessels.grid)
        nodes = np.arange(1, self.grid.t.shape[1])
        self.node, self.variable = (a.ravel() for a in np.meshgrid(nodes, np.arange(len(self.variables))))
        self.valid = self.node[None, :] <= np.asarray(self.grid.intervals)[:, None]
        self.time_h = np.asarray(self.grid.t)[:, self.node]
        wide = (len(self.u), 1)
        self.jacobian, self.y = self._slopes(
            p.vessels._replace(grid=self.grid), np.tile(self.node, wide), np.tile(self.variable, wide), self.valid
        )
        self._designs: list[tuple[np.ndarray, str]] | None = None

    def _slopes(
        self, v: Vessels, node: np.ndarray, variable: np.ndarray, valid: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whitened derivatives [B, Q, R] and predictions [B, R] of R candidate readings per vessel."""
        b, width = self.posterior.problem.vessels.value.shape
        jacobians, readings = [], []
        for first in range(0, node.shape[1], width):
            rows = np.minimum(np.arange(first, first + width), node.shape[1] - 1)
            some = v._replace(
                node=node[:, rows].astype(np.int32),
                variable=variable[:, rows].astype(np.int32),
                censored=np.full((b, width), MEASURED, np.int32),
                weight=valid[:, rows].astype(float),
                value=np.ones((b, width)),
                sd=np.ones((b, width)),
            )
            y, status = replace(self.problem, vessels=some).predict(self.u)
            use = (status == 0)[:, None] & np.isfinite(y) & valid[:, rows]
            sd = np.ones((b, width))
            for i, name in enumerate(self.variables):
                own = use & (variable[:, rows] == i)
                sd[own] = self.problem.noise.sd_on_scale(name, y[own]) * self.scale[i]
            some = some._replace(value=np.where(use, y, 1.0), sd=sd, weight=use.astype(float))
            slopes = replace(self.problem, vessels=some).all_lanes.vessel_equations(self.u).jacobian
            keep = slice(0, min(width, node.shape[1] - first))
            jacobians.append(np.where(np.isfinite(slopes), slopes, 0.0)[:, :, keep])
            readings.append(np.where(use, y, np.nan)[:, keep])
        return np.concatenate(jacobians, axis=2), np.concatenate(readings, axis=1)

    def best_readings(self, arrow: Arrow, target: np.ndarray, most: int) -> list[Proposal]:
        """The `most` single readings that inform a combination best, by gain.

        `target` [n] is the combination as weights of the shared part, `arrow` the information with priors.
        """
        covariance, towards, variance = self._covariances(arrow, target)
        own = np.einsum("bqr,bqp,bpr->br", self.jacobian, covariance, self.jacobian)
        gain = np.einsum("bq,bqr->br", towards, self.jacobian) ** 2 / (variance * (1.0 + own))
        gain = np.where(self.valid, gain, 0.0)
        runs, found = self.posterior.problem.dataset.runs, list[Proposal]()
        for flat in np.argsort(-gain, axis=None)[:400]:
            b, k = divmod(int(flat), gain.shape[1])
            share, time = float(gain[b, k]), float(self.time_h[b, k])
            name = self.variables[self.variable[k]]
            if share < LEAST_VARIANCE_SHARE or len(found) == most:
                break
            if any(o.variable == name and abs((o.time_h or 0.0) - time) < APART_H for o in found):
                continue
            sentence = (
                f"one more reading of {name} in vessel {runs[b].run_id} at {time_text(time, runs[b].end_time_h)} "
                f"(where {value_text(name, float(self.y[b, k]))} is expected) would take away {100 * share:.0f} % of "
                "the variance"
            )
            found.append(Proposal("reading", runs[b].run_id, name, time, "", share, sentence))
        return found

    def best_vessels(self, arrow: Arrow, target: np.ndarray, most: int) -> list[Proposal]:
        """The `most` repeated vessels that inform a combination best: for every design, the best vessel to repeat."""
        covariance, towards, variance = self._covariances(arrow, target)
        at, p = self.posterior, self.posterior.problem
        # a new vessel has deviations of its own, of which only the prior is known
        first = at.n_shared + at.n_per_batch + at.n_per_group
        sd = np.array([row.prior_sd_fitted() or 1.0 for row in p.vessel_specs])
        covariance, towards = covariance.copy(), towards.copy()
        covariance[:, first:, :], covariance[:, :, first:], towards[:, first:] = 0.0, 0.0, 0.0
        own = np.arange(first, covariance.shape[1])
        covariance[:, own, own] = sd**2
        found = []
        for jacobian, words in self._of_designs():
            through = np.einsum("bqm,bqp,bpk->bmk", jacobian, covariance, jacobian) + np.eye(jacobian.shape[2])
            c = np.einsum("bq,bqm->bm", towards, jacobian)
            gain = np.einsum("bm,bm->b", c, np.linalg.solve(through, c[..., None])[..., 0]) / variance
            b = int(np.argmax(gain))
            run, share = p.dataset.runs[b], float(gain[b])
            sentence = (
                f"vessel {run.run_id} run {words}, with the samples that it had, would take away {100 * share:.0f} % "
                f"of the variance"
            )
            found.append(Proposal("vessel", run.run_id, "", None, words, share, sentence))
        found = [f for f in found if f.gain >= LEAST_VARIANCE_SHARE]
        return sorted(found, key=lambda f: -f.gain)[:most]

    def _of_designs(self) -> list[tuple[np.ndarray, str]]:
        """Derivatives [B, Q, M] of the samples of every vessel under every design that applies, with its words."""
        if self._designs is None:
            p, self._designs = self.posterior.problem, []
            actions = p.vessels.grid.actions
            fed = bool(np.any(actions.bolus) or np.any(actions.rate_start) or np.any(actions.rate_end))
            for feeds, medium, cells, words in REPEAT_DESIGNS:
                if feeds != 1.0 and not fed:
                    continue
                v = _redesigned(p, feeds, medium, cells)
                jacobian, _ = self._slopes(v, p.vessels.node, p.vessels.variable, p.vessels.weight > 0.0)
                self._designs.append((jacobian, words))
        return self._designs

    def _covariances(self, arrow: Arrow, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Covariance of every lane [B, Q, Q], its covariance with the target [B, Q], and the variance of the target."""
        at = self.posterior
        shared, _, across = arrow.covariance()
        s, c = target @ shared, across @ target  # [n], [C, m]
        own = np.take_along_axis(c[at.problem.vessel_group], at.block_columns, axis=1)
        towards = np.concatenate([s[at.shared_columns], own], axis=1)
        return lane_covariance(at, arrow), towards, float(target @ shared @ target)


def _refined(grid: IntervalGrid) -> IntervalGrid:
    """The grids with nodes added in the middle of the longest intervals, as far as the padding allows."""
    grid = jax.tree.map(np.asarray, grid)
    free = grid.t.shape[1] - 1 - int(np.max(grid.intervals))
    divide = jax.jit(jax.vmap(split_interval))
    for _ in range(min(free, MOST_ADDED_NODES)):
        k = np.argmax(np.diff(grid.t, axis=1), axis=1)
        rows = np.arange(len(k))
        middle = 0.5 * (grid.t[rows, k] + grid.t[rows, k + 1])
        grid = jax.tree.map(np.asarray, divide(grid, jnp.asarray(k, jnp.int32), jnp.asarray(middle)))
    refined: IntervalGrid = grid
    return refined


def _redesigned(p: FitProblem, feeds: float, medium: float, cells: float) -> Vessels:
    """The vessels with feeds, medium and inoculum multiplied by factors."""
    v, a = p.vessels, p.vessels.grid.actions
    liquid: dict[str, Any] = {name: getattr(a, name) * feeds for name in ("bolus", "rate_start", "rate_end")}
    model = p.model
    seeded = np.array([name in model.inoculum_species for name in model.names()])
    initial = v.initial * np.where(seeded, cells, medium)[None, :]
    return v._replace(grid=v.grid._replace(actions=a._replace(**liquid)), initial=initial)
