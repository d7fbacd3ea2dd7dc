"""Steppers: one step of a Runge-Kutta method within an interval rescaled to 0..1, with an error estimate."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractClassVar

from optim.simulation.engine.rhs import RightHandSide, hold_in_memory, store_stage
from optim.types import Array


class AbstractStepper(eqx.Module):
    """A stepper: one step of a one-step method on L lanes with N' states each."""

    order: AbstractClassVar[int]
    """Order of the solution that is continued."""
    error_order: AbstractClassVar[int]
    """Order by which the step size is controlled."""
    stability_limit: AbstractClassVar[float | None]
    """Largest stable product of step size and fastest rate; None for a method that is stable at any step size."""

    @abstractmethod
    def step(self, rhs: RightHandSide, y: Array, *, s: Array, h: Array) -> tuple[Array, Sequence[Array]]:
        """Take one step.

        Args:
            rhs: right-hand side of the lanes.
            y: states [N', L] at s.
            s: position within the interval [L].
            h: step size [L], as a fraction of the interval.

        Returns:
            The states [N', L] at s + h, and the estimated local errors (N' rows [L]), which have no derivative.
        """

    @abstractmethod
    def pull_back(
        self, rhs: RightHandSide, y: Array, bar: Array, *, s: Array, h: Array
    ) -> tuple[Array, tuple[Array, ...]]:
        """Propagate cotangents backward through one step.

        Args:
            rhs: right-hand side of the lanes.
            y: states [N', L] at s.
            bar: cotangents [N', L] of the states at s + h.
            s: position within the interval [L].
            h: step size [L].

        Returns:
            The cotangents of `y` and of the frozen values of `rhs`.
        """


class Tsit5(AbstractStepper):
    """Explicit Runge-Kutta method of order 5(4), for non-stiff systems. Tsitouras 2011, Comput Math Appl 62:770."""

    order: ClassVar[int] = 5
    error_order: ClassVar[int] = 5
    stability_limit: ClassVar[float | None] = 2.8  # its region of stability reaches to -3.5 on the real axis
    c: ClassVar[tuple[float, ...]] = (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0)
    a: ClassVar[tuple[tuple[float, ...], ...]] = (
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
    )
    b: ClassVar[tuple[float, ...]] = (
        0.09646076681806523,
        0.01,
        0.4798896504144996,
        1.379008574103742,
        -3.290069515436081,
        2.324710524099774,
    )
    # b minus the weights of the embedded fourth-order solution; the last belongs to the rate at the new point
    e: ClassVar[tuple[float, ...]] = (
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1.0 / 66.0,
    )

    def step(self, rhs: RightHandSide, y: Array, *, s: Array, h: Array) -> tuple[Array, Sequence[Array]]:
        slopes, new = self._stages(rhs, s, y, h)
        # the rate at the new point is used for the error alone, which has no derivative
        slopes, new_, s, h, frozen = jax.lax.stop_gradient((slopes, new, s, h, rhs.frozen))
        last = rhs._replace(frozen=frozen)(s + h, new_)
        error = weighted_sum(self.e[:6], slopes)
        return new, [h * (error[i] + self.e[6] * slope) for i, slope in enumerate(last)]

    def pull_back(
        self, rhs: RightHandSide, y: Array, bar: Array, *, s: Array, h: Array
    ) -> tuple[Array, tuple[Array, ...]]:
        slopes, _ = self._stages(rhs, s, y, h)
        rows = self._table()
        back = jnp.asarray(np.column_stack([rows, self.b, rows[:, 1:].T]), y.dtype)

        def _stage(n: Array, carried: tuple[Array, tuple[Array, ...]]) -> tuple[Array, tuple[Array, ...]]:
            bars, frozen_bar = carried
            i = 5 - n
            row = back[i]
            at = hold_in_memory(y + h * weighted_sum(row[1:7], slopes))
            slope_bar = hold_in_memory(h * (row[7] * bar + weighted_sum(row[8:], bars)))
            at_bar, change = rhs.pull_back(s + row[0] * h, at, slope_bar)
            return store_stage(bars, i, at_bar), tuple(a + b for a, b in zip(frozen_bar, change, strict=True))

        start = jnp.zeros((6, *y.shape), y.dtype), tuple(jnp.zeros_like(a) for a in rhs.frozen)
        bars, frozen_bar = jax.lax.fori_loop(0, 6, _stage, start)
        return bar + sum(bars), frozen_bar

    def _table(self) -> np.ndarray:
        rows = np.zeros((6, 6))
        for i, row in enumerate(self.a):
            rows[i, : len(row)] = row
        return np.column_stack([self.c, rows])

    def _stages(self, rhs: RightHandSide, s: Array, y: Array, h: Array) -> tuple[Array, Array]:
        table = jnp.asarray(self._table(), y.dtype)

        def _stage(i: Array, slopes: Array) -> Array:
            row = table[i]
            at = hold_in_memory(y + h * weighted_sum(row[1:], slopes))
            return store_stage(slopes, i, rhs(s + row[0] * h, at))

        slopes = jax.lax.fori_loop(0, 6, _stage, jnp.zeros((6, *y.shape), y.dtype))
        return slopes, hold_in_memory(y + h * weighted_sum(self.b, slopes))


def weighted_sum(weights: Any, slopes: Array) -> Array:
    """Weighted sum of the stages [R, ...]; terms whose weight is the number 0 are left out."""
    terms = [
        weights[j] * slopes[j] for j in range(len(weights)) if not (isinstance(weights[j], float) and weights[j] == 0.0)
    ]
    return sum(terms[1:], terms[0])
