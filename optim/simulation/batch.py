"""Batches of any size on all devices: in chunks, the longest vessels first, an equal share for every device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from optim.kinetics.base import AbstractKineticModel
from optim.runtime import require_float64
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.simulate import Trajectory, check_trajectory, simulate_cultivations

# vessels that one device holds at a time: bounds the memory, and is far above what fills the vector units
CHUNK = 4096


def simulate_batch(
    model: AbstractKineticModel,
    p: Any,
    cultivation: Cultivation,
    *,
    integrator: Integrator,
    names: Sequence[str] | None = None,
    expected_steps: np.ndarray | None = None,
    raise_on_failure: bool = True,
) -> Trajectory:
    """Simulate a batch of any number B of cultivations on every device that JAX sees.

    The numbers of a vessel depend neither on its neighbours nor on the devices, apart from round-off: programs of
    another size may round differently.

    Args:
        model: kinetic model.
        p: the model's Parameters, each [B].
        cultivation: as for `simulate_cultivations`, with a leading axis B.
        integrator: as for `simulate_cultivations`.
        names: the name of each vessel for error messages; its index by default.
        expected_steps: [B] expected work of each vessel, by which the batch is sorted. The `steps` of an earlier
            trajectory are the best guess. By default the work is estimated from the intervals and the duration.
        raise_on_failure: False returns failed vessels as data in `Trajectory.status`.

    Returns:
        The trajectories as NumPy arrays, in the order of the input.

    Raises:
        SimulationError: a vessel failed; the message names all that did.
        OptimError: JAX is set to single precision.
    """
    require_float64("simulate_batch")
    arguments = jax.tree.map(np.asarray, (tuple(p), cultivation._replace(initial=tuple(cultivation.initial))))
    grid = arguments[1].grid
    count = len(arguments[1].volume)
    if expected_steps is None:
        expected_steps = grid.intervals + (grid.t[:, -1] - grid.t[:, 0]) / 24.0
    # dealt like cards, so that every device has as much to do as the others, and the longest begin first
    order = np.argsort(-np.asarray(expected_steps, float), kind="stable")
    devices = jax.device_count()
    size = min(CHUNK, _rounded_size(-(-count // devices))) * devices
    program, sharding = _compiled_program(model, devices)
    waiting = []
    for first in range(0, count, size):
        chosen = order[first : first + size]
        rows = np.concatenate([chosen, np.full(size - len(chosen), chosen[-1])])
        dealt = rows.reshape(-1, devices).T.ravel()
        used = (np.arange(size) < len(chosen)).reshape(-1, devices).T.ravel()
        its_p, chunk = jax.tree.map(lambda a, dealt=dealt: a[dealt], arguments)
        # rows that only fill up have no intervals: they end where they begin
        intervals = np.where(used, chunk.grid.intervals, 0).astype(np.int32)
        chunk = chunk._replace(grid=chunk.grid._replace(intervals=intervals))
        waiting.append((dealt[used], used, program(*jax.device_put((its_p, chunk), sharding), integrator)))
    whole: Any = None
    for place, used, part in waiting:
        part = jax.tree.map(np.asarray, part)
        if whole is None:
            whole = jax.tree.map(lambda a: np.empty((count, *a.shape[1:]), a.dtype), part)
        for target, leaf in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
            target[place] = leaf[used]
    if raise_on_failure:
        check_trajectory(whole, tuple(names) if names is not None else tuple(str(i) for i in range(count)))
    return whole


def _rounded_size(count: int) -> int:
    """The next power of two (at least 8), so that batches of different size share a program."""
    return max(8, 1 << (count - 1).bit_length())


@lru_cache(maxsize=64)
def _compiled_program(model: AbstractKineticModel, devices: int) -> tuple[Any, NamedSharding]:
    mesh = jax.make_mesh((devices,), ("vessels",))
    shares, all_of_it = PartitionSpec("vessels"), PartitionSpec()

    def _run(p: Any, cultivation: Cultivation, integrator: Integrator) -> Trajectory:
        return simulate_cultivations(model, model.Parameters(*p), cultivation, integrator=integrator)

    # each device runs a loop of its own: nothing is exchanged, and none waits for another before the end
    shared = jax.shard_map(_run, mesh=mesh, in_specs=(shares, shares, all_of_it), out_specs=shares, check_vma=False)
    return jax.jit(shared), NamedSharding(mesh, shares)
