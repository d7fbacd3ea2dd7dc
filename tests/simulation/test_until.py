"""Runs that end at a criterion, grids with a node more, and the choice of the stepper."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import follow, plan
from support.models import Exponential, Inert, Monod, Rate, Relaxing

from optim.errors import SimulationError, Status
from optim.kinetics import kinetics_names, load_kinetics
from optim.kinetics.base import Environment
from optim.schedule.grid import IntervalGrid, split_interval
from optim.schedule.schedule import to_grid
from optim.simulation.balance import Vessel
from optim.simulation.batch import simulate_batch
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.rosenbrock import Rodas5P
from optim.simulation.engine.steppers import Tsit5
from optim.simulation.engine.stiffness import explicit_step_count, stepper_advice, stepper_for
from optim.simulation.simulate import simulate_cultivations, simulate_one
from optim.simulation.until import simulate_until

TIGHT = Integrator(rtol=1e-10, atol=1e-11)
FEED = Vessel(jnp.array([[0.0, 50.0]]))


def batch(tree, n: int):
    return jax.tree.map(lambda a: jnp.broadcast_to(jnp.asarray(a), (n, *jnp.shape(a))), tree)


def grown(k, limit, x0=0.5, end=60.0):
    """Exponential growth until the cells reach a limit: at ln(limit / x0) / k."""
    grid, _ = to_grid(plan([10.0, 20.0, 30.0, 40.0], end), 16)
    n = k.shape[0]
    p, start = Rate(k, jnp.ones(n)), (jnp.full(n, x0), jnp.ones(n))
    cultivation = Cultivation(start, jnp.ones(n), batch(grid, n), batch(FEED, n))
    return simulate_until(Exponential(), p, cultivation, integrator=TIGHT, criterion=lambda c, v: c.X - limit)


def test_a_run_ends_where_its_criterion_is_met():
    k = jnp.array([0.05, 0.1, 0.15, 0.3, 0.01])
    found = jax.jit(grown)(k, 3.0)
    assert found.crossed.tolist() == [True] * 4 + [False]
    assert np.allclose(found.t[:4], np.log(6.0) / np.asarray(k)[:4], rtol=1e-9)
    assert float(found.t[4]) == 60.0
    last = np.asarray(found.grid.intervals)
    assert np.allclose(np.asarray(found.trajectory.concentrations.X)[np.arange(4), last[:4]], 3.0, rtol=1e-9)
    assert np.allclose(np.asarray(found.trajectory.t)[np.arange(5), last], found.t, rtol=1e-12)
    assert np.allclose(found.change[:4], 3.0 * np.asarray(k)[:4], rtol=1e-6)  # dX/dt = k X
    assert float(found.trajectory.concentrations.X[4, last[4]]) == pytest.approx(0.5 * np.exp(0.6), rel=1e-8)


def test_the_time_of_a_crossing_is_differentiable_in_the_rate_and_in_the_limit():
    k = jnp.array([0.1])
    of_k, of_limit = jax.jit(jax.jacfwd(lambda k, limit: grown(k, limit).t[0], (0, 1)))(k, 3.0)
    assert float(of_k[0]) == pytest.approx(-np.log(6.0) / 0.01, rel=1e-6)
    assert float(of_limit) == pytest.approx(1.0 / (0.1 * 3.0), rel=1e-6)


def test_a_criterion_met_by_an_action_ends_the_run_at_once():
    """A bolus lifts the substrate over the limit at 5 h: the node before shows nothing yet."""
    grid, _ = to_grid(plan([], 20.0, bolus={5.0: 0.1, 15.0: 0.1}), 8)
    cultivation = Cultivation((jnp.ones(1), jnp.ones(1)), jnp.ones(1), batch(grid, 1), batch(FEED, 1))
    found = simulate_until(
        Inert(), batch(Rate(0.1, 1.0), 1), cultivation, integrator=TIGHT, criterion=lambda c, v: c.S - 4.0
    )
    assert bool(found.crossed[0])
    assert float(found.t[0]) == pytest.approx(5.0, abs=1e-9)


def test_a_node_more_changes_nothing():
    schedule = plan(
        [12.0], 40.0, bolus={8.0: 0.1, 20.0: 0.05}, withdraw={20.0: 0.02}, rates=[(0.0, 0.001, 0.004), (20.0, 0.002, 0)]
    )._replace(
        rate_growth=jnp.array([[0.03], [0.0]]),
        setpoints_end=Environment(jnp.array([33.0]), jnp.array([7.2])),
        topup_below=jnp.full((4, 1), 1.0),
        topup_to=jnp.full((4, 1), 2.0),
    )
    grid, _ = to_grid(schedule, 8)
    vessel = FEED._replace(topup=jnp.array([[0.0, 1.0]]))
    start = (1.0, 5.0)
    run = jax.jit(lambda g: simulate_one(Monod(), Rate(0.1, 0.5), Cultivation(start, 1.0, g, vessel), integrator=TIGHT))
    whole = run(grid)
    for k in range(4):
        t = grid.t[k] + 0.37 * (grid.t[k + 1] - grid.t[k])
        more = split_interval(grid, k, t)
        assert int(more.intervals) == int(grid.intervals) + 1
        found = run(more)
        kept = np.delete(np.arange(9), k + 1)[:5]
        assert np.allclose(found.t[kept], whole.t[:5], atol=1e-12)
        for a, b in zip(
            jax.tree.leaves((found.concentrations, found.volume)), (*whole.concentrations, whole.volume), strict=True
        ):
            assert np.allclose(a[kept], b[:5], rtol=1e-8, atol=1e-9), k


# --- the stepper ----------------------------------------------------------------------------------------------------


def test_a_model_says_which_stepper_suits_it():
    chosen = {name: type(stepper_for(load_kinetics(name))) for name in kinetics_names()}
    assert chosen["raav_nguyen"] is Rodas5P
    assert chosen["ecoli_oxygen"] is Rodas5P
    assert chosen["cho_moller"] is Tsit5


def work(model, p, stepper, end=40.0):
    grid, _ = to_grid(plan([10.0, 20.0], end), 4)
    n = 1
    p, start = batch(p, n), (jnp.full(n, 1.0), jnp.full(n, 2.0))
    cultivation = Cultivation(start, jnp.ones(n), batch(grid, n), batch(FEED, n))
    integrator = Integrator(stepper, rtol=1e-8)
    t = simulate_cultivations(model, p, cultivation, integrator=integrator)
    count = explicit_step_count(model, p, t, grid=cultivation.grid, vessel=cultivation.vessel)
    return integrator, np.asarray(t.steps), count


def test_the_steps_that_stability_asks_for_are_counted_from_the_jacobian():
    # one mode of rate 300 over 40 h, a step of at most 2.8 time constants
    assert work(Relaxing(), Rate(300.0, 1.0), Tsit5())[2][0] == pytest.approx(300.0 * 40.0 / 2.8, rel=1e-6)


def test_a_poor_choice_of_stepper_is_told_and_a_good_one_is_not():
    integrator, steps, bound = work(Relaxing(), Rate(300.0, 1.0), Tsit5())
    assert "use integrator=stiff" in stepper_advice(integrator, steps, bound)
    integrator, steps, bound = work(Relaxing(), Rate(300.0, 1.0), Rodas5P())
    assert stepper_advice(integrator, steps, bound) is None
    mild = np.array([400]), np.array([90.0])
    assert stepper_advice(Integrator(Tsit5()), *mild) is None
    assert "use integrator=explicit" in stepper_advice(Integrator(Rodas5P()), *mild)
    assert stepper_advice(Integrator(Rodas5P()), np.array([40]), np.array([9.0])) is None  # too little to save


# --- many vessels on several devices ----------------------------------------------------------------------------------


def screen(n: int) -> tuple:
    schedules = [plan([5.0], 10.0 + i % 7, bolus={3.0: 0.01 * (i % 3)}) for i in range(n)]
    grids = [jax.tree.map(np.asarray, to_grid(s, 8)[0]) for s in schedules]
    grid = jax.tree.map(lambda *x: np.stack(x), *grids)
    p = Rate(np.linspace(0.02, 0.3, n), np.full(n, 0.5))
    vessel = jax.tree.map(np.asarray, batch(FEED, n))
    return p, Cultivation((np.ones(n), np.full(n, 5.0)), np.ones(n), IntervalGrid(*grid), vessel)


@pytest.mark.skipif(jax.device_count() < 2, reason="one core: nothing to share")
def test_sharing_vessels_among_devices_changes_no_number(monkeypatch):
    from optim.simulation import batch as batch_module

    arguments, integrator = screen(37), Integrator(lanes=8)
    alone = jax.jit(lambda *a: simulate_cultivations(Monod(), *a, integrator=integrator))(*arguments)
    shared = simulate_batch(Monod(), *arguments, integrator=integrator)
    ordered = simulate_batch(Monod(), *arguments, integrator=integrator, expected_steps=np.arange(37.0))
    monkeypatch.setattr(batch_module, "CHUNK", 8)
    chunked = simulate_batch(Monod(), *arguments, integrator=integrator)
    for other in (shared, ordered, chunked):
        assert np.array_equal(alone.steps, other.steps)
        assert np.array_equal(alone.status, other.status)
        for a, b in zip((*alone.concentrations, alone.volume), (*other.concentrations, other.volume), strict=True):
            assert np.allclose(a, b, rtol=1e-13, atol=1e-15, equal_nan=True)


def test_a_batch_names_the_vessels_that_failed_or_gives_their_status():
    p, cultivation = screen(12)
    grid = cultivation.grid
    withdraw = np.array(grid.actions.withdraw)
    withdraw[4, 1] = 2.0
    grid = grid._replace(actions=grid.actions._replace(withdraw=withdraw))
    arguments = (p, cultivation._replace(grid=grid))
    with pytest.raises(SimulationError, match="vessel 'well E1' after 3 h: volume_exhausted") as err:
        simulate_batch(Monod(), *arguments, integrator=Integrator(), names=[f"well {r}1" for r in "ABCDEFGHIJKL"])
    assert str(err.value).count("vessel '") == 1
    found = simulate_batch(Monod(), *arguments, integrator=Integrator(), raise_on_failure=False)
    assert found.status.tolist() == [Status.VOLUME_EXHAUSTED if i == 4 else 0 for i in range(12)]
    assert np.isnan(found.concentrations.X[4, 2:]).all()
    good = follow(Monod(), Rate(p.k[5], 0.5), {"X": 1.0, "S": 5.0}, plan([5.0], 15.0, bolus={3.0: 0.02}),
                  feed={"S": 50.0}, integrator=Integrator(), size=8)[0]  # fmt: skip
    assert float(good.concentrations.X[-1]) == pytest.approx(found.concentrations.X[5, -1], rel=1e-9)
