"""Sample swaps: pairs of vessels that fit much better when their readings, or their groups, are exchanged.

Shared parameters are fixed at the robust fit; the parameters of the groups concerned are fitted again under every swap,
so that swaps are compared by their likelihoods. In messages a group is called a clone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import jax
import numpy as np

from optim.estimation.data_quality.finding import Finding
from optim.estimation.data_quality.robust_fit import MAD, STATED_NOISE_READINGS, RobustFit
from optim.estimation.noise import MEASURED, robust_loss
from optim.estimation.posterior import Noise, Point, Posterior
from optim.estimation.problem import FitProblem

# gain in log-likelihood from which a swap is credible: both hypotheses have equally many parameters
CREDIBLE_GAIN = 20.0
INDISTINGUISHABLE_GAIN = 3.0  # swaps whose gains differ by less cannot be distinguished
MOST_SUSPECTS = 6  # number of vessels, the worst ones, among which all pairs are tried
MOST_BLOCK_STEPS = 12
SAME_TIME_H = 1.0  # a reading is assigned to a node of another vessel within this time


@dataclass(frozen=True)
class VesselPairing:
    """Hypothesis about one vessel: the controls of one vessel, the readings of vessel `read`, and a group."""

    controls: int
    read: int
    group: int


@dataclass(frozen=True)
class VesselSwap:
    """A swap of vessels a and b: `what` is 'readings' or 'clones'; `gain` in log-likelihood, and that of `each`."""

    a: int
    b: int
    what: str
    gain: float
    each: tuple[float, float]
    left: float  # remaining loss per reading of the two


def find_swap(r: RobustFit, excluded: np.ndarray) -> tuple[Finding, tuple[int, int]] | None:
    """The most credible swap of two vessels, as a finding and the indices of the vessels; None where there is none.

    `excluded` [B, M] are readings already judged faulty. One swap is reported at a time: it changes the gain of others.
    """
    trials = _SwapTrials(r, excluded)
    exchanges = sorted(trials.try_swaps(), key=lambda e: -e.gain)
    e = next((e for e in exchanges if trials.is_credible(e)), None)
    if e is None:
        return None
    runs, clone = r.problem.dataset.runs, r.problem.vessel_group
    first, second = runs[e.a], runs[e.b]
    names = f"{first.run_id} and {second.run_id}"
    groups = {int(clone[e.a]), int(clone[e.b])}
    alike = [
        o
        for o in exchanges
        if e.gain - o.gain < INDISTINGUISHABLE_GAIN and {int(clone[o.a]), int(clone[o.b])} == groups
    ]
    others = sorted({f"{runs[o.a].run_id} and {runs[o.b].run_id}" for o in alike} - {names})
    who = (
        f"vessels {names} look swapped: each one's readings fit the controls and clone of the other"
        if e.what == "readings"
        else f"vessels {names} look swapped: each fits the other's clone ({first.clone_id} and {second.clone_id})"
    )
    or_else = f"; as well it could be {' or '.join(others)}" if others else ""
    statement = (
        f"{who} (exchanged, the misfit of the two falls by {e.gain:.0f} in log-likelihood, where {CREDIBLE_GAIN:.0f} "
        f"is already far beyond chance{or_else}); check labels of tubes, positions and the export"
    )
    vessels = f"{first.run_id}, {second.run_id}"
    return Finding("swapped vessels", "error", vessels, "", None, statement), (e.a, e.b)


class _SwapTrials:
    """Trials of swaps, as many in one batched simulation as there are vessels, so that no new program is compiled."""

    def __init__(self, r: RobustFit, excluded: np.ndarray):
        self.r, self.problem = r, r.problem
        v = self.problem.vessels
        self.weight = np.where(excluded, 0.0, np.where(r.use, 1.0, 0.0))
        self.sd = v.sd * r.scale[v.variable]
        self.clone = self.problem.vessel_group
        every = range(len(self.clone))
        # the scatter when every vessel has group parameters of its own: no swap widens it
        alone = self._tried([[VesselPairing(b, b, b)] for b in every])
        self.sd = v.sd * self._scale([residual for _, _, residual in alone])[v.variable]
        self.base = self._tried([self._lanes({int(c)}) for c in np.unique(self.clone)])
        self.loss = np.zeros(len(self.clone))
        for c, (_, losses, _) in zip(np.unique(self.clone), self.base, strict=True):
            self.loss[self.clone == c] = losses
        self.readings = np.maximum(self.weight.sum(axis=1), 1.0)

    def _scale(self, residuals: list[np.ndarray]) -> np.ndarray:
        """Factor on the stated noise [V], from residuals of vessels that each have group parameters of their own."""
        v, residual = self.problem.vessels, np.concatenate(residuals)
        scale = self.r.scale.copy()
        for i in range(len(scale)):
            own = (v.variable == i) & (self.weight > 0.0) & (v.censored == MEASURED)
            if own.any():
                n, size = own.sum(), MAD * float(np.median(np.abs(residual[own]))) * self.r.scale[i]
                scale[i] = np.sqrt((n * size**2 + STATED_NOISE_READINGS) / (n + STATED_NOISE_READINGS))
        # never wider than the robust fit; parameters of their own also take up some of the noise, hence the factor
        return np.minimum(self.r.scale, np.clip(1.2 * scale, 0.1, 10.0))

    def try_swaps(self) -> list[VesselSwap]:
        """Try all pairs of one batch among the worst vessels, with readings and with groups exchanged."""
        per_reading = self.loss / self.readings
        # two swapped vessels both fit worse than the median
        worst = [b for b in np.argsort(-per_reading)[:MOST_SUSPECTS] if per_reading[b] >= np.median(per_reading)]
        # labels are swapped among vessels that ran together; two experiments differ in more than a label
        batch = self.problem.vessel_batch
        pairs = [(int(min(a, b)), int(max(a, b))) for a, b in combinations(worst, 2) if batch[a] == batch[b]]
        tried = [(a, b, "readings") for a, b in pairs]
        tried += [(a, b, "clones") for a, b in pairs if self.clone[a] != self.clone[b]]
        found = self._tried([self._exchanged(*t) for t in tried])
        exchanges = []
        for (a, b, what), (cost, losses, _) in zip(tried, found, strict=True):
            groups = sorted({int(self.clone[a]), int(self.clone[b])})
            before = sum(self.base[int(np.flatnonzero(np.unique(self.clone) == c)[0])][0] for c in groups)
            lanes = self._exchanged(a, b, what)
            # loss of the readings of each, whatever they are compared with
            after = [float(losses[[lane.read for lane in lanes].index(k)]) for k in (a, b)]
            rest = sum(after) / float(self.readings[a] + self.readings[b])
            each = (float(self.loss[a] - after[0]), float(self.loss[b] - after[1]))
            exchanges.append(VesselSwap(a, b, what, float(before - cost), each, rest))
        return exchanges

    def is_credible(self, e: VesselSwap) -> bool:
        """Whether a swap gains enough in log-likelihood, and leaves no more than the usual loss per reading."""
        usual = float(np.median(self.loss / self.readings))
        return e.gain > CREDIBLE_GAIN and e.left < 2.0 * usual + 0.2

    def _lanes(self, groups: set[int]) -> list[VesselPairing]:
        own = [b for b in range(len(self.clone)) if int(self.clone[b]) in groups]
        return [VesselPairing(b, b, int(self.clone[b])) for b in own]

    def _exchanged(self, a: int, b: int, what: str) -> list[VesselPairing]:
        lanes, other = [], {a: b, b: a}
        for lane in self._lanes({int(self.clone[a]), int(self.clone[b])}):
            k = other.get(lane.controls, lane.controls)
            if what == "readings":
                lanes.append(replace(lane, read=k))
            else:
                lanes.append(replace(lane, group=int(self.clone[k])))
        return lanes

    def _tried(self, hypotheses: list[list[VesselPairing]]) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Cost of every hypothesis, the loss of each of its lanes, and their residuals [lanes, M]."""
        found: list[tuple[float, np.ndarray, np.ndarray]] = []
        size, some = len(self.clone), list[list[VesselPairing]]()
        for hypothesis in [*hypotheses, []]:
            if some and (not hypothesis or sum(map(len, some)) + len(hypothesis) > size):
                found += self._fitted(some)
                some = []
            if hypothesis:
                some.append(hypothesis)
        return found

    def _fitted(self, hypotheses: list[list[VesselPairing]]) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Fit hypotheses side by side, as groups of one problem with as many vessels as the original."""
        lanes, groups, spans = list[VesselPairing](), list[int](), list[slice]()
        names: dict[tuple[int, int], int] = {}
        for h, hypothesis in enumerate(hypotheses):
            spans.append(slice(len(lanes), len(lanes) + len(hypothesis)))
            lanes += hypothesis
            groups += [names.setdefault((h, lane.group), len(names)) for lane in hypothesis]
        use = np.ones(len(self.clone))
        use[len(lanes) :] = 0.0
        while len(lanes) < len(self.clone):
            groups.append(names.setdefault((-1, len(lanes)), len(names)))
            lanes.append(VesselPairing(0, 0, 0))
        of_group = np.array([lanes[groups.index(g)].group for g in range(len(names))])
        alone = all(len({lane.group for lane in h}) == len(h) == 1 for h in hypotheses)
        if alone:
            of_group = self.clone[[lanes[groups.index(g)].controls for g in range(len(names))]]
        problem = _rearranged(self.problem, lanes, np.array(groups), self.weight, self.sd)
        at = Posterior(problem, Noise(self.r.scale, problem.vessels.sd), self.r.posterior.spread)
        start = self._start(at, lanes, np.array(groups), of_group, use)
        cost, loss, residual = fit_group_blocks(at, start)
        out = []
        for span in spans:
            total = float(sum(cost[g] for g in dict.fromkeys(groups[span])))
            out.append((total, loss[span], residual[span]))
        return out

    def _start(
        self, at: Posterior, lanes: list[VesselPairing], groups: np.ndarray, of_group: np.ndarray, use: np.ndarray
    ) -> Point:
        """Start of the block fits: groups and vessels at the robust fit."""
        old, now = self.r.posterior, self.r.point
        block = np.tile(at.mean_block, (at.n_groups, 1))
        block[:, : at.n_per_group] = now.block[of_group, : at.n_per_group]
        for k, lane in enumerate(lanes):
            own = old.block_columns[lane.controls][old.n_per_group :]
            block[groups[k], at.block_columns[k][at.n_per_group :]] = now.block[self.clone[lane.controls], own]
        return Point(now.shared.copy(), block, use)


def _rearranged(
    problem: FitProblem, lanes: list[VesselPairing], groups: np.ndarray, weight: np.ndarray, sd: np.ndarray
) -> FitProblem:
    """The fit problem with the controls, readings and groups of the hypotheses, one per vessel."""
    controls = np.array([lane.controls for lane in lanes])
    read = np.array([lane.read for lane in lanes])
    v = problem.vessels
    grid = jax.tree.map(lambda x: np.asarray(x)[controls], v.grid)
    time = np.take_along_axis(np.asarray(v.grid.t), v.node, axis=1)[read]
    apart = np.abs(grid.t[:, None, :] - time[:, :, None])
    # among equal times the first node is the one before padding
    node = np.where((controls == read)[:, None], v.node[read], np.argmin(apart, axis=2))
    near = np.min(apart, axis=2) < SAME_TIME_H
    vessels = v._replace(
        grid=grid,
        feeds=v.feeds[controls],
        initial=v.initial[controls],
        volume=v.volume[controls],
        node=node.astype(np.int32),
        variable=v.variable[read],
        value=v.value[read],
        sd=sd[read],
        censored=v.censored[read],
        weight=weight[read] * near,
    )
    names = tuple(str(g) for g in range(int(groups.max()) + 1))
    return replace(
        problem,
        vessels=vessels,
        vessel_group=groups,
        groups=names,
        vessel_batch=problem.vessel_batch[controls],
    )


def fit_group_blocks(at: Posterior, point: Point) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit the blocks of all groups with the shared part fixed, each by damped steps of its own (Levenberg-Marquardt).

    Returns the cost of every block with its priors [C], the loss of every vessel [B], and residuals [B, M].
    """
    point = replace(point, block=point.block.copy())
    damping = np.full(at.n_groups, 1e-2)
    lanes = at.problem.make_lanes(np.arange(len(at.problem.vessel_group)), at.noise.sd)
    cost, loss, residual = _block_costs(at, point, lanes.vessel_costs(at.lane_parameters(point)))
    for _ in range(MOST_BLOCK_STEPS):
        at.evaluate([point])
        assert point.arrow is not None
        a, m = point.arrow, np.arange(at.block_width)
        _, fixed = at.immovable_parameters(point)
        matrix = np.where(np.isfinite(a.cc), a.cc, 0.0)
        diagonal = np.maximum(matrix[:, m, m], 1e-8)
        matrix[:, m, m] += damping[:, None] * diagonal + np.where(fixed, 1e12 * (1.0 + diagonal), 0.0)
        step = -np.linalg.solve(matrix, np.nan_to_num(a.gc)[..., None])[..., 0]
        trial = replace(point, block=np.clip(point.block + np.clip(step, -1.0, 1.0), at.lower_block, at.upper_block))
        new, new_loss, new_residual = _block_costs(at, trial, lanes.vessel_costs(at.lane_parameters(trial)))
        better = new < cost
        gained = float(np.max(np.where(better & np.isfinite(cost), cost - new, 0.0), initial=0.0))
        point.block[better] = trial.block[better]
        own = better[at.problem.vessel_group]
        loss, residual = np.where(own, new_loss, loss), np.where(own[:, None], new_residual, residual)
        cost = np.where(better, new, cost)
        damping = np.clip(np.where(better, 0.2 * damping, 8.0 * damping), 1e-9, 1e6)
        if gained < 0.3 and (better | (damping > 10.0)).all():
            break
    return cost, loss, residual


def _block_costs(
    at: Posterior, point: Point, results: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p, (ends, residual) = at.problem, results
    freedom = np.where(p.vessels.censored == MEASURED, p.scatter.robust[p.vessels.variable], 0.0)
    loss = np.where(np.isfinite(ends), np.asarray(robust_loss(residual**2, freedom)[0]).sum(axis=1), np.inf)
    cost = np.zeros(at.n_groups)
    np.add.at(cost, p.vessel_group, np.where(point.weight > 0.0, loss, 0.0))
    away = point.block[:, : at.n_per_group] - point.shared[at.n_shared : at.n_shared + at.n_per_group]
    cost += 0.5 * np.sum(at.pooling * away**2, axis=1)
    for k, row in enumerate(at.vessel_part_specs):
        cost += np.asarray(row.prior_score(point.block[:, at.n_per_group + k])[0])
    return cost, loss, residual
