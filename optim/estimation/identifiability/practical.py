"""Identifiability in words: what the data say of each parameter, what they cannot tell apart, and what would.

Information is that of the normal equations at the optimum. Clones and vessels are eliminated (Schur complement), so a
combination counts as seen only by what they cannot take up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from optim.errors import FitError
from optim.estimation.data_quality.finding import listed
from optim.estimation.identifiability.measurements import Candidates, Proposal
from optim.estimation.normal_equations import Arrow
from optim.estimation.posterior import Point, Posterior
from optim.parameters import ParameterSpec
from optim.runtime import require_float64

WELL, POORLY, PRIOR = "well determined", "poorly determined", "determined by the prior only"
# posterior over prior standard deviation: below, the data have at least three quarters of the say; above, none
INFORMED, UNINFORMED = 0.5, 0.9
KNOWN = 0.35  # standard deviation, on the fitted scale (of a logarithm: 35 %), that may still count as known
CORRELATED = 0.95
UNSEEN = 1.0  # a combination of which the data know less than the priors do
LONGEST = np.log(1.3)  # the step by which a combination is shown
PART = 0.3  # share of the largest part, in units of the priors, from which a parameter is part of a combination


@dataclass(frozen=True)
class Knowledge:
    """What is known of one parameter. Standard deviations on the fitted scale; of clone level, the middle clone's."""

    name: str
    level: str  # shared | population | batch | clone
    owner: str
    verdict: str
    sd: float
    prior_sd: float
    shrinkage: float  # sd / prior_sd: 1 = the data say nothing
    sentence: str


@dataclass(frozen=True)
class Combination:
    """Parameters that the data cannot tell apart (or one that they do not see), and what would help.

    `change`: by how much, in units of its noise, the reading changes most when `names` move by `factors`; `alone`: the
    same when only one of them moves, at most. `shrinkage` is that of the combination.
    """

    names: tuple[str, ...]
    factors: tuple[float, ...]
    shrinkage: float
    change: float
    alone: float
    sentence: str
    proposals: tuple[Proposal, ...]


@dataclass(frozen=True)
class Identifiability:
    """Verdicts, combinations (the least seen first), correlated pairs, and all of it in sentences."""

    parameters: tuple[Knowledge, ...]
    combinations: tuple[Combination, ...]
    pairs: tuple[tuple[str, str, float], ...]
    sentences: tuple[str, ...]

    def verdict(self, name: str) -> str:
        """Of a shared parameter, or the population mean of a clone parameter."""
        return next(k.verdict for k in self.parameters if k.name == name and k.level != "clone")


def identify(posterior: Posterior, best: Point, most: int = 4, proposals: int = 3) -> Identifiability:
    """Judge every parameter at the best point, and look for measurements that would separate what is not seen.

    `most` combinations are told, each with so many `proposals` of readings and of vessels (0: none are looked for).
    Raises `FitError` when the point cannot be simulated.
    """
    require_float64("identify")
    point = best
    if point.arrow is None or point.slopes is None:
        point = replace(best)
        posterior.evaluate([point])
    if point.arrow is None or not np.isfinite(point.cost):
        raise FitError("the simulation at the estimate did not end well, so nothing can be said of its parameters")
    known = _Known(posterior, point)
    parameters = known.parameters()
    pairs = known.pairs()
    combinations = known.combinations(most)
    told = {frozenset(names) for names, _ in combinations}
    for a, b, _ in pairs:
        i, j = known.names.index(a), known.names.index(b)
        both_known = all(known.shrinkage[k] < INFORMED and known.sd[k] < KNOWN for k in (i, j))
        if not both_known and not any({a, b} <= names for names in told) and len(combinations) < 2 * most:
            combinations.append(((a, b), known.along(i, j)))
    candidates = Candidates(posterior, point) if proposals and combinations else None
    told_of = tuple(known.tell(names, step, candidates, proposals) for names, step in combinations)
    sentences = [k.sentence for k in parameters if k.verdict != WELL]
    for c in told_of:
        sentences.append(c.sentence)
        sentences += [p.sentence for p in c.proposals]
    return Identifiability(parameters, told_of, tuple(pairs), tuple(sentences))


class _Known:
    """Information on the shared part (shared, population, batch), from data and from priors, in units of the latter."""

    def __init__(self, posterior: Posterior, point: Point):
        assert point.arrow is not None
        self.at, self.point = posterior, point
        rows = posterior.shared_part_specs
        prior = np.array([float(row.prior_score(point.shared[i])[2]) for i, row in enumerate(rows)])
        # where there is no prior, the bounds say what is possible
        width = np.array([np.subtract(*row.bounds()[::-1]) for row in rows])
        self.precision = np.where(prior > 0.0, prior, 12.0 / width**2)
        self.arrow: Arrow = replace(point.arrow, ss=point.arrow.ss + np.diag(self.precision - prior))
        schur, self.gain = self.arrow.schur_complement()
        self.data = 0.5 * (schur + schur.T) - np.diag(self.precision)
        self.covariance = np.linalg.inv(0.5 * (schur + schur.T))
        self.sd = np.sqrt(np.maximum(np.diag(self.covariance), 0.0))
        self.shrinkage = self.sd * np.sqrt(self.precision)
        batches = [f" of batch {b}" for b in posterior.problem.batches for _ in range(posterior.n_per_batch)]
        first = posterior.n_shared + posterior.n_per_group
        self.names = [row.name + ("" if i < first else batches[i - first]) for i, row in enumerate(rows)]

    def parameters(self) -> tuple[Knowledge, ...]:
        at, found = self.at, list[Knowledge]()
        held, _ = at.immovable_parameters(self.point)
        for i, row in enumerate(at.shared_part_specs):
            level = "shared" if i < at.n_shared else "population" if i < at.n_shared + at.n_per_group else "batch"
            owner = "" if level != "batch" else at.problem.batches[(i - at.n_shared - at.n_per_group) // at.n_per_batch]
            prior_sd = float(1.0 / np.sqrt(self.precision[i]))
            found.append(_knowledge(row, level, owner, float(self.sd[i]), prior_sd, bool(held[i])))
        if at.n_per_group:
            _, own = self.arrow.variances()
            for i, row in enumerate(at.problem.group_specs):
                sd = float(np.sqrt(np.median(own[:, i])))
                found.append(_knowledge(row, "clone", "", sd, float(at.spread[i]), False, at.problem.group_by))
        return tuple(found)

    def pairs(self) -> list[tuple[str, str, float]]:
        """Pairs whose correlation, given data and priors, is near one."""
        correlation = self.covariance / np.outer(self.sd, self.sd)
        first, second = np.nonzero(np.triu(np.abs(correlation) > CORRELATED, 1))
        return [(self.names[i], self.names[j], float(correlation[i, j])) for i, j in zip(first, second, strict=True)]

    def combinations(self, most: int) -> list[tuple[tuple[str, ...], np.ndarray]]:
        """Directions [n] of which the data know less than the priors, with the parameters that matter in them."""
        root = np.sqrt(self.precision)
        value, vector = np.linalg.eigh(self.data / np.outer(root, root))
        found: list[tuple[tuple[str, ...], np.ndarray]] = []
        for k in np.flatnonzero(value < UNSEEN)[:most]:
            step = vector[:, k] / root
            step = step * np.sign(step[np.argmax(np.abs(vector[:, k]))])
            # parts that are small, but whose absence the data would see
            alone = np.sqrt(np.maximum(np.diag(self.data), 0.0)) * np.abs(step)
            part = np.abs(vector[:, k]) > PART * np.abs(vector[:, k]).max()
            part |= (alone > 1.0) & (alone > PART * alone.max())
            weight = np.maximum(np.abs(vector[:, k]), alone / max(alone.max(), 1.0))
            order = [i for i in np.argsort(-weight) if part[i]][:4]
            found.append((tuple(self.names[i] for i in order), step))
        return found

    def along(self, i: int, j: int) -> np.ndarray:
        """The direction [n] in which two parameters are least known, all else following as it does."""
        root = np.sqrt(self.precision[[i, j]])
        _, vector = np.linalg.eigh(self.covariance[np.ix_([i, j], [i, j])] * np.outer(root, root))
        target = np.zeros(len(self.sd))
        target[[i, j]] = vector[:, -1] * root
        step = np.asarray(self.covariance @ target)
        return step * np.sign(step[i])

    def tell(
        self, names: tuple[str, ...], step: np.ndarray, candidates: Candidates | None, proposals: int
    ) -> Combination:
        """A direction as a sentence, and what would help."""
        at = self.at
        of = [self.names.index(name) for name in names]
        step = step * min(1.0, LONGEST / float(np.abs(step[of]).max()))
        change = self._change(step)
        alone = max(self._change(np.where(np.arange(len(step)) == i, step, 0.0)) for i in of) if len(of) > 1 else change
        values = [(at.shared_part_specs[i], float(self.point.shared[i]), float(step[i])) for i in of]
        factors = tuple(float(row.backward(np.array(u + d)) / row.backward(np.array(u))) for row, u, d in values)
        moves = listed([f"{name} by {100 * (f - 1):+.2g} %" for name, f in zip(names, factors, strict=True)])
        followed = " (clones following)" if at.block_width else ""
        if len(names) == 1:
            sentence = (
                f"{names[0]} is not seen by these data: changing it by {100 * (factors[0] - 1):+.2g} %{followed} "
                f"changes no reading by more than {max(change, 0.01):.2g} of its noise"
            )
        else:
            sentence = (
                f"{listed(list(names))} cannot be told apart by these data: changing {moves} together{followed} "
                f"changes no reading by more than {max(change, 0.01):.2g} of its noise"
            )
            if alone > 2.0 * change:
                sentence += f" (one of them alone: {alone:.2g})"
        # the coordinate along the direction, in units of the priors
        target = self.precision * step
        target = target / np.sqrt(target @ (target / self.precision))
        shrinkage = float(np.sqrt(target @ self.covariance @ target))
        found: tuple[Proposal, ...] = ()
        if candidates is not None:
            ways = candidates.readings(self.arrow, target, proposals) + candidates.vessels(
                self.arrow, target, proposals
            )
            found = tuple(sorted(ways, key=lambda w: -w.gain))
        return Combination(names, factors, shrinkage, change, alone, sentence, found)

    def _change(self, step: np.ndarray) -> float:
        """The largest change of a reading, in units of its noise, for a step of the shared part; clones follow."""
        assert self.point.slopes is not None
        block = -np.einsum("cmn,n->cm", self.gain, step)
        lanes = self.at.lane_parameters(Point(step, block, self.point.weight))
        change = np.einsum("bq,bqm->bm", lanes, self.point.slopes.jacobian) * self.point.weight[:, None]
        return float(np.abs(change).max(initial=0.0))


def _knowledge(
    row: ParameterSpec, level: str, owner: str, sd: float, prior_sd: float, held: bool, group: str = "clone"
) -> Knowledge:
    shrinkage = sd / prior_sd
    verdict = WELL if shrinkage < INFORMED and sd < KNOWN else PRIOR if shrinkage > UNINFORMED else POORLY
    who = f"{row.name} of batch {owner}" if owner else row.name
    who = f"{row.name} of single {group}s" if level == "clone" else who
    unit = f"{100 * sd:.0f} %" if row.scale == "log" else f"{sd:.2g} on its {row.scale} scale"
    what = "what is assumed beforehand" if row.prior_sd is not None else "its bounds"
    sentence = {
        WELL: f"{who} is well determined: known to {unit}, {1.0 / shrinkage:.1f} times better than {what}",
        POORLY: f"{who} is poorly determined: known to {unit}, {1.0 / shrinkage:.1f} times better than {what}",
        PRIOR: f"{who} is determined by {what} only ({unit}); these data say next to nothing of it",
    }[verdict]
    if held:
        sentence += "; it lies at a bound"
    return Knowledge(row.name, level, owner, verdict, sd, prior_sd, shrinkage, sentence)
