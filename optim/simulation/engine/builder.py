"""The builder of a graph of scalars: traced equations are simplified, and equal subexpressions are merged."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

from optim.types import Scalar

# cost of an operation on a vector unit, in products; other operations cost one
COSTS = {"div": 8, "sqrt": 8, "exp": 20, "log": 20, "log1p": 20, "expm1": 20, "pow": 40, "logistic": 25, "tanh": 25}
# primitives whose inner jaxpr is inlined, and the parameter that holds it
INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}


class Node(NamedTuple):
    """One scalar of a graph: an input, a constant, or an operation on earlier nodes."""

    operands: tuple[int, ...]  # indices of earlier nodes
    run: Callable[..., Any] | None  # computes the value from the operands; None: an input or a constant
    rule: Callable[..., Any] | None  # as `run`, with the custom derivative of the operation where it has one
    partial_key: Hashable  # nodes of equal keys have equal local derivatives
    cost: int  # of the operation, in products
    dtype: Any
    constant: Any = None


class OpaqueProgramError(Exception):
    """The program holds something that is no operation on scalars: an array or a loop."""


class GraphBuilder:
    """The nodes of a graph under construction, in the order of their computation. Equal nodes are merged.

    Methods that add a node return its index, or that of the equal node which is there already.
    """

    def __init__(self, first_frozen: int = 0):
        self.nodes: list[Node] = []
        self.index_of: dict[Hashable, int] = {}
        self.fixed: set[int] = set()  # nodes that depend on nothing but constants and frozen inputs
        self.first_frozen = first_frozen  # inputs from this one on are frozen: they do not change between two events
        # index of a quotient -> those of its numerator and denominator; None: quotients are not merged
        self.quotients: dict[int, tuple[int, int]] | None = {}

    def copy_builder(self) -> GraphBuilder:
        """A copy to which derivatives can be added; they share the reciprocals of the original."""
        other = GraphBuilder(self.first_frozen)
        other.nodes, other.index_of, other.fixed = list(self.nodes), dict(self.index_of), self.fixed
        other.quotients = None
        return other

    def add_node(self, key: Hashable, node: Node) -> int:
        """Add a node; nodes of equal keys are equal."""
        try:
            if key in self.index_of:
                return self.index_of[key]
            self.index_of[key] = len(self.nodes)
        except TypeError:  # the key of an operation with a parameter that has no hash: such nodes are not merged
            pass
        self.nodes.append(node)
        if node.constant is not None or (node.operands and all(j in self.fixed for j in node.operands)):
            self.fixed.add(len(self.nodes) - 1)
        return len(self.nodes) - 1

    def add_input(self, i: int, dtype: Any) -> int:
        """Add input i."""
        index = self.add_node(("input", i), Node((), None, None, None, 0, dtype))
        if i >= self.first_frozen:
            self.fixed.add(index)
        return index

    def add_constant(self, value: Any, dtype: Any) -> int:
        """Add a number. Raises `OpaqueProgramError` for an array."""
        value = np.asarray(value, dtype)
        if value.shape != ():
            raise OpaqueProgramError
        return self.add_node(
            ("constant", value.dtype.str, value.tobytes()), Node((), None, None, None, 0, dtype, value)
        )

    def constant_value(self, i: int) -> float | None:
        """The number that node i holds; None if it is not a constant number."""
        c = self.nodes[i].constant
        return None if c is None or c.dtype == bool else float(c)

    def add_operation(self, name: str, run: Callable[..., Any], operands: tuple[int, ...]) -> int:
        """Add an operation without parameters."""
        dtype = self.nodes[operands[0]].dtype
        return self.add_node(((name, ()), operands), Node(operands, run, run, (name, ()), COSTS.get(name, 1), dtype))

    def add_product(self, a: int, b: int) -> int:
        """Add a b; the product of two quotients is a quotient with one division."""
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
        (top_a, bottom_a), (top_b, bottom_b) = quotients.get(a, (a, one)), quotients.get(b, (b, one))
        top, bottom = self.add_product(top_a, top_b), self.add_product(bottom_a, bottom_b)
        if a in quotients and b in quotients:  # one division in place of two
            return self.add_quotient(top, bottom)
        index = self.add_operation("mul", jax.lax.mul, (min(a, b), max(a, b)))
        quotients[index] = top, bottom
        return index

    def add_quotient(self, top: int, bottom: int) -> int:
        """Add top / bottom.

        A quotient is recorded as such unless its denominator is fixed, since a fixed denominator is inverted only once.
        """
        inverse = self.add_reciprocal(bottom)
        if self.quotients is None or bottom in self.fixed or self.constant_value(top) == 1.0:
            return self.add_product(top, inverse)
        if top in self.quotients:
            inner_top, inner_bottom = self.quotients[top]
            return self.add_quotient(inner_top, self.add_product(inner_bottom, bottom))
        index = self.add_operation("mul", jax.lax.mul, (min(top, inverse), max(top, inverse)))
        self.quotients[index] = top, bottom
        return index

    def add_sum(self, a: int, b: int) -> int:
        """Add a + b."""
        for x, y in ((a, b), (b, a)):
            if self.constant_value(x) == 0.0:
                return y
        return self.add_operation("add", jax.lax.add, (min(a, b), max(a, b)))

    def add_to_row(self, row: dict[int, int], column: int, term: int) -> None:
        """Add a term to an entry of a sparse row (column -> index of a node)."""
        row[column] = self.add_sum(row[column], term) if column in row else term

    def add_reciprocal(self, a: int) -> int:
        """Add 1 / a."""
        dtype, value = self.nodes[a].dtype, self.constant_value(a)
        if value:
            return self.add_constant(1.0 / value, dtype)
        return self.add_operation("div", jax.lax.div, (self.add_constant(1.0, dtype), a))

    def add_equation(self, eqn: Any, operands: tuple[int, ...]) -> list[int]:
        """Add an equation of a jaxpr, simplified where that does not change its value; returns its outputs."""
        name, params = eqn.primitive.name, eqn.params
        if name in INLINED:
            inner = params[INLINED[name]]
            return self.add_jaxpr(inner.jaxpr, inner.consts, operands)
        if name in ("optimization_barrier", "copy"):
            return list(operands)
        if len(eqn.outvars) != 1 or any(v.aval.shape != () for v in (*eqn.invars, *eqn.outvars)):
            raise OpaqueProgramError
        dtype: Any = eqn.outvars[0].aval.dtype
        floating = jnp.issubdtype(dtype, jnp.floating)
        if name == "convert_element_type" and self.nodes[operands[0]].dtype == dtype:
            return [operands[0]]
        if name == "custom_jvp_call":
            return [self.add_custom_derivative(eqn, operands, dtype)]
        if floating and name == "mul":
            return [self.add_product(*operands)]
        if floating and name in ("add", "add_any"):
            return [self.add_sum(*operands)]
        if floating and name == "sub" and self.constant_value(operands[1]) == 0.0:
            return [operands[0]]
        if floating and name == "div":
            return [self.add_quotient(*operands)]
        if floating and name == "integer_pow" and params["y"] in (-2, -1, 1, 2):
            base = self.add_reciprocal(operands[0]) if params["y"] < 0 else operands[0]
            return [base if abs(params["y"]) == 1 else self.add_product(base, base)]
        key = (name, tuple(sorted(params.items(), key=lambda item: item[0])))
        run = partial(eqn.primitive.bind, **params)
        return [self.add_node((key, operands), Node(operands, run, run, key, COSTS.get(name, 1), dtype))]

    def add_custom_derivative(self, eqn: Any, operands: tuple[int, ...], dtype: Any) -> int:
        """Add a function with a custom derivative as one node, so that its derivative is used."""
        bound = eqn.primitive.get_bind_params(eqn.params)
        run = jaxpr_as_fun(eqn.params["call_jaxpr"])
        key = ("own derivative", str(eqn.params["call_jaxpr"]), eqn.params["jvp_jaxpr_fun"])
        node = Node(operands, lambda *x: run(*x)[0], lambda *x: eqn.primitive.bind(*x, **bound)[0], key, 40, dtype)
        return self.add_node((key, operands), node)

    def add_jaxpr(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[int]) -> list[int]:
        """Add all equations of a jaxpr; returns its outputs."""
        where = dict(zip(jaxpr.invars, inputs, strict=True))
        for v, value in zip(jaxpr.constvars, consts, strict=True):
            where[v] = self.add_constant(value, np.asarray(value).dtype)

        def _index(v: Any) -> int:
            return self.add_constant(v.val, getattr(v.aval, "dtype", None)) if isinstance(v, Literal) else where[v]

        for eqn in jaxpr.eqns:
            where.update(zip(eqn.outvars, self.add_equation(eqn, tuple(_index(v) for v in eqn.invars)), strict=True))
        return [_index(v) for v in jaxpr.outvars]

    def add_local_derivative(self, i: int, k: int) -> int:
        """Add the derivative of node i with respect to its operand k."""
        node = self.nodes[i]
        dtypes = tuple(self.nodes[j].dtype for j in node.operands)
        closed = _local_derivative(_ByKey(node.rule, (node.partial_key, dtypes)), dtypes, k)
        return self.add_jaxpr(closed.jaxpr, closed.consts, node.operands)[0]


class _ByKey:
    """A function that compares by a key, for the cache of local derivatives."""

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
