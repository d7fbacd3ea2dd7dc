"""Batches of one size, so that one compiled program serves any number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# rows per batch: enough to fill the vector units, few enough that a small problem still uses both cores
BATCH_ROWS = 16


def map_batches(program: Callable[..., Any], rows: tuple[Any, ...], size: int = BATCH_ROWS) -> Any:
    """Map a compiled program over rows, one batch after the other.

    All batches are dispatched before the first result is awaited, so that they run side by side on several cores. The
    last batch is filled up with its last row.

    Args:
        program: function of batches with `size` rows; the result of a row must not depend on the other rows.
        rows: arguments of the program; every leaf has a leading axis of n rows.
        size: rows per batch.

    Returns:
        The results of all rows, with NumPy leaves of n rows.
    """
    rows = jax.tree.map(np.asarray, rows)
    n = len(jax.tree.leaves(rows)[0])
    whole = n - n % size
    parts = [jax.tree.map(lambda a, at=first: a[at : at + size], rows) for first in range(0, whole, size)]
    if whole < n:
        rest = np.minimum(np.arange(whole, whole + size), n - 1)
        parts.append(jax.tree.map(lambda a: a[rest], rows))
    return join_batches([program(*part) for part in parts], n)


def split_batches[T](tree: T, rows: np.ndarray, size: int) -> tuple[tuple[np.ndarray, T], ...]:
    """Split rows of a pytree into batches on the device. The last batch is filled up with its last row.

    Args:
        tree: pytree whose leaves have a leading axis of rows.
        rows: indices of the rows to take [n].
        size: rows per batch.

    Returns:
        Each batch with the places of its rows within `rows` [size].
    """
    tree = jax.tree.map(np.asarray, tree)
    batches = []
    for first in range(0, len(rows), size):
        place = np.minimum(np.arange(first, first + size), len(rows) - 1)
        batches.append((place, jax.tree.map(lambda a, at=rows[place]: jax.numpy.asarray(a[at]), tree)))
    return tuple(batches)


def join_batches(parts: list[Any], count: int) -> Any:
    """Join the results of batches into one pytree of NumPy arrays with `count` rows."""
    arrays = [jax.tree.map(np.asarray, part) for part in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *arrays)
