"""Convex quadratic programs of one size, many at once: a primal-dual interior-point method.

Predictor and corrector follow Mehrotra 1992 (SIAM J Optim 2:575). Limits are elastic: each may be broken at a price, so
that every program has a solution. All arrays treat each lane by itself, so that a lane gets the same digits whatever
lanes stand beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ITERATIONS = 40
GAP = 1e-10  # complementarity at the end, relative to the size of the program
PRICE_GAP = 1e-14  # the same, relative to the price of the limits that are broken
RESIDUAL = 1e-9  # of stationarity at the end, relative to the gradient and the multipliers
PRICE_RESIDUAL = 1e-12  # the same, relative to the largest pull of a limit
NO_FURTHER = 1e-2  # of the gap: rounding allows no smaller residual
KEEP = 0.995  # of the way to the boundary
HELD = 1e-12  # a box that is narrower leaves nothing to choose
ROUND_OFF = 1e-13


class Programs(NamedTuple):
    """Lanes L: minimise gradient d + d hessian d / 2 + penalty * sum(excess) over `lower` <= d <= `upper`.

    The excess [R] is what margins + jacobian d lack to 0. Hessians are positive definite.
    """

    hessian: np.ndarray  # [L, D, D]
    gradient: np.ndarray  # [L, D]
    margins: np.ndarray  # [L, R]
    jacobian: np.ndarray  # [L, R, D]
    lower: np.ndarray  # [L, D]
    upper: np.ndarray  # [L, D]
    penalty: np.ndarray  # [L]

    def rows(self, lanes: np.ndarray) -> Programs:
        """Those of some lanes."""
        return Programs(*(x[lanes] for x in self))


class Steps(NamedTuple):
    """Solutions of programs."""

    d: np.ndarray  # [L, D]
    multipliers: np.ndarray  # [L, R] of the limits
    excess: np.ndarray  # [L, R]


class _Point(NamedTuple):
    """Where the method stands. Distances are kept beside what they are the distance of: differences lose digits."""

    d: np.ndarray
    below: np.ndarray  # d - lower
    above: np.ndarray  # upper - d
    slack: np.ndarray  # margins + jacobian d + excess
    excess: np.ndarray
    nu: np.ndarray  # multipliers of the limits
    rest: np.ndarray  # penalty - nu
    low: np.ndarray  # multipliers of the box
    high: np.ndarray


def solve_quadratic(programs: Programs) -> Steps:
    """Solutions of all programs, with bounds that bind held exactly."""
    free = programs.upper - programs.lower > HELD
    middle = 0.5 * (programs.lower + programs.upper)
    running, whole = np.arange(len(middle)), _without_held(programs, free, middle)
    size, price = _sizes(whole)
    gap = GAP * size + PRICE_GAP * price
    residual = RESIDUAL * (1.0 + np.abs(whole.gradient).max(axis=1))
    residual += PRICE_RESIDUAL * whole.penalty * np.abs(whole.jacobian).max(axis=(1, 2), initial=0.0)
    at = _begin(whole, size + price)
    ends = _Point(*(x.copy() for x in at))
    for _ in range(ITERATIONS):
        left = _stationarity(whole, at)
        mean, pull = _complementarity(at), np.maximum(at.low, at.high).max(axis=1)
        still = np.abs(left).max(axis=1) > residual[running] + RESIDUAL * pull
        going = (mean > gap[running]) | (still & (mean > NO_FURTHER * gap[running]))
        if not going.all():
            _store(ends, running, at)
            running, whole, at = running[going], whole.rows(going), _Point(*(x[going] for x in at))
            left, mean = left[going], mean[going]
        if not len(running):
            break
        at = _moved(whole, at, left, mean)
    _store(ends, running, at)
    # where the multiplier outweighs the room that is left, the bound holds exactly
    d = np.where(ends.low > ends.below, programs.lower, ends.d)
    d = np.where(ends.high > ends.above, programs.upper, d)
    return Steps(np.where(free, d, middle), ends.nu, ends.excess)


def _store(ends: _Point, rows: np.ndarray, at: _Point) -> None:
    for kept, now in zip(ends, at, strict=True):
        kept[rows] = now


def _without_held(p: Programs, free: np.ndarray, middle: np.ndarray) -> Programs:
    """The same programs with what is held taken out: each such decision is a small program of its own."""
    fixed = np.where(free, 0.0, middle)
    hessian = np.where(free[:, :, None] & free[:, None, :], p.hessian, 0.0)
    diagonal = np.arange(hessian.shape[1])
    hessian[:, diagonal, diagonal] = np.where(free, hessian[:, diagonal, diagonal], 1.0)
    return Programs(
        hessian,
        np.where(free, p.gradient + multiply_lanes(p.hessian, fixed), 0.0),
        p.margins + multiply_lanes(p.jacobian, fixed),
        np.where(free[:, None, :], p.jacobian, 0.0),
        np.where(free, p.lower, -1.0),
        np.where(free, p.upper, 1.0),
        p.penalty,
    )


def _sizes(p: Programs) -> tuple[np.ndarray, np.ndarray]:
    """Typical sizes [L] of the objective over the box, and of the price of the limits that its middle breaks."""
    short = -(p.margins + multiply_lanes(p.jacobian, 0.5 * (p.lower + p.upper)))
    price = p.penalty * np.maximum(short, 0.0).max(axis=1, initial=0.0)
    return np.maximum(np.abs(p.gradient * (p.upper - p.lower)).max(axis=1), 1e-6), price


def _begin(p: Programs, size: np.ndarray) -> _Point:
    """In the middle of the box, on the central path of the limits."""
    half = 0.5 * (p.upper - p.lower)
    mu, rho = 0.1 * size[:, None], p.penalty[:, None]
    d = p.lower + half
    t = p.margins + multiply_lanes(p.jacobian, d)
    nu = 2.0 * mu * rho / (t * rho + 2.0 * mu + np.sqrt((t * rho) ** 2 + 4.0 * mu**2))
    nu = np.clip(nu, 1e-12 * rho, (1.0 - 1e-12) * rho)
    return _Point(d, half, half, mu / nu, mu / (rho - nu), nu, rho - nu, mu / half, mu / half)


def _stationarity(p: Programs, at: _Point) -> np.ndarray:
    """What is left of the gradient of the Lagrangian, [L, D]."""
    pulls = multiply_transposed(p.jacobian, at.nu) + at.low - at.high
    return np.asarray(multiply_lanes(p.hessian, at.d) + p.gradient - pulls)


def _complementarity(at: _Point) -> np.ndarray:
    """The mean product [L] of a distance and its multiplier."""
    total = (at.nu * at.slack + at.rest * at.excess).sum(axis=1) + (at.low * at.below + at.high * at.above).sum(axis=1)
    return np.asarray(total / (2.0 * (at.nu.shape[1] + at.d.shape[1])))


def _moved(p: Programs, at: _Point, left: np.ndarray, mean: np.ndarray) -> _Point:
    """The point after a predictor and a corrector."""
    weight = 1.0 / (at.slack / at.nu + at.excess / at.rest)  # of every limit
    matrix = p.hessian + np.swapaxes(p.jacobian * weight[:, :, None], 1, 2) @ p.jacobian
    diagonal = np.arange(matrix.shape[1])
    matrix[:, diagonal, diagonal] += at.low / at.below + at.high / at.above
    # in units in which the diagonal is one
    unit = 1.0 / np.sqrt(matrix[:, diagonal, diagonal])
    matrix *= unit[:, :, None] * unit[:, None, :]
    matrix[:, diagonal, diagonal] = 1.0 + ROUND_OFF
    # what the definition of the slacks lacks, by rounding
    lack = p.margins + multiply_lanes(p.jacobian, at.d) + at.excess - at.slack

    def _newton(slack: np.ndarray, excess: np.ndarray, below: np.ndarray, above: np.ndarray) -> _Point:
        """The step to these products of distances and their multipliers."""
        apart = (slack / at.nu - at.slack) - (excess / at.rest - at.excess) - lack
        pull = (
            multiply_transposed(p.jacobian, weight * apart) + (below / at.below - at.low) - (above / at.above - at.high)
        )
        d = unit * np.linalg.solve(matrix, (unit * (pull - left))[:, :, None])[:, :, 0]
        nu = weight * (apart - multiply_lanes(p.jacobian, d))
        return _Point(
            d,
            d,
            -d,
            (slack - at.slack * nu) / at.nu - at.slack,
            (excess + at.excess * nu) / at.rest - at.excess,
            nu,
            -nu,
            (below - at.low * d) / at.below - at.low,
            (above + at.high * d) / at.above - at.high,
        )

    limits, box = np.zeros_like(at.nu), np.zeros_like(at.d)
    first = _newton(limits, limits, box, box)
    share = _longest(at, first)
    ahead = _complementarity(_along(at, first, share))
    target = (mean * np.minimum(1.0, ahead / mean) ** 3)[:, None]
    # a predictor that was cut short says as little of second order; without this the method may go round in circles
    bend = (share**2)[:, None]
    second = _newton(
        target - bend * first.slack * first.nu,
        target - bend * first.excess * first.rest,
        target - bend * first.below * first.low,
        target - bend * first.above * first.high,
    )
    return _along(at, second, np.minimum(1.0, KEEP * _longest(at, second)))


def _longest(at: _Point, step: _Point) -> np.ndarray:
    """Largest share [L] of a step, up to 1, that leaves every distance and multiplier above 0."""
    shrink = np.concatenate([-dx / x for x, dx in zip(at[1:], step[1:], strict=True)], axis=1)
    return np.asarray(1.0 / np.maximum(shrink.max(axis=1), 1.0))


def _along(at: _Point, step: _Point, share: np.ndarray) -> _Point:
    return _Point(*(x + share[:, None] * dx for x, dx in zip(at, step, strict=True)))


def multiply_lanes(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Matrices [L, A, B] times vectors [L, B]."""
    return np.asarray((matrix @ x[:, :, None])[:, :, 0])


def multiply_transposed(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Transposed matrices [L, A, B] times vectors [L, A]."""
    return multiply_lanes(np.swapaxes(matrix, 1, 2), x)
