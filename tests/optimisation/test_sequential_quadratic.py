"""The solver on plain functions: published optima, quadratic programs against a library, lanes by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from optim.optimisation.quadratic_program import Programs, solve_quadratic
from optim.optimisation.sequential_quadratic import (
    FEASIBLE,
    Ends,
    Start,
    Stop,
    Values,
    largest_violation,
    minimise_lanes,
    updated_hessian,
)

STOP = Stop(tolerance=1e-10, iterations=200)


@dataclass(frozen=True)
class Known:
    """A problem with a published optimum: Hock & Schittkowski 1981, Test Examples for Nonlinear Programming Codes."""

    f: Callable[[Any], Any]
    limits: Callable[[Any], list[Any]]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    start: tuple[float, ...]
    optimum: float

    def evaluate(self, z: np.ndarray, lanes: np.ndarray) -> Values:
        """Derivatives by complex steps: exact to rounding."""
        low, high = (np.array(b)[:, None, None] for b in (self.lower, self.upper))

        def rows(z: np.ndarray) -> np.ndarray:
            x = low + (high - low) * z
            limits = [np.broadcast_to(row, x.shape[1:]) for row in self.limits(x)]
            return np.stack([self.f(x), *limits], axis=1)

        with np.errstate(all="ignore"):
            here = rows(z.T[:, :, None]).real[:, :, 0]
            moved = z.T[:, :, None] + 1e-30j * np.eye(z.shape[1])[:, None]
            slopes = rows(moved).imag / 1e-30
        good = np.isfinite(here).all(axis=1) & np.isfinite(slopes).all(axis=(1, 2))
        here, slopes = np.where(good[:, None], here, -1.0), np.where(good[:, None, None], slopes, 0.0)
        return Values(np.where(good, here[:, 0], np.inf), slopes[:, 0], here[:, 1:], slopes[:, 1:], good)

    def scaled(self, x: np.ndarray) -> np.ndarray:
        low, high = np.array(self.lower), np.array(self.upper)
        return (np.asarray(x) - low) / (high - low)

    def solve(self, starts: np.ndarray, stop: Stop = STOP) -> Ends:
        z = self.scaled(starts)
        return minimise_lanes(self.evaluate, Start(np.clip(z, 0.0, 1.0), 0.0 * z, 0.0 * z + 1.0), stop)


def _hs100(x: Any) -> Any:
    return (
        (x[0] - 10) ** 2 + 5 * (x[1] - 12) ** 2 + x[2] ** 4 + 3 * (x[3] - 11) ** 2 + 10 * x[4] ** 6
        + 7 * x[5] ** 2 + x[6] ** 4 - 4 * x[5] * x[6] - 10 * x[5] - 8 * x[6]
    )  # fmt: skip


def _hs100_limits(x: Any) -> list[Any]:
    return [
        127 - 2 * x[0] ** 2 - 3 * x[1] ** 4 - x[2] - 4 * x[3] ** 2 - 5 * x[4],
        282 - 7 * x[0] - 3 * x[1] - 10 * x[2] ** 2 - x[3] + x[4],
        196 - 23 * x[0] - x[1] ** 2 - 6 * x[5] ** 2 + 8 * x[6],
        -4 * x[0] ** 2 - x[1] ** 2 + 3 * x[0] * x[1] - 2 * x[2] ** 2 - 5 * x[5] + 11 * x[6],
    ]


def _hs104(x: Any) -> Any:
    return 0.4 * x[0] ** 0.67 * x[6] ** -0.67 + 0.4 * x[1] ** 0.67 * x[7] ** -0.67 + 10 - x[0] - x[1]


def _hs104_limits(x: Any) -> list[Any]:
    return [
        1 - 0.0588 * x[4] * x[6] - 0.1 * x[0],
        1 - 0.0588 * x[5] * x[7] - 0.1 * x[0] - 0.1 * x[1],
        1 - 4 * x[2] / x[4] - 2 * x[2] ** -0.71 / x[4] - 0.0588 * x[2] ** -1.3 * x[6],
        1 - 4 * x[3] / x[5] - 2 * x[3] ** -0.71 / x[5] - 0.0588 * x[3] ** -1.3 * x[7],
        _hs104(x) - 0.1,
        4.2 - _hs104(x),
    ]


def _hs113(x: Any) -> Any:
    return (
        x[0] ** 2 + x[1] ** 2 + x[0] * x[1] - 14 * x[0] - 16 * x[1] + (x[2] - 10) ** 2 + 4 * (x[3] - 5) ** 2
        + (x[4] - 3) ** 2 + 2 * (x[5] - 1) ** 2 + 5 * x[6] ** 2 + 7 * (x[7] - 11) ** 2 + 2 * (x[8] - 10) ** 2
        + (x[9] - 7) ** 2 + 45
    )  # fmt: skip


def _hs113_limits(x: Any) -> list[Any]:
    return [
        105 - 4 * x[0] - 5 * x[1] + 3 * x[6] - 9 * x[7],
        -10 * x[0] + 8 * x[1] + 17 * x[6] - 2 * x[7],
        8 * x[0] - 2 * x[1] - 5 * x[8] + 2 * x[9] + 12,
        -3 * (x[0] - 2) ** 2 - 4 * (x[1] - 3) ** 2 - 2 * x[2] ** 2 + 7 * x[3] + 120,
        -5 * x[0] ** 2 - 8 * x[1] - (x[2] - 6) ** 2 + 2 * x[3] + 40,
        -0.5 * (x[0] - 8) ** 2 - 2 * (x[1] - 4) ** 2 - 3 * x[4] ** 2 + x[5] + 30,
        -(x[0] ** 2) - 2 * (x[1] - 2) ** 2 + 2 * x[0] * x[1] - 14 * x[4] + 6 * x[5],
        3 * x[0] - 6 * x[1] - 12 * (x[8] - 8) ** 2 + 7 * x[9],
    ]


def _rosenbrock(x: Any) -> Any:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


KNOWN = {
    "HS1": Known(_rosenbrock, lambda x: [], (-10, -1.5), (10, 10), (-2, 1), 0.0),
    "HS12": Known(
        lambda x: 0.5 * x[0] ** 2 + x[1] ** 2 - x[0] * x[1] - 7 * x[0] - 7 * x[1],
        lambda x: [25 - 4 * x[0] ** 2 - x[1] ** 2], (-10, -10), (10, 10), (0, 0), -30.0,
    ),
    "HS24": Known(
        lambda x: ((x[0] - 3) ** 2 - 9) * x[1] ** 3 / (27 * 3**0.5),
        lambda x: [x[0] / 3**0.5 - x[1], x[0] + 3**0.5 * x[1], 6 - x[0] - 3**0.5 * x[1]],
        (0, 0), (10, 10), (1, 0.5), -1.0,
    ),
    "HS29": Known(
        lambda x: -x[0] * x[1] * x[2], lambda x: [48 - x[0] ** 2 - 2 * x[1] ** 2 - 4 * x[2] ** 2],
        (-10,) * 3, (10,) * 3, (1, 1, 1), -16 * 2**0.5,
    ),
    "HS35": Known(
        lambda x: 9 - 8 * x[0] - 6 * x[1] - 4 * x[2] + 2 * x[0] ** 2 + 2 * x[1] ** 2 + x[2] ** 2
        + 2 * x[0] * x[1] + 2 * x[0] * x[2],
        lambda x: [3 - x[0] - x[1] - 2 * x[2]], (0,) * 3, (10,) * 3, (0.5,) * 3, 1.0 / 9.0,
    ),
    "HS43": Known(
        lambda x: x[0] ** 2 + x[1] ** 2 + 2 * x[2] ** 2 + x[3] ** 2 - 5 * x[0] - 5 * x[1] - 21 * x[2] + 7 * x[3],
        lambda x: [
            8 - x[0] ** 2 - x[1] ** 2 - x[2] ** 2 - x[3] ** 2 - x[0] + x[1] - x[2] + x[3],
            10 - x[0] ** 2 - 2 * x[1] ** 2 - x[2] ** 2 - 2 * x[3] ** 2 + x[0] + x[3],
            5 - 2 * x[0] ** 2 - x[1] ** 2 - x[2] ** 2 - 2 * x[0] + x[1] + x[3],
        ],
        (-10,) * 4, (10,) * 4, (0,) * 4, -44.0,
    ),
    "HS66": Known(
        lambda x: 0.2 * x[2] - 0.8 * x[0], lambda x: [x[1] - np.exp(x[0]), x[2] - np.exp(x[1])],
        (0, 0, 0), (100, 100, 10), (0, 1.05, 2.9), 0.5181632741,
    ),
    "HS76": Known(
        lambda x: x[0] ** 2 + 0.5 * x[1] ** 2 + x[2] ** 2 + 0.5 * x[3] ** 2 - x[0] * x[2] + x[2] * x[3] - x[0]
        - 3 * x[1] + x[2] - x[3],
        lambda x: [5 - x[0] - 2 * x[1] - x[2] - x[3], 4 - 3 * x[0] - x[1] - 2 * x[2] + x[3], x[1] + 4 * x[2] - 1.5],
        (0,) * 4, (10,) * 4, (0.5,) * 4, -4.681818181,
    ),
    "HS100": Known(_hs100, _hs100_limits, (-10,) * 7, (10,) * 7, (1, 2, 0, 4, 0, 1, 1), 680.6300573),
    "HS104": Known(_hs104, _hs104_limits, (0.1,) * 8, (10,) * 8, (6, 3, 0.4, 0.2, 6, 6, 1, 0.5), 3.9511634396),
    "HS113": Known(_hs113, _hs113_limits, (-10,) * 10, (15,) * 10, (2, 3, 5, 5, 1, 2, 7, 3, 6, 10), 24.3062091),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_published_optima_are_found(name):
    known = KNOWN[name]
    ends = known.solve(np.array([known.start], float))
    assert ends.converged[0], ends.message
    assert ends.values.f[0] == pytest.approx(known.optimum, rel=1e-7, abs=1e-7)
    assert largest_violation(ends.values.margins).max(initial=0.0) <= FEASIBLE


@pytest.mark.parametrize("name", ["HS12", "HS35", "HS43", "HS76", "HS113"])
def test_convex_problems_end_at_the_same_optimum_from_everywhere(name):
    known = KNOWN[name]
    low, high = np.array(known.lower), np.array(known.upper)
    starts = low + (high - low) * np.random.default_rng(1).random((40, len(low)))
    ends = known.solve(starts)
    assert ends.converged.all(), ends.message
    assert ends.values.f == pytest.approx(np.full(40, known.optimum), rel=1e-7)


def test_a_lane_has_the_same_digits_alone_in_a_crowd_and_in_another_order():
    known = KNOWN["HS100"]
    starts = 20.0 * np.random.default_rng(2).random((45, 7)) - 10.0
    together = known.solve(starts)
    backward = known.solve(starts[::-1])
    assert np.array_equal(together.z, backward.z[::-1])
    assert all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(together.history, backward.history[::-1], strict=True)
    )
    for lane in (0, 17, 44):
        alone = known.solve(starts[lane : lane + 1])
        assert np.array_equal(alone.z[0], together.z[lane])
        assert np.array_equal(alone.history[0], together.history[lane], equal_nan=True)
        assert alone.iterations[0] == together.iterations[lane]


def test_limits_that_no_point_meets_are_reported_and_brought_as_near_as_they_can_be():
    apart = Known(lambda x: x[0] + x[1], lambda x: [x[0] - 0.8, 0.2 - x[0]], (0, 0), (1, 1), (0.5, 0.5), 0.0)
    ends = apart.solve(np.array([[0.5, 0.5], [0.0, 1.0]]))
    assert not ends.converged.any()
    assert set(ends.message) == {"limits cannot be met from here"}
    assert largest_violation(ends.values.margins).sum(axis=1) == pytest.approx([0.6, 0.6], abs=1e-6)


def test_what_cannot_be_evaluated_is_a_step_too_long():
    """log x: the first steps lead below 0."""
    log = Known(lambda x: x[0] - np.log(x[0] + 0j), lambda x: [], (-5.0,), (5.0,), (3.0,), 1.0)
    log = Known(lambda x: np.where(x[0].real > 0, x[0] - np.log(x[0]), np.nan), log.limits, (-5,), (5,), (3,), 1.0)
    ends = log.solve(np.array([[3.0], [-1.0]]))
    assert ends.converged.tolist() == [True, False]
    assert ends.values.f[0] == pytest.approx(1.0, abs=1e-9)
    assert ends.message[1] == "the process could not be simulated"


def test_a_search_that_is_cut_short_gives_its_best_feasible_point():
    known = KNOWN["HS43"]
    ends = known.solve(np.zeros((1, 4)), Stop(1e-10, 3))
    assert ends.message == ["iterations used up"]
    assert ends.values.f[0] == min(ends.history[0]) < 0.0
    assert largest_violation(ends.values.margins).max() <= FEASIBLE


def test_curvature_that_is_known_saves_steps():
    known = KNOWN["HS113"]
    first = known.solve(np.array([known.start], float))
    z = np.clip(first.z + 0.02, 0.0, 1.0)
    begin = Start(z, 0.0 * z, 0.0 * z + 1.0)
    fresh = minimise_lanes(known.evaluate, begin, STOP)
    warm = minimise_lanes(known.evaluate, begin._replace(curvature=first.curvature), STOP)
    assert warm.values.f[0] == pytest.approx(known.optimum, rel=1e-7)
    assert warm.iterations[0] < fresh.iterations[0]


# --- quadratic programs ---


def _programs(lanes: int, d: int, r: int) -> Programs:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((lanes, d, d))
    hessian = 0.1 * a @ np.swapaxes(a, 1, 2) + 0.1 * np.eye(d)
    lower, upper = -0.3 * rng.random((lanes, d)), 0.3 * rng.random((lanes, d))
    lower[0, :2] = upper[0, :2] = 0.1  # held
    margins = rng.random((lanes, r)) - 0.1
    margins[1] -= 1.0  # cannot all be met
    jacobian = 0.5 * rng.standard_normal((lanes, r, d))
    return Programs(hessian, rng.standard_normal((lanes, d)), margins, jacobian, lower, upper, np.full(lanes, 20.0))


def test_quadratic_programs_agree_with_a_library():
    p = _programs(8, 5, 12)
    found = solve_quadratic(p)
    for k, (h, g, c, j, low, high, rho) in enumerate(zip(*p, strict=True)):
        # with the excess as further unknowns it is smooth
        def f(w, h=h, g=g, rho=rho):
            return g @ w[:5] + 0.5 * w[:5] @ h @ w[:5] + rho * w[5:].sum()

        def slope(w, h=h, g=g, rho=rho):
            return np.concatenate([g + h @ w[:5], np.full(12, rho)])

        rows = np.concatenate([j, np.eye(12)], axis=1)
        limits = {"type": "ineq", "fun": lambda w, c=c, m=rows: c + m @ w, "jac": lambda w, m=rows: m}
        box = [*zip(low, high, strict=True), *[(0.0, None)] * 12]
        start = np.concatenate([0.5 * (low + high), largest_violation(c + j @ (0.5 * (low + high)))])
        best = minimize(f, start, jac=slope, bounds=box, constraints=[limits], method="SLSQP", options={"ftol": 1e-14})
        excess = largest_violation(c + j @ found.d[k])
        assert f(np.concatenate([found.d[k], excess])) == pytest.approx(best.fun, abs=2e-7)
        assert np.all((found.d[k] >= low) & (found.d[k] <= high))
        assert found.excess[k] == pytest.approx(excess, abs=1e-7)
    assert found.d[0, :2].tolist() == [0.1, 0.1]
    assert found.excess[1].max() > 0.1


def test_multipliers_of_a_quadratic_program_are_those_of_the_textbook():
    """min (d1 - 1)^2 + (d2 - 1)^2 with d1 + d2 <= 1: d = (1/2, 1/2), multiplier 1."""
    p = Programs(2.0 * np.eye(2)[None], np.full((1, 2), -2.0), np.ones((1, 1)), -np.ones((1, 1, 2)),
                 np.full((1, 2), -5.0), np.full((1, 2), 5.0), np.full(1, 10.0))  # fmt: skip
    found = solve_quadratic(p)
    assert found.d[0] == pytest.approx([0.5, 0.5], abs=1e-9)
    assert found.multipliers[0] == pytest.approx([1.0], abs=1e-8)
    bound = solve_quadratic(p._replace(upper=np.array([[0.25, 5.0]])))
    assert bound.d[0, 0] == 0.25  # exactly
    assert bound.d[0, 1] == pytest.approx(0.75, abs=1e-9)
    cheap = solve_quadratic(p._replace(penalty=np.full(1, 0.5)))  # cheaper to break than to keep
    assert cheap.multipliers[0] == pytest.approx([0.5], abs=1e-8)
    assert cheap.excess[0] == pytest.approx([0.5], abs=1e-8)


def test_quadratic_programs_keep_their_digits_in_any_company():
    p = _programs(20, 6, 15)
    together = solve_quadratic(p)
    for k in (0, 1, 19):
        alone = solve_quadratic(p.rows(np.array([k])))
        assert all(np.array_equal(a[0], b[k]) for a, b in zip(alone, together, strict=True))


def test_an_updated_hessian_is_positive_definite_and_meets_the_secant():
    h = np.tile(np.diag([2.0, 3.0]), (2, 1, 1))
    step, change = np.array([[1.0, 0.5], [1.0, 0.5]]), np.array([[3.0, 1.0], [-5.0, 0.0]])
    new = updated_hessian(h, step, change)
    assert new[0] @ step[0] == pytest.approx(change[0])
    assert np.linalg.eigvalsh(new[1]).min() > 0.0  # the function bends down along the second step
    assert np.array_equal(new, np.swapaxes(new, 1, 2))
