"""The march: one loop that owns the steps, the clock, the nodes and the status of every vessel.

Vessels run on lanes, side by side. Each lane has its own vessel, interval, clock and step size; when its vessel is done
it takes the next one that waits, so that nobody waits for the slowest. All lanes step at once. A few steps
are taken between two visits, at which lanes that reached a node are served: what is stored and what happens at nodes
costs its share of a visit, not of every step.

The step size is chosen from values only (never differentiated), and interval lengths enter the right-hand side as
factors: derivatives with respect to event times, doses, rates, setpoints, initial state and parameters are those of the
discrete solution, exact for the steps taken. `march` has forward derivatives, `engine.reverse` reverse ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import Status
from optim.kinetics.base import AbstractKineticModel
from optim.schedule.grid import IntervalGrid
from optim.settings.simulation import IntegratorSettings
from optim.simulation.balance import Controls, Vessel, apply_left_edge, state_scales
from optim.simulation.engine.rhs import FrozenInputs, RightHandSide, hold_in_memory, right_hand_side, stack_rows
from optim.simulation.engine.steppers import AbstractStepper, Tsit5
from optim.types import Array

# steps between two visits: a lane that reaches a node idles for half of them on average, a visit costs about one step
STEPS_PER_VISIT = 4
# A step that takes a species further below zero than this share of its scale is refused: that is no round-off, and the
# error estimate may not see it (a step over the pole of s/(k+s) at -k can land on a smooth solution that is none).
NEGATIVE = 1e-4
# the error of a step that was much too careful says nothing about the trend
LEAST_SIZE = math.log(1e-4)


class Integrator(eqx.Module):
    """Stepper and its settings. `atol` is relative to each species' scale."""

    stepper: AbstractStepper = Tsit5()
    rtol: float = IntegratorSettings.rtol
    atol: float = IntegratorSettings.atol
    max_steps: int = eqx.field(static=True, default=IntegratorSettings.max_steps)
    first_step_h: float = IntegratorSettings.first_step_h
    smallest_step_h: float = 1e-9
    # keep explicit steps within the region of stability, which the error of the values alone does not: needed wherever
    # derivatives are taken; turn it off only where values alone are wanted
    guard: bool = eqx.field(static=True, default=True)
    lanes: int = eqx.field(static=True, default=64)


class MarchResult(NamedTuple):
    """Of every vessel: amounts and volume at every node [V, K+1, N'], how it ended, and what that took."""

    states: Array
    status: Array  # [V]
    steps: Array  # [V] tried
    rejected: Array  # [V]
    error: Array  # [V] sum of the local errors of all steps, in units of the tolerance


class LaneState(NamedTuple):
    """What moves on the lanes; every leaf has them as its last axis."""

    vessel: Array  # which one
    k: Array  # interval
    s: Array  # position in it, 0..1
    h: Array  # next step, h
    y: Array  # [N', L]
    push: Array | None  # [N', L] estimate of the fastest direction, in units of the species' scales
    idle: Array  # reached the node, failed, or has no vessel: waits for the visit
    active: Array  # has a vessel
    status: Array
    steps: Array
    rejected: Array
    error: Array
    last_h: Array  # step accepted before, h; 0 where an interval begins
    last_size: Array  # and the size of its error
    stumbled: Array  # the step before was rejected


class PackedTree(eqx.Module):
    """A tree whose leaves share leading axes, as one array [rows, columns]."""

    table: Array
    tree: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    @staticmethod
    def pack_tree(tree: Any, leading: int) -> PackedTree:
        """Pack a tree whose leaves have `leading` axes in common."""
        leaves, structure = jax.tree.flatten(tree)
        rows = math.prod(leaves[0].shape[:leading])
        table = jnp.concatenate([leaf.reshape(rows, -1) for leaf in leaves], axis=1)
        return PackedTree(table, structure, tuple(leaf.shape[leading:] for leaf in leaves))

    def take_rows(self, row: Array) -> Any:
        """The tree of one row per lane, lanes last."""
        columns, leaves, first = self.table.at[row].get(mode="promise_in_bounds").T, [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            leaves.append(columns[first : first + size].reshape(*shape, *columns.shape[1:]))
            first += size
        return jax.tree.unflatten(self.tree, leaves)

    def add_rows(self, row: Array, tree: Any) -> PackedTree:
        """With a tree (lanes last) added to one row per lane; a row beyond the last is dropped."""
        columns = [leaf.reshape(-1, leaf.shape[-1]) for leaf in jax.tree.leaves(tree)]
        return eqx.tree_at(
            lambda packed: packed.table, self, self.table.at[row].add(jnp.concatenate(columns).T, mode="drop")
        )


class VesselTable(NamedTuple):
    """All vessels, packed in rows, because one gather of a row is cheaper than many of single numbers."""

    y0: Array  # [V, N']
    p: PackedTree
    vessels: PackedTree
    controls: PackedTree  # controls, one row per vessel and interval
    intervals: Array  # [V]

    @property
    def node_count(self) -> int:
        """Nodes of every grid, padding included."""
        return self.controls.table.shape[0] // self.intervals.shape[0] + 1


class LoopState(NamedTuple):
    lane: LaneState
    held: FrozenInputs
    waiting: Array  # the next vessel that no lane has taken
    states: Array  # [V, K+1, N']
    summary: Array  # [V, 4] status, steps, rejected, error


def march(model: AbstractKineticModel, task: VesselTable, integrator: Integrator) -> MarchResult:
    """Integrate V vessels from node 0 to their last. Rows after a failure are NaN."""

    def _serve_and_go(loop: LoopState) -> LoopState:
        loop = serve_lanes(model, task, integrator, loop)
        length, rhs = loop.held.controls.length, right_hand_side(model, loop.held)
        lane = jax.lax.fori_loop(
            0, STEPS_PER_VISIT, lambda _, c: try_step(model, integrator, c, length, rhs)[0], loop.lane
        )
        return loop._replace(lane=lane)

    return march_result(
        jax.lax.while_loop(lambda loop: work_remains(task, loop), _serve_and_go, initial_loop(task, integrator)), task
    )


def pack_vessels(p: Any, y0: Array, *, grid: IntervalGrid, vessel: Vessel) -> VesselTable:
    """Everything a lane may need, in rows."""
    controls = Controls(grid.t[:, 1:] - grid.t[:, :-1], grid.actions)
    return VesselTable(
        y0,
        PackedTree.pack_tree(p, 1),
        PackedTree.pack_tree(vessel, 1),
        PackedTree.pack_tree(controls, 2),
        grid.intervals,
    )


def _lane_count(vessels: int, integrator: Integrator) -> int:
    """As many lanes as are worth it; a multiple of 8, so that a lane computes the same in every place."""
    return max(8, min(integrator.lanes, -(-vessels // 8) * 8))


def work_remains(task: VesselTable, loop: LoopState) -> Array:
    """Whether a lane has a vessel, or a vessel waits for a lane."""
    return jnp.any(loop.lane.active) | (loop.waiting < task.intervals.shape[0])


def initial_loop(task: VesselTable, integrator: Integrator) -> LoopState:
    """All lanes free."""
    vessels = task.intervals.shape[0]
    n = _lane_count(vessels, integrator)
    dtype = task.y0.dtype
    zero, none = jnp.zeros(n, jnp.int32), jnp.zeros(n, dtype)
    first = jnp.minimum(jnp.arange(n, dtype=jnp.int32), vessels - 1)
    y0 = task.y0[first].T
    states = jnp.full((vessels, task.node_count, y0.shape[0]), jnp.nan, dtype).at[:, 0].set(task.y0)
    lane = LaneState(
        vessel=first,
        k=zero,
        s=none,
        h=none,
        y=y0,
        push=_mixed(y0) if _guarded(integrator) else None,
        idle=jnp.ones(n, bool),
        active=jnp.zeros(n, bool),
        status=zero,
        steps=zero,
        rejected=zero,
        error=none,
        last_h=none,
        last_size=jnp.zeros(n, jnp.float32),
        stumbled=jnp.zeros(n, bool),
    )
    held = FrozenInputs(controls_at(task, first, zero), task.p.take_rows(first), task.vessels.take_rows(first))
    return LoopState(lane, held, jnp.zeros((), jnp.int32), states, jnp.zeros((vessels, 4), dtype))


def _guarded(integrator: Integrator) -> bool:
    return integrator.guard and integrator.stepper.stability_limit is not None


def _mixed(y: Array) -> Array:
    """A direction with something of every mode: no simple combination of states that could happen to be at rest."""
    mixed = np.cos(1.0 + 2.0 * np.arange(y.shape[0]))
    return jnp.broadcast_to(jnp.asarray(mixed, y.dtype)[:, None], y.shape)


def controls_at(task: VesselTable, vessel: Array, k: Array) -> Controls:
    """The controls of an interval of every lane's vessel."""
    controls: Controls = task.controls.take_rows(interval_row(task, vessel, k))
    return controls


def interval_row(task: VesselTable, vessel: Array, k: Array) -> Array:
    """Row of an interval of a vessel."""
    intervals = task.node_count - 1
    return vessel * intervals + jnp.minimum(k, intervals - 1)


def _select(mask: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), yes, no)


def try_step(
    model: AbstractKineticModel, integrator: Integrator, c: LaneState, length: Array, rhs: RightHandSide
) -> tuple[LaneState, tuple[Array, Array]]:
    """One step tried on every lane that is not idle; the lanes after it, the step's length, and if it was accepted."""
    n = len(model.species)
    length = jax.lax.stop_gradient(length)
    wanted = jnp.where(length > 0.0, c.h / jnp.where(length > 0.0, length, 1.0), 1.0)
    push = c.push
    if push is not None and integrator.stepper.stability_limit is not None:
        speed, push = _fastest(model, c, rhs, push)
        wanted = jnp.minimum(wanted, integrator.stepper.stability_limit / speed)
    remaining = 1.0 - c.s
    # a last sliver would cost a whole step: stretch up to 1 % to reach the node
    ends = wanted >= 0.99 * remaining
    ds = jax.lax.stop_gradient(jnp.where(ends, remaining, wanted))
    ends, ds, tried_h = hold_in_memory((ends, ds, ds * length))
    new, error = integrator.stepper.step(rhs, c.s, c.y, ds)

    square = hold_in_memory(_error_square(model, integrator, c.y, new, error))
    size, growth = _growth(integrator, c, square, tried_h)
    negative = _negative(model, c.y, new)
    growth = jnp.where(negative, jnp.minimum(growth, 0.25), growth)
    accepted = (square <= 1.0) & ~negative & ~c.idle
    finite, negative, accepted, growth = hold_in_memory((jnp.isfinite(square), negative, accepted, growth))
    # a step cut short by a node says little about the next one: never let it shrink the step that was wanted
    h = jnp.where(accepted & ends, jnp.maximum(c.h, tried_h * growth), tried_h * growth)
    y = jnp.where(accepted, new, c.y)
    steps = c.steps + jnp.where(c.idle, 0, 1).astype(jnp.int32)
    smallest = integrator.smallest_step_h
    failed = jnp.select(
        [
            ~accepted & (h < smallest) & finite & negative,
            (~accepted & (h < smallest) & finite) | (~ends & (tried_h < smallest)),
            ~accepted & (h < smallest),
            accepted & (jax.lax.stop_gradient(new[n]) <= 0.0),
            # the very last step may be the one that uses up the allowance: that is no failure
            (steps >= integrator.max_steps) & ~(accepted & ends),
        ],
        [
            jnp.int32(Status.OUT_OF_RANGE),
            jnp.int32(Status.STEP_TOO_SMALL),
            jnp.int32(Status.NON_FINITE),
            jnp.int32(Status.VOLUME_EXHAUSTED),
            jnp.int32(Status.MAX_STEPS),
        ],
        jnp.int32(Status.OK),
    )
    status = jnp.where(c.idle, c.status, failed)
    after = c._replace(
        last_h=jnp.where(accepted, tried_h, c.last_h),
        last_size=jnp.where(accepted, jnp.maximum(size, LEAST_SIZE), c.last_size),
        stumbled=~accepted & ~c.idle,
        s=jnp.where(accepted, c.s + ds, c.s),
        h=jax.lax.stop_gradient(jnp.where(c.idle, c.h, h)),
        y=y,
        push=push,
        idle=c.idle | (accepted & ends) | (status != Status.OK),
        status=status,
        steps=steps,
        rejected=c.rejected + (~accepted & ~c.idle).astype(jnp.int32),
        error=c.error + jnp.where(accepted, jnp.sqrt(square), 0.0),
    )
    return after, (ds, accepted)


def _growth(integrator: Integrator, c: LaneState, square: Array, tried_h: Array) -> tuple[Array, Array]:
    """Size of the error (its logarithm), and the factor for the next step.

    Predictive control follows the trend of the error, so that few steps fail: Gustafsson 1994, ACM Trans Math Softw
    20:496, as in Hairer & Wanner 1996 (Solving ODEs II, IV.8).
    """
    # single precision is plenty for a step size, and its exponentials are several times cheaper
    size = jnp.log(jnp.clip(square, 1e-20, 1e20).astype(jnp.float32))
    exponent = jnp.float32(-0.5 / integrator.stepper.error_order)
    plain = 0.9 * jnp.exp(exponent * size)
    trend = plain * jnp.exp(exponent * (size - c.last_size)) * (tried_h / c.last_h).astype(jnp.float32)
    growth = jnp.where((square <= 1.0) & (c.last_h > 0.0), jnp.minimum(plain, trend), plain)
    growth = jnp.clip(growth, 0.2, jnp.where(c.stumbled, 1.0, 5.0))
    return size, jnp.where(jnp.isfinite(square), growth, 0.1).astype(square.dtype)


def _fastest(model: AbstractKineticModel, c: LaneState, rhs: RightHandSide, push: Array) -> tuple[Array, Array]:
    """Speed of the fastest mode (per unit of s) and its direction, by one power iteration per step; values only.

    The error of the values alone does not keep an explicit step stable: at a quasi-steady state it vanishes, the step
    grows, and derivatives, which no error estimate watches, grow without bound.
    """
    still, s, y, v = jax.lax.stop_gradient((rhs.frozen, c.s, c.y, push))
    scale = state_scales(model, y)
    w = RightHandSide(rhs.graph, still).push_forward(s, y, hold_in_memory(v * scale)) / scale
    length, before = jnp.sqrt(sum(w**2)), jnp.sqrt(sum(v**2))
    speed = length / before
    usable = jnp.isfinite(speed) & (speed > 0.0)
    # a little of every direction stays, so that a mode that wakes up is seen
    turned = jnp.where(usable, w / jnp.where(usable, length, 1.0) + 1e-3 * _mixed(y), _mixed(y))
    return jnp.where(usable, speed, 1e-30), jax.lax.stop_gradient(turned)


def _error_square(
    model: AbstractKineticModel, integrator: Integrator, old: Array, new: Array, error: Sequence[Array]
) -> Array:
    """Mean square of the error over the tolerance, for concentrations; values only, no derivative."""
    old, new, error = jax.lax.stop_gradient((old, new, error))
    n = len(model.species)
    floor = integrator.atol * state_scales(model, new)
    squares = []
    for i in range(n):
        squares.append((error[i] / (floor[i] + integrator.rtol * jnp.maximum(jnp.abs(old[i]), jnp.abs(new[i])))) ** 2)
    return sum(squares[1:], squares[0]) / n


def _negative(model: AbstractKineticModel, old: Array, new: Array) -> Array:
    """Whether a step takes a species below zero."""
    old, new = jax.lax.stop_gradient((old, new))
    floor = -NEGATIVE * state_scales(model, new)
    found = jnp.zeros(new.shape[1:], bool)
    for i, species in enumerate(model.species):
        if not species.signed:
            found = found | (new[i] < jnp.minimum(floor[i], old[i]))
    return found


def serve_lanes(model: AbstractKineticModel, task: VesselTable, integrator: Integrator, loop: LoopState) -> LoopState:
    """Serve the lanes that wait: store the node, hand out the next vessel, and apply what happens at the node."""
    lane = loop.lane
    vessels = task.intervals.shape[0]
    status = lane.status
    arrived = lane.active & lane.idle & (status == Status.OK)
    k = jnp.where(arrived, lane.k + 1, lane.k)
    # lanes without news get places of their own beyond the last, so that all are different and all but news are dropped
    nowhere = vessels + jnp.arange(k.shape[0], dtype=jnp.int32)
    place = jnp.where(arrived, lane.vessel, nowhere)
    states = loop.states.at[place, k].set(lane.y.T, mode="drop", unique_indices=True)
    done = lane.active & ((status != Status.OK) | (k >= task.intervals[lane.vessel]))
    found = jnp.stack([x.astype(loop.summary.dtype) for x in (status, lane.steps, lane.rejected, lane.error)], axis=-1)
    place = jnp.where(done, lane.vessel, nowhere)
    summary = loop.summary.at[place].set(jax.lax.stop_gradient(found), mode="drop", unique_indices=True)

    free = ~lane.active | done
    candidate = loop.waiting + jnp.cumsum(free).astype(jnp.int32) - 1
    taken = free & (candidate < vessels)
    lane = lane._replace(k=k, status=status, active=(lane.active & ~done) | taken)
    lane = _select(taken, _fresh(integrator, lane, candidate), lane)
    lane = lane._replace(y=jnp.where(taken, task.y0[lane.vessel].T, lane.y))
    # the rows of lanes in the middle of an interval are those they hold already: nothing to select
    held = FrozenInputs(
        controls_at(task, lane.vessel, lane.k), task.p.take_rows(lane.vessel), task.vessels.take_rows(lane.vessel)
    )

    enters = (arrived & lane.active) | taken
    y = jnp.where(enters, apply_left_edges(model, lane.y, held), lane.y)
    emptied = enters & _emptied(model, lane.y, held.controls)
    lane = lane._replace(
        s=jnp.where(enters, 0.0, lane.s),
        last_h=jnp.where(enters, 0.0, lane.last_h),
        y=y,
        idle=~lane.active | emptied,
        status=jnp.where(emptied, jnp.int32(Status.VOLUME_EXHAUSTED), lane.status),
    )
    return LoopState(lane, held, loop.waiting + jnp.sum(taken).astype(jnp.int32), states, summary)


def apply_left_edges(model: AbstractKineticModel, y: Array, held: FrozenInputs) -> Array:
    """What happens at the left edge, on every lane."""
    edge = jax.vmap(lambda y, u, device: apply_left_edge(model, tuple(y), u, vessel=device), in_axes=-1, out_axes=-1)
    return stack_rows(edge(y, held.controls, held.vessel))


def _fresh(integrator: Integrator, lane: LaneState, vessel: Array) -> LaneState:
    """A lane that begins a vessel."""
    zero, none = jnp.zeros_like(lane.k), jnp.zeros_like(lane.s)
    return lane._replace(
        vessel=vessel,
        k=zero,
        s=none,
        h=jnp.full_like(lane.h, integrator.first_step_h),
        push=None if lane.push is None else _mixed(lane.y),
        status=zero,
        steps=zero,
        rejected=zero,
        error=none,
        last_size=jnp.zeros_like(lane.last_size),
        stumbled=jnp.zeros_like(lane.stumbled),
    )


def _emptied(model: AbstractKineticModel, y: Array, u: Controls) -> Array:
    left = jax.lax.stop_gradient(y[len(model.species)] - u.actions.withdraw)
    removed = 0.0 if u.actions.remove is None else u.actions.remove
    refilled = jnp.sum(u.actions.bolus, axis=0)
    return (left <= 0.0) | (left < removed) | (left - removed + refilled <= 0.0)


def march_result(loop: LoopState, task: VesselTable) -> MarchResult:
    """Rows of padding repeat the last state, so that reductions over the path need no mask."""
    status, steps, rejected = (loop.summary[:, i].astype(jnp.int32) for i in range(3))
    last = task.intervals[:, None, None]
    padding = jnp.arange(task.node_count)[None, :, None] > last
    repeated = jnp.take_along_axis(loop.states, last, axis=1)
    states = jnp.where(padding & (status == Status.OK)[:, None, None], repeated, loop.states)
    return MarchResult(states, status, steps, rejected, loop.summary[:, 3])
