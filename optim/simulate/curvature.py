"""First and second derivatives of every step of a trajectory, exact, each step by itself.

A trajectory that was simulated (`reverse.record`) leaves its accepted steps. On each of them the solution is written
once more as a step of the three-stage Radau IIA method (order 5, L-stable: Hairer & Wanner 1996, Solving ODEs II,
IV.5), which differs from it by about the tolerance and whose derivatives follow from the implicit function theorem
with nothing but the Jacobian and the Hessian of the right-hand side. So all steps of all vessels are independent
rows of one small compiled program, whatever the schedule, and a chain over them gives derivatives by hundreds of
controls.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.kinetics.base import AbstractKineticModel, Environment
from optim.schedule.grid import Actions
from optim.simulate.balance import Controls, Vessel, derivative
from optim.simulate.lanes import in_batches
from optim.simulate.reverse import Recorded
from optim.types import Array

ROOT6 = 6.0**0.5
RADAU = np.array(
    [
        [(88 - 7 * ROOT6) / 360, (296 - 169 * ROOT6) / 1800, (-2 + 3 * ROOT6) / 225],
        [(296 + 169 * ROOT6) / 1800, (88 + 7 * ROOT6) / 360, (-2 - 3 * ROOT6) / 225],
        [(16 - ROOT6) / 36, (16 + ROOT6) / 36, 1 / 9],
    ]
)
NODES = RADAU.sum(axis=1)
JOINED = 3.0
ROWS = 256  # steps at once in one compiled program


@dataclass(frozen=True)
class Held:
    """A right-hand side with constant controls: what is fed, and (optionally last but one) the temperature.

    Controls of a step are (rate of every feed in L/h, [temperature in degC,] length of the step in h).
    """

    model: AbstractKineticModel
    feeds: int
    heated: bool  # the temperature is a control
    temperature: float
    ph: float

    @property
    def controls(self) -> int:
        return self.feeds + self.heated + 1

    def __call__(self, p: Any, composition: Array, y: Array, c: Array) -> Array:
        """Change of amounts and volume [n] over a step with controls c."""
        rates = c[: self.feeds]
        temperature = c[self.feeds] if self.heated else jnp.asarray(self.temperature, c.dtype)
        none = jnp.zeros((), c.dtype)
        actions = Actions(none, jnp.zeros(self.feeds), rates, rates, Environment(temperature, jnp.asarray(self.ph)))
        return jnp.stack(derivative(self.model, p, none, tuple(y), Controls(c[-1], actions), Vessel(composition)))


class Steps(NamedTuple):
    """Accepted steps, R rows, ordered by vessel, interval and position."""

    vessel: np.ndarray
    k: np.ndarray  # interval
    share: np.ndarray  # of the interval's length
    y: np.ndarray  # [R, n] before
    after: np.ndarray  # [R, n]


def steps_of(run: Recorded) -> Steps:
    """The steps of all vessels that ended well."""
    used = int(run.used)
    tape = run.tape._replace(**{name: np.asarray(x)[:used] for name, x in run.tape._asdict().items()})
    taken = tape.accepted  # [T, R, L]
    when, which, lane = np.nonzero(taken)
    vessel, k = tape.vessel[when, lane], tape.k[when, lane]
    s = tape.s[when, which, lane]
    order = np.lexsort((s, k, vessel))
    order = order[np.asarray(run.march.status)[vessel[order]] == 0]
    vessel, k = vessel[order], k[order]
    y = tape.y[when[order], which[order], :, lane[order]]
    share = tape.ds[when[order], which[order], lane[order]]
    last = np.ones(len(vessel), bool)
    last[:-1] = (vessel[1:] != vessel[:-1]) | (k[1:] != k[:-1])
    ends = np.asarray(run.march.states)[vessel, k + 1]
    following = np.concatenate([y[1:], y[-1:]]) if len(y) else y
    return Steps(vessel, k, share, y, np.where(last[:, None], ends, following))


def joined(steps: Steps) -> Steps:
    """Neighbours within an interval taken together, up to JOINED times the first of them in length.

    The tolerance of the simulation is tighter than derivatives need to be; growing steps after a transient stay alone.
    """
    begin = np.ones(len(steps.k), bool)
    begin[1:] = (steps.vessel[1:] != steps.vessel[:-1]) | (steps.k[1:] != steps.k[:-1])
    length, room = 0.0, 0.0
    for i, share in enumerate(steps.share):
        length += share
        if begin[i] or length > room:
            begin[i] = True
            length, room = share, JOINED * (1.0 + 1e-9) * share
    at = np.flatnonzero(begin)
    until = np.append(at[1:], len(begin)) - 1
    share = np.add.reduceat(steps.share, at) if len(at) else steps.share
    return Steps(steps.vessel[at], steps.k[at], share, steps.y[at], steps.after[until])


class Linear(NamedTuple):
    """First derivatives of steps, R rows, by the state before and the controls, z = (y, c)."""

    stages: np.ndarray  # [R, 3, n]
    by: np.ndarray  # [R, 3n, n+q] of the stages, of which the last is the state after
    inverse: np.ndarray  # [R, 3n, 3n] of the matrix of the stage equations


def linear(rhs: Held, p: Any, composition: np.ndarray, c: np.ndarray, y: np.ndarray, after: np.ndarray) -> Linear:
    """Of steps with controls c [R, q] from y to `after` [R, n]."""
    if not len(c):
        n, q = y.shape[1], rhs.controls
        return Linear(np.zeros((0, 3, n)), np.zeros((0, 3 * n, n + q)), np.zeros((0, 3 * n, 3 * n)))
    found: Linear = in_batches(lambda *rows: _linear(rhs, p, composition, *rows), (c, y, after), ROWS)
    return found


def curvature(rhs: Held, p: Any, composition: np.ndarray, c: np.ndarray, first: Linear, weight: np.ndarray) -> Any:
    """Second derivatives [R, n+q, n+q] of weight [R, n] times the state after each step, by z."""
    if not len(c):
        return np.zeros((0, first.by.shape[2], first.by.shape[2]))
    return in_batches(lambda *rows: _curvature(rhs, p, composition, *rows), (c, first, weight), ROWS)


def cubic(slope0: Array, slope1: Array, y: Array, after: Array, places: np.ndarray) -> Array:
    """States [S, n] at places 0..1 within a step, on the cubic through both ends with the slopes there."""
    s, change = jnp.asarray(places)[:, None], after - y
    return y + s * change + s * (1 - s) * ((1 - s) * (slope0 - change) - s * (slope1 - change))


@partial(jax.jit, static_argnums=0)
def _linear(rhs: Held, p: Any, composition: Array, c: Array, y: Array, after: Array) -> Linear:
    n = y.shape[1]
    a = jnp.asarray(RADAU)

    def rate(y: Array, c: Array) -> Array:
        return rhs(p, composition, y, c)

    over_stages = jax.vmap(jax.vmap(rate, (0, None)))
    derivatives = jax.vmap(jax.vmap(jax.jacfwd(rate, (0, 1)), (0, None)))
    guess = jax.vmap(lambda y, after, c: cubic(rate(y, c), rate(after, c), y, after, NODES))(y, after, c)

    def matrix(stages: Array) -> tuple[Array, Array]:
        by_y, by_c = derivatives(stages, c)
        m = jnp.eye(3 * n).reshape(3, n, 3, n) - jnp.einsum("ij,rjab->riajb", a, by_y)
        return jnp.linalg.inv(m.reshape(-1, 3 * n, 3 * n)), by_c

    def defect(stages: Array) -> Array:
        g = stages - y[:, None] - jnp.einsum("ij,rjn->rin", a, over_stages(stages, c))
        return g.reshape(-1, 3 * n)

    inverse, _ = matrix(guess)
    for _ in range(2):
        guess = guess - jnp.einsum("rab,rb->ra", inverse, defect(guess)).reshape(guess.shape)
    inverse, by_c = matrix(guess)
    q = c.shape[1]
    right = jnp.concatenate(
        [
            jnp.broadcast_to(jnp.tile(jnp.eye(n), (3, 1)), (len(c), 3 * n, n)),
            jnp.einsum("ij,rjaq->riaq", a, by_c).reshape(-1, 3 * n, q),
        ],
        axis=-1,
    )
    return Linear(guess, inverse @ right, inverse)


@partial(jax.jit, static_argnums=0)
def _curvature(rhs: Held, p: Any, composition: Array, c: Array, first: Linear, weight: Array) -> Array:
    n, q = weight.shape[1], c.shape[1]
    # multipliers of the stage equations: the implicit function theorem, once more
    mu = jnp.einsum("rab,ra->rb", first.inverse[:, 2 * n :], weight).reshape(-1, 3, n)
    v = jnp.einsum("ij,ria->rja", jnp.asarray(RADAU), mu)

    def hessian(y: Array, c: Array, v: Array) -> Array:
        return jax.hessian(lambda z: v @ rhs(p, composition, z[:n], z[n:]))(jnp.concatenate([y, c]))

    inner = jax.vmap(jax.vmap(hessian, (0, None, 0)))(first.stages, c, v)
    still = jnp.broadcast_to(jnp.eye(n + q)[n:], (len(c), 3, q, n + q))
    t = jnp.concatenate([first.by.reshape(-1, 3, n, n + q), still], axis=2)
    return jnp.einsum("rjax,rjab,rjby->rxy", t, inner, t, optimize="optimal")
