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
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from optim.kinetics.base import AbstractKineticModel, Environment
from optim.schedule.grid import IntervalActions
from optim.simulation.balance import Controls, Vessel, state_derivative
from optim.simulation.engine.batches import map_batches
from optim.simulation.engine.reverse import RecordedMarch
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
class ConstantControlRate:
    """A right-hand side with constant controls: what is fed, and (optionally last but one) the temperature.

    Controls of a step are (rate of every feed in L/h, [temperature in degC,] length of the step in h).
    """

    model: AbstractKineticModel
    feeds: int
    heated: bool  # the temperature is a control
    temperature: float
    ph: float

    @property
    def control_count(self) -> int:
        return self.feeds + self.heated + 1

    def __call__(self, p: Any, composition: Array, y: Array, c: Array) -> Array:
        """Change of amounts and volume [n] over a step with controls c."""
        rates = c[: self.feeds]
        temperature = c[self.feeds] if self.heated else jnp.asarray(self.temperature, c.dtype)
        none = jnp.zeros((), c.dtype)
        actions = IntervalActions(
            none, jnp.zeros(self.feeds), rates, rates, Environment(temperature, jnp.asarray(self.ph))
        )
        controls, vessel = Controls(c[-1], actions), Vessel(composition)
        return jnp.stack(state_derivative(self.model, p, tuple(y), s=none, controls=controls, vessel=vessel))


class AcceptedSteps(NamedTuple):
    """Accepted steps, R rows, ordered by vessel, interval and position."""

    vessel: np.ndarray
    k: np.ndarray  # interval
    share: np.ndarray  # of the interval's length
    y: np.ndarray  # [R, n] before
    after: np.ndarray  # [R, n]


def accepted_steps(run: RecordedMarch) -> AcceptedSteps:
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
    return AcceptedSteps(vessel, k, share, y, np.where(last[:, None], ends, following))


def join_steps(steps: AcceptedSteps) -> AcceptedSteps:
    """Neighbours within an interval taken together, up to JOINED times the first of them in length.

    The tolerance of the simulation is tighter than derivatives need to be; growing steps after a transient stay alone.
    """
    begin = np.ones(len(steps.k), bool)
    begin[1:] = (steps.vessel[1:] != steps.vessel[:-1]) | (steps.k[1:] != steps.k[:-1])
    length, room = 0.0, 0.0
    found: list[int] = []
    for i, (share, first) in enumerate(zip(steps.share.tolist(), begin.tolist(), strict=True)):
        length += share
        if first or length > room:
            found.append(i)
            length, room = share, JOINED * (1.0 + 1e-9) * share
    at = np.array(found, int)
    until = np.append(at[1:], len(begin)) - 1
    share = np.add.reduceat(steps.share, at) if len(at) else steps.share
    return AcceptedSteps(steps.vessel[at], steps.k[at], share, steps.y[at], steps.after[until])


class StepDerivatives(NamedTuple):
    """First derivatives of steps, R rows, by the state before and the controls, z = (y, c)."""

    stages: np.ndarray  # [R, 3, n]
    by: np.ndarray  # [R, 3n, n+q] of the stages, of which the last is the state after
    last: np.ndarray  # [R, n, 3n] rows of the inverse of the matrix of the stage equations: those of the state after


def differentiate_steps(
    rhs: ConstantControlRate, p: Any, composition: np.ndarray, c: np.ndarray, y: np.ndarray, after: np.ndarray
) -> StepDerivatives:
    """Of steps with controls c [R, q] from y to `after` [R, n]."""
    if not len(c):
        n, q = y.shape[1], rhs.control_count
        return StepDerivatives(np.zeros((0, 3, n)), np.zeros((0, 3 * n, n + q)), np.zeros((0, n, 3 * n)))
    found: StepDerivatives = map_batches(lambda *rows: _linear(rhs, p, composition, *rows), (c, y, after), ROWS)
    return found


class StepChain:
    """The steps of every interval of every lane, one after another; z = (state an interval begins with, its controls).

    `vessel` and `k` [R] say whose every step is, in order; controls within an interval are those of its steps, but for
    the last, the length, of which each step has its `share`.
    """

    def __init__(self, vessel: np.ndarray, k: np.ndarray, share: np.ndarray, lanes: int, intervals: int, controls: int):
        self.shape, self.controls, self.share = (lanes, intervals), controls, share
        self.interval = vessel * intervals + k
        count = np.bincount(self.interval, minlength=lanes * intervals)
        begin = np.cumsum(count) - count
        # the longest first: those that take a further step are the first few
        self._order = np.argsort(-count, kind="stable")
        begin, count = begin[self._order], count[self._order]
        self._rows = [begin[: np.searchsorted(-count, -i)] + i for i in range(count.max(initial=0))]

    def forward(self, first: StepDerivatives) -> tuple[np.ndarray, np.ndarray]:
        """States before every step [R, n, n+q], and at the end of every interval [lanes, intervals, n, n+q], by z."""
        n = first.stages.shape[2]
        across = np.zeros((len(self._order), n, n + self.controls))
        across[:, :, :n] = np.eye(n)
        before = np.empty((len(self.interval), *across.shape[1:]))
        step = first.by[:, 2 * n :].copy()
        step[:, :, -1] *= self.share[:, None]
        for rows in self._rows:
            reached = across[: len(rows)]
            before[rows] = reached
            a = step[rows]
            across[: len(rows)] = a[:, :, :n] @ reached
            across[: len(rows), :, n:] += a[:, :, n:]
        return before, self._back(across)

    def backward(self, first: StepDerivatives, weight: np.ndarray) -> np.ndarray:
        """The weights [lanes, intervals, n] of the states at the end of intervals, at the end of every step [R, n]."""
        n = first.stages.shape[2]
        carried = weight.reshape(-1, n)[self._order][:, None]
        found = np.empty((len(self.interval), n))
        by = first.by[:, 2 * n :, :n]
        for rows in reversed(self._rows):
            found[rows] = carried[: len(rows), 0]
            carried[: len(rows)] = carried[: len(rows)] @ by[rows]
        return found

    def sum_by_interval(self, values: np.ndarray) -> np.ndarray:
        """Sums over the steps of every interval of values [R, ...]."""
        found = np.zeros((np.prod(self.shape, dtype=int), *values.shape[1:]))
        at = np.flatnonzero(np.diff(self.interval, prepend=-1))
        if len(at):
            found[self.interval[at]] = np.add.reduceat(values, at)
        return found.reshape(*self.shape, *values.shape[1:])

    def _back(self, values: np.ndarray) -> np.ndarray:
        found = np.empty_like(values)
        found[self._order] = values
        return found.reshape(*self.shape, *values.shape[1:])


def step_curvature(
    rhs: ConstantControlRate,
    p: Any,
    composition: np.ndarray,
    c: np.ndarray,
    first: StepDerivatives,
    weight: np.ndarray,
    before: np.ndarray,
    share: np.ndarray,
) -> Any:
    """Second derivatives [R, n+q, n+q] of weight [R, n] times the state after each step.

    They are by (state, controls) that its interval begins with: `before` [R, n, n+q] is the state before the step by
    those, and `share` [R] that of the interval's length.
    """
    if not len(c):
        return np.zeros((0, first.by.shape[2], first.by.shape[2]))
    rows = (c, first, weight, before, share)
    return map_batches(lambda *rows: _curvature(rhs, p, composition, *rows), rows, ROWS)


def cubic_hermite(slope0: Array, slope1: Array, y: Array, after: Array, places: np.ndarray) -> Array:
    """States [S, n] at places 0..1 within a step, on the cubic through both ends with the slopes there."""
    s, change = jnp.asarray(places)[:, None], after - y
    return y + s * change + s * (1 - s) * ((1 - s) * (slope0 - change) - s * (slope1 - change))


# In the programs rows come last: what is done to all of them is one loop over numbers that lie side by side.
_over_rows = partial(jax.vmap, in_axes=-1, out_axes=-1)
_over_stages = partial(jax.vmap, in_axes=(0, None))


@partial(jax.jit, static_argnums=0)
def _linear(rhs: ConstantControlRate, p: Any, composition: Array, c: Array, y: Array, after: Array) -> StepDerivatives:
    (count, n), q = y.shape, c.shape[1]
    a, c, y, after = jnp.asarray(RADAU), c.T, y.T, after.T
    rate = partial(rhs, p, composition)
    rates = _over_stages(_over_rows(rate))
    derivatives = _over_stages(_over_rows(jax.jacfwd(rate, (0, 1))))

    def _by_stages(x: Array) -> Array:
        """Sum over the stages j of a[i, j] x[j]."""
        return sum(a[:, j].reshape(3, *[1] * (x.ndim - 1)) * x[j] for j in range(3))

    def _inverse_at(stages: Array) -> tuple[Array, Array]:
        by_y, by_c = derivatives(stages, c)
        m = jnp.eye(3 * n).reshape(3, n, 3, n, 1) - a[:, None, :, None, None] * jnp.moveaxis(by_y, 0, 1)[None]
        return _inverse(m.reshape(3 * n, 3 * n, count)), by_c

    first, last = (_over_rows(rate)(state, c) for state in (y, after))
    guess = _over_rows(lambda f0, f1, y0, y1: cubic_hermite(f0, f1, y0, y1, NODES))(first, last, y, after)
    inverse, _ = _inverse_at(guess)
    for _ in range(2):
        defect = guess - y - _by_stages(rates(guess, c))
        guess = guess - _product(inverse, defect.reshape(3 * n, 1, count)).reshape(guess.shape)
    inverse, by_c = _inverse_at(guess)
    right = jnp.concatenate(
        [
            jnp.broadcast_to(jnp.tile(jnp.eye(n), (3, 1))[..., None], (3 * n, n, count)),
            _by_stages(by_c).reshape(3 * n, q, count),
        ],
        axis=1,
    )
    found = (guess, _product(inverse, right), inverse[2 * n :])
    return StepDerivatives(*(cast(Any, jnp.moveaxis(x, -1, 0)) for x in found))


def _inverse(m: Array) -> Array:
    """Of matrices [m, m, R] by Gauss-Jordan elimination in place, with pivots on the diagonal.

    1 - a h J is dominated by its diagonal for steps that accuracy allows, as in `sparse.elimination`.
    """
    place = jnp.arange(len(m))

    def _eliminate(k: Array, m: Array) -> Array:
        at = (place == k)[:, None]
        pivot = 1.0 / m[k, k]
        row = jnp.where(at, pivot, m[k] * pivot)
        column = jnp.where(at, 0.0, m[:, k])
        rest = jnp.where(at[None], 0.0, m) - column[:, None] * row
        return jnp.where(at[:, None], row, rest)

    return jax.lax.fori_loop(0, len(m), _eliminate, m)


def _product(m: Array, x: Array) -> Array:
    """Of matrices [a, b, R] and [b, c, R]."""
    zero = jnp.zeros((m.shape[0], *x.shape[1:]), x.dtype)
    return jax.lax.fori_loop(0, x.shape[0], lambda k, total: total + m[:, k, None] * x[k], zero)


@partial(jax.jit, static_argnums=0)
def _curvature(
    rhs: ConstantControlRate,
    p: Any,
    composition: Array,
    c: Array,
    first: StepDerivatives,
    weight: Array,
    before: Array,
    share: Array,
) -> Array:
    n, q = weight.shape[1], c.shape[1]
    stages, by, last, before = (jnp.moveaxis(x, 0, -1) for x in (*first, before))
    c, weight = c.T, weight.T
    rate = partial(rhs, p, composition)
    # multipliers of the stage equations: the implicit function theorem, once more
    mu = sum(last[i] * weight[i] for i in range(n)).reshape(3, n, -1)
    v = jnp.stack([sum(RADAU[i, j] * mu[i] for i in range(3)) for j in range(3)])

    def _hessian(y: Array, c: Array, v: Array) -> Array:
        return jax.hessian(lambda z: v @ rate(z[:n], z[n:]))(jnp.concatenate([y, c]))

    inner = jax.vmap(_over_rows(_hessian), (0, None, 0))(stages, c, v)
    still = jnp.broadcast_to(jnp.eye(n + q)[n:, :, None], (q, n + q, c.shape[1]))
    own = still.at[-1, -1].multiply(share)  # controls of the step by those of the interval
    t = _product(by, jnp.concatenate([before, own])).reshape(3, n, n + q, -1)
    t = jnp.concatenate([t, jnp.broadcast_to(own, (3, *own.shape))], axis=1)
    total = sum(_product(jnp.swapaxes(t[j], 0, 1), _product(inner[j], t[j])) for j in range(3))
    return jnp.moveaxis(total, -1, 0)
