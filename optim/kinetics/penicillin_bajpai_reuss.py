"""Penicillin fed-batch with growth by Contois' law, substrate-inhibited production and hydrolysis.

Source: Bajpai & Reuss 1980, J Chem Technol Biotechnol 30:332, in the simplified form of the optimal-control benchmark
(Cuthrell & Biegler 1989; Banga et al. 2005, J Biotechnol 117:407), whose equations and values these are, without
deviation. Substrate is glucose in g/L: growth is fastest where there is much of it, production where there is little.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.kinetics.ratelaws import monod
from optim.types import Scalar


class State(NamedTuple):
    """Biomass X, penicillin P and substrate S in g/L."""

    X: Scalar
    P: Scalar
    S: Scalar


class Parameters(NamedTuple):
    """Rates per hour and per g of biomass."""

    mu_max: Scalar  # 1/h
    K_x: Scalar  # g/g, Contois constant of growth
    rho_max: Scalar  # g/g/h, production
    K_p: Scalar  # g/L
    KI_p: Scalar  # g/L, substrate that inhibits production
    k_h: Scalar  # 1/h, hydrolysis of penicillin
    Y_xs: Scalar  # g/g
    Y_ps: Scalar  # g/g
    m_s: Scalar  # g/g/h, maintenance
    K_m: Scalar  # g/L


class PenicillinBajpaiReuss(AbstractKineticModel):
    """Biomass, penicillin and substrate."""

    State: ClassVar[Any] = State
    Parameters: ClassVar[Any] = Parameters
    species: ClassVar[tuple[Species, ...]] = (
        Species("X", "g/L", 10.0, "biomass"),
        Species("P", "g/L", 1.0, "product"),
        Species("S", "g/L", 1.0, "glucose"),
    )
    stiff: ClassVar[bool] = True  # substrate is used up within minutes once it is scarce
    product: ClassVar[str] = "product"
    inoculum: ClassVar[Inoculum] = Inoculum("biomass", {"X": 1.0})
    initial_variables: ClassVar[tuple[str, ...]] = ("product", "glucose")

    def rates(self, p: Parameters, c: State, env: Environment) -> State:
        mu = p.mu_max * monod(c.S, p.K_x * c.X)
        rho = p.rho_max * c.S / (p.K_p + c.S * (1.0 + c.S / p.KI_p))
        maintenance = p.m_s * monod(c.S, p.K_m)
        return State(
            X=mu * c.X,
            P=rho * c.X - p.k_h * c.P,
            S=-(mu / p.Y_xs + rho / p.Y_ps + maintenance) * c.X,
        )

    def observe(self, p: Parameters, c: State, env: Environment) -> dict[str, Scalar]:
        return self.measured(c)
