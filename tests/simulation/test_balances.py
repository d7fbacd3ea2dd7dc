"""What goes in, comes out or stays: the balance of a vessel in every mode at once, and gas, titrant and bleed alone."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
import pytest
from support.cases import Case, simulated, stacked
from support.oracle import oracle

from optim.errors import Status
from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.schedule.schedule import Schedule, to_grid
from optim.simulation.balance import Vessel
from optim.simulation.simulate import Trajectory


class State(NamedTuple):
    X: Any
    T: Any
    A: Any
    O: Any  # noqa: E741
    Q: Any


class Parameters(NamedTuple):
    mu: Any  # 1/h
    acid: Any  # 1/h per litre
    our: Any  # %/h


class Plain(AbstractKineticModel):
    """Cells grow, acid forms and oxygen is used at constant rates; a tracer and a load of the cells are inert."""

    State: ClassVar[Any] = State
    Parameters: ClassVar[Any] = Parameters
    species: ClassVar[tuple[Species, ...]] = (
        Species("X", "g/L", 1.0),
        Species("T", "g/L", 1.0, "tracer", collected=True),
        Species("A", "mmol/L", 1.0, "acid", collected=True),
        Species("O", "%", 10.0, saturation=100.0),
        Species("Q", "1/g", 1.0, "load", dilutes=False),
    )
    inoculum: ClassVar[Inoculum] = Inoculum("", {"X": 1.0})
    initial_variables: ClassVar[tuple[str, ...]] = ()

    def rates(self, p, c, env):
        return State(p.mu * c.X, 0.0 * c.T, p.acid + 0.0 * c.A, -p.our + 0.0 * c.O, 0.0 * c.Q)

    def observe(self, p, c, env):
        return {}


MODEL = Plain()
VESSELS = 24
INTERVALS = 404
RETENTION = np.array([0.98, 0.3, 0.0, 0.0, 1.0])
FEEDS = np.array([(0.0, 5.0, 1.0, 0.0, 0.2), (0.0, 0.5, 0.0, 20.0, 0.0)])
TITRANT = np.array([0.0, 0.0, 0.02, 0.0, 0.0])
PANELS = 10  # of each segment: the bleed opens within minutes
POINTS, WEIGHTS = np.polynomial.legendre.leggauss(10)
SEGMENTS = np.array([0.0, 6.0, 14.0, 22.0, 30.0])


def built(times: np.ndarray, end: float, kla: float = 0.0, **changes: Any) -> Schedule:
    """Nothing is done but what is named; every mode is there, so that all cases share one program."""
    n = len(times)
    plan = Schedule(
        times=times,
        withdraw=np.zeros(n),
        bolus=np.zeros((n, 2)),
        end=np.asarray(end),
        rate_t=SEGMENTS[:2],
        rate_start=np.zeros((2, 2)),
        rate_end=np.zeros((2, 2)),
        setpoint_t=np.zeros(1),
        setpoints=Environment(np.full(1, 37.0), np.full(1, 7.0), None, np.full(1, kla)),
        rate_growth=np.zeros((2, 2)),
        remove=np.zeros(n),
        flow_t=np.zeros(1),
        harvest=np.zeros(1),
        level=np.zeros(1),
        bleed=np.zeros(1),
        bleed_above=np.full(1, 1e9),
        evaporation=np.zeros(1),
    )
    return plan._replace(**changes)


def case(p: Parameters, start: State, plan: Schedule, titrant: np.ndarray | None = None, volume: float = 2.0) -> Case:
    grid = jax.tree.map(np.asarray, to_grid(plan, INTERVALS)[0])
    return Case(p, start, volume, grid, Vessel(FEEDS, RETENTION, np.zeros(5) if titrant is None else titrant))


def run(stepper: str, *cases: Case, rtol: float = 1e-11) -> Trajectory:
    return simulated(MODEL, stepper, stacked(list(cases)), rtol, vessels=VESSELS)


def places(segment: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of Gauss over the panels of a segment."""
    edges = np.linspace(SEGMENTS[segment], SEGMENTS[segment + 1], PANELS + 1)
    half = 0.5 * np.diff(edges)[:, None]
    return (edges[:-1, None] + half * (1.0 + POINTS)).ravel(), (half * WEIGHTS).ravel()


def every_mode() -> Case:
    """Nodes at the points of Gauss in four segments, at whose ends everything happens at once."""
    inner = np.concatenate([places(i)[0] for i in range(4)])
    times = np.sort(np.concatenate([SEGMENTS[:-1], inner]))
    at = np.searchsorted(times, SEGMENTS[:-1])
    n = len(times)
    withdraw, remove, bolus = np.zeros(n), np.zeros(n), np.zeros((n, 2))
    withdraw[at], remove[at[1:]], bolus[at] = 0.05, (0.1, 0.4, 0.2), (0.06, 0.03)
    bolus[at[2]] += (0.3, 0.1)
    plan = built(
        times,
        SEGMENTS[-1],
        withdraw=withdraw,
        remove=remove,
        bolus=bolus,
        rate_start=np.array([[0.04, 0.0], [0.05, 0.06]]),
        rate_end=np.array([[0.06, 0.01], [0.08, 0.03]]),
        rate_growth=np.array([[0.0, 0.0], [0.02, 0.0]]),
        harvest=np.full(1, 0.01),
        level=np.full(1, 0.6),
        bleed=np.full(1, 0.004),
        bleed_above=np.full(1, 1.2),
        evaporation=np.full(1, 0.003),
    )
    return case(Parameters(0.02, 0.4, 0.0), State(1.0, 2.0, 0.5, 50.0, 0.7), plan, TITRANT)


def feed_rates(t: np.ndarray) -> np.ndarray:
    """The flows of both feeds [T, 2] by the words of the schedule."""
    first = np.stack([0.04 + 0.02 * t / 6.0, 0.01 * t / 6.0], axis=1)
    since = t - 6.0
    later = np.stack([(0.05 + 0.03 * since / 24.0) * np.exp(0.02 * since), 0.06 - 0.03 * since / 24.0], axis=1)
    return np.where((t < 6.0)[:, None], first, later)


@pytest.mark.parametrize("stepper", ["explicit", "stiff"])
def test_amounts_and_volume_balance_through_every_mode_at_once(stepper):
    of = every_mode()
    found = run(stepper, of)
    assert found.status[0] == 0
    n = int(of.grid.intervals)
    t, a = of.grid.t[: n + 1], of.grid.actions
    c = np.stack([x[0, : n + 1] for x in found.concentrations], axis=1)
    v = found.volume[0, : n + 1]

    feeds = feed_rates(t)
    titrant = 0.02 * 0.4 * v
    bleed = 0.004 + v * 0.05 * np.logaddexp(0.0, (c[:, 0] / 1.2 - 1.0) / 0.01)
    before_harvest = feeds.sum(axis=1) + titrant - 0.003 - bleed
    assert before_harvest.min() > 0.01  # a kink there would spoil the quadrature
    harvest = 0.01 + 0.6 * (before_harvest - 0.01)
    passes = 1.0 - RETENTION
    taken = np.zeros(5)
    entered, left, fed, lost = np.zeros(5), np.zeros(5), 0.0, 0.0
    for segment in range(4):
        k = int(np.searchsorted(t, SEGMENTS[segment]))
        removed = passes * a.remove[k] * c[k]
        entered += a.bolus[k] @ FEEDS
        left += a.withdraw[k] * c[k] + removed
        taken += removed
        fed, lost = fed + a.bolus[k].sum(), lost + a.withdraw[k] + a.remove[k]
        w = places(segment)[1]
        inner = slice(k + 1, k + 1 + len(w))
        made = v[inner, None] * np.array([0.02, 0.0, 0.4, 0.0, 0.0]) * np.where(np.arange(5) == 0, c[inner], 1.0)
        entered += w @ (feeds[inner] @ FEEDS + made)
        through = harvest[inner, None] * passes * c[inner]
        left += w @ (bleed[inner, None] * c[inner] + through)
        taken += w @ through
        fed += w @ (feeds[inner].sum(axis=1) + titrant[inner])
        lost += w @ (bleed[inner] + harvest[inner] + 0.003)
    assert v[-1] == pytest.approx(v[0] + fed - lost, rel=1e-8)
    for i, name in enumerate("XTAO"):
        assert c[-1, i] * v[-1] == pytest.approx(c[0, i] * v[0] + entered[i] - left[i], rel=1e-8), name
    for i, name in ((1, "T"), (2, "A")):
        assert found.collected[name][0, n] == pytest.approx(taken[i], rel=1e-8), name
    assert min(entered[1], left[1], taken[1], lost) > 0.1  # all of it is at work


@pytest.mark.parametrize("stepper", ["explicit", "stiff"])
def test_every_mode_at_once_agrees_with_the_oracle(stepper):
    of = every_mode()
    truth = oracle(MODEL, *of, rtol=1e-12)
    found = run(stepper, of)
    n = len(truth.volume)
    for i, values in enumerate(found.concentrations):
        assert np.allclose(values[0, :n], truth.concentrations[:, i], rtol=1e-8), MODEL.names()[i]
    assert np.allclose(found.volume[0, :n], truth.volume, rtol=1e-9)
    assert np.allclose(found.collected["T"][0, :n], truth.collected[:, 1], rtol=1e-8)


START = State(1.0, 1.0, 0.0, 20.0, 0.5)
TIMES = np.linspace(0.0, 1.0, 21)[:-1]


@pytest.mark.parametrize("stepper", ["explicit", "stiff"])
def test_oxygen_relaxes_exponentially_to_what_gas_and_uptake_allow(stepper):
    cases = [(kla, our) for kla in (0.5, 4.0, 60.0) for our in (0.0, 25.0)]
    plans = [case(Parameters(0.0, 0.0, our), START, built(TIMES, 1.0, kla)) for kla, our in cases]
    found = run(stepper, *plans)
    t = plans[0].grid.t[:21]
    for i, (kla, our) in enumerate(cases):
        rest = 100.0 - our / kla
        assert np.allclose(found.concentrations.O[i, :21], rest + (20.0 - rest) * np.exp(-kla * t), rtol=1e-9), (
            kla,
            our,
        )
        assert np.array_equal(found.volume[i, :21], np.full(21, 2.0))


@pytest.mark.parametrize("stepper", ["explicit", "stiff"])
def test_titrant_is_proportional_to_the_acid_formed(stepper):
    plan = built(TIMES, 1.0)
    found = run(stepper, *(case(Parameters(0.0, a, 0.0), START, plan, TITRANT) for a in (0.4, 4.0)))
    for i, acid in enumerate((0.4, 4.0)):
        volume = found.volume[i, 20]
        assert volume == pytest.approx(2.0 * np.exp(0.02 * acid), rel=1e-9)
        formed = found.concentrations.A[i, 20] * volume
        assert volume - 2.0 == pytest.approx(0.02 * formed, rel=1e-9)
        assert found.concentrations.X[i, 20] * volume == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("stepper", ["explicit", "stiff"])
def test_a_vcd_is_held_by_bleeding_while_the_level_is_held(stepper):
    times = np.linspace(0.0, 400.0, 41)[:-1]
    changes = {"bleed_above": np.full(1, 8.0), "level": np.ones(1), "rate_start": np.full((2, 2), 0.1)}
    plan = built(times, 400.0, **changes, rate_end=np.full((2, 2), 0.1))
    growth = (0.01, 0.03, 0.05)
    found = run(stepper, *(case(Parameters(mu, 0.0, 0.0), START, plan) for mu in growth), rtol=1e-8)
    for i, mu in enumerate(growth):
        late = found.concentrations.X[i, :41][times[-1] * np.linspace(0.0, 1.0, 41) > 6.0 / mu * 0.5 + 20.0]
        late = late[late > 7.8] if mu == 0.01 else late
        assert len(late) > 5
        assert np.max(np.abs(late / 8.0 - 1.0)) < 0.02, mu
        assert np.allclose(found.volume[i, :41], 2.0, rtol=1e-12)


@pytest.mark.parametrize("stepper", ["explicit", "stiff"])
def test_a_load_of_the_cells_is_shared_by_the_cells_and_kept_in_samples(stepper):
    bolus, withdraw = np.zeros((20, 2)), np.zeros(20)
    bolus[5, 0], withdraw[5], withdraw[10] = 0.5, 0.5, 0.3
    plan = built(TIMES, 1.0, bolus=bolus, withdraw=withdraw)
    found = run(stepper, case(Parameters(0.0, 0.0, 0.0), START, plan))
    # 0.5 L of 0.2 for the 1.5 g of cells that the sample left
    assert np.allclose(found.concentrations.Q[0, :6], 0.5, rtol=1e-14)
    assert np.allclose(found.concentrations.Q[0, 6:21], 0.5 + 0.1 / 1.5, rtol=1e-12)


def test_an_exchange_of_medium_changes_a_property_of_the_cells_only_where_the_device_lets_it_pass():
    remove = np.zeros(20)
    remove[5] = 1.0
    of = case(Parameters(0.0, 0.0, 0.0), START, built(TIMES, 1.0, remove=remove))
    inside = of._replace(vessel=of.vessel._replace(retention=np.array([1.0, 0.0, 0.0, 0.0, 1.0])))
    # what sits on the outside of cells, such as plasmids that were not taken up, goes with the medium
    outside = of._replace(vessel=of.vessel._replace(retention=np.array([1.0, 0.0, 0.0, 0.0, 0.0])))
    found = run("explicit", inside, outside)
    assert np.allclose(found.concentrations.X[:, 20], 2.0, rtol=1e-12)  # all cells, half the volume
    assert np.allclose(found.concentrations.Q[:, 20], [0.5, 0.25], rtol=1e-12)


@pytest.mark.parametrize("stepper", ["explicit", "stiff"])
def test_a_species_driven_negative_is_a_status_and_no_matter_to_the_neighbours(stepper):
    plans = [built(TIMES, 1.0, kla) for kla in np.linspace(0.5, 30.0, 20)]
    good = [case(Parameters(0.05, 0.3, our), START, plan, TITRANT) for our, plan in enumerate(plans)]
    bad = good.copy()
    for i in (3, 11):
        bad[i] = case(Parameters(0.05, 0.3, 500.0), START, built(TIMES, 1.0, 0.0), TITRANT)
    a, b = run(stepper, *good, rtol=1e-6), run(stepper, *bad, rtol=1e-6)
    assert not a.status.any()
    for i in range(20):
        if i in (3, 11):
            assert b.status[i] == Status.OUT_OF_RANGE
            assert b.concentrations.O[i, 0] == 20.0
            assert np.isnan(b.concentrations.O[i, 1:]).all()
            assert np.isnan(b.volume[i, -1])
        else:
            assert all(np.array_equal(x[i], y[i]) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
