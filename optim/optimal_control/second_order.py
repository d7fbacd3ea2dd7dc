"""Exact first and second derivatives of a trajectory by hundreds of controls, step by step.

A simulated trajectory leaves the tape of its accepted steps (`reverse.record_march`). Each of them is written again
as a step of the three-stage Radau IIA method (order 5, L-stable: Hairer & Wanner 1996, Solving ODEs II, IV.5). Its
solution differs from the simulated one by about the tolerance, and its derivatives follow from the implicit function
theorem with the Jacobian and the Hessian of the right-hand side alone. So all steps of all vessels are independent rows
of one small compiled program, for any schedule, and a chain over them gives the derivatives by the controls.
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
LONGEST_JOINED = 3.0  # length of joined steps, relative to the first of them
ROWS = 256  # steps at once in one compiled program


@dataclass(frozen=True)
class ConstantControlRate:
    """The right-hand side with constant controls.

    The controls of a step are (rate of every feed in L/h, [temperature in degC,] length of the step in h).
    """

    model: AbstractKineticModel
    feeds: int  # number of feeds
    heated: bool  # whether the temperature is a control
    temperature: float  # degC, if it is no control
    ph: float

    @property
    def control_count(self) -> int:
        """Number q of the controls of a step."""
        return self.feeds + self.heated + 1

    def __call__(self, p: Any, composition: Array, y: Array, c: Array) -> Array:
        """Rate of change of amounts and volume [n], times the length of the step, for controls c [q]."""
        rates = c[: self.feeds]
        temperature = c[self.feeds] if self.heated else jnp.asarray(self.temperature, c.dtype)
        none = jnp.zeros((), c.dtype)
        actions = IntervalActions(
            none, jnp.zeros(self.feeds), rates, rates, Environment(temperature, jnp.asarray(self.ph))
        )
        controls, vessel = Controls(c[-1], actions), Vessel(composition)
        return jnp.stack(state_derivative(self.model, p, tuple(y), s=none, controls=controls, vessel=vessel))


class AcceptedSteps(NamedTuple):
    """Accepted steps (R rows, n states), in the order of vessel, interval and position."""

    vessel: np.ndarray  # [R] index of the vessel
    k: np.ndarray  # [R] index of the interval
    fraction: np.ndarray  # [R] of the length of the interval
    y: np.ndarray  # [R, n] states before the step
    after: np.ndarray  # [R, n] states after the step


def accepted_steps(run: RecordedMarch) -> AcceptedSteps:
    """The accepted steps of all vessels whose simulation succeeded."""
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
    fraction = tape.ds[when[order], which[order], lane[order]]
    last = np.ones(len(vessel), bool)
    last[:-1] = (vessel[1:] != vessel[:-1]) | (k[1:] != k[:-1])
    ends = np.asarray(run.march.states)[vessel, k + 1]
    following = np.concatenate([y[1:], y[-1:]]) if len(y) else y
    return AcceptedSteps(vessel, k, fraction, y, np.where(last[:, None], ends, following))


def join_steps(steps: AcceptedSteps) -> AcceptedSteps:
    """Join neighbouring steps within an interval, up to LONGEST_JOINED times the length of the first.

    The simulation is more accurate than derivatives need to be. Growing steps after a transient are not joined.
    """
    begin = np.ones(len(steps.k), bool)
    begin[1:] = (steps.vessel[1:] != steps.vessel[:-1]) | (steps.k[1:] != steps.k[:-1])
    length, room = 0.0, 0.0
    firsts: list[int] = []
    for i, (fraction, first) in enumerate(zip(steps.fraction.tolist(), begin.tolist(), strict=True)):
        length += fraction
        if first or length > room:
            firsts.append(i)
            length, room = fraction, LONGEST_JOINED * (1.0 + 1e-9) * fraction
    at = np.array(firsts, int)
    until = np.append(at[1:], len(begin)) - 1
    fraction = np.add.reduceat(steps.fraction, at) if len(at) else steps.fraction
    return AcceptedSteps(steps.vessel[at], steps.k[at], fraction, steps.y[at], steps.after[until])


class StepDerivatives(NamedTuple):
    """First derivatives of R steps by z = (state before, controls), with n states and q controls."""

    stages: np.ndarray  # [R, 3, n] states of the stages
    by: np.ndarray  # [R, 3n, n+q] derivatives of the stages by z; the last stage is the state after the step
    last: np.ndarray  # [R, n, 3n] rows of the inverse of the matrix of the stage equations: those of the state after


def differentiate_steps(
    rhs: ConstantControlRate, p: Any, composition: np.ndarray, *, c: np.ndarray, y: np.ndarray, after: np.ndarray
) -> StepDerivatives:
    """First derivatives of R steps.

    Args:
        rhs: right-hand side with constant controls.
        p: the model's Parameters.
        composition: concentrations [J, S] of every feed.
        c: controls of each step [R, q].
        y: states before each step [R, n].
        after: states after each step [R, n], for the first guess of the stages.
    """
    if not len(c):
        n, q = y.shape[1], rhs.control_count
        return StepDerivatives(np.zeros((0, 3, n)), np.zeros((0, 3 * n, n + q)), np.zeros((0, n, 3 * n)))
    derivatives: StepDerivatives = map_batches(lambda *rows: _linear(rhs, p, composition, *rows), (c, y, after), ROWS)
    return derivatives


class StepChain:
    """The chain rule over the steps of every interval; z = (state at the beginning of the interval, its controls).

    Args:
        vessel: lane of each step [R], in the order of the steps.
        k: interval of each step [R].
        fraction: length of each step as a fraction of its interval [R]. The controls of a step are those of its
            interval, but for the last one, the length.
        lanes: number of lanes.
        intervals: number of intervals of a lane.
        controls: number q of controls.
    """

    def __init__(
        self, vessel: np.ndarray, k: np.ndarray, fraction: np.ndarray, *, lanes: int, intervals: int, controls: int
    ):
        self.shape, self.controls, self.fraction = (lanes, intervals), controls, fraction
        self.interval = vessel * intervals + k
        count = np.bincount(self.interval, minlength=lanes * intervals)
        begin = np.cumsum(count) - count
        # intervals with the most steps first: those that take a further step are then the first few
        self._order = np.argsort(-count, kind="stable")
        begin, count = begin[self._order], count[self._order]
        self._rows = [begin[: np.searchsorted(-count, -i)] + i for i in range(count.max(initial=0))]

    def forward(self, first: StepDerivatives) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives by z of the states: before every step [R, n, n+q], at the end of every interval [.., n, n+q]."""
        n = first.stages.shape[2]
        across = np.zeros((len(self._order), n, n + self.controls))
        across[:, :, :n] = np.eye(n)
        before = np.empty((len(self.interval), *across.shape[1:]))
        step = first.by[:, 2 * n :].copy()
        step[:, :, -1] *= self.fraction[:, None]
        for rows in self._rows:
            reached = across[: len(rows)]
            before[rows] = reached
            a = step[rows]
            across[: len(rows)] = a[:, :, :n] @ reached
            across[: len(rows), :, n:] += a[:, :, n:]
        return before, self._by_lane(across)

    def backward(self, first: StepDerivatives, weight: np.ndarray) -> np.ndarray:
        """Propagate weights [lanes, intervals, n] of the states at the end of intervals back to every step [R, n]."""
        n = first.stages.shape[2]
        carried = weight.reshape(-1, n)[self._order][:, None]
        weights = np.empty((len(self.interval), n))
        by = first.by[:, 2 * n :, :n]
        for rows in reversed(self._rows):
            weights[rows] = carried[: len(rows), 0]
            carried[: len(rows)] = carried[: len(rows)] @ by[rows]
        return weights

    def sum_by_interval(self, values: np.ndarray) -> np.ndarray:
        """Sums [lanes, intervals, ...] of values [R, ...] over the steps of every interval."""
        sums = np.zeros((np.prod(self.shape, dtype=int), *values.shape[1:]))
        at = np.flatnonzero(np.diff(self.interval, prepend=-1))
        if len(at):
            sums[self.interval[at]] = np.add.reduceat(values, at)
        return sums.reshape(*self.shape, *values.shape[1:])

    def _by_lane(self, values: np.ndarray) -> np.ndarray:
        """Values of all intervals, sorted by their number of steps, in the order of lanes and intervals."""
        sorted_back = np.empty_like(values)
        sorted_back[self._order] = values
        return sorted_back.reshape(*self.shape, *values.shape[1:])


def step_curvature(
    rhs: ConstantControlRate,
    p: Any,
    first: StepDerivatives,
    *,
    composition: np.ndarray,
    c: np.ndarray,
    weight: np.ndarray,
    before: np.ndarray,
    fraction: np.ndarray,
) -> Any:
    """Second derivatives [R, n+q, n+q] by z of the weighted state after each step; z as in `StepChain`.

    Args:
        rhs: right-hand side with constant controls.
        p: the model's Parameters.
        first: first derivatives of the steps.
        composition: concentrations [J, S] of every feed.
        c: controls of each step [R, q].
        weight: weight of the state after each step [R, n].
        before: derivatives by z of the state before each step [R, n, n+q].
        fraction: length of each step as a fraction of its interval [R].
    """
    if not len(c):
        return np.zeros((0, first.by.shape[2], first.by.shape[2]))
    rows = (c, first, weight, before, fraction)
    return map_batches(lambda *rows: _curvature(rhs, p, composition, *rows), rows, ROWS)


def cubic_hermite(y: Array, after: Array, places: np.ndarray, *, slope0: Array, slope1: Array) -> Array:
    """Cubic Hermite interpolation within a step.

    Args:
        y: state at the beginning of the step [n].
        after: state at its end [n].
        places: places 0..1 within the step [S].
        slope0: derivative at the beginning, times the length of the step [n].
        slope1: derivative at the end, times the length of the step [n].

    Returns:
        States [S, n].
    """
    s, change = jnp.asarray(places)[:, None], after - y
    return y + s * change + s * (1 - s) * ((1 - s) * (slope0 - change) - s * (slope1 - change))


# in the programs the rows are the last axis: an operation on all rows is one loop over contiguous numbers
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
    guess = _over_rows(lambda f0, f1, y0, y1: cubic_hermite(y0, y1, NODES, slope0=f0, slope1=f1))(first, last, y, after)
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
    results = (guess, _product(inverse, right), inverse[2 * n :])
    return StepDerivatives(*(cast(Any, jnp.moveaxis(x, -1, 0)) for x in results))


def _inverse(m: Array) -> Array:
    """Inverses of matrices [m, m, R] by Gauss-Jordan elimination in place, with pivots on the diagonal.

    1 - a h J is dominated by its diagonal at the steps that accuracy allows, as in `sparse.pivot_order`.
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
    """Products of matrices [a, b, R] and [b, c, R]."""
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
    fraction: Array,
) -> Array:
    n, q = weight.shape[1], c.shape[1]
    stages, by, last, before = (jnp.moveaxis(x, 0, -1) for x in (*first, before))
    c, weight = c.T, weight.T
    rate = partial(rhs, p, composition)
    # multipliers of the stage equations, again by the implicit function theorem
    mu = sum(last[i] * weight[i] for i in range(n)).reshape(3, n, -1)
    v = jnp.stack([sum(RADAU[i, j] * mu[i] for i in range(3)) for j in range(3)])

    def _hessian(y: Array, c: Array, v: Array) -> Array:
        return jax.hessian(lambda z: v @ rate(z[:n], z[n:]))(jnp.concatenate([y, c]))

    inner = jax.vmap(_over_rows(_hessian), (0, None, 0))(stages, c, v)
    fixed = jnp.broadcast_to(jnp.eye(n + q)[n:, :, None], (q, n + q, c.shape[1]))
    own = fixed.at[-1, -1].multiply(fraction)  # controls of the step by those of the interval
    t = _product(by, jnp.concatenate([before, own])).reshape(3, n, n + q, -1)
    t = jnp.concatenate([t, jnp.broadcast_to(own, (3, *own.shape))], axis=1)
    total = sum(_product(jnp.swapaxes(t[j], 0, 1), _product(inner[j], t[j])) for j in range(3))
    return jnp.moveaxis(total, -1, 0)
