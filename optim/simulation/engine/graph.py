"""Computational graphs of scalar functions, with common subexpressions computed once and sparse derivatives.

XLA fuses a value into each of its consumers and computes it there again. Rate laws share many values (a growth rate
enters every balance), so a plain program spends most of its time on repetitions, and its derivatives are worse. Here a
function of scalars is traced once. Equal subexpressions are merged, divisions by the same number become one reciprocal,
expensive shared values are held in memory, and the part that does not change between two events is split off.
Derivatives are taken on the graph, only for outputs and inputs that depend on each other, and are graphs again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Literal

from optim.simulation.engine.builder import INLINED, GraphBuilder, OpaqueProgramError
from optim.simulation.engine.linear import SparseLinearMap
from optim.types import Array, Scalar

Place = tuple[int, int]  # (row, column) of a matrix

# a shared value is held in memory if computing it again costs more than storing and loading it
HOLD_ABOVE = 3


class Graph:
    """The graph of a scalar function: scalars in, scalars out.

    Graphs compare by identity, so trace a function once and keep its graph.
    """

    def __init__(self, builder: GraphBuilder, inputs: Sequence[int], outputs: Sequence[int]):
        self.builder, self.inputs, self.outputs = builder, tuple(inputs), tuple(outputs)
        self._joint: dict[tuple[int, ...], tuple[AnyGraph, tuple[Place, ...]]] = {}
        self._linear: dict[tuple[int, ...], tuple[AnyGraph, SparseLinearMap]] = {}
        nodes = builder.nodes
        self.dtype = nodes[self.inputs[0]].dtype if self.inputs else jnp.zeros(()).dtype
        reached: set[int] = set()
        waiting = list(self.outputs)
        while waiting:
            i = waiting.pop()
            if i not in reached:
                reached.add(i)
                waiting += nodes[i].operands
        self.order = tuple(i for i in sorted(reached) if nodes[i].run is not None)
        self.constants = tuple(i for i in reached if nodes[i].constant is not None)
        self.in_memory = self._expensive_values()

    def _expensive_values(self) -> frozenset[int]:
        """Shared values that are cheaper to store than to compute again."""
        nodes = self.builder.nodes
        uses = dict.fromkeys(self.order, 0)
        for i in (*(j for n in self.order for j in set(nodes[n].operands)), *self.outputs):
            if i in uses:
                uses[i] += 1
        cost, expensive = dict[int, int](), set()
        for i in self.order:
            cost[i] = nodes[i].cost + sum(cost.get(j, 0) for j in set(nodes[i].operands))
            if uses[i] > 1 and (uses[i] - 1) * cost[i] > HOLD_ABOVE:
                expensive.add(i)
                cost[i] = 0
        return frozenset(expensive)

    def evaluate(self, inputs: Sequence[Scalar]) -> tuple[Scalar, ...]:
        """The outputs for scalar inputs; call `evaluate_lanes` or `apply_graph` for arrays."""
        nodes = self.builder.nodes
        values: dict[int, Any] = dict(zip(self.inputs, inputs, strict=True))
        values |= {i: nodes[i].constant for i in self.constants}
        for i in self.order:
            value = nodes[i].run(*(values[j] for j in nodes[i].operands))  # type: ignore[misc]
            values[i] = jax.lax.optimization_barrier(value) if i in self.in_memory else value
        return tuple(jnp.asarray(values[i]) for i in self.outputs)

    def with_derivative(self, by: tuple[int, ...]) -> tuple[AnyGraph, tuple[Place, ...]]:
        """The graph with the entries of its Jacobian as further outputs.

        Args:
            by: indices of the inputs by which to differentiate.

        Returns:
            A graph of the outputs and then of the entries, and the place (output, input) of each entry. Entries that
            are always zero are left out.
        """
        if by not in self._joint:
            b, slopes = self._local_slopes(by)
            active = [i for i in slopes if i not in self.inputs]
            rows: dict[int, dict[int, int]] = {self.inputs[j]: {j: b.add_constant(1.0, self.dtype)} for j in by}
            for i in active:
                total: dict[int, int] = {}
                for operand, slope in slopes[i].items():
                    for column, before in rows[operand].items():
                        b.add_to_row(total, column, b.add_product(slope, before))
                rows[i] = total
            places = tuple((row, j) for row, i in enumerate(self.outputs) for j in sorted(rows.get(i, {})))
            entries = [rows[self.outputs[row]][j] for row, j in places]
            self._joint[by] = Graph(b, self.inputs, (*self.outputs, *entries)), places
        return self._joint[by]

    def linear_map(self, by: tuple[int, ...]) -> tuple[AnyGraph, SparseLinearMap]:
        """The graph with the weights of its linearisation as further outputs.

        Args:
            by: indices of the inputs that move.

        Returns:
            A graph of the outputs and then of the weights, and the linear map that takes those weights.
        """
        if by not in self._linear:
            b, slopes = self._local_slopes(by)
            _eliminate(b, slopes, set(self.outputs) | {self.inputs[j] for j in by})
            order = [i for i in sorted(slopes) if slopes[i]]
            slot = {i: k for k, i in enumerate((*(self.inputs[j] for j in by), *order))}
            used = dict.fromkeys(w for i in order for w in slopes[i].values())
            numbers = {w: number for w in used if (number := b.constant_value(w)) is not None}
            wanted = [w for w in used if w not in numbers]
            steps = tuple(
                tuple((slot[j], numbers[w] if w in numbers else wanted.index(w)) for j, w in slopes[i].items())
                for i in order
            )
            linear = SparseLinearMap(by, steps, tuple(slot.get(i, -1) for i in self.outputs))
            self._linear[by] = Graph(b, self.inputs, (*self.outputs, *wanted)), linear
        return self._linear[by]

    def _local_slopes(self, by: tuple[int, ...]) -> tuple[GraphBuilder, dict[int, dict[int, int]]]:
        """Derivatives by its operands of every node that depends on the inputs `by`, in the order of the nodes."""
        b = self.builder.copy_builder()
        nodes = self.builder.nodes
        slopes: dict[int, dict[int, int]] = {self.inputs[j]: {} for j in by}
        for i in self.order:
            row: dict[int, int] = {}
            if not jnp.issubdtype(nodes[i].dtype, jnp.floating):
                continue  # a condition has no derivative
            for k, operand in enumerate(nodes[i].operands):
                if operand in slopes:
                    # an operand that stands twice (x x) counts twice
                    b.add_to_row(row, operand, b.add_local_derivative(i, k))
            row = {operand: slope for operand, slope in row.items() if b.constant_value(slope) != 0.0}
            if row:
                slopes[i] = row
        return b, slopes

    def split_frozen(self, frozen: int) -> tuple[Graph, Graph]:
        """Split off the part that depends on the frozen inputs alone.

        Args:
            frozen: number of frozen inputs, which are the last ones.

        Returns:
            A graph from the frozen inputs to intermediate values, and a graph from the other inputs and those values to
            the outputs.
        """
        nodes = self.builder.nodes
        moving = len(self.inputs) - frozen
        fixed = set(self.inputs[moving:]) | set(self.constants)
        for i in self.order:
            if all(j in fixed for j in nodes[i].operands):
                fixed.add(i)
        used = {j for i in self.order if i not in fixed for j in nodes[i].operands} | set(self.outputs)
        frontier = sorted(i for i in used if i in fixed and nodes[i].constant is None)
        rest = GraphBuilder()
        rest.quotients = None
        where = {i: rest.add_input(k, nodes[i].dtype) for k, i in enumerate((*self.inputs[:moving], *frontier))}
        places = [where[i] for i in (*self.inputs[:moving], *frontier)]
        for i in self.constants:
            where[i] = rest.add_constant(nodes[i].constant, nodes[i].dtype)
        for i in self.order:
            if i not in where:
                if not all(j in where for j in nodes[i].operands):
                    continue  # below the frontier
                operands = tuple(where[j] for j in nodes[i].operands)
                where[i] = rest.add_node((nodes[i].partial_key, operands), nodes[i]._replace(operands=operands))
        return Graph(self.builder, self.inputs[moving:], frontier), Graph(
            rest, places, [where[i] for i in self.outputs]
        )


def _eliminate(b: GraphBuilder, slopes: dict[int, dict[int, int]], terminal: set[int]) -> None:
    """Vertex elimination: remove nodes from a linearised graph as long as the number of products does not grow.

    Griewank & Reese 1991, in Automatic Differentiation of Algorithms, SIAM, p. 126, in the order of Markowitz. Inputs
    and outputs (`terminal`) stay.
    """
    users: dict[int, set[int]] = {i: set() for i in slopes}
    for i, row in slopes.items():
        for j in row:
            users[j].add(i)
    for i in [i for i in reversed(slopes) if i not in terminal and not users[i]]:
        for j in slopes.pop(i):
            users[j].discard(i)

    def _grows(i: int) -> int:
        into, out = len(slopes[i]), len(users[i])
        fresh = sum(j not in slopes[u] for u in users[i] for j in slopes[i])
        return fresh - into - out

    waiting = {i for i in slopes if i not in terminal}
    while waiting:
        i = min(waiting, key=lambda i: (_grows(i), i))
        if _grows(i) > 0:
            break
        waiting.discard(i)
        row = slopes.pop(i)
        for user in users.pop(i):
            through = slopes[user].pop(i)
            for j, slope in row.items():
                b.add_to_row(slopes[user], j, b.add_product(through, slope))
                users[j].add(user)
        for j in row:
            users[j].discard(i)


class PlainFunction:
    """The interface of `Graph` for a function that is no program of scalars because it holds arrays or loops."""

    def __init__(self, fn: Callable[..., Sequence[Scalar]], inputs: int, dtype: Any):
        self.fn, self.count, self.dtype = fn, inputs, dtype
        abstract = [jax.ShapeDtypeStruct((), dtype)] * inputs
        self.jaxpr = jax.make_jaxpr(lambda *x: tuple(fn(*x)))(*abstract).jaxpr
        self.outputs = tuple(range(len(self.jaxpr.outvars)))
        self._joint: dict[tuple[int, ...], tuple[AnyGraph, tuple[Place, ...]]] = {}

    def evaluate(self, inputs: Sequence[Scalar]) -> tuple[Scalar, ...]:
        """As `Graph.evaluate`."""
        return tuple(self.fn(*inputs))

    def with_derivative(self, by: tuple[int, ...]) -> tuple[AnyGraph, tuple[Place, ...]]:
        """As `Graph.with_derivative`; entries are left out if the program shows no dependence."""
        if by not in self._joint:
            reach = output_dependence(self.jaxpr)
            places = tuple((row, j) for row, inputs in enumerate(reach) for j in sorted(inputs & set(by)))

            def _joint(*x: Scalar) -> tuple[Scalar, ...]:
                columns = {}
                for j in by:
                    one = lambda v, j=j: tuple(self.fn(*x[:j], v, *x[j + 1 :]))  # noqa: E731
                    columns[j] = jax.jvp(one, (x[j],), (jnp.ones_like(x[j]),))[1]
                return (*self.fn(*x), *(columns[j][row] for row, j in places))

            self._joint[by] = PlainFunction(_joint, self.count, self.dtype), places
        return self._joint[by]

    def linear_map(self, by: tuple[int, ...]) -> tuple[AnyGraph, SparseLinearMap]:
        """As `Graph.linear_map`."""
        joint, places = self.with_derivative(by)
        steps: list[list[tuple[int, int | float]]] = [[] for _ in self.outputs]
        for k, (row, j) in enumerate(places):
            steps[row].append((by.index(j), k))
        moved = [row for row, step in enumerate(steps) if step]
        outputs = tuple(len(by) + moved.index(row) if row in moved else -1 for row in range(len(steps)))
        return joint, SparseLinearMap(by, tuple(tuple(steps[row]) for row in moved), outputs)

    def split_frozen(self, frozen: int) -> tuple[PlainFunction, PlainFunction]:
        """As `Graph.split_frozen`, with the frozen inputs themselves as the intermediate values."""
        return PlainFunction(lambda *x: x, frozen, self.dtype), self


AnyGraph = Graph | PlainFunction


def trace_graph(fn: Callable[..., Sequence[Scalar]], inputs: int, *, dtype: Any = None, frozen: int = 0) -> AnyGraph:
    """Trace a scalar function into a graph.

    Args:
        fn: function of scalars that returns a sequence of scalars.
        inputs: number of its arguments.
        dtype: type of the arguments; the default float type of JAX if None.
        frozen: number of arguments, the last ones, that do not change between two events.

    Returns:
        The graph, or a `PlainFunction` if the function holds arrays or loops.
    """
    dtype = jnp.zeros(()).dtype if dtype is None else dtype
    closed = jax.make_jaxpr(lambda *x: tuple(fn(*x)))(*[jax.ShapeDtypeStruct((), dtype)] * inputs)
    builder = GraphBuilder(inputs - frozen)
    places = [builder.add_input(i, dtype) for i in range(inputs)]
    try:
        outputs = builder.add_jaxpr(closed.jaxpr, closed.consts, places)
    except OpaqueProgramError:
        return PlainFunction(fn, inputs, dtype)
    return Graph(builder, places, outputs)


def output_dependence(jaxpr: Any) -> list[frozenset[int]]:
    """Indices of the inputs on which each output of a jaxpr can depend (an upper bound)."""
    return _propagate(jaxpr, [frozenset({i}) for i in range(len(jaxpr.invars))])


def _propagate(jaxpr: Any, inputs: list[frozenset[int]]) -> list[frozenset[int]]:
    inputs_of = dict(zip(jaxpr.invars, inputs, strict=True))

    def _dependence(v: Any) -> frozenset[int]:
        return frozenset() if isinstance(v, Literal) else inputs_of.get(v, frozenset())

    for equation in jaxpr.eqns:
        operands = [_dependence(v) for v in equation.invars]
        if equation.primitive.name in INLINED:
            results = _propagate(equation.params[INLINED[equation.primitive.name]].jaxpr, operands)
        elif equation.primitive.name == "optimization_barrier":
            results = operands
        else:
            results = [frozenset().union(*operands)] * len(equation.outvars)
        inputs_of.update(zip(equation.outvars, results, strict=True))
    return [_dependence(v) for v in jaxpr.outvars]


def evaluate_lanes(graph: AnyGraph, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """The outputs of a graph for L lanes; every input and output is [L]."""
    return jax.vmap(lambda *x: graph.evaluate(x))(*inputs) if inputs else ()


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def apply_graph(graph: AnyGraph, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """`evaluate_lanes` with a derivative of any order: a sparse matrix, computed once, times each direction."""
    return evaluate_lanes(graph, inputs)


def _call_jvp(graph: AnyGraph, primals: Any, tangents: Any) -> Any:
    (inputs,), (moves,) = primals, tangents
    moving = tuple(j for j, move in enumerate(moves) if not isinstance(move, SymbolicZero))
    joint, linear = graph.linear_map(moving)
    values = apply_graph(joint, inputs)
    n = len(graph.outputs)
    # held in memory, or the compiler would compute them again for every direction
    weights = jax.lax.optimization_barrier(values[n:])
    changes = linear.push_forward(weights, [moves[j] for j in moving])
    return values[:n], tuple(jnp.zeros_like(x) if d is None else d for d, x in zip(changes, values[:n], strict=True))


apply_graph.defjvp(_call_jvp, symbolic_zeros=True)
