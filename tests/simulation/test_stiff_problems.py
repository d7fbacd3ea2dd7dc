"""Rodas5P on the published problems of stiff integration: end values of their sources, and few steps."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
import pytest
from conftest import plan
from scipy.integrate import solve_ivp
from support.cases import Case, simulated, stacked

from optim.kinetics.base import AbstractKineticModel, Inoculum, Species
from optim.schedule.schedule import to_grid
from optim.simulation.balance import Vessel


class One(NamedTuple):
    k: Any


class _Problem(AbstractKineticModel):
    Parameters: ClassVar[Any] = One
    inoculum: ClassVar[Inoculum] = Inoculum()
    initial_variables: ClassVar[tuple[str, ...]] = ()

    @property
    def inoculum_species(self):
        return (self.species[0].name,)

    def observe(self, p, c, env):
        return {}


class Two(NamedTuple):
    a: Any
    b: Any


class Three(NamedTuple):
    a: Any
    b: Any
    c: Any


Eight = NamedTuple("Eight", [(f"y{i}", Any) for i in range(1, 9)])


def species(state: Any, *scales: float, signed: bool = False) -> tuple[Species, ...]:
    return tuple(Species(n, "-", scale, signed=signed) for n, scale in zip(state._fields, scales, strict=True))


class Robertson(_Problem):
    """Robertson 1966, over eleven decades of time."""

    State: ClassVar[Any] = Three
    species: ClassVar[tuple[Species, ...]] = species(Three, 1.0, 1e-4, 1.0)

    def rates(self, p, c, env):
        slow, fast, middle = p.k * c.a, 3e7 * c.b**2, 1e4 * c.b * c.c
        return Three(-slow + middle, slow - middle - fast, fast)


class Hires(_Problem):
    """Schäfer 1975: eight reactants in the photomorphogenesis of plants."""

    State: ClassVar[Any] = Eight
    species: ClassVar[tuple[Species, ...]] = species(Eight, *[1.0] * 7, 0.01)

    def rates(self, p, y, env):
        meet = p.k * y.y6 * y.y8
        return Eight(
            -1.71 * y.y1 + 0.43 * y.y2 + 8.32 * y.y3 + 0.0007,
            1.71 * y.y1 - 8.75 * y.y2,
            -10.03 * y.y3 + 0.43 * y.y4 + 0.035 * y.y5,
            8.32 * y.y2 + 1.71 * y.y3 - 1.12 * y.y4,
            -1.745 * y.y5 + 0.43 * y.y6 + 0.43 * y.y7,
            -meet + 0.69 * y.y4 + 1.71 * y.y5 - 0.43 * y.y6 + 0.69 * y.y7,
            meet - 1.81 * y.y7,
            -meet + 1.81 * y.y7,
        )


class Oregonator(_Problem):
    """Field & Noyes 1974: the Belousov-Zhabotinskii reaction, which comes back to where it was after 303 s."""

    State: ClassVar[Any] = Three
    species: ClassVar[tuple[Species, ...]] = species(Three, 1.0, 1.0, 1.0)

    def rates(self, p, y, env):
        return Three(
            p.k * (y.b + y.a * (1.0 - 8.375e-6 * y.a - y.b)),
            (y.c - (1.0 + y.a) * y.b) / p.k,
            0.161 * (y.a - y.c),
        )


class VanDerPol(_Problem):
    """The relaxation oscillator, with damping k."""

    State: ClassVar[Any] = Two
    species: ClassVar[tuple[Species, ...]] = species(Two, 1.0, 1.0, signed=True)

    def rates(self, p, y, env):
        return Two(y.b, p.k * (1.0 - y.a**2) * y.b - y.a)


# problem -> model, k, start, end, end values, steps allowed at 1e-7. Values: HIRES, Oregonator and van der Pol from the
# test set of Bari (Mazzia & Magherini 2008), Robertson at 1e11 from Hairer & Wanner 1996
PROBLEMS = {
    "robertson": (
        Robertson(),
        0.04,
        (1.0, 0.0, 0.0),
        1e11,
        (0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050),
        600,
    ),
    "hires": (
        Hires(),
        280.0,
        (1.0, *[0.0] * 6, 0.0057),
        321.8122,
        (
            0.7371312573325668e-3,
            0.1442485726316185e-3,
            0.5888729740967575e-4,
            0.1175651343283149e-2,
            0.2386356198831331e-2,
            0.6238968252742796e-2,
            0.2849998395185769e-2,
            0.2850001604814231e-2,
        ),
        600,
    ),
    "oregonator": (
        Oregonator(),
        77.27,
        (1.0, 2.0, 3.0),
        360.0,
        (0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3),
        2000,
    ),
    "van der pol": (
        VanDerPol(),
        1e3,
        (2.0, 0.0),
        2000.0,
        (0.1706167732170483e1, -0.8928097010247975e-3),
        1500,
    ),
}


@pytest.mark.parametrize(
    "problem",
    PROBLEMS,
)
def test_the_published_end_values_are_reached_in_few_steps(problem):
    model, k, start, end, expected, steps = PROBLEMS[problem]
    grid = jax.tree.map(np.asarray, to_grid(plan([], end), 1)[0])
    case = stacked([Case(One(k), start, 1.0, grid, Vessel(np.zeros((1, len(start)))))])
    errors = []
    for rtol in (1e-5, 1e-7, 1e-9):
        found = simulated(model, "stiff", case, rtol, atol=1e-8 * rtol, first_step_h=1e-4, vessels=8)
        assert found.status[0] == 0
        got = np.array([c[0, 1] for c in found.concentrations])
        errors.append(np.max(np.abs(got / np.array(expected) - 1.0)))
        if rtol == 1e-7:
            assert found.steps[0] < steps
    assert errors[1] < 1e-5, errors
    assert errors[2] < 1e-7, errors
    assert errors[1] < errors[0] / 10.0, errors


@pytest.mark.parametrize("problem", ["oregonator", "van der pol"])
def test_scipy_agrees_with_the_published_end_values(problem):
    """The figures above are no slips of the pen."""
    model, k, start, end, expected, _ = PROBLEMS[problem]

    def rhs(t, y):
        return np.array(model.rates(One(k), model.State(*y), None))

    run = solve_ivp(rhs, (0.0, end), start, "LSODA", rtol=1e-11, atol=1e-13)
    assert run.y[:, -1] == pytest.approx(np.array(expected), rel=1e-6)


class Pole(_Problem):
    """a' = k / (a + 0.01), as lactate in `cho_moller`: (a + 0.01)^2 = 0.01^2 + 2 k t, with a pole below zero."""

    State: ClassVar[Any] = Two
    species: ClassVar[tuple[Species, ...]] = species(Two, 10.0, 1.0)

    def rates(self, p, y, env):
        return Two(p.k / (y.a + 0.01), 0.0 * y.b)


def test_a_step_over_a_pole_is_no_answer():
    k = np.geomspace(1e-3, 100.0, 1000)
    grid = jax.tree.map(np.asarray, to_grid(plan([], 0.05), 1)[0])
    cases = [Case(One(x), (0.0, 0.0), 1.0, grid, Vessel(np.zeros((1, 2)))) for x in k]
    found = simulated(Pole(), "stiff", stacked(cases), 1e-6)
    good = found.status == 0
    # k = 0.876886 ends at -0.094, where 0.286 is right
    assert found.concentrations.a[good, 1].min() > -1e-5 * Pole.species[0].scale
