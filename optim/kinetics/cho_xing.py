"""CHO fed-batch with growth-inverse production, in six metabolic states.

Source: Kornecki & Strube 2018, Bioengineering 5:25, table 2, which takes several constants from Xing et al. 2010,
Biotechnol Prog 26:208. Deviations, each of them smooth:
- yields use the rate of growth mu where the source has mu - mu_d, so that dying cells do not give substrate back;
- maintenance is gated by glucose and the removal of ammonia by ammonia (the published terms have no substrate in them
  and drive both below zero).
Over a batch of 5 days they move cells, glucose and product by about 1 % and ammonia by 3 %.
k_d of the source leaves almost every cell alive; there is no lysis.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.kinetics.ratelaws import gate, inhibition, monod
from optim.types import Scalar


class State(NamedTuple):
    """Xv, Xd (dead) in 1e9 cells/L; Glc, Gln, Lac, Amm in mmol/L; mAb in g/L."""

    Xv: Scalar
    Xd: Scalar
    Glc: Scalar
    Gln: Scalar
    Lac: Scalar
    Amm: Scalar
    mAb: Scalar


class Parameters(NamedTuple):
    """Rates per hour; specific rates per 1e9 viable cells."""

    mu_max: Scalar  # 1/h
    k_d: Scalar  # 1/h
    K_glc: Scalar  # mmol/L
    K_gln: Scalar  # mmol/L
    KI_lac: Scalar  # mmol/L
    KI_amm: Scalar  # mmol/L
    KD_lac: Scalar  # mmol/L
    KD_amm: Scalar  # mmol/L
    Y_xglc: Scalar  # 1e9 cells/mmol
    Y_xgln: Scalar  # 1e9 cells/mmol
    Y_lac: Scalar  # mol/mol
    Y_amm: Scalar  # mol/mol
    r_amm: Scalar  # mmol/1e9 cells/h, removal of ammonia
    m_glc: Scalar  # mmol/1e9 cells/h
    a_1: Scalar  # mmol/1e9 cells/h, glutamine for maintenance
    a_2: Scalar  # mmol/L
    Q: Scalar  # g/1e9 cells/h, productivity without growth


GLUCOSE_GATE = 0.01  # mmol/L
AMMONIA_GATE = 0.1  # mmol/L
INOCULUM_VIABILITY = 0.98


class ChoXing(AbstractKineticModel):
    """Unstructured CHO model A1: growth, death, four metabolites and product."""

    State: ClassVar[Any] = State
    Parameters: ClassVar[Any] = Parameters
    species: ClassVar[tuple[Species, ...]] = (
        Species("Xv", "1e9 cells/L", 1.0),
        Species("Xd", "1e9 cells/L", 1.0),
        Species("Glc", "mmol/L", 10.0, "glucose"),
        Species("Gln", "mmol/L", 1.0, "glutamine"),
        Species("Lac", "mmol/L", 10.0, "lactate"),
        Species("Amm", "mmol/L", 1.0, "ammonia"),
        Species("mAb", "g/L", 1.0, "titre", collected=True),
    )
    product: ClassVar[str] = "titre"
    inoculum: ClassVar[Inoculum] = Inoculum("vcd", {"Xv": 1.0, "Xd": 1.0 / INOCULUM_VIABILITY - 1.0})
    initial_variables: ClassVar[tuple[str, ...]] = ()

    def rates(self, p: Parameters, c: State, env: Environment) -> State:
        share = (
            monod(c.Glc, p.K_glc) * monod(c.Gln, p.K_gln) * inhibition(c.Lac, p.KI_lac) * inhibition(c.Amm, p.KI_amm)
        )
        mu = p.mu_max * share
        mu_d = p.k_d * monod(c.Lac, p.KD_lac) * monod(c.Amm, p.KD_amm)
        q_glc = mu / p.Y_xglc + p.m_glc * gate(c.Glc, GLUCOSE_GATE)
        q_gln = mu / p.Y_xgln + p.a_1 * monod(c.Gln, p.a_2)
        q_amm = p.Y_amm * mu / p.Y_xgln - p.r_amm * gate(c.Amm, AMMONIA_GATE)
        return State(
            Xv=(mu - mu_d) * c.Xv,
            Xd=mu_d * c.Xv,
            Glc=-q_glc * c.Xv,
            Gln=-q_gln * c.Xv,
            Lac=p.Y_lac * q_glc * c.Xv,
            Amm=q_amm * c.Xv,
            mAb=p.Q * (1.0 - share) * c.Xv,
        )

    def observe(self, p: Parameters, c: State, env: Environment) -> dict[str, Scalar]:
        return {
            "vcd": c.Xv,
            "viability": c.Xv / (c.Xv + c.Xd),
            "glucose": c.Glc,
            "glutamine": c.Gln,
            "lactate": c.Lac,
            "ammonia": c.Amm,
            "titre": c.mAb,
        }
