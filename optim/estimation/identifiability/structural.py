"""What no data of this kind can tell: combinations of parameters on which perfect readings do not depend.

The readings are replaced by the model's own predictions, without noise, and the stated noise is made very small. What
is uncertain even then is a matter of the model and of what is measured when, not of how well.
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

# share of the stated noise that perfect readings still have
PERFECT = 1e-3
# standard deviation, in units of the scale of a parameter, beyond which even perfect readings tell nothing
UNKNOWN = 1.0
# sensitivities must be exact, lest what the integrator adds looks like information
RTOL, ATOL = 1e-9, 1e-10
# entries of a direction below this share of its largest are round-off
SMALL = 0.02


@dataclass(frozen=True)
class Combination:
    """A direction along which readings do not change, on the fitted scale; its largest entry is 1.

    Where it is the same for several clones it is stated once: `owners` are the clones, () for shared parameters alone.
    """

    names: tuple[str, ...]
    direction: np.ndarray
    owners: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """It in words."""
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


def structural(
    posterior: Posterior, point: Point, known: Sequence[str] = ("batch", "vessel")
) -> tuple[Combination, ...]:
    """The combinations that perfect readings of the same design leave open, at `point`; () when there are none.

    Priors are left out, but for those of the levels `known`: what was done to a vessel is known beforehand. So is
    pooling: a clone's parameters must follow from its own vessels, given what is shared. Population means are not among
    the parameters: they are as open as those of the clones. Cost is linear in the number of clones. Raises `FitError`
    where `point` cannot be simulated.
    """
    require_float64("structural")
    p, data, prior = _information(posterior, point, known)
    every = all_parameters(p)
    shared = [x for x in every if x.level in ("shared", "batch")]
    at = np.array([x.column for x in shared], int)
    scale = np.array([_scale(x) for x in shared])
    ss = _perfect(data.ss, prior.ss)[np.ix_(at, at)] * np.outer(scale, scale)
    found: list[Combination] = []
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
    """Information from perfect readings with the stated noise, and from the priors of the levels that are known."""
    integrator = posterior.problem.integrator
    tight = replace(integrator, rtol=min(integrator.rtol, RTOL), atol=min(integrator.atol, ATOL))
    p = Posterior(replace(posterior.problem, integrator=tight), posterior.noise, posterior.spread)
    v = p.problem.vessels
    y, status = p.problem.predict(p.lane_parameters(point))
    if status[point.weight > 0.0].any():
        raise FitError("the model cannot be simulated at this point, so that its structure cannot be looked at")
    perfect = Readings(np.where((v.censored == MEASURED) & (v.weight > 0.0), y, v.value), v.censored)
    none = np.zeros(point.shared.shape), np.zeros(point.block.shape)
    kept: Parts = none[0].copy(), none[1].copy()
    for place in all_parameters(p):
        if place.level in known:
            place.set_in(*kept, 1.0)
    both = [replace(point, readings=perfect, prior_weight=belief) for belief in (none, kept)]
    p.evaluate(both)
    data, with_prior = (x.arrow for x in both)
    assert data is not None
    assert with_prior is not None
    prior = Arrow(*(getattr(with_prior, n) - getattr(data, n) for n in ("ss", "cs", "cc", "gs", "gc")))
    return p, data, prior


def _perfect(data: np.ndarray, prior: np.ndarray) -> np.ndarray:
    return np.asarray(data / PERFECT**2 + prior)


def _scale(place: ParameterIndex) -> float:
    """What counts as a large change: a factor of e or of the odds, else the prior's width or a quarter of the range."""
    if place.spec.scale != "identity":
        return 1.0
    lower, upper = place.spec.bounds()
    return min(place.spec.prior_sd_fitted() or np.inf, 0.25 * (upper - lower))


def _split(information: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions [k, n] of which nothing is known, and the inverse of the information on all others."""
    if not len(information):
        return np.zeros((0, 0)), np.zeros((0, 0))
    values, vectors = np.linalg.eigh(0.5 * (information + information.T))
    open_ = values < 1.0 / UNKNOWN**2
    good = vectors[:, ~open_]
    return vectors[:, open_].T, (good / values[~open_]) @ good.T


def _plain(basis: np.ndarray) -> np.ndarray:
    """The same space of directions [k, n], each with as few parameters as may be: reduced to echelon form."""
    basis = basis.copy()
    for i in range(len(basis)):
        # the largest entry of the rows that are left
        row, column = divmod(int(np.argmax(np.abs(basis[i:]))), basis.shape[1])
        basis[[i, i + row]] = basis[[i + row, i]]
        basis[i] /= basis[i, column]
        others = np.arange(len(basis)) != i
        basis[others] -= np.outer(basis[others, column], basis[i])
    return basis


def _combination(own: Sequence[ParameterIndex], direction: np.ndarray, clone: str) -> Combination:
    direction = direction * np.array([_scale(x) for x in own])
    names = [x.full_name if x.level == "vessel" else x.spec.name for x in own]
    return _sorted(names, direction, (clone,))


def _with_clones(
    shared: Sequence[ParameterIndex], direction: np.ndarray, gains: list[tuple[list[ParameterIndex], np.ndarray]]
) -> Combination:
    """A direction of the shared parameters, with what clones' own ones must do to make up for it."""
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


def _sorted(names: Sequence[str], direction: np.ndarray, owners: tuple[str, ...]) -> Combination:
    """Largest entry first and 1; what is round-off left out."""
    order = np.argsort(-np.abs(direction), kind="stable")
    order = order[np.abs(direction[order]) > SMALL * np.abs(direction).max()]
    return Combination(tuple(names[i] for i in order), direction[order] / direction[order[0]], owners)


def _merged(found: list[Combination]) -> tuple[Combination, ...]:
    """What several clones have in common, stated once."""
    groups: list[Combination] = []
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


def _alike(a: Combination, b: Combination) -> bool:
    theirs = dict(zip(b.names, b.direction, strict=True))
    other = np.array([theirs[name] for name in a.names])
    return bool(np.allclose(a.direction, other / other[0], atol=0.1))
