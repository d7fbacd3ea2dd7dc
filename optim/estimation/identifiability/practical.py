"""Practical identifiability in words: how well the data determine each parameter, which ones they cannot separate, and
which measurements would help.

The information is that of the normal equations at the optimum. The parameters of groups and vessels are eliminated
(Schur complement), so only the part of it that they cannot absorb counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from optim.errors import FitError
from optim.estimation.data_quality.finding import join_names
from optim.estimation.identifiability.measurements import CandidateMeasurements, Proposal
from optim.estimation.normal_equations import Arrow
from optim.estimation.posterior import Point, Posterior
from optim.parameters import ParameterSpec
from optim.runtime import require_float64

WELL, POORLY, PRIOR = "well determined", "poorly determined", "determined by the prior only"
# posterior over prior standard deviation: below INFORMED the data give three quarters of the information or more, above
# UNINFORMED next to none
INFORMED, UNINFORMED = 0.5, 0.9
# largest standard deviation of a well determined parameter, on the fitted scale (of a logarithm: 35 %)
LARGEST_KNOWN_SD = 0.35
HIGH_CORRELATION = 0.95
UNSEEN_INFORMATION = 1.0  # information from data over that from priors, below which a combination is not determined
LONGEST_SHOWN_STEP = np.log(1.3)  # largest change of a parameter in the sentence of a combination
LEAST_PART = 0.3  # fraction of the largest part, in units of the priors, from which a parameter is in a combination


@dataclass(frozen=True)
class ParameterVerdict:
    """Verdict on one parameter; standard deviations on the fitted scale, at level clone those of the median group."""

    name: str
    level: str  # shared | population | batch | clone
    owner: str
    verdict: str
    sd: float
    prior_sd: float
    shrinkage: float  # sd / prior_sd; 1: the data add no information
    sentence: str


@dataclass(frozen=True)
class PracticalNonIdentifiability:
    """Parameters that the data cannot separate, or one that they do not determine, with proposed measurements.

    `change`: the largest change of a reading, in units of its noise, when `names` change by `factors` together;
    `alone`: the same when only one of them changes. `shrinkage`: posterior over prior sd of the combination.
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
    """Verdicts, non-identifiable combinations (the least determined first), correlated pairs, and all in sentences."""

    parameters: tuple[ParameterVerdict, ...]
    combinations: tuple[PracticalNonIdentifiability, ...]
    pairs: tuple[tuple[str, str, float], ...]
    sentences: tuple[str, ...]

    def verdict_of(self, name: str) -> str:
        """Verdict of a shared parameter, or of the population mean of a group parameter."""
        return next(k.verdict for k in self.parameters if k.name == name and k.level != "clone")


def assess_identifiability(posterior: Posterior, best: Point, *, most: int = 4, proposals: int = 3) -> Identifiability:
    """Assess practical identifiability at the mode `best`, and propose measurements that would improve it.

    At most `most` combinations are reported (twice as many with correlated pairs), each with up to `proposals` readings
    and vessels (0: none). Raises `FitError` when the point cannot be simulated.
    """
    require_float64("assess_identifiability")
    point = best
    if point.arrow is None or point.slopes is None:
        point = replace(best)
        posterior.evaluate([point])
    if point.arrow is None or not np.isfinite(point.cost):
        raise FitError("the simulation at the estimate did not end well, so nothing can be said of its parameters")
    information = _SharedInformation(posterior, point)
    parameters = information.verdicts_of_all()
    pairs = information.correlated_pairs()
    combinations = information.unseen_directions(most)
    reported = {frozenset(names) for names, _ in combinations}
    for a, b, _ in pairs:
        i, j = information.names.index(a), information.names.index(b)
        both_determined = all(
            information.shrinkage[k] < INFORMED and information.sd[k] < LARGEST_KNOWN_SD for k in (i, j)
        )
        if not both_determined and not any({a, b} <= names for names in reported) and len(combinations) < 2 * most:
            combinations.append(((a, b), information.least_known_direction(i, j)))
    candidates = CandidateMeasurements(posterior, point) if proposals and combinations else None
    described = tuple(
        information.describe_direction(names, step, candidates=candidates, proposals=proposals)
        for names, step in combinations
    )
    sentences = [k.sentence for k in parameters if k.verdict != WELL]
    for c in described:
        sentences.append(c.sentence)
        sentences += [p.sentence for p in c.proposals]
    return Identifiability(parameters, described, tuple(pairs), tuple(sentences))


class _SharedInformation:
    """Information on the shared part (shared, population, batch) from data and from priors."""

    def __init__(self, posterior: Posterior, point: Point):
        assert point.arrow is not None
        self.at, self.point = posterior, point
        rows = posterior.shared_part_specs
        prior = np.array([float(row.prior_score(point.shared[i])[2]) for i, row in enumerate(rows)])
        # without a prior, the width of the bounds stands for its standard deviation
        width = np.array([np.subtract(*row.fitted_bounds()[::-1]) for row in rows])
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

    def verdicts_of_all(self) -> tuple[ParameterVerdict, ...]:
        """Verdicts of the shared part, and of the group parameters."""
        at, found = self.at, list[ParameterVerdict]()
        fixed, _ = at.immovable_parameters(self.point)
        for i, row in enumerate(at.shared_part_specs):
            level = "shared" if i < at.n_shared else "population" if i < at.n_shared + at.n_per_group else "batch"
            owner = "" if level != "batch" else at.problem.batches[(i - at.n_shared - at.n_per_group) // at.n_per_batch]
            prior_sd = float(1.0 / np.sqrt(self.precision[i]))
            found.append(_knowledge(row, level, owner, float(self.sd[i]), prior_sd, bool(fixed[i])))
        if at.n_per_group:
            _, own = self.arrow.variances()
            for i, row in enumerate(at.problem.group_specs):
                sd = float(np.sqrt(np.median(own[:, i])))
                found.append(_knowledge(row, "clone", "", sd, float(at.spread[i]), False, at.problem.group_by))
        return tuple(found)

    def correlated_pairs(self) -> list[tuple[str, str, float]]:
        """Pairs with a posterior correlation above `HIGH_CORRELATION` in size, as (name, name, correlation)."""
        correlation = self.covariance / np.outer(self.sd, self.sd)
        first, second = np.nonzero(np.triu(np.abs(correlation) > HIGH_CORRELATION, 1))
        return [(self.names[i], self.names[j], float(correlation[i, j])) for i, j in zip(first, second, strict=True)]

    def unseen_directions(self, most: int) -> list[tuple[tuple[str, ...], np.ndarray]]:
        """Directions [n] on which the data are less informative than the priors, with the names that matter in them."""
        root = np.sqrt(self.precision)
        value, vector = np.linalg.eigh(self.data / np.outer(root, root))
        found: list[tuple[tuple[str, ...], np.ndarray]] = []
        for k in np.flatnonzero(value < UNSEEN_INFORMATION)[:most]:
            step = vector[:, k] / root
            step = step * np.sign(step[np.argmax(np.abs(vector[:, k]))])
            # small parts without which the data would show the change
            alone = np.sqrt(np.maximum(np.diag(self.data), 0.0)) * np.abs(step)
            part = np.abs(vector[:, k]) > LEAST_PART * np.abs(vector[:, k]).max()
            part |= (alone > 1.0) & (alone > LEAST_PART * alone.max())
            weight = np.maximum(np.abs(vector[:, k]), alone / max(alone.max(), 1.0))
            order = [i for i in np.argsort(-weight) if part[i]][:4]
            found.append((tuple(self.names[i] for i in order), step))
        return found

    def least_known_direction(self, i: int, j: int) -> np.ndarray:
        """The direction [n] in which two parameters are least determined, the others following by their correlation."""
        root = np.sqrt(self.precision[[i, j]])
        _, vector = np.linalg.eigh(self.covariance[np.ix_([i, j], [i, j])] * np.outer(root, root))
        target = np.zeros(len(self.sd))
        target[[i, j]] = vector[:, -1] * root
        step = np.asarray(self.covariance @ target)
        return step * np.sign(step[i])

    def describe_direction(
        self, names: tuple[str, ...], step: np.ndarray, *, candidates: CandidateMeasurements | None, proposals: int
    ) -> PracticalNonIdentifiability:
        """A direction in words, with proposed measurements."""
        at = self.at
        of = [self.names.index(name) for name in names]
        step = step * min(1.0, LONGEST_SHOWN_STEP / float(np.abs(step[of]).max()))
        change = self._change(step)
        alone = max(self._change(np.where(np.arange(len(step)) == i, step, 0.0)) for i in of) if len(of) > 1 else change
        values = [(at.shared_part_specs[i], float(self.point.shared[i]), float(step[i])) for i in of]
        factors = tuple(float(row.to_natural(np.array(u + d)) / row.to_natural(np.array(u))) for row, u, d in values)
        moves = join_names([f"{name} by {100 * (f - 1):+.2g} %" for name, f in zip(names, factors, strict=True)])
        followed = " (clones following)" if at.block_width else ""
        if len(names) == 1:
            sentence = (
                f"{names[0]} is not seen by these data: changing it by {100 * (factors[0] - 1):+.2g} %{followed} "
                f"changes no reading by more than {max(change, 0.01):.2g} of its noise"
            )
        else:
            sentence = (
                f"{join_names(list(names))} cannot be told apart by these data: changing {moves} together{followed} "
                f"changes no reading by more than {max(change, 0.01):.2g} of its noise"
            )
            if alone > 2.0 * change:
                sentence += f" (one of them alone: {alone:.2g})"
        # the coordinate along the direction, as weights of the parameters, in units of the priors
        target = self.precision * step
        target = target / np.sqrt(target @ (target / self.precision))
        shrinkage = float(np.sqrt(target @ self.covariance @ target))
        chosen: tuple[Proposal, ...] = ()
        if candidates is not None:
            ways = candidates.best_readings(self.arrow, target, proposals) + candidates.best_vessels(
                self.arrow, target, proposals
            )
            chosen = tuple(sorted(ways, key=lambda w: -w.gain))
        return PracticalNonIdentifiability(names, factors, shrinkage, change, alone, sentence, chosen)

    def _change(self, step: np.ndarray) -> float:
        """Largest change of a reading, in units of its noise, for a step of the shared part [n]; the blocks follow."""
        assert self.point.slopes is not None
        block = -np.einsum("cmn,n->cm", self.gain, step)
        lanes = self.at.lane_parameters(Point(step, block, self.point.weight))
        change = np.einsum("bq,bqm->bm", lanes, self.point.slopes.jacobian) * self.point.weight[:, None]
        return float(np.abs(change).max(initial=0.0))


def _knowledge(
    row: ParameterSpec, level: str, owner: str, sd: float, prior_sd: float, at_bound: bool, group: str = "clone"
) -> ParameterVerdict:
    shrinkage = sd / prior_sd
    verdict = WELL if shrinkage < INFORMED and sd < LARGEST_KNOWN_SD else PRIOR if shrinkage > UNINFORMED else POORLY
    who = f"{row.name} of batch {owner}" if owner else row.name
    who = f"{row.name} of single {group}s" if level == "clone" else who
    unit = f"{100 * sd:.0f} %" if row.scale == "log" else f"{sd:.2g} on its {row.scale} scale"
    what = "what is assumed beforehand" if row.prior_sd is not None else "its bounds"
    sentence = {
        WELL: f"{who} is well determined: known to {unit}, {1.0 / shrinkage:.1f} times better than {what}",
        POORLY: f"{who} is poorly determined: known to {unit}, {1.0 / shrinkage:.1f} times better than {what}",
        PRIOR: f"{who} is determined by {what} only ({unit}); these data say next to nothing of it",
    }[verdict]
    if at_bound:
        sentence += "; it lies at a bound"
    return ParameterVerdict(row.name, level, owner, verdict, sd, prior_sd, shrinkage, sentence)
