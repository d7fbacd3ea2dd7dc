"""Sequential selection of a batch by an acquisition function: knowledge gradient, D-optimal, space-filling or random.

Parameters are normal, readings linear in them, and the decision takes the alternative with the highest expected value.
A run moves expectations before the decision is taken; what the best of them gains on average is the run's value (the
knowledge gradient for correlated beliefs, Frazier et al. 2009, INFORMS J Comput 21:599). Draws of parameters are common
to all candidates; those of noise to all candidates of a round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from optim.errors import ConfigError
from optim.settings.doe import SuggestSettings

# candidates that are weighed at a time: bounds memory
RUNS_AT_ONCE = 32


@dataclass(frozen=True)
class LinearValues:
    """Values of alternatives, linear in the parameters: mean + slope (theta - its mean). `group` [A] is their clone."""

    mean: np.ndarray  # [A]
    slope: np.ndarray  # [A, D]
    group: np.ndarray


@dataclass(frozen=True)
class Candidates:
    """Candidate runs [R] with the information of their readings; each may be selected more than once.

    The readings of a run say as much as Q readings `root` @ theta[places] with unit noise. `where` [R, F] tells
    processes apart, each coordinate between 0 and 1; `group` is the clone.
    """

    root: np.ndarray  # [R, Q, Q]
    places: np.ndarray  # [R, Q]
    samples: np.ndarray  # [R] what each costs
    group: np.ndarray
    where: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Chosen:
    """One run of a batch, given those before it."""

    run: int  # index of the candidate
    gain: float  # expected increase of the value of the best alternative
    error: float  # of `gain`, from the number of draws
    information: float  # expected gain of information on all parameters, in nats
    loss: float  # what is expected to be lost after it for not knowing the best alternative
    chance: float  # that the group decided for after it is the best
    covariance: np.ndarray  # [D, D] after it


class Knowledge:
    """State of knowledge after some runs, for every draw of the true parameters and of the readings of those runs."""

    def __init__(self, covariance: np.ndarray, alternatives: LinearValues, *, draws: int, seed: int):
        size = len(covariance)
        self.covariance, self.alternatives = covariance, alternatives
        self.seed, self.round = seed, 0
        # numbers that fill space find a mean with fewer draws; their opposites make it exact where values are linear
        half = qmc.Sobol(size, rng=np.random.default_rng(seed)).random(max(2, draws // 2))
        z = ndtri(np.clip(half, 1e-9, 1.0 - 1e-9))
        root = np.linalg.cholesky(covariance + 1e-12 * np.diag(np.diag(covariance)))
        self.away = np.concatenate([z, -z]) @ root.T  # [N, D] truth less what is expected of it
        self.true = alternatives.mean + self.away @ alternatives.slope.T  # [N, A]
        self.expected = np.tile(alternatives.mean, (len(self.away), 1))  # [N, A]

    def noise(self, width: int) -> np.ndarray:
        """[N, Q], new in every round."""
        rng = np.random.default_rng((self.seed, 1 + self.round))
        z = rng.standard_normal((len(self.away) // 2, width))
        return np.concatenate([z, -z])

    def reading_gain(self, c: Candidates, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Kalman gain of the readings of runs, covariance[:, places] root^T L^-T [R, D, Q], and L of their own."""
        root, at = c.root[runs], c.places[runs]
        across = np.swapaxes(self.covariance[:, at], 0, 1) @ np.swapaxes(root, 1, 2)
        low = np.linalg.cholesky(np.eye(root.shape[1]) + root @ np.take_along_axis(across, at[:, :, None], axis=1))
        return np.swapaxes(np.linalg.solve(low, np.swapaxes(across, 1, 2)), 1, 2), low

    def after_run(
        self, c: Candidates, runs: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The posterior after each of some runs, were it the next.

        Returns expected values [R, N, A], Kalman gain [R, D, Q] and innovations [R, N, Q].
        """
        gain, low = self.reading_gain(c, runs)
        inverse = np.swapaxes(np.linalg.inv(low), 1, 2)
        # of truth and noise in what is read, whitened
        told = np.swapaxes(c.root[runs], 1, 2) @ inverse
        surprise = np.swapaxes(self.away.T[c.places[runs]], 1, 2) @ told + noise @ inverse
        return self.expected + surprise @ np.swapaxes(self.alternatives.slope @ gain, 1, 2), gain, surprise

    def information_gain(self, c: Candidates, runs: np.ndarray) -> np.ndarray:
        """Expected gain of information on all parameters, [R] in nats (the D-optimal acquisition function)."""
        low = self.reading_gain(c, runs)[1]
        found: np.ndarray = np.sum(np.log(np.einsum("rqq->rq", low)), axis=1)
        return found

    def expected_gain(self, c: Candidates, runs: np.ndarray) -> np.ndarray:
        """Knowledge gradient of runs in every draw [R, N]: the rise of the best expected value after each."""
        noise, now = self.noise(c.root.shape[1]), self.expected.max(axis=1)
        parts = [runs[i : i + RUNS_AT_ONCE] for i in range(0, len(runs), RUNS_AT_ONCE)]
        return np.concatenate([self.after_run(c, some, noise)[0].max(axis=2) - now for some in parts])

    def add_run(self, c: Candidates, run: int) -> Chosen:
        """Add a run to what is known, and return what it is worth given the runs before it."""
        one = np.array([run])
        information = float(self.information_gain(c, one)[0])
        moved, gain, surprise = (part[0] for part in self.after_run(c, one, self.noise(c.root.shape[1])))
        better = moved.max(axis=1) - self.expected.max(axis=1)
        self.expected, self.away = moved, self.away - surprise @ gain.T
        self.covariance = self.covariance - gain @ gain.T
        self.round += 1
        loss, chance = self.expected_loss_and_probability()
        error = float(better.std() / np.sqrt(len(better)))
        return Chosen(run, float(better.mean()), error, information, loss, chance, self.covariance)

    def expected_loss_and_probability(self) -> tuple[float, float]:
        """Expected loss of deciding now, and the probability that the group decided for is the best."""
        group = self.alternatives.group
        right = group[self.expected.argmax(axis=1)] == group[self.true.argmax(axis=1)]
        # expectations of what is decided for are as good as its true values on average, and scatter less
        lost = self.true.max(axis=1) - self.expected.max(axis=1)
        return float(lost.mean()), float(right.mean())

    def probability_best(self) -> np.ndarray:
        """Probability [A] of every alternative to be the best, given what is known now."""
        return np.bincount(self.true.argmax(axis=1), minlength=self.true.shape[1]) / len(self.true)


def select_batch(
    covariance: np.ndarray,
    alternatives: LinearValues,
    candidates: Candidates,
    *,
    options: SuggestSettings,
    seed: int = 0,
) -> list[Chosen]:
    """A batch of runs by the acquisition function `options.by`, each given those before it (greedy batch).

    The samples of the batch stay within `options.samples`, where that is given.

    Raises `ConfigError` when runs or samples do not suffice for anything.
    """
    by, runs, samples, draws = options.by, options.runs, options.samples, options.draws
    if not len(candidates):
        raise ConfigError("suggest: there is no run to choose from")
    least = int(candidates.samples.min())
    budget = int(candidates.samples.max()) * runs if samples is None else samples
    if budget < least * runs:
        raise ConfigError(
            f"suggest.samples: {budget} samples pay for {budget // least} of {runs} runs, of at least {least} samples "
            f"each; raise it to {least * runs}, lower suggest.runs, or give suggest.days fewer days"
        )
    ways = [False] if by in ("space_filling", "random") else [False, True]
    if budget >= int(candidates.samples.max()) * runs:
        ways = [False]
    # where samples are scarce: by worth, and by worth per sample; one of the two is never far from the best batch
    # (Leskovec et al. 2007, KDD 13:420)
    states = [Knowledge(covariance, alternatives, draws=draws, seed=seed) for _ in ways]
    found = [_greedy(by, s, candidates, runs, budget, per) for s, per in zip(states, ways, strict=True)]
    worth = [sum(c.information if by == "d_optimal" else c.gain for c in batch) for batch in found]
    return found[int(np.argmax(worth))]


def _greedy(by: str, s: Knowledge, c: Candidates, runs: int, budget: int, per_sample: bool) -> list[Chosen]:
    rng = np.random.default_rng((s.seed, 0))
    chosen: list[Chosen] = []
    for left in range(runs, 0, -1):
        able = np.flatnonzero(c.samples <= budget - (left - 1) * int(c.samples.min()))
        cost = c.samples[able] if per_sample else np.ones(len(able))
        if by == "random":
            run = int(rng.choice(able))
        elif by == "space_filling":
            run = int(able[_farthest(c, able, [x.run for x in chosen], rng)])
        elif by == "d_optimal":
            run = int(able[np.argmax(s.information_gain(c, able) / cost)])
        else:
            run = int(able[_worthiest(s, c, able, cost)])
        chosen.append(s.add_run(c, run))
        budget -= int(c.samples[run])
    return chosen


def _farthest(c: Candidates, able: np.ndarray, taken: list[int], rng: np.random.Generator) -> int:
    """The candidate whose nearest neighbour among those taken is farthest, of another clone before all."""
    if not taken:
        return int(rng.integers(len(able)))
    square = np.mean((c.where[able][:, None] - c.where[taken][None]) ** 2, axis=2)
    nearest_one = np.min(square + 2.0 * (c.group[able][:, None] != c.group[taken][None]), axis=1)
    best = np.flatnonzero(nearest_one >= nearest_one.max() - 1e-12)
    return int(rng.choice(best))


def _worthiest(s: Knowledge, c: Candidates, able: np.ndarray, cost: np.ndarray) -> int:
    """The candidate with the largest gain; among those the draws cannot tell apart, what tells alternatives apart."""
    gains = s.expected_gain(c, able) / cost[:, None]  # [R, N]
    mean = gains.mean(axis=1)
    best = int(np.argmax(mean))
    away = gains[best] - gains
    tied = np.flatnonzero(away.mean(axis=1) <= away.std(axis=1) / np.sqrt(gains.shape[1]) + 1e-12)
    if len(tied) == 1:
        return best
    contrast, weight = _in_question(s)
    sharper = np.sum(weight[:, None] * (contrast @ s.reading_gain(c, able[tied])[0]) ** 2, axis=(1, 2)) / cost[tied]
    return int(tied[np.argmax(sharper)])


def _in_question(s: Knowledge) -> tuple[np.ndarray, np.ndarray]:
    """Contrasts of all alternatives with the leading one [A, D], and how much each matters, by how near it comes."""
    a = s.alternatives
    lead = int(np.argmax(a.mean))
    contrast = a.slope - a.slope[lead]
    variance = np.maximum(np.einsum("ad,de,ae->a", contrast, s.covariance, contrast), 1e-30)
    near = -0.5 * (a.mean[lead] - a.mean) ** 2 / variance
    near[contrast.any(axis=1) == 0] = -np.inf
    if not np.isfinite(near).any():
        return contrast, np.zeros(len(near))
    # relative to its own variance: a wide contrast that nothing narrows is not what matters
    weight: np.ndarray = np.exp(near - near.max()) / variance
    return contrast, weight
