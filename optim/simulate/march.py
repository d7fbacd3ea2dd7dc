"""The march: one loop that owns the steps, the clock, the nodes and the status of one vessel.

Written for one vessel; batched by `jax.vmap`, each lane then walks through its own intervals at its own pace. The step
size is chosen from values only (never differentiated), and interval lengths enter the right-hand side as factors:
derivatives with respect to event times, doses, rates, setpoints, initial state and parameters are those of the
discrete solution, exact for the steps taken. `march` has forward derivatives, `march_reverse` reverse ones.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import Status
from optim.kinetics.base import AbstractKineticModel
from optim.schedule.grid import IntervalGrid
from optim.simulate.balance import Controls, derivative, left_edge
from optim.simulate.integrators import AbstractStepper, StateTuple, Tsit5
from optim.types import Array, Scalar


class Integrator(eqx.Module):
    """Stepper and its settings. `atol` is relative to each species' scale."""

    stepper: AbstractStepper = Tsit5()
    rtol: float = 1e-6
    atol: float = 1e-7
    max_steps: int = eqx.field(static=True, default=20_000)
    first_step_h: float = 0.05
    smallest_step_h: float = 1e-9


class March(NamedTuple):
    """Amounts of every species and the volume at every node ([K+1, N+1]), the status, and the steps tried."""

    states: Array
    status: Array
    steps: Array


class _Carry(NamedTuple):
    k: Array  # interval
    s: Array  # position in it, 0..1
    h: Array  # next step, h
    v: StateTuple  # estimate of the fastest direction, in units of the species' scales
    y: StateTuple
    out: Array
    status: Array
    steps: Array


def march(
    model: AbstractKineticModel, p: Any, y0: StateTuple, grid: IntervalGrid, feeds: Array, integrator: Integrator
) -> March:
    """Integrate one vessel from node 0 to its last. Rows of `states` after a failure are NaN."""
    carry = jax.lax.while_loop(
        lambda c: _running(c, grid, integrator),
        lambda c: _advance(model, p, grid, feeds, integrator, c)[0],
        _start(y0, grid, integrator),
    )
    return _finish(carry, grid)


def _start(y0: StateTuple, grid: IntervalGrid, integrator: Integrator) -> _Carry:
    out = jnp.full((grid.t.shape[0], len(y0)), jnp.nan, y0[0].dtype).at[0].set(jnp.stack(y0))
    h = jnp.full((), integrator.first_step_h, y0[0].dtype)
    zero = jnp.zeros((), jnp.int32)
    return _Carry(zero, jnp.zeros_like(h), h, _mixed(y0), y0, out, zero, zero)


def _mixed(y: StateTuple) -> StateTuple:
    """A direction with something of every mode: no simple combination of states that could happen to be at rest."""
    return tuple(jnp.full_like(v, math.cos(1.0 + 2.0 * i)) for i, v in enumerate(y))


def _running(c: _Carry, grid: IntervalGrid, integrator: Integrator) -> Array:
    return (c.k < grid.intervals) & (c.status == Status.OK)


def _controls(grid: IntervalGrid, k: Array) -> Controls:
    return Controls(
        length=grid.t[k + 1] - grid.t[k],
        withdraw=grid.withdraw[k],
        bolus=grid.bolus[k],
        rate_start=grid.rate_start[k],
        rate_end=grid.rate_end[k],
        temperature=grid.temperature[k],
        ph=grid.ph[k],
    )


def _try_step(
    model: AbstractKineticModel,
    p: Any,
    u: Controls,
    feeds: Array,
    stepper: AbstractStepper,
    y: StateTuple,
    s: Scalar,
    ds: Scalar,
) -> tuple[StateTuple, StateTuple]:
    """The left-edge map where an interval begins, then one step of length ds."""
    mapped = left_edge(model, y, u, feeds)
    y = tuple(jnp.where(s == 0.0, m, v) for m, v in zip(mapped, y, strict=True))
    # jitted, so that the stages of a step share one trace
    rhs = jax.jit(lambda at, state: derivative(model, p, at, state, u, feeds))
    return stepper.step(rhs, s, y, ds)


def _advance(
    model: AbstractKineticModel, p: Any, grid: IntervalGrid, feeds: Array, integrator: Integrator, c: _Carry
) -> tuple[_Carry, Array]:
    """One step tried; accepted or not, the carry after it and whether it was accepted."""
    u = _controls(grid, c.k)
    length = jax.lax.stop_gradient(u.length)
    wanted = jnp.where(length > 0.0, c.h / jnp.where(length > 0.0, length, 1.0), 1.0)
    speed, v = _fastest(model, p, u, feeds, c)
    wanted = jnp.minimum(wanted, integrator.stepper.stable / speed)
    remaining = 1.0 - c.s
    # a last sliver would cost a whole step: stretch up to 1 % to reach the node
    ends = wanted >= 0.99 * remaining
    ds = jnp.where(ends, remaining, wanted)
    new, error = _try_step(model, p, u, feeds, integrator.stepper, c.y, c.s, ds)

    norm = _error_norm(model, integrator, c.y, new, error)
    finite = jnp.isfinite(norm)
    emptied = (c.s == 0.0) & (jax.lax.stop_gradient(c.y[-1] - u.withdraw) <= 0.0)
    accepted = finite & (norm <= 1.0) & ~emptied
    exponent = -1.0 / integrator.stepper.order
    growth = jnp.where(finite, jnp.clip(0.9 * jnp.maximum(norm, 1e-10) ** exponent, 0.2, 5.0), 0.1)
    tried_h = ds * length
    # a step cut short by a node says little about the next one: never let it shrink the step that was wanted
    h = jnp.where(accepted, jnp.where(ends, jnp.maximum(c.h, tried_h * growth), tried_h * growth), tried_h * growth)

    done = accepted & ends
    y = tuple(jnp.where(accepted, n, v) for n, v in zip(new, c.y, strict=True))
    out = c.out.at[jnp.where(done, c.k + 1, c.out.shape[0])].set(jnp.stack(y), mode="drop")
    steps = c.steps + 1
    status = jnp.select(
        [
            emptied,
            (~accepted & (h < integrator.smallest_step_h) & finite) | (~ends & (tried_h < integrator.smallest_step_h)),
            ~accepted & (h < integrator.smallest_step_h),
            steps >= integrator.max_steps,
        ],
        [
            jnp.int32(Status.VOLUME_EXHAUSTED),
            jnp.int32(Status.STEP_TOO_SMALL),
            jnp.int32(Status.NON_FINITE),
            jnp.int32(Status.MAX_STEPS),
        ],
        jnp.int32(Status.OK),
    )
    k = jnp.where(done, c.k + 1, c.k)
    # the very last step may be the one that uses up the allowance: that is no failure
    status = jnp.where((status == Status.MAX_STEPS) & (k >= grid.intervals), jnp.int32(Status.OK), status)
    s = jnp.where(done, 0.0, jnp.where(accepted, c.s + ds, c.s))
    return _Carry(k, s, jax.lax.stop_gradient(h), v, y, out, status, steps), accepted


def _fastest(model: AbstractKineticModel, p: Any, u: Controls, feeds: Array, c: _Carry) -> tuple[Scalar, StateTuple]:
    """Speed of the fastest mode (per unit of s) and its direction, by one power iteration per step; values only.

    The error of the values alone does not keep an explicit step stable: at a quasi-steady state it vanishes, the step
    grows, and derivatives, which no error estimate watches, grow without bound.
    """
    p, u, feeds, s, y, v = jax.lax.stop_gradient((p, u, feeds, c.s, c.y, c.v))
    scale = [jnp.maximum(y[-1], 1e-12) * x.scale if x.dilutes else jnp.asarray(x.scale) for x in model.species]
    scale.append(jnp.maximum(y[-1], 1e-12))
    along = tuple(a * b for a, b in zip(v, scale, strict=True))
    slope = jax.jvp(lambda at: derivative(model, p, s, at, u, feeds), (y,), (along,))[1]
    w = tuple(a / b for a, b in zip(slope, scale, strict=True))
    speed = jnp.sqrt(sum(a**2 for a in w) / sum(a**2 for a in v))
    usable = jnp.isfinite(speed) & (speed > 0.0)
    size = jnp.where(usable, jnp.sqrt(sum(a**2 for a in w)), 1.0)
    # a little of every direction stays, so that a mode that wakes up is seen
    turned = tuple(jnp.where(usable, a / size + 1e-3 * b, b) for a, b in zip(w, _mixed(y), strict=True))
    return jnp.where(usable, speed, 1e-30), jax.lax.stop_gradient(turned)


def _error_norm(
    model: AbstractKineticModel, integrator: Integrator, old: StateTuple, new: StateTuple, error: StateTuple
) -> Scalar:
    """Root mean square of the error over the tolerance, for concentrations; values only, no derivative."""
    old, new, error = jax.lax.stop_gradient((old, new, error))
    volume = new[-1]
    total = jnp.zeros((), new[0].dtype)
    for i, species in enumerate(model.species):
        size = volume if species.dilutes else jnp.ones_like(volume)
        allowed = integrator.atol * species.scale * size + integrator.rtol * jnp.maximum(
            jnp.abs(old[i]), jnp.abs(new[i])
        )
        total = total + (error[i] / allowed) ** 2
    return jnp.sqrt(total / len(model.species))


def _finish(c: _Carry, grid: IntervalGrid) -> March:
    # rows of padding repeat the last state, so that reductions over the path need no mask
    row = jnp.arange(grid.t.shape[0])[:, None]
    last = jnp.stack(c.y)[None, :]
    states = jnp.where((row > grid.intervals) & (c.status == Status.OK), last, c.out)
    return March(states, c.status, c.steps)


class _Tape(NamedTuple):
    """Accepted steps of one vessel: where each began and how long it was."""

    y: Array  # [steps, N+1]
    k: Array
    s: Array
    ds: Array
    ends: Array
    used: Array


@partial(jax.custom_vjp, nondiff_argnums=(0, 6))
def march_reverse(
    model: AbstractKineticModel,
    p: Any,
    y0: StateTuple,
    grid: IntervalGrid,
    feeds: Array,
    integrator: Integrator,
    tape_steps: int,
) -> March:
    """`march` with reverse derivatives: accepted steps are recorded and replayed backwards.

    `tape_steps` bounds the accepted steps; a vessel that needs more ends with `Status.MAX_STEPS`. The gradient of a
    vessel that failed is zero.
    """
    return _record(model, p, y0, grid, feeds, integrator, tape_steps)[0]


def _record(
    model: AbstractKineticModel,
    p: Any,
    y0: StateTuple,
    grid: IntervalGrid,
    feeds: Array,
    integrator: Integrator,
    tape_steps: int,
) -> tuple[March, _Tape]:
    dtype = y0[0].dtype
    blank = _Tape(
        jnp.zeros((tape_steps, len(y0)), dtype),
        jnp.zeros(tape_steps, jnp.int32),
        jnp.zeros(tape_steps, dtype),
        jnp.zeros(tape_steps, dtype),
        jnp.zeros(tape_steps, bool),
        jnp.zeros((), jnp.int32),
    )

    def body(state: tuple[_Carry, _Tape]) -> tuple[_Carry, _Tape]:
        c, tape = state
        new, accepted = _advance(model, p, grid, feeds, integrator, c)
        ends = new.k > c.k
        at = jnp.where(accepted, tape.used, tape_steps)
        tape = _Tape(
            tape.y.at[at].set(jnp.stack(c.y), mode="drop"),
            tape.k.at[at].set(c.k, mode="drop"),
            tape.s.at[at].set(c.s, mode="drop"),
            tape.ds.at[at].set(jnp.where(ends, 1.0, new.s) - c.s, mode="drop"),
            tape.ends.at[at].set(ends, mode="drop"),
            tape.used + accepted.astype(jnp.int32),
        )
        full = (tape.used >= tape_steps) & (new.k < grid.intervals)
        status = jnp.where(full & (new.status == Status.OK), jnp.int32(Status.MAX_STEPS), new.status)
        return new._replace(status=status), tape

    carry, tape = jax.lax.while_loop(
        lambda state: _running(state[0], grid, integrator), body, (_start(y0, grid, integrator), blank)
    )
    return _finish(carry, grid), tape


def _march_forward(
    model: AbstractKineticModel,
    p: Any,
    y0: StateTuple,
    grid: IntervalGrid,
    feeds: Array,
    integrator: Integrator,
    tape_steps: int,
) -> tuple[March, Any]:
    result, tape = _record(model, p, y0, grid, feeds, integrator, tape_steps)
    return result, (p, grid, feeds, integrator, tape, result.status)


def _march_backward(model: AbstractKineticModel, tape_steps: int, kept: Any, cotangent: March) -> Any:
    p, grid, feeds, integrator, tape, status = kept
    row = jnp.arange(grid.t.shape[0])[:, None]
    bar = jnp.where(status == Status.OK, cotangent.states, 0.0)
    padding = jnp.sum(jnp.where(row > grid.intervals, bar, 0.0), axis=0)
    bar = jnp.where(row > grid.intervals, 0.0, bar).at[grid.intervals].add(padding)
    zeros = partial(jax.tree.map, jnp.zeros_like)
    every = Controls(grid.t[1:], grid.withdraw, grid.bolus, grid.rate_start, grid.rate_end, grid.temperature, grid.ph)

    def body(state: Any) -> Any:
        i, lam, p_bar, feeds_bar, u_bar = state
        k, s, ds = tape.k[i], tape.s[i], tape.ds[i]
        _, pull = jax.vjp(
            lambda p, y, u, feeds: _try_step(model, p, u, feeds, integrator.stepper, y, s, ds)[0],
            p,
            tuple(tape.y[i]),
            _controls(grid, k),
            feeds,
        )
        arriving = jnp.where(tape.ends[i], bar[k + 1], 0.0)
        dp, dy, du, dfeeds = pull(tuple(a + b for a, b in zip(lam, arriving, strict=True)))
        add = partial(jax.tree.map, jnp.add)
        u_bar = jax.tree.map(lambda total, d: total.at[k].add(d), u_bar, du)
        return i - 1, dy, add(p_bar, dp), add(feeds_bar, dfeeds), u_bar

    nothing = tuple(jnp.zeros((), bar.dtype) for _ in range(bar.shape[1]))
    used = jnp.where(status == Status.OK, tape.used, 0)
    _, lam, p_bar, feeds_bar, u_bar = jax.lax.while_loop(
        lambda state: state[0] >= 0, body, (used - 1, nothing, zeros(p), zeros(feeds), zeros(every))
    )
    y_bar = tuple(a + b for a, b in zip(lam, bar[0], strict=True))
    t_bar = jnp.zeros_like(grid.t).at[1:].add(u_bar.length).at[:-1].add(-u_bar.length)
    grid_bar = IntervalGrid(
        t=t_bar,
        withdraw=u_bar.withdraw,
        bolus=u_bar.bolus,
        rate_start=u_bar.rate_start,
        rate_end=u_bar.rate_end,
        temperature=u_bar.temperature,
        ph=u_bar.ph,
        intervals=np.zeros(jnp.shape(grid.intervals), jax.dtypes.float0),
    )
    return p_bar, y_bar, grid_bar, feeds_bar, zeros(integrator)


march_reverse.defvjp(_march_forward, _march_backward)
