"""Sparse linear programs: what a small move of a graph's inputs does to its outputs, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from optim.types import Array


class SparseLinearMap(NamedTuple):
    """A sparse linear program from the moves of some inputs to the changes of the outputs, by way of shared values.

    `steps[k]` gives value k (counted after the inputs) as a sum over (earlier value, weight): an integer is a place
    among the weights, a float the weight itself. `outputs` are the values that are wanted; -1: does not change.
    """

    by: tuple[int, ...]
    steps: tuple[tuple[tuple[int, int | float], ...], ...]
    outputs: tuple[int, ...]

    def push_forward(self, weights: Sequence[Array], moves: Sequence[Array]) -> list[Array | None]:
        """Changes of the outputs; None where there is none."""
        values, used = list(moves), self._uses()
        for step in self.steps:
            total = None
            for source, w in step:
                term = _weighted(weights, w, values[source])
                total = term if total is None else total + term
            values.append(jax.lax.optimization_barrier(total) if used[len(values)] > 1 else total)
        return [values[i] if i >= 0 else None for i in self.outputs]

    def pull_back(self, weights: Sequence[Array], changes: Sequence[Array | None]) -> list[Array | None]:
        """Cotangents of the inputs from those of the outputs; None where there is none."""
        first, used = len(self.by), self._uses()
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

    def _uses(self) -> list[int]:
        used = [0] * (len(self.by) + len(self.steps))
        for i in (*(source for step in self.steps for source, _ in step), *(i for i in self.outputs if i >= 0)):
            used[i] += 1
        return used


def _weighted(weights: Sequence[Array], w: int | float, value: Array) -> Array:
    if isinstance(w, float):
        return value if w == 1.0 else -value if w == -1.0 else w * value
    return weights[w] * value
