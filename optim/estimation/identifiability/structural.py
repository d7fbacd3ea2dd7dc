"""Structural identifiability: combinations of parameters that even perfect readings do not determine.

The readings are replaced by the model's own predictions and their noise is made very small. What is uncertain even then
is due to the model and the design, not to the quality of the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from optim.errors import FitError
from optim.estimation.noise import MEASURED
from optim.estimation.normal_equations import Arrow
from optim.estimation.parameter_index import ParameterIndex, all_parameters
from optim.estimation.posterior import Parts, Point, Posterior, Readings
from optim.runtime import require_float64

# noise of perfect readings, as a fraction of the stated noise
PERFECT_NOISE = 1e-3
# standard deviation, in units of the scale of a parameter, from which a direction is not identifiable
UNIDENTIFIABLE_SD = 1.0
# sensitivities must be exact, or errors of the integrator would look like information
TIGHT_RTOL, TIGHT_ATOL = 1e-9, 1e-10
# entries of a direction below this share of its largest are round-off
ROUND_OFF_ENTRY = 0.02


@dataclass(frozen=True)
class StructuralNonIdentifiability:
    """A direction along which no reading changes, on the fitted scale; its largest entry is 1.

    Where it is the same for several groups it is stated once: `owners` are the groups, () for shared parameters alone.
    """

    names: tuple[str, ...]
    direction: np.ndarray
    owners: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The direction in words."""
        whose = f" (of {', '.join(self.owners)})" if self.owners else ""
        if len(self.names) == 1:
            return f"nothing that is measured depends on {self.names[0]}{whose}"
        rest = ", ".join(
            f"{name} {'rises' if d > 0.0 else 'falls'} {abs(d):.2g} times as much"
            for name, d in zip(self.names[1:], self.direction[1:], strict=True)
        )
        return (
            f"{' and '.join(self.names)}{whose} cannot be told apart: no reading changes when {self.names[0]} rises "
            f"and {rest}, on the scale on which they are fitted"
        )


def structural_identifiability(
    posterior: Posterior, point: Point, known: Sequence[str] = ("batch", "vessel")
) -> tuple[StructuralNonIdentifiability, ...]:
    """Structurally non-identifiable combinations at `point`, for readings of the same design; () when there are none.

    Only priors of the levels `known` count, since the experimenter controls a vessel's and a batch's deviations.
    Pooling does not: the parameters of a group must follow from its own vessels, given the shared ones. Population
    means are left out: they are as identifiable as the parameters of the groups. Cost is linear in the number of
    groups. Raises `FitError` when `point` cannot be simulated.
    """
    require_float64("structural_identifiability")
    p, data, prior = _information(posterior, point, known)
    every = all_parameters(p)
    shared = [x for x in every if x.level in ("shared", "batch")]
    at = np.array([x.column for x in shared], int)
    scale = np.array([_scale(x) for x in shared])
    ss = _perfect(data.ss, prior.ss)[np.ix_(at, at)] * np.outer(scale, scale)
    found: list[StructuralNonIdentifiability] = []
    gains: list[tuple[list[ParameterIndex], np.ndarray]] = []
    for c, clone in enumerate(p.problem.groups):
        own = [x for x in every if x.group == c]
        columns = np.array([x.column for x in own], int)
        its = np.array([_scale(x) for x in own])
        cc = _perfect(data.cc[c], prior.cc[c])[np.ix_(columns, columns)] * np.outer(its, its)
        cs = _perfect(data.cs[c], prior.cs[c])[np.ix_(columns, at)] * np.outer(its, scale)
        open_, inverse = _split(cc)
        found += [_combination(own, direction, clone) for direction in _plain(open_)]
        gains.append((own, inverse @ cs))
        ss = ss - cs.T @ inverse @ cs
    for direction in _plain(_split(ss)[0]):
        found.append(_with_clones(shared, direction, gains))
    return _merged(found)


def _information(posterior: Posterior, point: Point, known: Sequence[str]) -> tuple[Posterior, Arrow, Arrow]:
    """The posterior with tight tolerances, and information from perfect readings and from priors of known levels."""
    integrator = posterior.problem.integrator
    tight = replace(integrator, rtol=min(integrator.rtol, TIGHT_RTOL), atol=min(integrator.atol, TIGHT_ATOL))
    p = Posterior(replace(posterior.problem, integrator=tight), posterior.noise, posterior.spread)
    v = p.problem.vessels
    y, status = p.problem.predict(p.lane_parameters(point))
    if status[point.weight > 0.0].any():
        raise FitError("the model cannot be simulated at this point, so that its structure cannot be looked at")
    perfect = Readings(np.where((v.censored == MEASURED) & (v.weight > 0.0), y, v.value), v.censored)
    none = np.zeros(point.shared.shape), np.zeros(point.block.shape)
    ones: Parts = none[0].copy(), none[1].copy()
    for index in all_parameters(p):
        if index.level in known:
            index.set_in(*ones, 1.0)
    both = [replace(point, readings=perfect, prior_weight=weight) for weight in (none, ones)]
    p.evaluate(both)
    data, with_prior = (x.arrow for x in both)
    assert data is not None
    assert with_prior is not None
    prior = Arrow(*(getattr(with_prior, n) - getattr(data, n) for n in ("ss", "cs", "cc", "gs", "gc")))
    return p, data, prior


def _perfect(data: np.ndarray, prior: np.ndarray) -> np.ndarray:
    return np.asarray(data / PERFECT_NOISE**2 + prior)


def _scale(place: ParameterIndex) -> float:
    """Scale of a large change: a factor e (also of the odds), else the prior's sd or a quarter of the range."""
    if place.spec.scale != "identity":
        return 1.0
    lower, upper = place.spec.fitted_bounds()
    return min(place.spec.prior_sd_fitted() or np.inf, 0.25 * (upper - lower))


def _split(information: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-identifiable directions [k, n], and the inverse of the information on all others."""
    if not len(information):
        return np.zeros((0, 0)), np.zeros((0, 0))
    values, vectors = np.linalg.eigh(0.5 * (information + information.T))
    open_ = values < 1.0 / UNIDENTIFIABLE_SD**2
    good = vectors[:, ~open_]
    return vectors[:, open_].T, (good / values[~open_]) @ good.T


def _plain(basis: np.ndarray) -> np.ndarray:
    """Basis of the same space of directions [k, n] with as few parameters each as possible (echelon form)."""
    basis = basis.copy()
    for i in range(len(basis)):
        # the largest entry of the rows that are left
        row, column = divmod(int(np.argmax(np.abs(basis[i:]))), basis.shape[1])
        basis[[i, i + row]] = basis[[i + row, i]]
        basis[i] /= basis[i, column]
        others = np.arange(len(basis)) != i
        basis[others] -= np.outer(basis[others, column], basis[i])
    return basis


def _combination(own: Sequence[ParameterIndex], direction: np.ndarray, clone: str) -> StructuralNonIdentifiability:
    direction = direction * np.array([_scale(x) for x in own])
    names = [x.full_name if x.level == "vessel" else x.spec.name for x in own]
    return _sorted(names, direction, (clone,))


def _with_clones(
    shared: Sequence[ParameterIndex], direction: np.ndarray, gains: list[tuple[list[ParameterIndex], np.ndarray]]
) -> StructuralNonIdentifiability:
    """A direction of the shared parameters, with the compensating changes of the group parameters."""
    names = [x.full_name for x in shared]
    entries = list(direction * np.array([_scale(x) for x in shared]))
    answers: dict[str, list[float]] = {}
    for own, gain in gains:
        for place, entry in zip(own, -gain @ direction, strict=True):
            answers.setdefault(place.spec.name, []).append(float(entry) * _scale(place))
    owners: tuple[str, ...] = ()
    for name, several in answers.items():
        names.append(f"{name} of each")
        entries.append(float(np.mean(several)))
    return _sorted(names, np.array(entries), owners)


def _sorted(names: Sequence[str], direction: np.ndarray, owners: tuple[str, ...]) -> StructuralNonIdentifiability:
    """A direction with its largest entry first and equal to 1, without round-off."""
    order = np.argsort(-np.abs(direction), kind="stable")
    order = order[np.abs(direction[order]) > ROUND_OFF_ENTRY * np.abs(direction).max()]
    return StructuralNonIdentifiability(tuple(names[i] for i in order), direction[order] / direction[order[0]], owners)


def _merged(found: list[StructuralNonIdentifiability]) -> tuple[StructuralNonIdentifiability, ...]:
    """Directions that several groups have in common, stated once."""
    groups: list[StructuralNonIdentifiability] = []
    for new in found:
        for i, old in enumerate(groups):
            same = bool(new.owners and old.owners) and dict.fromkeys(sorted(new.names)) == dict.fromkeys(
                sorted(old.names)
            )
            if same and _alike(old, new):
                groups[i] = replace(old, owners=(*old.owners, *new.owners))
                break
        else:
            groups.append(new)
    return tuple(groups)


def _alike(a: StructuralNonIdentifiability, b: StructuralNonIdentifiability) -> bool:
    theirs = dict(zip(b.names, b.direction, strict=True))
    other = np.array([theirs[name] for name in a.names])
    return bool(np.allclose(a.direction, other / other[0], atol=0.1))
