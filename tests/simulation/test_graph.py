"""Graphs of scalars: the same values and derivatives as the function they were traced from, with less work."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import plan
from support.models import Monod, Rate, TwoState, _Two

from optim.schedule.schedule import to_grid
from optim.simulation.balance import Vessel
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.graph import (
    Graph,
    PlainFunction,
    apply_graph,
    evaluate_lanes,
    output_dependence,
    trace_graph,
)
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.rosenbrock import Rodas5P
from optim.simulation.engine.steppers import Tsit5
from optim.simulation.simulate import simulate_one


def shared(a, b, c, d):
    """Quotients that merge, values used twice, a branch, a function with a derivative of its own, a square."""
    share = a / (a + c) * (b / (b + d))
    one = jnp.where(a > b, share * a, share + b * b)
    return one / d, share * share * jax.nn.softplus(b), jnp.exp(-c) * one, jnp.maximum(a, 2.0 * b), d


def with_arrays(a, b, c, d):
    """The same by way of arrays, which no graph of scalars holds."""
    a, b, c, d = jnp.stack([a, b, c, d])
    return shared(a, b, c, d)


X = tuple(jnp.array(x) for x in ([1.3, 0.4, 2.0], [0.7, 1.9, 2.0], [0.2, 3.0, 1.0], [1.1, 0.6, 5.0]))


@pytest.mark.parametrize(("fn", "kind"), [(shared, Graph), (with_arrays, PlainFunction)])
@pytest.mark.parametrize("frozen", [0, 2])
def test_a_graph_has_the_values_and_derivatives_of_its_function(fn, kind, frozen):
    graph = trace_graph(fn, 4, frozen=frozen)
    assert isinstance(graph, kind)
    before, rest = graph.split_frozen(frozen)

    def by_graph(*x):
        moving = x[: 4 - frozen]
        return apply_graph(rest, (*moving, *apply_graph(before, x[4 - frozen :]))) if frozen else apply_graph(graph, x)

    for got, expected in zip(by_graph(*X), jax.vmap(shared)(*X), strict=True):
        assert np.allclose(got, expected, rtol=1e-14)
    directions = tuple(jnp.cos(jnp.arange(3.0) + i) for i in range(4))
    second = lambda f: lambda *x: jax.jvp(f, x, directions)[1]  # noqa: E731
    plain = jax.vmap(shared)
    for ours, theirs in ((second(by_graph), second(plain)), (second(second(by_graph)), second(second(plain)))):
        for got, expected in zip(ours(*X), theirs(*X), strict=True):
            assert np.allclose(got, expected, rtol=1e-12, atol=1e-14)
    weigh = lambda f: lambda x: sum(jnp.sum(w * y) for w, y in zip((1.0, 2.0, -1.0, 0.5, 3.0), f(*x), strict=True))  # noqa: E731
    for got, expected in zip(jax.grad(weigh(by_graph))(X), jax.grad(weigh(plain))(X), strict=True):
        assert np.allclose(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("fn", [shared, with_arrays])
def test_the_linear_program_goes_both_ways_like_the_matrix(fn):
    graph = trace_graph(fn, 4)
    joint, places = graph.with_derivative((0, 1, 3))
    matrix = np.zeros((5, 4, 3))
    for (i, j), value in zip(places, evaluate_lanes(joint, X)[5:], strict=True):
        matrix[i, j] = value
    true = jax.vmap(jax.jacfwd(lambda x: jnp.stack(shared(*x))))(jnp.stack(X, axis=1))
    assert np.allclose(np.moveaxis(matrix[:, [0, 1, 3]], 2, 0), true[:, :, np.array([0, 1, 3])], rtol=1e-12)
    weighted, linear = graph.linear_map((0, 1, 3))
    weights = evaluate_lanes(weighted, X)[5:]
    moves, bars = [jnp.sin(1.0 + x) for x in X[:3]], [jnp.cos(x) for x in (*X, X[0])]
    pushed = [np.zeros(3) if a is None else np.asarray(a) for a in linear.push_forward(weights, moves)]
    pulled = [np.zeros(3) if a is None else np.asarray(a) for a in linear.pull_back(weights, bars)]
    assert np.allclose(pushed, np.einsum("ijl,jl->il", matrix[:, [0, 1, 3]], np.stack(moves)), rtol=1e-12)
    assert np.allclose(pulled, np.einsum("ijl,il->jl", matrix[:, [0, 1, 3]], np.stack(bars)), rtol=1e-12)


def test_shared_denominators_are_divided_by_once():
    graph = trace_graph(lambda a, b, c: (a / b + c / b, a / (a + b) * (c / (c + b))), 3)
    assert sum(graph.builder.nodes[i].cost == 8 for i in graph.order) == 2


def test_dependence_is_read_off_the_program():
    jaxpr = jax.make_jaxpr(lambda a, b, c: (a * b, jax.jit(lambda x, y: (y, x))(b, c)[0], 2.0))(1.0, 1.0, 1.0).jaxpr
    assert output_dependence(jaxpr) == [frozenset({0, 1}), frozenset({2}), frozenset()]


class MonodByArrays(_Two):
    """Monod, with arrays and a product of matrices in its rates."""

    def rates(self, p, c, env):
        bell = jnp.exp(-(((env.temperature - 37.0) / 10.0) ** 2))
        growth = p.k * bell * c.S / (p.Ks + c.S) * c.X
        return TwoState(*(jnp.array([[1.0], [-2.0]]) @ growth[None]))


@pytest.mark.parametrize("stepper", [Tsit5(), pytest.param(Rodas5P(), marks=pytest.mark.slow)])
def test_a_model_may_use_arrays(stepper):
    grid, _ = to_grid(plan([10.0], 30.0, bolus={12.0: 0.1}, rates=[(0.0, 0.001, 0.004)]), 8)

    def end(model, derivative):
        def f(k):
            cultivation = Cultivation((1.0, 3.0), 1.0, grid, Vessel(jnp.array([[0.0, 50.0]])))
            t = simulate_one(model, Rate(k, 0.5), cultivation, integrator=Integrator(stepper), derivative=derivative)
            return t.concentrations.X[3]

        return f

    value, slope = jax.jit(jax.value_and_grad(end(Monod(), "reverse")))(0.1)
    for of_arrays in (
        jax.jit(jax.value_and_grad(end(MonodByArrays(), "reverse"))),
        jax.jit(lambda k: jax.jvp(end(MonodByArrays(), "forward"), (k,), (1.0,))),
    ):
        got = of_arrays(0.1)
        assert float(got[0]) == pytest.approx(float(value), rel=1e-10)
        assert float(got[1]) == pytest.approx(float(slope), rel=1e-8)
