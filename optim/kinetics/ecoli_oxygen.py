"""E. coli on glucose with overflow of acetate, its re-use, and dissolved oxygen.

Source: Anane, López, Neubauer & Cruz-Bournazou 2017, Biochem Eng J 125:23, equations and values of the authors' own
listing. Deviations:
- whatever takes up oxygen stops with it: the source lets acetate be oxidised and maintenance respire at zero oxygen and
  drives it below zero; above 1 % of saturation the difference is below 0.01 %;
- the saturation in oxygen is antisymmetric about zero, so that round-off of a solver meets no pole at -K_o.
Starving cells lose mass by maintenance, as in the source. `K_o` of the source, 1e-4 % of saturation, makes oxygen very
stiff; 0.1 % is milder and moves the biomass of the source's process by less than 0.4 %.

The gas side (kLa) belongs to the vessel. Glucose and acetate are in g/L, the unit of the parameters; media and assays
give glucose in mmol/L. A feed without `dissolved_oxygen` holds none.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.kinetics.ratelaws import inhibition, monod
from optim.types import Scalar


class State(NamedTuple):
    """X, S (glucose), A (acetate) in g/L; DOT and the probe's reading DOTm in % of saturation with air."""

    X: Scalar
    S: Scalar
    A: Scalar
    DOT: Scalar
    DOTm: Scalar


class Parameters(NamedTuple):
    """Rates per hour and per g of biomass."""

    K_ap: Scalar  # g/g/h, uptake at which overflow is half of its maximum
    K_sa: Scalar  # g/L
    K_o: Scalar  # %
    K_s: Scalar  # g/L
    K_ia: Scalar  # g/L
    K_is: Scalar  # g/g/h, uptake of glucose that halves uptake of acetate
    pA_max: Scalar  # g/g/h, overflow
    qA_max: Scalar  # g/g/h, uptake of acetate
    q_m: Scalar  # g/g/h, maintenance
    qS_max: Scalar  # g/g/h, uptake of glucose
    Y_as: Scalar  # g/g, acetate per glucose
    Y_oa: Scalar  # g/g, oxygen per acetate
    Y_xa: Scalar  # g/g, biomass per acetate
    Y_em: Scalar  # g/g, biomass per glucose oxidised, without maintenance
    Y_os: Scalar  # g/g, oxygen per glucose
    Y_xof: Scalar  # g/g, biomass per glucose in overflow
    C_s: Scalar  # g/g, carbon in glucose
    C_x: Scalar  # g/g, carbon in biomass
    H: Scalar  # % per g/L of oxygen
    tau: Scalar  # s, response of the probe


SATURATION = 99.0  # %, in equilibrium with the gas supplied (source)
SECONDS_PER_HOUR = 3600.0


class Uptakes(NamedTuple):
    """What a gram of biomass takes up in an hour, in g, where oxygen does not limit."""

    q_S: Scalar  # glucose
    overflow: Scalar  # glucose that ends as acetate
    respired: Scalar  # the rest of it
    q_A: Scalar  # acetate
    q_O: Scalar  # oxygen


def uptakes(p: Any, S: Scalar, A: Scalar) -> Uptakes:
    """Rates with enough oxygen; `p` has the fields of `Parameters` that are about cells."""
    q_S = p.qS_max * inhibition(A, p.K_ia) * monod(S, p.K_s)
    overflow = p.pA_max * monod(q_S, p.K_ap)
    respired = q_S - overflow
    q_A = p.qA_max * inhibition(q_S, p.K_is) * monod(A, p.K_sa)
    anabolic = (respired - p.q_m) * p.Y_em * p.C_x / p.C_s
    return Uptakes(q_S, overflow, respired, q_A, p.Y_os * (respired - anabolic) + p.Y_oa * q_A)


def turnover(p: Any, q: Uptakes, oxygen: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """Changes of biomass, glucose and acetate per gram of biomass, at a saturation in oxygen of 0 to 1."""
    mu = (q.respired * oxygen - p.q_m) * p.Y_em + p.Y_xa * q.q_A * oxygen + p.Y_xof * q.overflow
    return mu, -q.q_S, p.Y_as * q.overflow - q.q_A * oxygen


class EcoliOxygen(AbstractKineticModel):
    """Model B1: biomass, glucose, acetate, dissolved oxygen and its probe."""

    State: ClassVar[Any] = State
    Parameters: ClassVar[Any] = Parameters
    species: ClassVar[tuple[Species, ...]] = (
        Species("X", "g/L", 10.0, "biomass"),
        Species("S", "g/L", 1.0, "glucose"),
        Species("A", "g/L", 0.1, "acetate"),
        Species("DOT", "%", 10.0, "dissolved_oxygen", saturation=SATURATION),
        # the probe; at the start it reads the oxygen of a medium that stood in the vessel
        Species("DOTm", "%", 10.0, dilutes=False, starts_as="dissolved_oxygen", start=SATURATION),
    )
    stiff: ClassVar[bool] = True
    product: ClassVar[str] = "biomass"
    inoculum: ClassVar[Inoculum] = Inoculum("biomass", {"X": 1.0})
    initial_variables: ClassVar[tuple[str, ...]] = ("glucose", "acetate", "dissolved_oxygen")

    def rates(self, p: Parameters, c: State, env: Environment) -> State:
        oxygen = c.DOT / (p.K_o + jnp.abs(c.DOT))
        q = uptakes(p, c.S, c.A)
        mu, glucose, acetate = turnover(p, q, oxygen)
        return State(
            X=mu * c.X,
            S=glucose * c.X,
            A=acetate * c.X,
            DOT=-q.q_O * oxygen * p.H * c.X,
            DOTm=SECONDS_PER_HOUR / p.tau * (c.DOT - c.DOTm),
        )

    def observe(self, p: Parameters, c: State, env: Environment) -> dict[str, Scalar]:
        return self.measured(c) | {"dissolved_oxygen": c.DOTm}
