"""E. coli on glucose with overflow of acetate, and dissolved oxygen in steady state with the gas.

Source: Anane, López, Neubauer & Cruz-Bournazou 2017, Biochem Eng J 125:23, equations and values of the authors' own
listing, as in `ecoli_oxygen`. The same group's model of mini-bioreactors (Anane et al. 2018) has dissolved oxygen in
steady state, DOT = DOT* - q_O X H / kLa; here with q_O limited by oxygen, q_O,max DOT / (K_o + DOT), so that DOT is the
root of (DOT* - DOT) (K_o + DOT) = DOT X H q_O,max / kLa that is not negative. Deviations are those of `ecoli_oxygen`.

Neglected: oxygen that feeds bring or dilute, what is stored in the broth (at most DOT* / H = 7 mg/L), and the lag of
the probe. It holds where kLa is much faster than growth and feeding. After a pulse or a new kLa, DOT is ahead of the
real one for a few 1/kLa (10 s at 355 1/h), and ahead of the probe for a few times its response (35 s in the source).
Where a pulse exhausts oxygen, the biomass that the stored oxygen would have given is missing: in the source's process,
with four pulses, 3e-4 of the biomass at the end. DOT away from pulses is within 0.1 % of saturation.

What is stiffest in `ecoli_oxygen` is algebra here, and an explicit stepper suits; glucose at its affinity in dense
cells still holds its steps to about a minute. The vessel must give kLa, above zero where it holds no cells.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from optim.errors import ConfigError
from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.kinetics.ecoli_oxygen import SATURATION, turnover, uptakes
from optim.kinetics.ratelaws import monod
from optim.types import Scalar


class State(NamedTuple):
    """X, S (glucose), A (acetate) in g/L."""

    X: Scalar
    S: Scalar
    A: Scalar


class Parameters(NamedTuple):
    """Rates per hour and per g of biomass; as in `ecoli_oxygen`, without the probe."""

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


def steady_oxygen(demand: Scalar, kla: Scalar, K_o: Scalar) -> Scalar:
    """DOT in % at which kLa (DOT* - DOT) = demand DOT / (K_o + DOT); demand in %/h, kLa in 1/h.

    kLa DOT^2 + b DOT - kLa K_o DOT* = 0 has one root that is not negative, and of its two forms one adds numbers of
    equal sign. They are the same function, so its derivatives do not see the choice.
    """
    b = demand + kla * (K_o - SATURATION)
    root = jnp.sqrt(b * b + 4.0 * kla * kla * K_o * SATURATION)
    plenty = b <= 0.0
    over = jnp.where(plenty, root - b, 2.0 * kla * K_o * SATURATION)
    # the form that is not chosen has no denominator, so none of its derivatives is infinite
    return over / jnp.where(plenty, 2.0 * kla, root + b)


class EcoliOxygenSteady(AbstractKineticModel):
    """Model B1 with oxygen in steady state: biomass, glucose, acetate."""

    State: ClassVar[Any] = State
    Parameters: ClassVar[Any] = Parameters
    species: ClassVar[tuple[Species, ...]] = (
        Species("X", "g/L", 10.0, "biomass"),
        Species("S", "g/L", 1.0, "glucose"),
        Species("A", "g/L", 0.1, "acetate"),
    )
    # the oxygen of a medium that stood is not yet in steady state with cells, so it says nothing
    product: ClassVar[str] = "biomass"
    inoculum: ClassVar[Inoculum] = Inoculum("biomass", {"X": 1.0})
    initial_variables: ClassVar[tuple[str, ...]] = ("glucose", "acetate", "dissolved_oxygen")

    def oxygen(self, p: Parameters, c: State, env: Environment) -> Scalar:
        """Dissolved oxygen in % of saturation with air. Raises `ConfigError` where the vessel gives no kLa."""
        if env.kla is None:
            raise ConfigError(
                "model ecoli_oxygen_steady: the vessel gives no kLa, which decides the dissolved oxygen; "
                "give kla_per_h in the setpoints at time 0"
            )
        return steady_oxygen(uptakes(p, c.S, c.A).q_O * p.H * c.X, env.kla, p.K_o)

    def rates(self, p: Parameters, c: State, env: Environment) -> State:
        saturation = monod(self.oxygen(p, c, env), p.K_o)
        return State(*(q * c.X for q in turnover(p, uptakes(p, c.S, c.A), saturation)))

    def observe(self, p: Parameters, c: State, env: Environment) -> dict[str, Scalar]:
        return self.measured(c) | {"dissolved_oxygen": self.oxygen(p, c, env)}
