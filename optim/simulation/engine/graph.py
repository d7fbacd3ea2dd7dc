"""A program of scalars as a graph: what several results share is computed once, and its derivatives are sparse.

XLA fuses a value into each of its consumers, and computes it there again. Rate laws share much (a growth rate enters
every balance), so the plain program spends most of its time on repetitions, and its derivatives are worse. Here a
function of scalars is traced once, equal subexpressions are merged, divisions by one number become one reciprocal,
expensive shared values are held in memory, and what does not change between two events is split off. Derivatives are
taken on the graph, column by column where a column reaches at all, and are graphs again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Literal, jaxpr_as_fun

from optim.simulation.engine.linear import SparseLinearMap
from optim.types import Array, Scalar

Place = tuple[int, int]  # (row, column) of a matrix

# what a vector unit spends on an operation, in products; others cost one
COSTS = {"div": 8, "sqrt": 8, "exp": 20, "log": 20, "log1p": 20, "expm1": 20, "pow": 40, "logistic": 25, "tanh": 25}
# a shared value is held in memory when computing it again would cost more than storing and loading it
HOLD_ABOVE = 3
INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}


class Node(NamedTuple):
    """One value. `run` computes it from its operands, `rule` too, with the derivative that its author gave it."""

    operands: tuple[int, ...]
    run: Callable[..., Any] | None  # None: an input or a constant
    rule: Callable[..., Any] | None
    partial_key: Hashable  # nodes of equal keys have equal local derivatives
    cost: int
    dtype: Any
    constant: Any = None


class _Opaque(Exception):
    """The function holds something that is no operation on scalars."""


class _Builder:
    """Nodes in the order of their computation; equal ones are one."""

    def __init__(self, still: int = 0):
        self.nodes: list[Node] = []
        self.known: dict[Hashable, int] = {}
        self.fixed: set[int] = set()  # what depends on nothing but constants and still inputs
        self.still = still  # inputs from this one on are still
        # a value that is a quotient -> its numerator and denominator; None: quotients are left as they are
        self.quotients: dict[int, tuple[int, int]] | None = {}

    def copy_builder(self) -> _Builder:
        """To add derivatives to: they share the reciprocals that are there."""
        other = _Builder(self.still)
        other.nodes, other.known, other.fixed, other.quotients = list(self.nodes), dict(self.known), self.fixed, None
        return other

    def add_node(self, key: Hashable, node: Node) -> int:
        try:
            if key in self.known:
                return self.known[key]
            self.known[key] = len(self.nodes)
        except TypeError:  # a parameter that has no hash: never merged
            pass
        self.nodes.append(node)
        if node.constant is not None or (node.operands and all(j in self.fixed for j in node.operands)):
            self.fixed.add(len(self.nodes) - 1)
        return len(self.nodes) - 1

    def add_input(self, i: int, dtype: Any) -> int:
        found = self.add_node(("input", i), Node((), None, None, None, 0, dtype))
        if i >= self.still:
            self.fixed.add(found)
        return found

    def add_constant(self, value: Any, dtype: Any) -> int:
        value = np.asarray(value, dtype)
        if value.shape != ():
            raise _Opaque
        return self.add_node(
            ("constant", value.dtype.str, value.tobytes()), Node((), None, None, None, 0, dtype, value)
        )

    def constant_value(self, i: int) -> float | None:
        """The number, where a node is a constant."""
        c = self.nodes[i].constant
        return None if c is None or c.dtype == bool else float(c)

    def add_operation(self, name: str, run: Callable[..., Any], operands: tuple[int, ...], key: Hashable = ()) -> int:
        dtype = self.nodes[operands[0]].dtype
        return self.add_node(((name, key), operands), Node(operands, run, run, (name, key), COSTS.get(name, 1), dtype))

    def add_product(self, a: int, b: int) -> int:
        dtype = self.nodes[a].dtype
        for x, y in ((a, b), (b, a)):
            if self.constant_value(x) == 1.0:
                return y
            if self.constant_value(x) == 0.0:
                return x
        if self.constant_value(a) is not None and self.constant_value(b) is not None:
            return self.add_constant(self.constant_value(a) * self.constant_value(b), dtype)  # type: ignore[operator]
        quotients = self.quotients
        if quotients is None or not (a in quotients or b in quotients):
            return self.add_operation("mul", jax.lax.mul, (min(a, b), max(a, b)))
        one = self.add_constant(1.0, dtype)
        (over, under), (also_over, also_under) = quotients.get(a, (a, one)), quotients.get(b, (b, one))
        top, bottom = self.add_product(over, also_over), self.add_product(under, also_under)
        if a in quotients and b in quotients:  # one division in place of two
            return self.add_quotient(top, bottom)
        found = self.add_operation("mul", jax.lax.mul, (min(a, b), max(a, b)))
        quotients[found] = top, bottom
        return found

    def add_quotient(self, over: int, under: int) -> int:
        """over / under, remembered as such unless the denominator stays the same: that one is inverted only once."""
        inverse = self.add_reciprocal(under)
        if self.quotients is None or under in self.fixed or self.constant_value(over) == 1.0:
            return self.add_product(over, inverse)
        if over in self.quotients:
            top, bottom = self.quotients[over]
            return self.add_quotient(top, self.add_product(bottom, under))
        found = self.add_operation("mul", jax.lax.mul, (min(over, inverse), max(over, inverse)))
        self.quotients[found] = over, under
        return found

    def add_sum(self, a: int, b: int) -> int:
        for x, y in ((a, b), (b, a)):
            if self.constant_value(x) == 0.0:
                return y
        return self.add_operation("add", jax.lax.add, (min(a, b), max(a, b)))

    def add_to_row(self, total: dict[int, int], place: int, term: int) -> None:
        """Add a term to a sparse row."""
        total[place] = self.add_sum(total[place], term) if place in total else term

    def add_reciprocal(self, a: int) -> int:
        dtype, value = self.nodes[a].dtype, self.constant_value(a)
        if value:
            return self.add_constant(1.0 / value, dtype)
        return self.add_operation("div", jax.lax.div, (self.add_constant(1.0, dtype), a))

    def add_equation(self, eqn: Any, given: tuple[int, ...]) -> list[int]:
        """Nodes of an equation of a jaxpr, simplified where that keeps its value."""
        name, params = eqn.primitive.name, eqn.params
        if name in INLINED:
            inner = params[INLINED[name]]
            return self.add_jaxpr(inner.jaxpr, inner.consts, given)
        if name in ("optimization_barrier", "copy"):
            return list(given)
        if len(eqn.outvars) != 1 or any(v.aval.shape != () for v in (*eqn.invars, *eqn.outvars)):
            raise _Opaque
        dtype: Any = eqn.outvars[0].aval.dtype
        floating = jnp.issubdtype(dtype, jnp.floating)
        if name == "convert_element_type" and self.nodes[given[0]].dtype == dtype:
            return [given[0]]
        if name == "custom_jvp_call":
            return [self.add_own_derivative(eqn, given, dtype)]
        if floating and name == "mul":
            return [self.add_product(*given)]
        if floating and name in ("add", "add_any"):
            return [self.add_sum(*given)]
        if floating and name == "sub" and self.constant_value(given[1]) == 0.0:
            return [given[0]]
        if floating and name == "div":
            return [self.add_quotient(*given)]
        if floating and name == "integer_pow" and params["y"] in (-2, -1, 1, 2):
            base = self.add_reciprocal(given[0]) if params["y"] < 0 else given[0]
            return [base if abs(params["y"]) == 1 else self.add_product(base, base)]
        key = (name, tuple(sorted(params.items(), key=lambda item: item[0])))
        run = partial(eqn.primitive.bind, **params)
        return [self.add_node((key, given), Node(given, run, run, key, COSTS.get(name, 1), dtype))]

    def add_own_derivative(self, eqn: Any, given: tuple[int, ...], dtype: Any) -> int:
        """A function that brings its own derivative: one node, so that the derivative stays its own."""
        bound = eqn.primitive.get_bind_params(eqn.params)
        run = jaxpr_as_fun(eqn.params["call_jaxpr"])
        key = ("own derivative", str(eqn.params["call_jaxpr"]), eqn.params["jvp_jaxpr_fun"])
        node = Node(given, lambda *x: run(*x)[0], lambda *x: eqn.primitive.bind(*x, **bound)[0], key, 40, dtype)
        return self.add_node((key, given), node)

    def add_jaxpr(self, jaxpr: Any, consts: Sequence[Any], given: Sequence[int]) -> list[int]:
        """Nodes of the outputs of a jaxpr."""
        where = dict(zip(jaxpr.invars, given, strict=True))
        for v, value in zip(jaxpr.constvars, consts, strict=True):
            where[v] = self.add_constant(value, np.asarray(value).dtype)

        def _of(v: Any) -> int:
            return self.add_constant(v.val, getattr(v.aval, "dtype", None)) if isinstance(v, Literal) else where[v]

        for eqn in jaxpr.eqns:
            where.update(zip(eqn.outvars, self.add_equation(eqn, tuple(_of(v) for v in eqn.invars)), strict=True))
        return [_of(v) for v in jaxpr.outvars]

    def add_local_derivative(self, i: int, k: int) -> int:
        """Derivative of node i by its operand k."""
        node = self.nodes[i]
        dtypes = tuple(self.nodes[j].dtype for j in node.operands)
        closed = _local_derivative(_ByKey(node.rule, (node.partial_key, dtypes)), dtypes, k)
        return self.add_jaxpr(closed.jaxpr, closed.consts, node.operands)[0]


class _ByKey:
    """A function compared by a key."""

    def __init__(self, rule: Any, key: Hashable):
        self.rule, self.key = rule, key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByKey) and self.key == other.key


@lru_cache(maxsize=4096)
def _local_derivative(function: _ByKey, dtypes: tuple[Any, ...], k: int) -> Any:
    def _slope(*x: Scalar) -> Scalar:
        one = lambda v: function.rule(*x[:k], v, *x[k + 1 :])  # noqa: E731
        return jax.jvp(one, (x[k],), (jnp.ones((), dtypes[k]),))[1]

    return jax.make_jaxpr(_slope)(*(jax.ShapeDtypeStruct((), d) for d in dtypes))


class Graph:
    """Scalars in, scalars out. Compared by identity: trace a function once and keep its graph."""

    def __init__(self, builder: _Builder, inputs: Sequence[int], outputs: Sequence[int]):
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
        self.hold = self._held()

    def _held(self) -> frozenset[int]:
        """Shared values that are cheaper to keep than to compute again."""
        nodes = self.builder.nodes
        uses = dict.fromkeys(self.order, 0)
        for i in (*(j for n in self.order for j in set(nodes[n].operands)), *self.outputs):
            if i in uses:
                uses[i] += 1
        cost, held = dict[int, int](), set()
        for i in self.order:
            cost[i] = nodes[i].cost + sum(cost.get(j, 0) for j in set(nodes[i].operands))
            if uses[i] > 1 and (uses[i] - 1) * cost[i] > HOLD_ABOVE:
                held.add(i)
                cost[i] = 0
        return frozenset(held)

    def evaluate(self, inputs: Sequence[Scalar]) -> tuple[Scalar, ...]:
        """The outputs for scalars."""
        nodes = self.builder.nodes
        values: dict[int, Any] = dict(zip(self.inputs, inputs, strict=True))
        values |= {i: nodes[i].constant for i in self.constants}
        for i in self.order:
            value = nodes[i].run(*(values[j] for j in nodes[i].operands))  # type: ignore[misc]
            values[i] = jax.lax.optimization_barrier(value) if i in self.hold else value
        return tuple(jnp.asarray(values[i]) for i in self.outputs)

    def with_derivative(self, by: tuple[int, ...]) -> tuple[AnyGraph, tuple[Place, ...]]:
        """A graph that gives the outputs and then the derivatives at the places (output, input) that are not zero."""
        if by not in self._joint:
            b, slopes = self._local(by)
            active = [i for i in slopes if i not in self.inputs]
            found: dict[int, dict[int, int]] = {self.inputs[j]: {j: b.add_constant(1.0, self.dtype)} for j in by}
            for i in active:
                total: dict[int, int] = {}
                for operand, slope in slopes[i].items():
                    for column, before in found[operand].items():
                        b.add_to_row(total, column, b.add_product(slope, before))
                found[i] = total
            places = tuple((row, j) for row, i in enumerate(self.outputs) for j in sorted(found.get(i, {})))
            entries = [found[self.outputs[row]][j] for row, j in places]
            self._joint[by] = Graph(b, self.inputs, (*self.outputs, *entries)), places
        return self._joint[by]

    def linear_map(self, by: tuple[int, ...]) -> tuple[AnyGraph, SparseLinearMap]:
        """A graph that gives the outputs and then the weights of the linear program from moves to changes."""
        if by not in self._linear:
            b, slopes = self._local(by)
            kept = set(self.outputs) | {self.inputs[j] for j in by}
            _eliminate(b, slopes, kept)
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

    def _local(self, by: tuple[int, ...]) -> tuple[_Builder, dict[int, dict[int, int]]]:
        """For every value that moves with the given inputs, in order: its derivatives by its operands."""
        b = self.builder.copy_builder()
        nodes = self.builder.nodes
        slopes: dict[int, dict[int, int]] = {self.inputs[j]: {} for j in by}
        for i in self.order:
            found: dict[int, int] = {}
            if not jnp.issubdtype(nodes[i].dtype, jnp.floating):
                continue  # a condition has no derivative
            for k, operand in enumerate(nodes[i].operands):
                if operand in slopes:
                    # an operand that stands twice (x x) counts twice
                    b.add_to_row(found, operand, b.add_local_derivative(i, k))
            found = {operand: slope for operand, slope in found.items() if b.constant_value(slope) != 0.0}
            if found:
                slopes[i] = found
        return b, slopes

    def split_frozen(self, still: int) -> tuple[Graph, Graph]:
        """What the last `still` inputs decide alone, and the rest, which takes the first inputs and those results."""
        nodes = self.builder.nodes
        moving = len(self.inputs) - still
        fixed = set(self.inputs[moving:]) | set(self.constants)
        for i in self.order:
            if all(j in fixed for j in nodes[i].operands):
                fixed.add(i)
        used = {j for i in self.order if i not in fixed for j in nodes[i].operands} | set(self.outputs)
        frontier = sorted(i for i in used if i in fixed and nodes[i].constant is None)
        rest = _Builder()
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


def _eliminate(b: _Builder, slopes: dict[int, dict[int, int]], kept: set[int]) -> None:
    """Take out values as long as that leaves no more products to form for a direction (vertex elimination).

    Griewank & Reese 1991, in Automatic Differentiation of Algorithms, SIAM, p. 126, with Markowitz's order.
    """
    users: dict[int, set[int]] = {i: set() for i in slopes}
    for i, row in slopes.items():
        for j in row:
            users[j].add(i)
    for i in [i for i in reversed(slopes) if i not in kept and not users[i]]:
        for j in slopes.pop(i):
            users[j].discard(i)

    def _grows(i: int) -> int:
        into, out = len(slopes[i]), len(users[i])
        fresh = sum(j not in slopes[u] for u in users[i] for j in slopes[i])
        return fresh - into - out

    waiting = {i for i in slopes if i not in kept}
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
    """The interface of a graph for a function that is no program of scalars (it holds arrays or loops)."""

    def __init__(self, fn: Callable[..., Sequence[Scalar]], inputs: int, dtype: Any):
        self.fn, self.count, self.dtype = fn, inputs, dtype
        abstract = [jax.ShapeDtypeStruct((), dtype)] * inputs
        self.jaxpr = jax.make_jaxpr(lambda *x: tuple(fn(*x)))(*abstract).jaxpr
        self.outputs = tuple(range(len(self.jaxpr.outvars)))
        self._joint: dict[tuple[int, ...], tuple[AnyGraph, tuple[Place, ...]]] = {}

    def evaluate(self, inputs: Sequence[Scalar]) -> tuple[Scalar, ...]:
        return tuple(self.fn(*inputs))

    def with_derivative(self, by: tuple[int, ...]) -> tuple[AnyGraph, tuple[Place, ...]]:
        if by not in self._joint:
            reach = output_dependence(self.jaxpr)
            places = tuple((row, j) for row, found in enumerate(reach) for j in sorted(found & set(by)))

            def _joint(*x: Scalar) -> tuple[Scalar, ...]:
                columns = {}
                for j in by:
                    one = lambda v, j=j: tuple(self.fn(*x[:j], v, *x[j + 1 :]))  # noqa: E731
                    columns[j] = jax.jvp(one, (x[j],), (jnp.ones_like(x[j]),))[1]
                return (*self.fn(*x), *(columns[j][row] for row, j in places))

            self._joint[by] = PlainFunction(_joint, self.count, self.dtype), places
        return self._joint[by]

    def linear_map(self, by: tuple[int, ...]) -> tuple[AnyGraph, SparseLinearMap]:
        joint, places = self.with_derivative(by)
        steps: list[list[tuple[int, int | float]]] = [[] for _ in self.outputs]
        for k, (row, j) in enumerate(places):
            steps[row].append((by.index(j), k))
        moved = [row for row, step in enumerate(steps) if step]
        outputs = tuple(len(by) + moved.index(row) if row in moved else -1 for row in range(len(steps)))
        return joint, SparseLinearMap(by, tuple(tuple(steps[row]) for row in moved), outputs)

    def split_frozen(self, still: int) -> tuple[PlainFunction, PlainFunction]:
        return PlainFunction(lambda *x: x, still, self.dtype), self


AnyGraph = Graph | PlainFunction


def trace_graph(
    fn: Callable[..., Sequence[Scalar]], inputs: int, dtype: Any = None, still: int | None = None
) -> AnyGraph:
    """The graph of a function of `inputs` scalars, of which the last `still` change seldom."""
    dtype = jnp.zeros(()).dtype if dtype is None else dtype
    closed = jax.make_jaxpr(lambda *x: tuple(fn(*x)))(*[jax.ShapeDtypeStruct((), dtype)] * inputs)
    builder = _Builder(inputs - (still or 0))
    places = [builder.add_input(i, dtype) for i in range(inputs)]
    try:
        outputs = builder.add_jaxpr(closed.jaxpr, closed.consts, places)
    except _Opaque:
        return PlainFunction(fn, inputs, dtype)
    return Graph(builder, places, outputs)


def output_dependence(jaxpr: Any) -> list[frozenset[int]]:
    """For every output of a jaxpr the inputs it can depend on: never too few."""
    return _walk(jaxpr, [frozenset({i}) for i in range(len(jaxpr.invars))])


def _walk(jaxpr: Any, inputs: list[frozenset[int]]) -> list[frozenset[int]]:
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def _of(v: Any) -> frozenset[int]:
        return frozenset() if isinstance(v, Literal) else known.get(v, frozenset())

    for equation in jaxpr.eqns:
        given = [_of(v) for v in equation.invars]
        if equation.primitive.name in INLINED:
            found = _walk(equation.params[INLINED[equation.primitive.name]].jaxpr, given)
        elif equation.primitive.name == "optimization_barrier":
            found = given
        else:
            found = [frozenset().union(*given)] * len(equation.outvars)
        known.update(zip(equation.outvars, found, strict=True))
    return [_of(v) for v in jaxpr.outvars]


def evaluate_lanes(graph: AnyGraph, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """The graph's outputs for many lanes, every input and output [L]."""
    return jax.vmap(lambda *x: graph.evaluate(x))(*inputs) if inputs else ()


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def apply_graph(graph: AnyGraph, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """`on_lanes`, with a derivative that is a sparse matrix, computed once, times a direction; of any order."""
    return evaluate_lanes(graph, inputs)


def _call_jvp(graph: AnyGraph, primals: Any, tangents: Any) -> Any:
    (inputs,), (moves,) = primals, tangents
    moving = tuple(j for j, move in enumerate(moves) if not isinstance(move, SymbolicZero))
    joint, linear = graph.linear_map(moving)
    found = apply_graph(joint, inputs)
    n = len(graph.outputs)
    # held, or the compiler computes them again for every direction
    weights = jax.lax.optimization_barrier(found[n:])
    changes = linear.push_forward(weights, [moves[j] for j in moving])
    return found[:n], tuple(jnp.zeros_like(x) if d is None else d for d, x in zip(changes, found[:n], strict=True))


apply_graph.defjvp(_call_jvp, symbolic_zeros=True)
