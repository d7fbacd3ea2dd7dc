"""The vessel table: all inputs of a batch of vessels, packed in rows from which the lanes take what they need."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from optim.schedule.grid import IntervalGrid
from optim.simulation.balance import Controls, Vessel
from optim.types import Array


class PackedTree(eqx.Module):
    """A pytree whose leaves share leading axes, packed into one array."""

    table: Array  # [rows, columns]
    tree: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    @staticmethod
    def pack_tree(tree: Any, leading: int) -> PackedTree:
        """Pack a pytree whose leaves have their first `leading` axes in common."""
        leaves, structure = jax.tree.flatten(tree)
        rows = math.prod(leaves[0].shape[:leading])
        table = jnp.concatenate([leaf.reshape(rows, -1) for leaf in leaves], axis=1)
        return PackedTree(table, structure, tuple(leaf.shape[leading:] for leaf in leaves))

    def take_rows(self, row: Array) -> Any:
        """The pytree of one row [L] per lane, with the lanes last."""
        columns, leaves, first = self.table.at[row].get(mode="promise_in_bounds").T, [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            leaves.append(columns[first : first + size].reshape(*shape, *columns.shape[1:]))
            first += size
        return jax.tree.unflatten(self.tree, leaves)

    def add_rows(self, row: Array, tree: Any) -> PackedTree:
        """Add a pytree (lanes last) to one row [L] per lane; rows beyond the last are ignored."""
        columns = [leaf.reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(tree)]
        return eqx.tree_at(
            lambda packed: packed.table, self, self.table.at[row].add(jnp.concatenate(columns).T, mode="drop")
        )


class VesselTable(NamedTuple):
    """All inputs of V vessels, packed in rows: one gather of a row is cheaper than many of single numbers."""

    y0: Array  # [V, N'] initial states
    p: PackedTree  # parameters, one row per vessel
    vessels: PackedTree  # feed media and devices, one row per vessel
    controls: PackedTree  # one row per vessel and interval
    intervals: Array  # [V] intervals in use

    @property
    def node_count(self) -> int:
        """Number of nodes of every grid, including the padding."""
        return self.controls.table.shape[0] // self.intervals.shape[0] + 1


def pack_vessels(p: Any, y0: Array, *, grid: IntervalGrid, vessel: Vessel) -> VesselTable:
    """Pack all inputs of V vessels.

    Args:
        p: the model's Parameters, each [V].
        y0: initial states [V, N'].
        grid: schedules with a leading axis V.
        vessel: feed media and devices with a leading axis V.
    """
    controls = Controls(grid.t[:, 1:] - grid.t[:, :-1], grid.actions)
    return VesselTable(
        y0,
        PackedTree.pack_tree(p, 1),
        PackedTree.pack_tree(vessel, 1),
        PackedTree.pack_tree(controls, 2),
        grid.intervals,
    )


def controls_at(table: VesselTable, vessel: Array, k: Array) -> Controls:
    """The controls of interval `k` [L] of the vessel [L] on every lane."""
    controls: Controls = table.controls.take_rows(interval_row(table, vessel, k))
    return controls


def interval_row(table: VesselTable, vessel: Array, k: Array) -> Array:
    """Row of interval `k` of a vessel in `VesselTable.controls`."""
    intervals = table.node_count - 1
    return vessel * intervals + jnp.minimum(k, intervals - 1)
