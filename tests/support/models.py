"""Small models with known answers."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from optim.kinetics.base import AbstractKineticModel, Inoculum, Species


class TwoState(NamedTuple):
    X: Any
    S: Any


class Rate(NamedTuple):
    k: Any
    Ks: Any


class _Two(AbstractKineticModel):
    State: ClassVar[Any] = TwoState
    Parameters: ClassVar[Any] = Rate
    species: ClassVar[tuple[Species, ...]] = (
        Species("X", "g/L", 1.0),
        Species("S", "mmol/L", 1.0, "glucose", start=1.0),
    )
    inoculum: ClassVar[Inoculum] = Inoculum("", {"X": 1.0})
    initial_variables: ClassVar[tuple[str, ...]] = ()

    def observe(self, p, c, env):
        return {"biomass": c.X}


class Inert(_Two):
    """Nothing reacts."""

    def rates(self, p, c, env):
        return TwoState(0.0 * c.X, 0.0 * c.S)


class Exponential(_Two):
    """Growth at rate k, whatever the substrate."""

    def rates(self, p, c, env):
        return TwoState(p.k * c.X, 0.0 * c.S)


class Monod(_Two):
    """Growth on S with yield 0.5; substrate and half the biomass are conserved."""

    def rates(self, p, c, env):
        growth = p.k * jnp.exp(-(((env.temperature - 37.0) / 10.0) ** 2)) * c.S / (p.Ks + c.S) * c.X
        return TwoState(growth, -2.0 * growth)


class Product(_Two):
    """Growth at rate k Ks: the two cannot be told apart."""

    def rates(self, p, c, env):
        return TwoState(p.k * p.Ks * c.X, 0.0 * c.S)


class Explosive(_Two):
    """dX/dt = k X^2: infinite at time 1/(k X0)."""

    def rates(self, p, c, env):
        return TwoState(p.k * c.X**2, 0.0 * c.S)


class Undefined(_Two):
    """The rate is not a number."""

    def rates(self, p, c, env):
        return TwoState(jnp.log(-c.X), 0.0 * c.S)


class Relaxing(_Two):
    """X follows S with rate k: at rest the error of the values vanishes, that of derivatives need not."""

    def rates(self, p, c, env):
        return TwoState(-p.k * (c.X - c.S), 0.0 * c.S)
