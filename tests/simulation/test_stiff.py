"""Rodas5P and the sparse algebra under it: order, stiff problems against SciPy, derivatives, a stiff model's values."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import plan
from scipy.integrate import solve_ivp
from support.models import Monod, Rate

from optim.kinetics.base import Environment
from optim.schedule.schedule import to_grid
from optim.simulation.balance import Vessel
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.graph import trace_graph
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.rhs import RightHandSide
from optim.simulation.engine.rosenbrock import Rodas5P
from optim.simulation.engine.sparse import SparseSolver
from optim.simulation.simulate import simulate_one


def rhs(s, y):
    """Nonlinear and not autonomous; the stiff part follows a moving target."""
    return (-20.0 * (y[0] - jnp.cos(3.0 * s)) * (1.0 + y[1] ** 2), y[0] * y[1] - y[1] ** 3 + jnp.sin(s))


def truth(at: float) -> np.ndarray:
    def f(t, y):
        return [-20.0 * (y[0] - np.cos(3.0 * t)) * (1.0 + y[1] ** 2), y[0] * y[1] - y[1] ** 3 + np.sin(t)]

    return solve_ivp(f, (0.0, at), [0.5, 1.0], method="Radau", rtol=1e-12, atol=1e-13).y[:, -1]


RHS = RightHandSide(trace_graph(lambda s, *y: rhs(s, y), 3), ())


def walk(steps: int, end: float) -> jax.Array:
    step = jax.jit(lambda s, y, h: Rodas5P().step(RHS, y, s=s, h=h)[0])
    y, h = jnp.array([[0.5], [1.0]]), jnp.full(1, end / steps)
    for i in range(steps):
        y = step(i * h, y, h)
    return y[:, 0]


def test_the_stiff_stepper_is_of_order_five():
    errors = [float(np.max(np.abs(np.array(walk(n, 1.0)) - truth(1.0)))) for n in (32, 64, 128)]
    orders = [np.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(orders) > 4.5, (errors, orders)


def within(h: float, theta: float) -> np.ndarray:
    start = jnp.array([[0.5], [1.0]])
    y = Rodas5P().interpolate(RHS, start, jnp.full(1, theta), s=jnp.zeros(1), h=jnp.full(1, h))
    return np.asarray(y)[:, 0]


def test_its_dense_output_is_of_order_four():
    errors = []
    for h in (0.04, 0.02):
        errors.append(float(np.max(np.abs(within(h, 0.6) - truth(0.6 * h)))))
    assert errors[1] < errors[0] / 2**3.5, errors
    assert np.allclose(within(0.04, 1.0), walk(1, 0.04), rtol=1e-14)


def test_the_sparse_solver_solves_and_differentiates_like_a_dense_one():
    rng = np.random.default_rng(3)
    n, places = 7, {(i, i) for i in range(7)} | {(0, 3), (3, 0), (2, 5), (6, 1), (4, 2), (1, 6), (5, 0)}
    values = {ij: rng.normal() + 6.0 * (ij[0] == ij[1]) for ij in places}
    b = rng.normal(size=n)

    def dense(scale, b):
        a = jnp.zeros((n, n))
        for (i, j), v in values.items():
            a = a.at[i, j].set(v * (scale if i != j else 1.0))
        return jnp.linalg.solve(a, b)

    def sparse(scale, b, transposed=False):
        matrix = {(i, j): jnp.full(1, v) * (scale if i != j else 1.0) for (i, j), v in values.items()}
        solver = SparseSolver(matrix, n)
        return jnp.concatenate((solver.solve_transposed if transposed else solver.solve)([x[None] for x in b]))

    a = jax.jacfwd(lambda x: jnp.linalg.inv(jax.jacfwd(lambda b: dense(1.0, b))(x)) @ x)(jnp.asarray(b))
    assert np.allclose(a.T @ sparse(1.0, jnp.asarray(b), True), b, rtol=1e-10)
    assert np.allclose(sparse(1.0, jnp.asarray(b)), dense(1.0, jnp.asarray(b)), rtol=1e-12)
    for i in (0, 1):
        ours, theirs = (jax.jacfwd(f, i)(1.3, jnp.asarray(b)) for f in (sparse, dense))
        assert np.allclose(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("derivative", ["forward", "reverse"])
def test_derivatives_of_the_stiff_stepper_match_finite_differences(derivative):
    grid, _ = to_grid(plan([10.0], 30.0, bolus={12.0: 0.1}, rates=[(0.0, 0.001, 0.004)]), 8)

    def end(x):
        grid_of_x = grid._replace(t=jnp.asarray(grid.t).at[2].add(x[2]))
        cultivation = Cultivation((1.0, x[3]), 1.0, grid_of_x, Vessel(jnp.array([[0.0, 50.0]])))
        exact = Integrator(Rodas5P(), rtol=1e-10, atol=1e-11)
        t = simulate_one(Monod(), Rate(x[0], x[1]), cultivation, integrator=exact, derivative=derivative)
        return t.concentrations.X[3] * t.volume[3]

    x = jnp.array([0.1, 0.5, 0.0, 3.0])
    exact = (jax.jacfwd if derivative == "forward" else jax.grad)(end)(x)
    run = jax.jit(end)
    for i in range(4):
        h = jnp.zeros(4).at[i].set(1e-4)
        assert float(exact[i]) == pytest.approx(float((run(x + h) - run(x - h)) / 2e-4), rel=1e-5, abs=1e-8)


def test_actions_at_a_node_and_other_flows():
    from support.models import Inert

    base = plan([5.0], 10.0)
    n = base.times.shape[0]
    exact = Integrator(rtol=1e-9, atol=1e-10)
    run = lambda s, v: simulate_one(  # noqa: E731
        Inert(), Rate(0.1, 0.5), Cultivation((3.0, 1.0), 2.0, to_grid(s)[0], v), integrator=exact
    )
    vessel = Vessel(jnp.array([[0.0, 9.0]]), retention=jnp.array([1.0, 0.0]), topup=jnp.array([[0.0, 1.0]]))
    # 1 L of 2 L of medium is exchanged for feed: cells stay
    t = run(base._replace(remove=jnp.array([0.0, 1.0]), bolus=jnp.array([[0.0], [1.0]])), vessel)
    assert float(t.concentrations.X[2]) == pytest.approx(3.0, rel=1e-12)
    assert float(t.concentrations.S[2]) == pytest.approx(5.0, rel=1e-12)
    # topped up to 4 when below 2
    t = run(base._replace(topup_below=jnp.full((n, 1), 2.0), topup_to=jnp.full((n, 1), 4.0)), vessel)
    assert float(t.concentrations.S[2]) == pytest.approx(4.0, rel=1e-12)
    # evaporation concentrates, matter stays
    t = run(base._replace(flow_t=jnp.zeros(1), evaporation=jnp.full(1, 0.05)), vessel)
    assert float(t.volume[2]) == pytest.approx(1.5, rel=1e-12)
    assert float(t.concentrations.X[2]) == pytest.approx(4.0, rel=1e-10)
    # an exponential feed delivers its integral
    t = run(base._replace(rate_start=base.rate_start + 0.02, rate_end=base.rate_end + 0.02,
                          rate_growth=jnp.full((1, 1), 0.1)), vessel)  # fmt: skip
    assert float(t.volume[2]) == pytest.approx(2.0 + 0.2 * (np.e - 1.0), rel=1e-8)
    # a ramp of temperature is reached at the right edge of each interval
    ends = Environment(jnp.array([33.0]), jnp.array([7.0]))
    grid, _ = to_grid(base._replace(setpoints_end=ends))
    assert np.allclose(grid.actions.end.temperature[:2], [35.0, 33.0])
