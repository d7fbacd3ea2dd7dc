"""The right-hand side of a vessel between two events: the material balance and its rates as one graph of scalars.

Parameters, setpoints and feeds do not change between two events: they are frozen inputs. Values that depend on frozen
inputs alone are computed once per interval, not in every stage of every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.kinetics.base import AbstractKineticModel
from optim.simulation.balance import Controls, Vessel, state_derivative, state_names
from optim.simulation.engine.graph import AnyGraph, Place, apply_graph, evaluate_lanes, trace_graph
from optim.types import Array, Scalar, StateTuple


class FrozenInputs(NamedTuple):
    """Inputs of the right-hand side that do not change between two events."""

    controls: Controls
    p: Any
    vessel: Vessel


class RightHandSide(NamedTuple):
    """The right-hand side dy/ds of L lanes with N' states each."""

    graph: AnyGraph
    frozen: tuple[Array, ...]  # each [L], values computed from `FrozenInputs`

    def __call__(self, s: Array, y: Array) -> tuple[Array, ...]:
        """dy/ds as N' rows [L] at position s [L] in the interval and state y [N', L]."""
        return apply_graph(self.graph, (s, *y, *self.frozen))

    def jacobian(self, s: Array, y: Array) -> tuple[Array | None, dict[Place, Array]]:
        """Derivatives of dy/ds by s [N', L] (None if there is no dependence), and the entries of that by y, each [L].

        Entries that are always zero are left out.
        """
        n = y.shape[0]
        joint, places = self.graph.with_derivative(tuple(range(n + 1)))
        entries = dict(zip(places, apply_graph(joint, (s, *y, *self.frozen))[n:], strict=True))
        by_s = {i: value for (i, j), value in entries.items() if j == 0}
        rows = stack_rows([by_s.get(i, jnp.zeros_like(s)) for i in range(n)]) if by_s else None
        return rows, {(i, j - 1): value for (i, j), value in entries.items() if j}

    def pull_back(self, s: Array, y: Array, bar: Sequence[Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Cotangents of y and of `frozen` from those of dy/ds (N' rows)."""
        return _pull(self.graph, self, s, y, bar)

    def pull_back_jacobian(
        self, s: Array, y: Array, *, by_s: Sequence[Array] | None, entries: dict[Place, Array]
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Cotangents of y and of `frozen` from those of the two results of `jacobian`."""
        n = y.shape[0]
        joint, places = self.graph.with_derivative(tuple(range(n + 1)))
        bar = [by_s[i] if j == 0 and by_s is not None else entries[i, j - 1] for i, j in places]
        return _pull(joint, self, s, y, [*[None] * n, *bar])

    def push_forward(self, s: Array, y: Array, direction: Array) -> Array:
        """The Jacobian by y times a direction [N', L]; do not differentiate it."""
        run = lambda *rows: evaluate_lanes(self.graph, (s, *rows, *self.frozen))  # noqa: E731
        return stack_rows(jax.jvp(run, tuple(y), tuple(direction))[1])


def _pull(
    graph: AnyGraph, rhs: RightHandSide, s: Array, y: Array, bar: Sequence[Array | None]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    n, inputs = y.shape[0], (s, *y, *rhs.frozen)
    joint, linear = graph.linear_map(tuple(range(1, len(inputs))))
    weights = hold_in_memory(evaluate_lanes(joint, inputs)[len(bar) :])
    bars = linear.pull_back(weights, bar)
    bars = [jnp.zeros_like(x) if a is None else a for a, x in zip(bars, inputs[1:], strict=True)]
    return tuple(bars[:n]), tuple(bars[n:])


def hold_in_memory(values: Any) -> Any:
    """Store values in memory. Otherwise XLA would compute them again in each of their consumers."""
    return jax.lax.optimization_barrier(values)


def store_stage(stages: Array, i: Array, rows: Sequence[Array]) -> Array:
    """Set stage i of the stages [R, N', L], in place and row by row: no row is copied twice."""
    zero = jnp.zeros((), jnp.int32)
    i = jnp.asarray(i, jnp.int32)
    for k, row in enumerate(rows):
        stages = jax.lax.dynamic_update_slice(stages, row[None, None], (i, jnp.int32(k), zero))
    return stages


def stack_rows(rows: Sequence[Array]) -> Array:
    """Stack rows [L] into one array.

    The rows are held in memory before: a fused concatenation would select among the rows at every element.
    """
    return hold_in_memory(jnp.stack(hold_in_memory(tuple(rows))))


def right_hand_side(model: AbstractKineticModel, frozen: FrozenInputs) -> RightHandSide:
    """The right-hand side of L lanes.

    Args:
        model: kinetic model.
        frozen: controls, parameters and vessels; every leaf has the lanes as its last axis.
    """
    leaves, structure = jax.tree.flatten(frozen)
    shapes = tuple(leaf.shape[:-1] for leaf in leaves)
    before, graph = _graphs(model, structure, shapes, jnp.result_type(*leaves))
    scalars = [leaf[place] for leaf, shape in zip(leaves, shapes, strict=True) for place in np.ndindex(shape)]
    return RightHandSide(graph, hold_in_memory(apply_graph(before, tuple(scalars))))


@lru_cache(maxsize=128)
def _graphs(
    model: AbstractKineticModel, structure: Any, shapes: tuple[tuple[int, ...], ...], dtype: Any
) -> tuple[AnyGraph, AnyGraph]:
    """The graph of the values that depend on frozen inputs alone, and the graph of the rest."""
    frozen = sum(int(np.prod(shape, dtype=int)) for shape in shapes)

    def _nested(values: list[Scalar], shape: tuple[int, ...]) -> Any:
        if not shape:
            return values.pop(0)
        return [_nested(values, shape[1:]) for _ in range(shape[0])]

    def _derivative(*x: Scalar) -> StateTuple:
        moving, values = x[: len(x) - frozen], list(x[len(x) - frozen :])
        inputs = jax.tree.unflatten(structure, [_nested(values, shape) for shape in shapes])
        return state_derivative(
            model, inputs.p, tuple(moving[1:]), s=moving[0], controls=inputs.controls, vessel=inputs.vessel
        )

    blank = jax.tree.unflatten(structure, [0.0] * structure.num_leaves)
    count = len(state_names(model, blank.controls.actions))
    return trace_graph(_derivative, 1 + count + frozen, dtype=dtype, frozen=frozen).split_frozen(frozen)
