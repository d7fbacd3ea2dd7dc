"""Steppers: one step of a Runge-Kutta method over a rescaled interval, with an error estimate."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
from equinox import AbstractClassVar

from optim.types import Scalar, StateTuple

RightHandSide = Callable[[Scalar, StateTuple], StateTuple]


class AbstractStepper(eqx.Module):
    """`order` is that of the solution that is carried on, `error_order` that of the step size's control.

    Steps times the fastest rate must stay below `stable`; None for a method that is stable at any step.
    """

    order: AbstractClassVar[int]
    error_order: AbstractClassVar[int]
    stable: AbstractClassVar[float | None]

    @abstractmethod
    def step(self, rhs: RightHandSide, s: Scalar, y: StateTuple, h: Scalar) -> tuple[StateTuple, StateTuple]:
        """State at s + h and the estimate of its local error."""


class Tsit5(AbstractStepper):
    """Explicit, order 5(4), for mild systems. Tsitouras 2011, Comput Math Appl 62:770."""

    order: ClassVar[int] = 5
    error_order: ClassVar[int] = 5
    stable: ClassVar[float | None] = 2.8  # its region of stability reaches to -3.5 on the real axis
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

    def step(self, rhs: RightHandSide, s: Scalar, y: StateTuple, h: Scalar) -> tuple[StateTuple, StateTuple]:
        slopes: list[StateTuple] = []
        for c, row in zip(self.c, self.a, strict=True):
            at = materialise(_combine(y, h, row, slopes)) if slopes else y
            slopes.append(materialise(rhs(s + c * h, at)))
        new = materialise(_combine(y, h, self.b, slopes))
        slopes.append(materialise(rhs(s + h, new)))
        zero = tuple(0.0 * v for v in y)
        return new, _combine(zero, h, self.e, slopes)


def materialise(values: StateTuple) -> StateTuple:
    # Without this XLA fuses each stage into all its consumers and computes the rates many times over: measured here, it
    # halves both the compile time and the run time of a Jacobian.
    return jax.lax.optimization_barrier(values)


def _combine(y: StateTuple, h: Scalar, weights: tuple[float, ...], slopes: list[StateTuple]) -> StateTuple:
    total = []
    for i, value in enumerate(y):
        slope = weights[0] * slopes[0][i]
        for w, k in zip(weights[1:], slopes[1:], strict=True):
            slope = slope + w * k[i]
        total.append(value + h * slope)
    return tuple(total)
