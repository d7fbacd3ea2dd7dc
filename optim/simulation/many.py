"""Any number of vessels on all devices: in chunks, the longest first, each device with its own share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from optim.kinetics.base import AbstractKineticModel
from optim.runtime import require_float64
from optim.schedule.grid import IntervalGrid
from optim.simulation.balance import Vessel
from optim.simulation.engine.march import Integrator
from optim.simulation.simulate import Trajectory, check_trajectory, simulate

# vessels that one device holds at a time; bounds the memory, and far above what fills vector units
CHUNK = 4096


def simulate_batch(
    model: AbstractKineticModel,
    p: Any,
    initial: Any,
    volume: np.ndarray,
    grid: IntervalGrid,
    vessel: Vessel,
    integrator: Integrator,
    names: Sequence[str] | None = None,
    expected: np.ndarray | None = None,
    statuses: bool = False,
) -> Trajectory:
    """Simulate B vessels on every device that JAX sees; arguments as for `simulate`, results as NumPy arrays.

    A vessel's numbers depend on neither its neighbours nor the devices (to round-off: programs of other sizes may round
    differently). `expected` [B] orders vessels by the work they take (the `steps` of an earlier run are the best
    guess); without it, by their intervals and time.
    Raises `SimulationError` that names every vessel that failed, by `names`, unless `statuses` asks for them as data.
    """
    require_float64("simulate_batch")
    arguments = jax.tree.map(np.asarray, (tuple(p), tuple(initial), volume, grid, vessel))
    count = len(np.asarray(volume))
    if expected is None:
        expected = np.asarray(grid.intervals) + np.asarray(grid.t[:, -1] - grid.t[:, 0]) / 24.0
    # dealt like cards, so that every device has as much to do as the others, and the longest begin first
    order = np.argsort(-np.asarray(expected, float), kind="stable")
    devices = jax.device_count()
    size = min(CHUNK, _rounded(-(-count // devices))) * devices
    program, sharding = _program(model, devices)
    waiting = []
    for first in range(0, count, size):
        chosen = order[first : first + size]
        rows = np.concatenate([chosen, np.full(size - len(chosen), chosen[-1])])
        dealt = rows.reshape(-1, devices).T.ravel()
        used = (np.arange(size) < len(chosen)).reshape(-1, devices).T.ravel()
        *others, its_grid, its_vessel = jax.tree.map(lambda a, dealt=dealt: a[dealt], arguments)
        # rows that only fill up have no intervals: they end where they begin
        its_grid = its_grid._replace(intervals=np.where(used, its_grid.intervals, 0).astype(np.int32))
        taken = jax.device_put((*others, its_grid, its_vessel), sharding)
        waiting.append((dealt[used], used, program(*taken, integrator)))
    found: Any = None
    for place, used, part in waiting:
        part = jax.tree.map(np.asarray, part)
        if found is None:
            found = jax.tree.map(lambda a: np.empty((count, *a.shape[1:]), a.dtype), part)
        for whole, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(part), strict=True):
            whole[place] = leaf[used]
    if not statuses:
        check_trajectory(found, tuple(names) if names is not None else tuple(str(i) for i in range(count)))
    return found


def _rounded(count: int) -> int:
    """The next power of two (at least 8), so that batches of different size share a program."""
    return max(8, 1 << (count - 1).bit_length())


@lru_cache(maxsize=64)
def _program(model: AbstractKineticModel, devices: int) -> tuple[Any, NamedSharding]:
    mesh = jax.make_mesh((devices,), ("vessels",))
    shares, all_of_it = PartitionSpec("vessels"), PartitionSpec()

    def _run(p: Any, initial: Any, volume: Any, grid: Any, vessel: Any, integrator: Integrator) -> Trajectory:
        return simulate(model, model.Parameters(*p), initial, volume, grid, vessel, integrator)

    # each device runs a loop of its own: nothing is exchanged, and none waits for another before the end
    shared = jax.shard_map(_run, mesh=mesh, in_specs=(*[shares] * 5, all_of_it), out_specs=shares, check_vma=False)
    return jax.jit(shared), NamedSharding(mesh, shares)
