"""Many lanes through one compiled program: batches of one size, so that any number of lanes is traced once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# enough lanes to fill vector units, few enough that a small problem still fills both cores
LANES = 16


def in_batches(program: Callable[..., Any], lanes: tuple[Any, ...], size: int = LANES) -> Any:
    """`program(*lanes)` over the leading axis of every leaf, `size` rows at a time, the last row repeated to fill up.

    Batches are dispatched before the first is waited for, so that they run side by side where there are cores. A lane's
    numbers do not depend on the lanes beside it. Returns the program's pytree with NumPy leaves.
    """
    lanes = jax.tree.map(np.asarray, lanes)
    n = len(jax.tree.leaves(lanes)[0])
    waiting = []
    for first in range(0, n, size):
        rows = np.minimum(np.arange(first, first + size), n - 1)
        waiting.append(program(*jax.tree.map(lambda a, rows=rows: a[rows], lanes)))
    found = [jax.tree.map(np.asarray, w) for w in waiting]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *found)
