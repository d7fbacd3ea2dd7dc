"""LU decomposition of small sparse matrices, written out as straight-line arithmetic.

A rate law depends on few species, so most entries of a Jacobian are zero, and its factors cost a few dozen products.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from optim.simulation.engine.graph import AnyGraph, Place, evaluate_lanes, trace_graph
from optim.simulation.engine.rhs import hold_in_memory
from optim.types import Array, Scalar

Entries = dict[Place, Array]  # (row, column) -> value [L]; zeros are left out

# above this size the straight-line program grows faster than it saves time, and LAPACK is used
STRAIGHT_LINE = 40


@lru_cache(maxsize=64)
def pivot_order(n: int, entries: frozenset[tuple[int, int]]) -> tuple[int, ...]:
    """Order of the pivots, on the diagonal only, that keeps the fill-in small (Markowitz 1957, Manag Sci 3:255).

    Pivots are not chosen by size: 1/(gamma h) - J is dominated by its diagonal at the steps that accuracy allows.

    Args:
        n: number of rows.
        entries: places (row, column) of the entries that are not zero.
    """
    pattern = set(entries) | {(i, i) for i in range(n)}
    left, order = set(range(n)), []

    def _cost(k: int) -> tuple[int, int]:
        below, right = sum((i, k) in pattern for i in left), sum((k, j) in pattern for j in left)
        return (below - 1) * (right - 1), k

    while left:
        k = min(left, key=_cost)
        left.remove(k)
        order.append(k)
        pattern |= {(i, j) for i in left if (i, k) in pattern for j in left if (k, j) in pattern}
    return tuple(order)


@lru_cache(maxsize=64)
def _elimination(n: int, places: tuple[Place, ...], dtype: Any) -> tuple[AnyGraph, tuple[Place, ...]]:
    """The graph from the entries at `places` to the LU factors with inverted pivots, and the places of the factors."""
    order = pivot_order(n, frozenset(places))
    factor_places: list[Place] = []

    def _factor(*values: Scalar) -> tuple[Scalar, ...]:
        lu = dict(zip(places, values, strict=True))
        for position, k in enumerate(order):
            lu[k, k] = 1.0 / lu[k, k]
            for i in order[position + 1 :]:
                if (i, k) not in lu:
                    continue
                lu[i, k] = lu[i, k] * lu[k, k]
                for j in order[position + 1 :]:
                    if (k, j) in lu:
                        change = lu[i, k] * lu[k, j]
                        lu[i, j] = lu[i, j] - change if (i, j) in lu else -change
        factor_places[:] = sorted(lu)
        return tuple(lu[ij] for ij in factor_places)

    return trace_graph(_factor, len(places), dtype=dtype), tuple(factor_places)


@lru_cache(maxsize=64)
def _substitution(
    n: int, places: tuple[Place, ...], filled: tuple[Place, ...], dtype: Any, transposed: bool = False
) -> AnyGraph:
    """The graph from the factors and a right-hand side to the solution."""
    order = pivot_order(n, frozenset(places))

    def _substitute(*values: Scalar) -> tuple[Scalar, ...]:
        lu, x = dict(zip(filled, values, strict=False)), list(values[len(filled) :])
        for position, k in enumerate(order):
            for i in order[position + 1 :]:
                if (i, k) in lu:
                    x[i] = x[i] - lu[i, k] * x[k]
        for position in reversed(range(n)):
            k = order[position]
            for j in order[position + 1 :]:
                if (k, j) in lu:
                    x[k] = x[k] - lu[k, j] * x[j]
            x[k] = x[k] * lu[k, k]
        return tuple(x)

    def _substitute_transposed(*values: Scalar) -> tuple[Scalar, ...]:
        lu, x = dict(zip(filled, values, strict=False)), list(values[len(filled) :])
        for position, k in enumerate(order):
            x[k] = x[k] * lu[k, k]
            for j in order[position + 1 :]:
                if (k, j) in lu:
                    x[j] = x[j] - lu[k, j] * x[k]
        for position in reversed(range(n)):
            k = order[position]
            for i in order[position + 1 :]:
                if (i, k) in lu:
                    x[k] = x[k] - lu[i, k] * x[i]
        return tuple(x)

    return trace_graph(_substitute_transposed if transposed else _substitute, len(filled) + n, dtype=dtype)


def _product(entries: dict[Place, Scalar], vector: Sequence[Any], like: Sequence[Scalar]) -> tuple[Scalar, ...]:
    """Matrix times vector; rows without entries are zeros of the shape of `like`."""
    out: list[Any] = [None] * len(like)
    for (i, j), value in entries.items():
        term = value * vector[j]
        out[i] = term if out[i] is None else out[i] + term
    return tuple(jnp.zeros_like(x) if total is None else total for total, x in zip(out, like, strict=True))


class SparseSolver:
    """LU decomposition of one small matrix per lane, for many right-hand sides.

    Derivatives reuse the factors: one solve for every direction, no further factorisation.

    Args:
        matrix: entries, each [L], of an n x n matrix.
        n: number of rows.
    """

    def __init__(self, matrix: Entries, n: int):
        self.matrix = matrix
        self.n = n
        fixed = jax.lax.stop_gradient(matrix)
        if n > STRAIGHT_LINE:
            self.factors = _lapack(fixed, n)
        else:
            places = tuple(sorted(matrix))
            graph = _elimination(n, places, fixed[places[0]].dtype)[0]
            self.factors = hold_in_memory(evaluate_lanes(graph, [fixed[ij] for ij in places]))

    def solve(self, b: Sequence[Array]) -> tuple[Array, ...]:
        """The solution x of matrix x = b, as n rows [L], for a right-hand side of n rows [L]."""
        return _solution(self.n, self.factors, self.matrix, tuple(b))

    def solve_transposed(self, b: Sequence[Array]) -> tuple[Array, ...]:
        """As `solve` with the transposed matrix; do not differentiate it."""
        return _solved(self.n, self.factors, self.matrix, tuple(b), True)


def _lapack(matrix: Entries, n: int) -> Any:
    zero = jnp.zeros_like(next(iter(matrix.values())))
    dense = jnp.stack([jnp.stack([matrix.get((i, j), zero) for j in range(n)]) for i in range(n)])
    return jax.scipy.linalg.lu_factor(jnp.moveaxis(dense, -1, 0))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solution(n: int, factors: Any, matrix: Entries, b: tuple[Array, ...]) -> tuple[Array, ...]:
    return _solved(n, factors, matrix, b, False)


def _solved(n: int, factors: Any, matrix: Entries, b: tuple[Array, ...], transposed: bool) -> tuple[Array, ...]:
    if n > STRAIGHT_LINE:
        one = lambda f, x: jax.scipy.linalg.lu_solve(f, x, trans=int(transposed))  # noqa: E731
        x = jax.vmap(one)(factors, jnp.stack(b, axis=-1))
        return tuple(x[..., i] for i in range(n))
    places, dtype = tuple(sorted(matrix)), factors[0].dtype
    filled = _elimination(n, places, dtype)[1]
    return evaluate_lanes(_substitution(n, places, filled, dtype, transposed), (*factors, *b))


def _solution_jvp(n: int, primals: Any, tangents: Any) -> Any:
    factors, matrix, b = primals
    _, matrix_dot, b_dot = tangents
    x = _solution(n, factors, matrix, b)
    moved = {ij: d for ij, d in matrix_dot.items() if not isinstance(d, SymbolicZero)}
    drift = _product(moved, x, x)
    change = tuple(-e if isinstance(d, SymbolicZero) else d - e for d, e in zip(b_dot, drift, strict=True))
    return x, _solution(n, factors, matrix, change)


_solution.defjvp(_solution_jvp, symbolic_zeros=True)
