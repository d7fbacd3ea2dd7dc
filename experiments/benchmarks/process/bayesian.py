"""Constrained Bayesian optimisation of one clone's process: Gaussian processes, expected improvement, batches.

scikit-learn's regressors, a Matérn kernel with a length per factor and a noise term, for the logarithm of the yield per
cost and for every limit that an assay tells of. A batch is filled by the kriging believer: each point is chosen as if
those before it had read what was predicted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from laboratory import Laboratory, Recommendation, Space
from scipy.stats import norm, qmc
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

CANDIDATES, ROUNDS, PARENTS = 2048, 4, 24
SURE = 0.9  # probability of meeting every limit that a recommended process must have, where one has it


@dataclass(frozen=True)
class Readings:
    """Points of the unit cube [n, D], log of the yield per cost [n], compressed room by limit [n, R]."""

    u: np.ndarray
    value: np.ndarray
    room: np.ndarray

    def plus(self, u: np.ndarray, value: np.ndarray, room: np.ndarray) -> Readings:
        return Readings(np.vstack([self.u, u]), np.append(self.value, value), np.vstack([self.room, room]))


def compressed(room: np.ndarray) -> np.ndarray:
    """Relative room with its sign, so that what lies far from a limit does not rule the fit near it."""
    return np.sign(room) * np.log1p(np.abs(room))


def measure(lab: Laboratory, clone: str, space: Space, u: np.ndarray) -> Readings:
    """One vessel at each point u [n, D]."""
    seen = [lab.run(clone, x) for x in space.decisions(u)]
    return Readings(u, np.log([max(s.value, 1e-6) for s in seen]), compressed(np.array([s.room for s in seen])))


class Surrogate:
    """A Gaussian process of one reading; `with_data` keeps its kernel."""

    def __init__(self, u: np.ndarray, y: np.ndarray, seed: int):
        n = u.shape[1]
        # lengths of a smooth response, longer where there are more factors
        length = Matern(np.full(n, 0.5 * np.sqrt(n)), (0.15 * np.sqrt(n), 20.0 * np.sqrt(n)), nu=2.5)
        kernel = ConstantKernel(1.0, (0.05, 50.0)) * length + WhiteKernel(0.05, (1e-4, 0.7))
        self._at, self._scale = float(np.mean(y)), max(float(np.std(y)), 1e-9)
        self._gp = GaussianProcessRegressor(kernel, alpha=1e-8, n_restarts_optimizer=1, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # lengths at their bounds: a factor without effect
            self._gp.fit(u, (y - self._at) / self._scale)

    def with_data(self, u: np.ndarray, y: np.ndarray) -> Surrogate:
        other = object.__new__(Surrogate)
        other._at, other._scale = self._at, self._scale
        other._gp = GaussianProcessRegressor(self._gp.kernel_, alpha=1e-8, optimizer=None)
        other._gp.fit(u, (y - self._at) / self._scale)
        return other

    def predict(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the response itself, without the noise of a reading."""
        mean, sd = self._gp.predict(u, return_std=True)
        noise = self._gp.kernel_.k2.noise_level
        sd = np.sqrt(np.maximum(sd**2 - noise, 1e-10))
        return self._at + self._scale * mean, self._scale * sd


@dataclass(frozen=True)
class Belief:
    """Surrogates of the value and of every limit."""

    value: Surrogate
    room: tuple[Surrogate, ...]

    @classmethod
    def of(cls, seen: Readings, seed: int) -> Belief:
        rooms = tuple(Surrogate(seen.u, seen.room[:, i], seed) for i in range(seen.room.shape[1]))
        return cls(Surrogate(seen.u, seen.value, seed), rooms)

    def with_data(self, seen: Readings) -> Belief:
        rooms = tuple(s.with_data(seen.u, seen.room[:, i]) for i, s in enumerate(self.room))
        return Belief(self.value.with_data(seen.u, seen.value), rooms)

    def met(self, u: np.ndarray) -> np.ndarray:
        """Probability that all limits are met, [L]."""
        chance = np.ones(len(u))
        for s in self.room:
            mean, sd = s.predict(u)
            chance *= norm.cdf(mean / sd)
        return chance


def search(
    score: Callable[[np.ndarray], np.ndarray], space: Space, near: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The point that scores highest among those that the vessel holds: a space-filling set, then ever closer ones."""
    drawn = qmc.Sobol(space.n, rng=rng).random(CANDIDATES)
    around = np.clip(np.repeat(near, 64, axis=0) + 0.1 * rng.standard_normal((64 * len(near), space.n)), 0.0, 1.0)
    u = np.vstack([drawn, near, around])
    u = u[space.fits(u)]
    value = score(u)
    for width in 0.12 * 0.4 ** np.arange(ROUNDS):
        parents = u[np.argsort(-value)[:PARENTS]]
        steps = width * rng.standard_normal((20 * PARENTS, space.n))
        steps *= rng.random(steps.shape) < 0.5  # some factors stay, as at a bound they should
        children = np.clip(np.repeat(parents, 20, axis=0)[: len(steps)] + steps[: 20 * len(parents)], 0.0, 1.0)
        children = children[space.fits(children)]
        u, value = np.vstack([u, children]), np.append(value, score(children))
    return np.asarray(u[np.argmax(value)])


def next_batch(seen: Readings, belief: Belief, space: Space, size: int, rng: np.random.Generator) -> np.ndarray:
    """Points [size, D] of largest expected improvement times the probability of meeting the limits."""
    chosen: list[np.ndarray] = []
    for _ in range(size):
        mean, met = belief.value.predict(seen.u)[0], belief.met(seen.u)
        usable = met > 0.5
        best = float(mean[usable].max()) if usable.any() else -np.inf
        near = seen.u[np.argsort(-np.where(usable, mean, -10.0 + met))[:4]]

        def score(u: np.ndarray, belief: Belief = belief, best: float = best) -> np.ndarray:
            if not len(u):
                return np.empty(0)
            chance = belief.met(u)
            if not np.isfinite(best):
                return chance
            mean, sd = belief.value.predict(u)
            z = (mean - best) / sd
            return np.asarray(chance * sd * (z * norm.cdf(z) + norm.pdf(z)))

        u = search(score, space, near, rng)
        rooms = np.array([[s.predict(u[None])[0][0] for s in belief.room]])
        seen = seen.plus(u[None], belief.value.predict(u[None])[0], rooms)
        belief = belief.with_data(seen)
        chosen.append(u)
    return np.array(chosen)


def recommended(seen: Readings, belief: Belief, space: Space, rng: np.random.Generator) -> np.ndarray:
    """The point of the highest predicted value among those that meet the limits for almost sure."""
    mean, met = belief.value.predict(seen.u)[0], belief.met(seen.u)
    near = seen.u[np.argsort(-np.where(met > SURE, mean, -10.0 + met))[:6]]

    def score(u: np.ndarray) -> np.ndarray:
        if not len(u):
            return np.empty(0)
        chance = belief.met(u)
        return np.where(chance >= SURE, belief.value.predict(u)[0], -10.0 + chance)

    return search(score, space, near, rng)


def tried(seen: Readings, belief: Belief, space: Space) -> np.ndarray:
    """The best point that was made, by what is believed of it now; the platform where none is likely to be allowed."""
    mean, met = belief.value.predict(seen.u)[0], belief.met(seen.u)
    return (
        np.asarray(seen.u[np.argmax(np.where(met >= SURE, mean, -np.inf))]) if (met >= SURE).any() else space.platform
    )


def first_batch(space: Space, size: int, rng: np.random.Generator) -> np.ndarray:
    """The platform, half of the rest around it and half wherever the vessel holds it, [size, D]."""
    far = space.fill((size - 1) // 2, rng)
    around: list[np.ndarray] = []
    while len(around) < size - 1 - len(far):
        for u in space.platform + 0.5 * (qmc.Sobol(space.n, rng=rng).random(64) - 0.5):
            inside = np.where(u > 1.0, 2.0 - u, np.abs(u))  # reflected at a bound
            if space.fits(inside[None])[0]:
                around.append(inside)
    return np.vstack([space.platform, far, around[: size - 1 - len(far)]])


def optimise(lab: Laboratory, clone: str, space: Space, runs: int, batch: int, seed: int) -> Iterator[Recommendation]:
    """What would be made after every batch; `runs` vessels in all, the first batch is space-filling."""
    rng = np.random.default_rng(seed)
    # fewer readings than this say nothing of lengths
    first = min(max(batch, 16), runs) if runs > 16 else batch
    seen = measure(lab, clone, space, first_batch(space, first, rng))
    while True:
        belief = Belief.of(seen, seed)
        u = recommended(seen, belief, space, rng)
        made, best = space.decisions(np.array([u, tried(seen, belief, space)]))
        yield Recommendation(lab.used, clone, made, best)
        if len(seen.u) >= runs:
            return
        points = next_batch(seen, belief, space, min(batch, runs - len(seen.u)), rng)
        new = measure(lab, clone, space, points)
        seen = seen.plus(new.u, new.value, new.room)
