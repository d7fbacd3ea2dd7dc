"""Every model of the library in the simulator against SciPy restarted at every event, and what must not matter."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import jax
import numpy as np
import pytest
from support.cases import Case, case_of, process, random_cases, simulated, stacked, typical
from support.models import Monod, Rate
from support.oracle import Path, oracle
from support.processes.ecoli_oxygen import oxygen

from optim.kinetics import kinetics_names, load_kinetics
from optim.schedule.schedule import Schedule, to_grid
from optim.simulation.balance import Vessel
from optim.simulation.simulate import Trajectory

# compiling these takes longest
SLOW = {
    ("cho_xing", "explicit"),
    ("cho_xing", "stiff"),
    ("cho_moller", "explicit"),
    ("ecoli_protein", "stiff"),
    ("raav_nguyen", "stiff"),
    ("ecoli_oxygen", "stiff"),
    ("ecoli_oxygen_steady", "explicit"),
}


def suite(names: tuple[str, ...] = kinetics_names(), fast: tuple[str, ...] = ()) -> list:
    """Every model with every stepper that suits it; where some are named fast, all others are slow."""
    pairs = [(n, s) for n in names for s in ("explicit", "stiff") if s == "stiff" or not load_kinetics(n).stiff]
    slow = [pair in SLOW or bool(fast and pair[0] not in fast) for pair in pairs]
    return [pytest.param(*pair, marks=pytest.mark.slow if s else ()) for pair, s in zip(pairs, slow, strict=True)]


@cache
def truths(name: str) -> tuple[Path, ...]:
    # LSODA delivers some 30 times its tolerance, and makes no headway with rAAV below 1e-10
    rtol = 1e-10 if name == "raav_nguyen" else 1e-11
    return tuple(oracle(load_kinetics(name), *case, rtol=rtol) for case in typical(name))


def differences(name: str, found: Trajectory, truths: tuple[Path, ...]) -> list[np.ndarray]:
    """Of each vessel, the largest difference of each species and of the volume, relative to its size on the path."""
    model = load_kinetics(name)
    scale = np.array([s.scale for s in model.species])
    rows = []
    for i, truth in enumerate(truths):
        n = len(truth.volume)
        got = np.stack([np.asarray(c)[i, :n] for c in found.concentrations], axis=1)
        size = np.maximum(scale, np.abs(truth.concentrations).max(axis=0))
        apart = np.abs(got - truth.concentrations).max(axis=0) / size
        rows.append(np.append(apart, np.abs(found.volume[i, :n] / truth.volume - 1.0).max()))
    return rows


@pytest.mark.parametrize(("name", "stepper"), suite())
def test_every_model_agrees_with_the_oracle_to_the_tolerance_asked_for(name, stepper):
    worst = {}
    for rtol in (1e-4, 1e-6, 1e-8):
        found = simulated(load_kinetics(name), stepper, stacked(typical(name)), rtol)
        assert not found.status.any(), rtol
        worst[rtol] = np.max(differences(name, found, truths(name)))
        # a few hundred steps, each with an error of at most the tolerance
        assert worst[rtol] < 10.0 * rtol, worst
    assert worst[1e-8] < worst[1e-4] / 400.0, worst


def test_oxygen_reproduces_the_published_process():
    of = process("ecoli_oxygen")
    found = simulated(load_kinetics("ecoli_oxygen"), "stiff", stacked(typical("ecoli_oxygen")[:1]), 1e-6)
    t = oxygen().times
    expected = {8.0: {"X": 2.037, "S": 1.443, "A": 0.2025, "DOT": 63.1}, 11.4469: {"X": 2.926}}
    expected |= {16.3028: {"X": 8.847, "S": 0.132, "A": 0.230}, 20.5833: {"X": 13.14}}
    for time, values in expected.items():
        for species, value in values.items():
            got = getattr(found.concentrations, species)[0, int(np.searchsorted(t, time))]
            assert got == pytest.approx(value, rel=5e-3 if value < 0.25 else 5e-4), (time, species)
    assert of.volume == 2.0
    assert found.volume[0, int(np.searchsorted(t, 16.3028))] == pytest.approx(2.076, abs=5e-4)
    # the last value was computed with acetate burnt without oxygen
    assert found.concentrations.X[0, len(t)] == pytest.approx(24.61, rel=2.5e-3)


def stepwise(name: str, steps: int, end: float) -> Case:
    """The first `end` hours in equal intervals, with events at the quarters."""
    of = process(name)
    quarters = np.arange(3) * end / 4.0
    plan = of.plan
    nodes = {"withdraw": 0.01, "bolus": 0.01, "remove": 0.0, "topup_below": -np.inf, "topup_to": 0.0}

    def at(kind: str) -> np.ndarray | None:
        old = getattr(plan, kind)
        if old is None:
            return None
        new = np.zeros((steps, *old.shape[1:])) if np.isfinite(nodes[kind]) else np.full((steps, old.shape[1]), -np.inf)
        new[steps // 4 :: steps // 4] = nodes[kind]
        return new

    plan = plan._replace(
        times=np.arange(steps) * (end / steps),
        end=np.asarray(end),
        rate_t=quarters[: len(plan.rate_t)],
        setpoint_t=quarters[: len(plan.setpoint_t)],
        **{kind: at(kind) for kind in nodes},
    )
    p = typical(name)[0].p
    if name == "ecoli_protein":
        p = p._replace(k_ind=1.0)  # else the fastest process is over within a step
    # a typical size of everything: rates that are steep at zero would need small steps
    start = tuple(max(x, 0.2 * s.scale) for x, s in zip(of.start, load_kinetics(name).species, strict=True))
    return case_of(p, start, of.volume, plan, of.vessel)


HOURS = {"cho_xing": 64.0, "cho_moller": 96.0, "cho_perfusion": 96.0, "ecoli_protein": 3.0}


@pytest.mark.parametrize(("name", "stepper"), suite(tuple(HOURS), fast=("cho_perfusion",)))
def test_the_order_of_convergence_is_five_across_events(name, stepper):
    # any error is accepted, so that every interval is one step
    errors = []
    truth = oracle(load_kinetics(name), *stepwise(name, 16, HOURS[name]), rtol=1e-13)
    for steps in (16, 32, 64, 128, 256):
        found = simulated(
            load_kinetics(name), stepper, stacked([stepwise(name, steps, HOURS[name])]), 1e9, first_step_h=100.0
        )
        assert found.steps[0] == steps
        every = jax.tree.map(lambda a, steps=steps: a[:, :: steps // 16], (found.concentrations, found.volume))
        errors.append(np.max(differences(name, found._replace(concentrations=every[0], volume=every[1]), (truth,))))
    # the finest pair that round-off does not spoil: an order shows only in steps that are short enough
    orders = [np.log2(a / b) for a, b in pairwise(errors) if b > 1e-11]
    assert orders[-1] > 4.5, (errors, orders)


@pytest.mark.parametrize("stepper", ["explicit", "stiff"])
@pytest.mark.parametrize("zero_first", [True, False])
def test_a_vessel_depends_neither_on_its_neighbours_nor_on_its_place(stepper, zero_first):
    name = "cho_perfusion"
    many = random_cases(name, 200, seed=11)
    if not zero_first:  # those schedules begin with an interval without length, this one does not
        grid = jax.tree.map(lambda a: np.broadcast_to(a, (200, *np.shape(a))), typical(name)[0].grid)
        many = many._replace(grid=grid)
    straight = simulated(load_kinetics(name), stepper, many, 1e-6)
    turned = simulated(load_kinetics(name), stepper, jax.tree.map(lambda a: a[::-1], many), 1e-6)
    few = simulated(load_kinetics(name), stepper, jax.tree.map(lambda a: a[70:77], many), 1e-6)
    for a, b, c in zip(*(jax.tree.leaves(x) for x in (straight, turned, few)), strict=True):
        assert np.array_equal(a, b[::-1], equal_nan=True)
        assert np.array_equal(a[70:77], c, equal_nan=True)


@pytest.mark.parametrize("stepper", [pytest.param("explicit", marks=pytest.mark.slow), "stiff"])
def test_splitting_intervals_changes_nothing_that_a_tolerance_does_not_allow(stepper):
    name = "cho_moller"
    whole = typical(name)[0]
    of = process(name)
    rng = np.random.default_rng(2)
    extra = np.sort(rng.uniform(0.0, 336.0, 20))
    plan, n = of.plan, len(extra)
    none = {"withdraw": np.zeros(n), "bolus": np.zeros((n, 2)), "topup_to": np.zeros((n, 2))}
    none["topup_below"] = np.full((n, 2), -np.inf)
    plan = plan._replace(
        times=np.append(plan.times, extra), **{k: np.concatenate([getattr(plan, k), v]) for k, v in none.items()}
    )
    split = case_of(whole.p, of.start, of.volume, plan, of.vessel)
    found = simulated(load_kinetics(name), stepper, stacked([whole, split]), 1e-10)
    assert not found.status.any()
    common = np.searchsorted(split.grid.t, whole.grid.t[: int(whole.grid.intervals) + 1])
    n = len(common)
    for values, species in zip(found.concentrations, load_kinetics(name).species, strict=True):
        size = max(species.scale, float(np.max(values[0, :n])))
        assert np.max(np.abs(values[0, :n] - values[1, common])) < 1e-9 * size, species.name
    assert np.allclose(found.volume[0, :n], found.volume[1, common], rtol=1e-12)


@pytest.mark.parametrize("stepper", [pytest.param("explicit", marks=pytest.mark.slow), "stiff"])
def test_the_padding_of_a_grid_changes_no_bit(stepper):
    plan = Schedule(
        times=np.array([0.0, 3.0, 11.0]),
        withdraw=np.array([0.0, 0.1, 0.0]),
        bolus=np.array([[0.0], [0.2], [0.1]]),
        end=np.asarray(30.0),
        rate_t=np.array([0.0, 5.0]),
        rate_start=np.array([[0.0], [0.002]]),
        rate_end=np.array([[0.001], [0.006]]),
        setpoint_t=np.zeros(1),
        setpoints=process("cho_xing").plan.setpoints._replace(temperature=np.full(1, 36.0), ph=np.full(1, 7.0)),
    )
    rows = []
    for size in (3, 16):
        grid = jax.tree.map(np.asarray, to_grid(plan, size)[0])
        case = Case(Rate(0.1, 0.5), (1.0, 5.0), 1.0, grid, Vessel(np.array([[0.0, 100.0]])))
        found = simulated(Monod(), stepper, stacked([case]), 1e-6, vessels=8)
        rows.append(np.array([*found.concentrations, found.volume]))
    assert np.array_equal(rows[0], rows[1][:, :, :4])
    assert np.array_equal(rows[1][:, :, 4:], np.repeat(rows[1][:, :, 3:4], 13, axis=2))
