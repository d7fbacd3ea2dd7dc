"""Starts of a search for control profiles: random ones, those of another grid, and those beside a local optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optim.optimal_control.problem import ControlProblem

COARSE_INTERVALS = 30  # intervals that suffice to separate the local optima
LEAST_LEVEL = 1e-3  # of a control's range, from which the levels of half the random starts are drawn


def random_starts(problem: ControlProblem, count: int, seed: int) -> np.ndarray:
    """Random starts: independent values in every interval, times a random level for every control and start.

    The levels of every other start are uniform over the range of the control, those of the rest over the decades below
    it: an optimum at a hundredth of a pump's range is else found by luck only. Levels are a Latin hypercube. A start
    that cannot be simulated is moved towards a quarter of every range until it can.

    Args:
        problem: the optimal-control problem with D decisions.
        count: number of starts.
        seed: of the random numbers.

    Returns:
        Decisions [count, D], scaled to 0..1.
    """
    if not count:
        return np.zeros((0, problem.decision_count))
    rng = np.random.default_rng(seed)
    controls = len(problem.profiles)
    profiles = problem.intervals * controls
    w = rng.uniform(0.0, 1.0, (count, problem.decision_count))
    share = np.stack([(rng.permutation(count) + rng.uniform(size=count)) / count for _ in range(controls)], axis=1)
    level = np.where((np.arange(count) % 2 == 0)[:, None], 0.05 + 0.95 * share, LEAST_LEVEL ** (1.0 - share))
    w[:, :profiles] *= np.tile(level, (1, problem.intervals))
    for _ in range(8):
        failed = problem.simulate_decisions(w).status != 0
        if not failed.any():
            break
        w[failed, :profiles] = 0.5 * (w[failed, :profiles] + 0.25)
    return w


def neighbouring_starts(problem: ControlProblem, w: np.ndarray) -> np.ndarray:
    """Starts beside solutions w [L, D]: every profile an interval sooner, an interval later, and smoothed; [3, L, D].

    On a coarse grid there are local optima that differ in the interval in which a control switches. No step downhill
    leads from one to the next, but a shift of the profile does.
    """
    controls = len(problem.profiles)
    profiles = problem.intervals * controls
    levels = w[:, :profiles].reshape(len(w), problem.intervals, controls)
    wide = np.pad(levels, ((0, 0), (1, 1), (0, 0)), mode="edge")
    sooner, later = wide[:, 2:], wide[:, :-2]
    moved = (sooner, later, (sooner + levels + later) / 3.0)
    return np.stack([np.concatenate([m.reshape(len(w), -1), w[:, profiles:]], axis=1) for m in moved])


def coarsen_problem(problem: ControlProblem) -> ControlProblem:
    """The problem on a coarse grid for the search; the problem itself if its grid is coarse."""
    if problem.intervals <= COARSE_INTERVALS:
        return problem
    divisors = [n for n in range(COARSE_INTERVALS // 2, COARSE_INTERVALS + 1) if problem.intervals % n == 0]
    return replace(problem, intervals=max(divisors, default=COARSE_INTERVALS))


def resample_decisions(source: ControlProblem, target: ControlProblem, w: np.ndarray) -> np.ndarray:
    """Resample decisions on another grid: each interval takes the mean over its time.

    Args:
        source: the problem on the grid of `w`.
        target: the same problem on the new grid.
        w: decisions [L, D], scaled to 0..1.

    Returns:
        Decisions [L, D'] of the new grid, scaled to 0..1.
    """
    if source.intervals == target.intervals:
        return np.asarray(w)
    controls, hours = source.decode_decisions(w)
    old, new = np.linspace(0.0, 1.0, source.intervals + 1), np.linspace(0.0, 1.0, target.intervals + 1)
    overlap = np.minimum(new[1:, None], old[None, 1:]) - np.maximum(new[:-1, None], old[None, :-1])
    weight = np.maximum(overlap, 0.0) * target.intervals
    return target.encode_decisions(np.einsum("ts,lsp->ltp", weight, controls), hours)
