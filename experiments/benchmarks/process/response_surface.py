"""Response-surface methodology for one clone's process: designed runs, quadratic models, and their optimum.

Four factors: a face-centred central composite design around the platform, then one around the optimum that the
quadratic model predicts. Six: one composite design. All fourteen decisions: a definitive screening design (Jones &
Nachtsheim 2011, J Qual Technol 43:1), effects chosen by the lasso, then runs along the way from the platform to the
predicted optimum.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from bayesian import Readings, measure, search
from laboratory import Laboratory, Recommendation, Space
from sklearn.linear_model import LassoCV, Ridge

CENTRES = 4
BACK_OFF = 0.5  # residual standard deviations that a predicted limit is kept away from
FIRST = 0.4  # width of the first design, of the range of each factor, with the platform in or at the edge of it
SECOND = 0.5  # width of the second design, of the range


def central_composite(n: int, half: bool, centres: int) -> np.ndarray:
    """Face-centred: corners (a half fraction, the last factor aliased with the product of the others), faces, centres;
    in -1..1."""
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=n - 1 if half else n)))
    if half:
        corners = np.column_stack([corners, corners.prod(axis=1)])
    faces = np.vstack([np.eye(n), -np.eye(n)])
    return np.vstack([corners, faces, np.zeros((centres, n))])


def definitive_screening(n: int) -> np.ndarray:
    """Definitive screening design of n = q + 1 factors, q an odd prime: a conference matrix C (Paley), -C and a centre,
    [2n + 1, n] in -1..1. Raises `ValueError` for another number of factors."""
    q = n - 1
    squares = {(i * i) % q for i in range(1, q)}
    character = np.array([0.0] + [1.0 if i in squares else -1.0 for i in range(1, q)])
    core = character[(np.arange(q)[:, None] - np.arange(q)[None]) % q]
    conference = np.block([[np.zeros((1, 1)), np.ones((1, q))], [np.ones((q, 1)), core]])
    if not np.allclose(conference @ conference.T, q * np.eye(n)):
        raise ValueError(f"no Paley conference matrix of order {n}: {q} must be an odd prime")
    return np.vstack([conference, -conference, np.zeros((1, n))])


class Quadratic:
    """Full quadratic model by least squares (a touch of ridge), or its main and square terms chosen by the lasso."""

    def __init__(self, z: np.ndarray, y: np.ndarray, weight: np.ndarray, sparse: bool):
        self._sparse = sparse
        terms = self._terms(z)
        if sparse:
            self._model = LassoCV(cv=5, max_iter=50_000, random_state=0).fit(terms, y)
        else:
            self._model = Ridge(1e-3).fit(terms, y, sample_weight=weight)
        left = y - self._model.predict(terms)
        used = int(np.sum(np.abs(self._model.coef_) > 1e-9)) + 1
        self.sd = float(np.sqrt(np.sum(weight * left**2) / max(np.sum(weight) - used, 1.0)))

    def _terms(self, z: np.ndarray) -> np.ndarray:
        crossed = [z[:, i] * z[:, j] for i, j in itertools.combinations(range(z.shape[1]), 2)]
        return np.column_stack([z, z**2, *([] if self._sparse else crossed)])

    def predict(self, z: np.ndarray) -> np.ndarray:
        return np.asarray(self._model.predict(self._terms(z)))


class Models:
    """Quadratic models of the logarithm of the yield per cost and of every limit, within a box of the unit cube."""

    def __init__(self, seen: Readings, low: np.ndarray, high: np.ndarray, sparse: bool = False, outside: float = 0.2):
        self.low, self.high = low, high
        inside = np.all((seen.u >= low - 1e-9) & (seen.u <= high + 1e-9), axis=1)
        weight = np.where(inside, 1.0, outside)
        z = self._coded(seen.u)
        self.value = Quadratic(z, seen.value, weight, sparse)
        self.room = [Quadratic(z, seen.room[:, i], weight, sparse) for i in range(seen.room.shape[1])]

    def _coded(self, u: np.ndarray) -> np.ndarray:
        return (2.0 * u - self.low - self.high) / (self.high - self.low)

    def predict(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value [L], and the least room after the back-off [L]."""
        z = self._coded(u)
        rooms = np.array([m.predict(z) - BACK_OFF * m.sd for m in self.room])
        return self.value.predict(z), rooms.min(axis=0)

    def optimum(self, space: Space, near: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Highest predicted value in the box that keeps every limit; where none does, the least broken."""

        def score(u: np.ndarray) -> np.ndarray:
            if not len(u):
                return np.empty(0)
            value, room = self.predict(u)
            out = np.maximum(self.low - u, 0.0).sum(axis=1) + np.maximum(u - self.high, 0.0).sum(axis=1)
            return np.where(out > 1e-9, -100.0 - out, np.where(room >= 0.0, value, -10.0 + np.minimum(room, 0.0)))

        inside = _Boxed(space, self.low, self.high)
        return inside.outwards(search(lambda u: score(inside.outwards(u)), inside, inside.inwards(near), rng))


class _Boxed(Space):
    """A box of a space, as a unit cube of its own."""

    def __init__(self, space: Space, low: np.ndarray, high: np.ndarray):
        span = space.upper - space.lower
        lower, upper = space.lower + low * span, space.lower + high * span
        super().__init__(space.name, lower, upper, space.platform, space.to_design, space.problem)
        object.__setattr__(self, "_box", (low, high))

    def outwards(self, v: np.ndarray) -> np.ndarray:
        low, high = self._box  # type: ignore[attr-defined]
        return np.asarray(low + v * (high - low))

    def inwards(self, u: np.ndarray) -> np.ndarray:
        low, high = self._box  # type: ignore[attr-defined]
        return np.clip((u - low) / (high - low), 0.0, 1.0)


def composite(lab: Laboratory, clone: str, space: Space, runs: int, seed: int) -> Iterator[Recommendation]:
    """Composite designs of few factors. Where there are runs for it, a full one and then a half fraction around the
    optimum that it predicts (28 + 20 for four factors); else one half fraction, and what is left at its optimum."""
    rng = np.random.default_rng(seed)
    low, high = _around(space.platform, FIRST)
    full, half = central_composite(space.n, False, CENTRES), central_composite(space.n, True, CENTRES)
    twice = len(full) + len(half) <= runs
    first = full if twice else half if len(half) <= runs - CENTRES or len(half) == runs else half[:-2]
    seen = measure(lab, clone, space, _points(space, low, high, first))
    u = Models(seen, low, high).optimum(space, space.platform[None], rng)
    yield Recommendation(lab.used, clone, space.decisions(u[None])[0])
    left = runs - len(first)
    if twice:
        low, high = _around(u, SECOND)
        points = _points(space, low, high, half)[:left]
    else:
        points = np.tile(u, (left, 1))
    if len(points):
        new = measure(lab, clone, space, points)
        seen = seen.plus(new.u, new.value, new.room)
        u = Models(seen, low, high).optimum(space, np.vstack([u, space.platform]), rng)
        yield Recommendation(lab.used, clone, space.decisions(u[None])[0])


def _around(centre: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """A box of the given width around a point, moved into the unit cube."""
    low = np.clip(centre - 0.5 * width, 0.0, 1.0 - width)
    return low, low + width


def _points(space: Space, low: np.ndarray, high: np.ndarray, coded: np.ndarray) -> np.ndarray:
    """A design in a box, with less feed where the vessel would not hold it."""
    return np.array([_held(space, p) for p in low + (high - low) * 0.5 * (1.0 + coded)])


def _held(space: Space, u: np.ndarray) -> np.ndarray:
    """The point, with less feed where the vessel would not hold it."""
    u = u.copy()
    while not space.fits(u[None])[0]:
        u[: max(1, space.n - 3)] *= 0.98
    return u


def screening(
    lab: Laboratory, clone: str, space: Space, runs: int, seed: int, width: float = 0.3
) -> Iterator[Recommendation]:
    """All decisions: a definitive screening design (29 runs) of the given width around the platform, then the rest of
    the runs along the way to the predicted optimum; recommended is the best place of that way."""
    rng = np.random.default_rng(seed)
    low, high = _around(space.platform, width)
    points = _points(space, low, high, definitive_screening(space.n))
    seen = measure(lab, clone, space, points)
    u = Models(seen, low, high, sparse=True).optimum(space, space.platform[None], rng)
    yield Recommendation(lab.used, clone, space.decisions(u[None])[0])
    # along the way, and beyond the design where the vessel and the bounds allow it
    along = np.linspace(0.0, 1.5, runs - len(points))
    way = np.array([_held(space, np.clip(space.platform + t * (u - space.platform), 0.0, 1.0)) for t in along])
    new = measure(lab, clone, space, way)
    value = np.polynomial.Polynomial.fit(along, new.value, 2)
    fine = np.linspace(0.0, 1.5, 151)
    rooms = []
    for i in range(new.room.shape[1]):
        line = np.polynomial.Polynomial.fit(along, new.room[:, i], 2)
        sd = np.std(new.room[:, i] - line(along)) * np.sqrt(len(along) / (len(along) - 3))
        rooms.append(line(fine) - BACK_OFF * sd)
    room = np.min(rooms, axis=0)
    t = fine[np.argmax(np.where(room >= 0.0, value(fine), -10.0 + room))]
    best = _held(space, np.clip(space.platform + t * (u - space.platform), 0.0, 1.0))
    yield Recommendation(lab.used, clone, space.decisions(best[None])[0])
