"""Sparse derivatives and linear algebra of small systems, written out in straight-line arithmetic.

A rate law touches few species, so most entries of its Jacobian are zero. Which ones is read off the program itself;
the rest is computed once and shared by every direction of a derivative and every stage of an implicit step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Literal

from optim.kinetics.base import AbstractKineticModel
from optim.types import Scalar

Entries = dict[tuple[int, int], Scalar]  # (row, column) -> value, zeros left out

# above this size the straight-line program grows faster than what it saves; LAPACK takes over
STRAIGHT_LINE = 40


def dependence(fn: Callable[..., Sequence[Scalar]], arguments: Sequence[Any]) -> list[frozenset[int]]:
    """For every output of `fn`, the arguments (flattened) it can depend on, from its jaxpr: never too few."""
    closed = jax.make_jaxpr(fn)(*arguments)
    flat = jax.tree.leaves(tuple(arguments))
    return _walk(closed.jaxpr, [frozenset({i}) for i in range(len(flat))])


def _walk(jaxpr: Any, inputs: list[frozenset[int]]) -> list[frozenset[int]]:
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(v: Any) -> frozenset[int]:
        return frozenset() if isinstance(v, Literal) else known.get(v, frozenset())

    for equation in jaxpr.eqns:
        given = [of(v) for v in equation.invars]
        if equation.primitive.name in ("jit", "pjit"):
            found = _walk(equation.params["jaxpr"].jaxpr, given)
        elif equation.primitive.name == "optimization_barrier":
            found = given
        else:
            found = [frozenset().union(*given)] * len(equation.outvars)
        known.update(zip(equation.outvars, found, strict=True))
    return [of(v) for v in jaxpr.outvars]


def jacobian(fn: Callable[[Any], Sequence[Scalar]], at: Any, rows_of: Sequence[Sequence[int]]) -> Entries:
    """Derivatives of the outputs of `fn` by every leaf of `at`; `rows_of[j]` names the outputs that leaf j reaches.

    One forward derivative per column, along which everything else is a known zero: nothing is computed for it, and the
    compiler merges what the columns have in common.
    """
    leaves, tree = jax.tree.flatten(at)
    found: Entries = {}
    for j, rows in enumerate(rows_of):
        if not rows:
            continue

        def column(v: Scalar, j: int = j, rows: Sequence[int] = rows) -> tuple[Scalar, ...]:
            out = fn(jax.tree.unflatten(tree, [*leaves[:j], v, *leaves[j + 1 :]]))
            return tuple(out[i] for i in rows)

        slopes = jax.jvp(column, (leaves[j],), (jnp.ones_like(leaves[j]),))[1]
        found.update({(i, j): slope for i, slope in zip(rows, slopes, strict=True)})
    return found


def columns(dependences: Sequence[frozenset[int]], count: int) -> tuple[tuple[int, ...], ...]:
    """For each of `count` arguments, the outputs that depend on it."""
    return tuple(tuple(i for i, d in enumerate(dependences) if j in d) for j in range(count))


@lru_cache(maxsize=64)
def _pattern(model: AbstractKineticModel, environment: Any) -> tuple[tuple[int, ...], ...]:
    """Which rates each parameter, each species and each part of the environment reaches."""
    one = jnp.ones(())
    p = model.Parameters(*(one for _ in model.Parameters._fields))
    c = model.State(*(one for _ in model.species))
    env = jax.tree.unflatten(environment, [one] * environment.num_leaves)
    found = dependence(lambda p, c, env: tuple(model.rates(p, c, env)), (p, c, env))
    return columns(found, len(p) + len(c) + environment.num_leaves)


def rates(model: AbstractKineticModel, p: Any, c: Any, env: Any) -> Any:
    """`model.rates`, whose forward derivative is a sparse matrix times a direction: the matrix is computed once."""
    return _rates(model, p, c, env)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _rates(model: AbstractKineticModel, p: Any, c: Any, env: Any) -> Any:
    return model.rates(p, c, env)


def _rates_jvp(model: AbstractKineticModel, primals: Any, tangents: Any) -> Any:
    p, c, env = primals
    moves = jax.tree.leaves(tangents, is_leaf=lambda x: isinstance(x, SymbolicZero))
    pattern = _pattern(model, jax.tree.structure(env))
    moving = [not isinstance(m, SymbolicZero) for m in moves]
    rows_of = [rows if moved else () for rows, moved in zip(pattern, moving, strict=True)]
    value = model.rates(p, c, env)
    entries = jacobian(lambda at: tuple(model.rates(*at)), (p, c, env), rows_of)
    # held, or the compiler computes them again for every direction
    entries = jax.lax.optimization_barrier(entries)
    return value, model.State(*product(entries, moves, value))


_rates.defjvp(_rates_jvp, symbolic_zeros=True)


def product(entries: Entries, vector: Sequence[Any], like: Sequence[Scalar]) -> tuple[Scalar, ...]:
    """Matrix times vector; rows without entries are zeros like those of `like`."""
    out: list[Any] = [None] * len(like)
    for (i, j), value in entries.items():
        term = value * vector[j]
        out[i] = term if out[i] is None else out[i] + term
    return tuple(jnp.zeros_like(x) if total is None else total for total, x in zip(out, like, strict=True))


@lru_cache(maxsize=64)
def elimination(n: int, entries: frozenset[tuple[int, int]]) -> tuple[int, ...]:
    """Order of pivots that keeps the fill-in small (Markowitz 1957, Manag Sci 3:255), on the diagonal only.

    Pivots are not chosen by size: 1/(gamma h) - J is dominated by its diagonal for the steps that accuracy allows.
    """
    pattern = set(entries) | {(i, i) for i in range(n)}
    left, order = set(range(n)), []

    def cost(k: int) -> tuple[int, int]:
        below, right = sum((i, k) in pattern for i in left), sum((k, j) in pattern for j in left)
        return (below - 1) * (right - 1), k

    while left:
        k = min(left, key=cost)
        left.remove(k)
        order.append(k)
        pattern |= {(i, j) for i in left if (i, k) in pattern for j in left if (k, j) in pattern}
    return tuple(order)


def _eliminate(matrix: Entries, order: Sequence[int]) -> tuple[Entries, dict[int, Scalar]]:
    """LU factors in a given order of pivots, and the inverse pivots."""
    lu = dict(matrix)
    inverse: dict[int, Scalar] = {}
    for position, k in enumerate(order):
        inverse[k] = 1.0 / lu[k, k]
        for i in order[position + 1 :]:
            if (i, k) not in lu:
                continue
            lu[i, k] = lu[i, k] * inverse[k]
            for j in order[position + 1 :]:
                if (k, j) in lu:
                    change = lu[i, k] * lu[k, j]
                    lu[i, j] = lu[i, j] - change if (i, j) in lu else -change
    return jax.lax.optimization_barrier((lu, inverse))


def _substitute(
    lu: Entries, inverse: dict[int, Scalar], order: Sequence[int], b: Sequence[Scalar]
) -> tuple[Scalar, ...]:
    x = list(b)
    for position, k in enumerate(order):
        for i in order[position + 1 :]:
            if (i, k) in lu:
                x[i] = x[i] - lu[i, k] * x[k]
    for position in reversed(range(len(order))):
        k = order[position]
        for j in order[position + 1 :]:
            if (k, j) in lu:
                x[k] = x[k] - lu[k, j] * x[j]
        x[k] = x[k] * inverse[k]
    return tuple(x)


class Solver:
    """Solutions of one small matrix with many right-hand sides.

    Derivatives reuse the factors: a solve for every direction, no new factorisation.
    """

    def __init__(self, matrix: Entries, n: int):
        self.matrix = matrix
        self.n = n
        self.order = elimination(n, frozenset(matrix))
        fixed = jax.lax.stop_gradient(matrix)
        self.factors = _eliminate(fixed, self.order) if n <= STRAIGHT_LINE else _lapack(fixed, n)

    def solve(self, b: Sequence[Scalar]) -> tuple[Scalar, ...]:
        """x with matrix x = b."""
        return _solution(self.n, self.factors, self.matrix, tuple(b))


def _lapack(matrix: Entries, n: int) -> Any:
    zero = jnp.zeros_like(next(iter(matrix.values())))
    dense = jnp.stack([jnp.stack([matrix.get((i, j), zero) for j in range(n)]) for i in range(n)])
    return jax.scipy.linalg.lu_factor(dense)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solution(n: int, factors: Any, matrix: Entries, b: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    if n > STRAIGHT_LINE:
        x = jax.scipy.linalg.lu_solve(factors, jnp.stack(b))
        return tuple(x[i] for i in range(n))
    lu, inverse = factors
    return _substitute(lu, inverse, elimination(n, frozenset(matrix)), b)


def _solution_jvp(n: int, primals: Any, tangents: Any) -> Any:
    factors, matrix, b = primals
    _, matrix_dot, b_dot = tangents
    x = _solution(n, factors, matrix, b)
    moved = {ij: d for ij, d in matrix_dot.items() if not isinstance(d, SymbolicZero)}
    drift = product(moved, x, x)
    change = tuple(-e if isinstance(d, SymbolicZero) else d - e for d, e in zip(b_dot, drift, strict=True))
    return x, _solution(n, factors, matrix, change)


_solution.defjvp(_solution_jvp, symbolic_zeros=True)
