"""The right-hand side of a vessel between two events: the balance and its rates as one graph of scalars.

What only depends on things that stay the same between two events (parameters, setpoints, feeds) is computed once when
they change, and not in every stage of every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """What stays the same between two events."""

    controls: Controls
    p: Any
    vessel: Vessel


class RightHandSide(NamedTuple):
    """dy/ds of lanes side by side; `still` [each L] holds what was computed from `Held`."""

    graph: AnyGraph
    frozen: tuple[Array, ...]

    def __call__(self, s: Array, y: Array) -> tuple[Array, ...]:
        """s [L], y [N', L] -> N' rows [L]."""
        return apply_graph(self.graph, (s, *y, *self.frozen))

    def jacobian(self, s: Array, y: Array) -> tuple[Array | None, dict[Place, Array]]:
        """The derivatives by s [N', L] (None: it depends on no s), and those by y that are not zero, each [L]."""
        n = y.shape[0]
        joint, places = self.graph.with_derivative(tuple(range(n + 1)))
        found = dict(zip(places, apply_graph(joint, (s, *y, *self.frozen))[n:], strict=True))
        by_s = {i: value for (i, j), value in found.items() if j == 0}
        moved = stack_rows([by_s.get(i, jnp.zeros_like(s)) for i in range(n)]) if by_s else None
        return moved, {(i, j - 1): value for (i, j), value in found.items() if j}

    def pull_back(self, s: Array, y: Array, bar: Sequence[Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Cotangents of y and of `still` from those of dy/ds (N' rows)."""
        return _pull(self.graph, self, s, y, bar)

    def pull_back_jacobian(
        self, s: Array, y: Array, by_s: Sequence[Array] | None, entries: dict[Place, Array]
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The same from those of what `jacobian` gives."""
        n = y.shape[0]
        joint, places = self.graph.with_derivative(tuple(range(n + 1)))
        bar = [by_s[i] if j == 0 and by_s is not None else entries[i, j - 1] for i, j in places]
        return _pull(joint, self, s, y, [*[None] * n, *bar])

    def push_forward(self, s: Array, y: Array, direction: Array) -> Array:
        """The Jacobian times a direction [N', L]; not to be differentiated."""
        run = lambda *rows: evaluate_lanes(self.graph, (s, *rows, *self.frozen))  # noqa: E731
        return stack_rows(jax.jvp(run, tuple(y), tuple(direction))[1])


def _pull(
    graph: AnyGraph, rhs: RightHandSide, s: Array, y: Array, bar: Sequence[Array | None]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    n, inputs = y.shape[0], (s, *y, *rhs.frozen)
    joint, linear = graph.linear_map(tuple(range(1, len(inputs))))
    weights = hold_in_memory(evaluate_lanes(joint, inputs)[len(bar) :])
    found = [
        jnp.zeros_like(x) if a is None else a for a, x in zip(linear.pull_back(weights, bar), inputs[1:], strict=True)
    ]
    return tuple(found[:n]), tuple(found[n:])


def hold_in_memory(values: Any) -> Any:
    """Hold values in memory: XLA would compute them again in each of their consumers."""
    return jax.lax.optimization_barrier(values)


def store_stage(stages: Array, i: Array, rows: Sequence[Array]) -> Array:
    """Stages [R, N', L] with stage i set, in place row by row: no row is copied twice."""
    zero = jnp.zeros((), jnp.int32)
    i = jnp.asarray(i, jnp.int32)
    for k, row in enumerate(rows):
        stages = jax.lax.dynamic_update_slice(stages, row[None, None], (i, jnp.int32(k), zero))
    return stages


def stack_rows(rows: Sequence[Array]) -> Array:
    """Rows [L] as one array; held before, because a fused concatenation would choose among rows at every element."""
    return hold_in_memory(jnp.stack(hold_in_memory(tuple(rows))))


def right_hand_side(model: AbstractKineticModel, held: FrozenInputs) -> RightHandSide:
    """The right-hand sides of all lanes; every leaf of `held` has the lanes as its last axis."""
    leaves, structure = jax.tree.flatten(held)
    shapes = tuple(leaf.shape[:-1] for leaf in leaves)
    before, graph = _graphs(model, structure, shapes, jnp.result_type(*leaves))
    scalars = [leaf[place] for leaf, shape in zip(leaves, shapes, strict=True) for place in np.ndindex(shape)]
    return RightHandSide(graph, hold_in_memory(apply_graph(before, tuple(scalars))))


def trace_right_hand_side(fn: Callable[[Scalar, StateTuple], StateTuple], n: int) -> RightHandSide:
    """A right-hand side of n states from a function that holds nothing."""
    return RightHandSide(trace_graph(lambda s, *y: fn(s, y), n + 1), ())


@lru_cache(maxsize=128)
def _graphs(
    model: AbstractKineticModel, structure: Any, shapes: tuple[tuple[int, ...], ...], dtype: Any
) -> tuple[AnyGraph, AnyGraph]:
    """Graphs of what stays the same, and of the rest."""
    still = sum(int(np.prod(shape, dtype=int)) for shape in shapes)

    def _nested(values: list[Scalar], shape: tuple[int, ...]) -> Any:
        if not shape:
            return values.pop(0)
        return [_nested(values, shape[1:]) for _ in range(shape[0])]

    def _whole(*x: Scalar) -> StateTuple:
        moving, values = x[: len(x) - still], list(x[len(x) - still :])
        held = jax.tree.unflatten(structure, [_nested(values, shape) for shape in shapes])
        return state_derivative(
            model, held.p, tuple(moving[1:]), s=moving[0], controls=held.controls, vessel=held.vessel
        )

    count = len(state_names(model, jax.tree.unflatten(structure, [0.0] * structure.num_leaves).controls.actions))
    return trace_graph(_whole, 1 + count + still, dtype, still).split_frozen(still)
