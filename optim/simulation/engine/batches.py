"""Many lanes through one compiled program: batches of one size, so that any number of lanes is traced once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# enough lanes to fill vector units, few enough that a small problem still fills both cores
BATCH_LANES = 16


def map_batches(program: Callable[..., Any], lanes: tuple[Any, ...], size: int = BATCH_LANES) -> Any:
    """`program(*lanes)` over the leading axis of every leaf, `size` rows at a time: see `batches_of`.

    Batches are dispatched before the first is waited for, so that they run side by side where there are cores. A lane's
    numbers do not depend on the lanes beside it. Returns the program's pytree with NumPy leaves.
    """
    lanes = jax.tree.map(np.asarray, lanes)
    n = len(jax.tree.leaves(lanes)[0])
    whole = n - n % size
    parts = [jax.tree.map(lambda a, at=first: a[at : at + size], lanes) for first in range(0, whole, size)]
    if whole < n:
        rest = np.minimum(np.arange(whole, whole + size), n - 1)
        parts.append(jax.tree.map(lambda a: a[rest], lanes))
    return join_batches([program(*part) for part in parts], n)


def split_batches[T](tree: T, rows: np.ndarray, size: int) -> tuple[tuple[np.ndarray, T], ...]:
    """The given rows of a tree in batches of one size on the device, each with its places among the rows.

    The last row is repeated to fill up, so that any number of rows is one compiled program.
    """
    tree = jax.tree.map(np.asarray, tree)
    found = []
    for first in range(0, len(rows), size):
        place = np.minimum(np.arange(first, first + size), len(rows) - 1)
        found.append((place, jax.tree.map(lambda a, at=rows[place]: jax.numpy.asarray(a[at]), tree)))
    return tuple(found)


def join_batches(parts: list[Any], count: int) -> Any:
    """What batches gave, as one tree of NumPy arrays with `count` rows."""
    arrays = [jax.tree.map(np.asarray, part) for part in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *arrays)
