"""The simulator: exact cases, an independent oracle, derivatives, invariances, and what failure looks like."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import at, follow, plan
from support.models import Explosive, Exponential, Inert, Monod, Rate, Relaxing, TwoState, Undefined

from optim.errors import SimulationError, Status
from optim.kinetics.base import Environment
from optim.schedule.schedule import to_grid
from optim.simulation import simulate as simulate_module
from optim.simulation.balance import Vessel
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.batches import map_batches
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.steppers import Tsit5
from optim.simulation.simulate import check_trajectory, simulate_one

P = Rate(0.1, 0.5)
FED = plan(
    [10.0, 20.0, 30.0, 40.0],
    50.0,
    bolus={12.0: 0.1, 24.0: 0.2},
    withdraw={24.0: 0.05, 36.0: 0.05},
    rates=[(0.0, 0.0, 0.0), (5.0, 0.002, 0.006), (20.0, 0.001, 0.001)],
    temperature=[(0.0, 37.0), (22.0, 33.0)],
)
START = {"X": 1.0, "S": 5.0}
FEED = {"S": 100.0}


def test_a_bolus_mixes_by_volume():
    t, _ = follow(Inert(), P, {"X": 2.0}, plan([1.0], 2.0, bolus={1.0: 0.25}), feed={"S": 10.0})
    assert at(t, "X", 2.0) == pytest.approx(2.0 / 1.25, rel=1e-14)
    assert at(t, "S", 2.0) == pytest.approx(10.0 * 0.25 / 1.25, rel=1e-14)
    assert float(t.volume[1]) == 1.0  # the node holds the state before its actions
    assert float(t.volume[2]) == 1.25


def test_a_sample_takes_volume_and_no_concentration():
    t, _ = follow(Inert(), P, {"X": 2.0}, plan([1.0], 2.0, withdraw={1.0: 0.3}))
    assert at(t, "X", 2.0) == pytest.approx(2.0, rel=1e-14)
    assert float(t.volume[2]) == pytest.approx(0.7, rel=1e-14)


def test_a_sample_comes_before_the_bolus_of_the_same_time():
    t, _ = follow(Inert(), P, {"X": 2.0}, plan([], 2.0, bolus={1.0: 0.5}, withdraw={1.0: 0.5}))
    assert at(t, "X", 2.0) == pytest.approx(1.0, rel=1e-14)
    assert float(t.volume[2]) == pytest.approx(1.0, rel=1e-14)


def test_a_linear_feed_dilutes_exactly():
    t, _ = follow(Inert(), P, {"X": 3.0}, plan([], 10.0, rates=[(0.0, 0.0, 0.2)]), feed={"S": 7.0})
    assert float(t.volume[1]) == pytest.approx(2.0, rel=1e-12)
    assert at(t, "X", 10.0) == pytest.approx(1.5, rel=1e-12)
    assert at(t, "S", 10.0) == pytest.approx(3.5, rel=1e-12)


def test_exponential_growth():
    t, _ = follow(Exponential(), P, {"X": 0.5}, plan([5.0, 20.0], 40.0))
    for time in (5.0, 20.0, 40.0):
        assert at(t, "X", time) == pytest.approx(0.5 * np.exp(0.1 * time), rel=1e-8)


def test_exponential_feed_at_the_growth_rate_keeps_the_concentration():
    mu, v0 = 0.1, 1.0
    times = np.arange(0.0, 20.0, 0.25)
    rates = [(float(t), mu * v0 * np.exp(mu * t), mu * v0 * np.exp(mu * (t + 0.25))) for t in times]
    t, _ = follow(Exponential(), P, {"X": 2.0}, plan(list(times), 20.0, rates=rates))
    assert at(t, "X", 20.0) == pytest.approx(2.0, rel=1e-4)  # the chord of an exponential lies above it


def test_matter_is_conserved_through_feeds_and_samples():
    t, grid = follow(Monod(), P, START, FED, feed=FEED)
    total = np.asarray((2.0 * t.concentrations.X + t.concentrations.S) * t.volume)
    n = int(grid.intervals)
    length = np.diff(np.asarray(grid.t))[:n]
    fed = (
        np.asarray(grid.actions.bolus[:n, 0] + 0.5 * (grid.actions.rate_start + grid.actions.rate_end)[:n, 0] * length)
        * FEED["S"]
    )
    kept = 1.0 - np.asarray(grid.actions.withdraw[:n] / t.volume[:n])
    for k in range(n):
        assert total[k + 1] == pytest.approx(total[k] * kept[k] + fed[k], rel=1e-8)


def order_conditions(b: np.ndarray, a: np.ndarray, c: np.ndarray) -> dict[int, list[float]]:
    """What is left of the conditions of each order (Hairer, Norsett & Wanner 1993, table II.2.2); all zero when met."""
    ac, ac2, aac, ac3 = a @ c, a @ c**2, a @ (a @ c), a @ c**3
    return {
        1: [b.sum() - 1],
        2: [b @ c - 1 / 2],
        3: [b @ c**2 - 1 / 3, b @ ac - 1 / 6],
        4: [b @ c**3 - 1 / 4, b @ (c * ac) - 1 / 8, b @ ac2 - 1 / 12, b @ aac - 1 / 24],
        5: [
            b @ c**4 - 1 / 5,
            b @ (c**2 * ac) - 1 / 10,
            b @ ac**2 - 1 / 20,
            b @ (c * ac2) - 1 / 15,
            b @ ac3 - 1 / 20,
            b @ (c * aac) - 1 / 30,
            b @ (a @ (c * ac)) - 1 / 40,
            b @ (a @ ac2) - 1 / 60,
            b @ (a @ aac) - 1 / 120,
        ],
    }


def test_the_stepper_meets_the_order_conditions():
    s = Tsit5()
    a = np.array([[*row, *[0.0] * (7 - len(row))] for row in (*s.a, s.b)])
    c = np.array([*s.c, 1.0])
    b = np.array([*s.b, 0.0])
    assert np.allclose(a.sum(axis=1), c, atol=1e-14)
    for order, left in order_conditions(b, a, c).items():
        assert np.allclose(left, 0.0, atol=1e-12), order
    embedded = order_conditions(b - np.array(s.e), a, c)
    for order in (1, 2, 3, 4):
        assert np.allclose(embedded[order], 0.0, atol=1e-12), order
    assert np.max(np.abs(embedded[5])) > 1e-5  # of lower order, or the difference would estimate nothing


def final(theta: jax.Array, derivative: str = "forward") -> jax.Array:
    """A scalar of everything: parameters, initial state, doses, event times, rates, temperature."""
    k, x0, dose, when, rate, shift, level, end = theta
    schedule = plan([10.0], 30.0, rates=[(0.0, 0.0, 0.0)])._replace(
        times=jnp.stack([jnp.asarray(0.0), when, shift]),
        withdraw=jnp.array([0.0, 0.02, 0.0]),
        bolus=jnp.stack([jnp.zeros(1), dose[None], jnp.zeros(1)]),
        end=end,
        rate_t=jnp.array([0.0, 5.0]),
        rate_start=jnp.stack([jnp.zeros(1), rate[None]]),
        rate_end=jnp.stack([jnp.zeros(1), 2.0 * rate[None]]),
        setpoint_t=jnp.stack([jnp.asarray(0.0), shift]),
        setpoints=Environment(jnp.stack([jnp.asarray(37.0), level]), jnp.full(2, 7.0)),
    )
    grid, _ = to_grid(schedule, 8)
    start = (x0, jnp.asarray(3.0))
    t = simulate_one(
        Monod(),
        Rate(k, 0.5),
        Cultivation(start, 1.0, grid, Vessel(jnp.array([[0.0, 50.0]]))),
        integrator=Integrator(rtol=1e-10, atol=1e-11),
        derivative=derivative,
    )
    n = grid.intervals
    return t.concentrations.X[n] * t.volume[n] + 0.1 * t.concentrations.S[n]


THETA = jnp.array([0.1, 1.0, 0.05, 11.0, 0.004, 17.0, 33.0, 28.0])
NAMES = ("rate constant", "initial", "dose", "bolus time", "feed rate", "shift time", "shift level", "harvest time")


def test_forward_and_reverse_derivatives_agree():
    forward = jax.jit(jax.jacfwd(final))(THETA)
    reverse = jax.jit(jax.grad(lambda x: final(x, "reverse")))(THETA)
    assert np.allclose(forward, reverse, rtol=1e-9, atol=1e-12)


def test_derivatives_match_finite_differences_event_times_included():
    exact = jax.jit(jax.jacfwd(final))(THETA)
    run = jax.jit(final)
    for i, name in enumerate(NAMES):
        h = 1e-4 * max(1.0, abs(float(THETA[i])))
        step = jnp.zeros(len(THETA)).at[i].set(h)
        two = (run(THETA + step) - run(THETA - step)) / (2.0 * h)
        four = (run(THETA + 2.0 * step) - run(THETA - 2.0 * step)) / (4.0 * h)
        assert float(exact[i]) == pytest.approx(float((4.0 * two - four) / 3.0), rel=2e-5, abs=1e-7), name


def test_derivatives_stay_stable_at_a_quasi_steady_state():
    grid, _ = to_grid(plan([20.0, 40.0], 60.0))

    def end(x0, s0):
        cultivation = Cultivation((x0, s0), 1.0, grid, Vessel(jnp.zeros((1, 2))))
        t = simulate_one(Relaxing(), Rate(300.0, 1.0), cultivation, integrator=Integrator())
        return t.concentrations.X[3]

    # at rest from the beginning: every step looks perfect, and the start is forgotten within minutes
    of_x, of_s = jax.jacfwd(end, (0, 1))(2.0, 2.0)
    assert float(of_x) == pytest.approx(0.0, abs=1e-9)
    assert float(of_s) == pytest.approx(1.0, rel=1e-9)


def test_padding_changes_nothing():
    a, grid = follow(Monod(), P, START, FED, feed=FEED, size=16)
    b, _ = follow(Monod(), P, START, FED, feed=FEED, size=64)
    n = int(grid.intervals) + 1
    assert np.array_equal(np.asarray(a.concentrations.X)[:n], np.asarray(b.concentrations.X)[:n])
    assert np.all(np.asarray(b.concentrations.X)[n:] == float(a.concentrations.X[n - 1]))


def test_a_lane_does_not_depend_on_its_neighbours_or_their_order():
    grid, _ = to_grid(FED)
    k = np.linspace(0.02, 0.3, 37)

    def one(k, grid=grid):
        cultivation = Cultivation((1.0, 5.0), 1.0, grid, Vessel(jnp.array([[0.0, 100.0]])))
        t = simulate_one(Monod(), Rate(k, 0.5), cultivation, integrator=Integrator())
        return t.concentrations.X[-1], t.status

    program = jax.jit(jax.vmap(one))
    straight, _ = map_batches(program, (k,), 8)
    turned, _ = map_batches(program, (k[::-1],), 8)
    alone, _ = map_batches(program, (k[5:6],), 8)
    assert np.array_equal(straight, turned[::-1])
    assert alone[0] == straight[5]


def test_schedules_of_one_size_share_one_trace(monkeypatch):
    traces = []
    real = simulate_module.march
    monkeypatch.setattr(simulate_module, "march", lambda *a: (traces.append(1), real(*a))[1])
    vessel = Vessel(jnp.array([[0.0, 9.0]]))
    run = jax.jit(
        lambda g: simulate_one(Monod(), P, Cultivation((1.0, 5.0), 1.0, g, vessel), integrator=Integrator()).t
    )
    for n in (1, 3, 7):
        run(to_grid(plan(list(np.linspace(1.0, 9.0, n)), 10.0, bolus={2.0: 0.01 * n}))[0])
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("model", "schedule", "integrator", "status"),
    [
        (Exponential(), plan([], 1000.0), Integrator(max_steps=5), Status.MAX_STEPS),
        (Explosive(), plan([5.0], 20.0), Integrator(), Status.STEP_TOO_SMALL),
        (Undefined(), plan([], 5.0), Integrator(), Status.NON_FINITE),
        (Inert(), plan([], 5.0, withdraw={2.0: 1.5}), Integrator(), Status.VOLUME_EXHAUSTED),
    ],
)
def test_a_failure_is_a_status_and_never_a_number(model, schedule, integrator, status):
    t, grid = follow(model, P, {"X": 1.0, "S": 1.0}, schedule, integrator=integrator)
    assert int(t.status) in {status, Status.NON_FINITE if status == Status.STEP_TOO_SMALL else status}
    assert np.isnan(float(t.concentrations.X[int(grid.intervals)]))
    with pytest.raises(SimulationError, match=r"vessel 'V7' after .* h: .*;"):
        check_trajectory(t, ("V7",))


def test_the_gradient_of_a_failed_vessel_is_no_nan_that_spreads():
    grid, _ = to_grid(plan([], 1000.0))

    def loss(k):
        t = simulate_one(
            Exponential(),
            Rate(k, 1.0),
            Cultivation((1.0, 1.0), 1.0, grid, Vessel(jnp.zeros((1, 2)))),
            integrator=Integrator(max_steps=5),
            derivative="reverse",
        )
        return jnp.where(t.status == 0, t.concentrations.X[1], 0.0)

    assert float(jax.grad(loss)(0.1)) == 0.0


def test_diffrax_agrees_on_one_interval():
    import diffrax

    t, _ = follow(Monod(), P, START, plan([], 30.0))
    env = Environment(jnp.asarray(37.0), jnp.asarray(7.0))
    term = diffrax.ODETerm(lambda s, y, args: jnp.stack(Monod().rates(P, TwoState(y[0], y[1]), env)))
    solution = diffrax.diffeqsolve(
        term,
        diffrax.Tsit5(),
        0.0,
        30.0,
        0.01,
        jnp.array([1.0, 5.0]),
        stepsize_controller=diffrax.PIDController(rtol=1e-10, atol=1e-12),
        max_steps=100_000,
    )
    assert at(t, "X", 30.0) == pytest.approx(float(solution.ys[-1, 0]), rel=1e-8)
