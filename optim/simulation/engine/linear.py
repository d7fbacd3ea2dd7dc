"""Sparse linear maps: the linearisation of a graph, forward (tangents) and backward (cotangents)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from optim.types import Array


class SparseLinearMap(NamedTuple):
    """A sparse linear map from tangents of some inputs to tangents of the outputs, through shared intermediate values.

    Values are numbered: first the inputs `by`, then one value per step.
    """

    by: tuple[int, ...]  # indices of the inputs that move
    # step k: its value is the sum over (earlier value, weight); an integer is an index into the weights, a float is the
    # weight itself
    steps: tuple[tuple[tuple[int, int | float], ...], ...]
    outputs: tuple[int, ...]  # the value of each output; -1: the output does not change

    def push_forward(self, weights: Sequence[Array], moves: Sequence[Array]) -> list[Array | None]:
        """Tangents of the outputs from those of the inputs `by`; None for an output that does not change."""
        values, used = list(moves), self._use_counts()
        for step in self.steps:
            total = None
            for source, w in step:
                term = _weighted(weights, w, values[source])
                total = term if total is None else total + term
            values.append(jax.lax.optimization_barrier(total) if used[len(values)] > 1 else total)
        return [values[i] if i >= 0 else None for i in self.outputs]

    def pull_back(self, weights: Sequence[Array], changes: Sequence[Array | None]) -> list[Array | None]:
        """Cotangents of the inputs `by` from those of the outputs; None stands for zero."""
        first, used = len(self.by), self._use_counts()
        values: list[Any] = [None] * (first + len(self.steps))

        def _add(i: int, term: Array) -> None:
            values[i] = term if values[i] is None else values[i] + term

        for i, change in zip(self.outputs, changes, strict=True):
            if i >= 0 and change is not None:
                _add(i, change)
        for k in reversed(range(len(self.steps))):
            bar = values[first + k]
            if bar is None:
                continue
            if len(self.steps[k]) > 1 and used[first + k] > 1:
                bar = jax.lax.optimization_barrier(bar)
            for source, w in self.steps[k]:
                _add(source, _weighted(weights, w, bar))
        return values[:first]

    def _use_counts(self) -> list[int]:
        """How often each value is used."""
        used = [0] * (len(self.by) + len(self.steps))
        for i in (*(source for step in self.steps for source, _ in step), *(i for i in self.outputs if i >= 0)):
            used[i] += 1
        return used


def _weighted(weights: Sequence[Array], w: int | float, value: Array) -> Array:
    if isinstance(w, float):
        return value if w == 1.0 else -value if w == -1.0 else w * value
    return weights[w] * value
