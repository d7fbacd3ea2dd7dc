"""Many lanes through one compiled program: batches of one size, so that any number of lanes is traced once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# enough lanes to fill vector units, few enough that a small problem still fills both cores
LANES = 16


def in_batches(program: Callable[..., Any], lanes: tuple[Any, ...], *sizes: int) -> Any:
    """`program(*lanes)` over the leading axis of every leaf, some rows at a time: see `batches_of`.

    Batches are dispatched before the first is waited for, so that they run side by side where there are cores. A lane's
    numbers do not depend on the lanes beside it. Returns the program's pytree with NumPy leaves.
    """
    n = len(jax.tree.leaves(lanes)[0])
    return joined([program(*part) for _, part in batches_of(lanes, np.arange(n), *sizes)], n)


def batches_of[T](tree: T, rows: np.ndarray, *sizes: int) -> tuple[tuple[np.ndarray, T], ...]:
    """The given rows of a tree in batches on the device, each with its places among the rows.

    `sizes` are the numbers of rows to choose from (default: `LANES`), each a compiled program: the largest that the
    remaining rows fill by more than half; the last row is repeated to fill up.
    """
    tree = jax.tree.map(np.asarray, tree)
    found, first = [], 0
    while first < len(rows):
        size = max((s for s in sizes if len(rows) - first > s // 2), default=min(sizes, default=LANES))
        place = np.minimum(np.arange(first, first + size), len(rows) - 1)
        taken = jax.tree.map(lambda a, at=rows[place]: jax.numpy.asarray(a[at]), tree)
        found.append((place, taken))
        first += size
    return tuple(found)


def joined(parts: list[Any], count: int) -> Any:
    """What batches gave, as one tree of NumPy arrays with `count` rows."""
    arrays = [jax.tree.map(np.asarray, part) for part in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *arrays)
