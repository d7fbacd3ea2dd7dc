"""CHO in perfusion: growth on glucose and, when glucose is scarce, on lactate.

Source: Wang, "Integrated dynamic and multiscale modeling for continuous CHO cell cultures" (manuscript; code and values
in the repository fenixwang-uml/CHO-perfusion-manuscript-code), with one parameter set for high and one for low
temperature. Deviation: maintenance is gated by glucose (the published term drives glucose below zero). The source's
rates are per day; the parameters here are per hour.

Only reactions are here: what perfusion, bleed and cell retention do is up to the vessel. Glucose and lactate are in
g/L, the unit of the parameters; media and assays are in mmol/L.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.kinetics.ratelaws import gate, inhibition, monod
from optim.types import Scalar


class State(NamedTuple):
    """Xv in 1e9 cells/L; Glc, Lac, mAb in g/L."""

    Xv: Scalar
    Glc: Scalar
    Lac: Scalar
    mAb: Scalar


class Parameters(NamedTuple):
    """Rates per hour; specific rates per 1e9 viable cells."""

    u_max_glc: Scalar  # 1/h, growth on glucose
    u_max_lac: Scalar  # 1/h, growth on lactate
    ud_max_s: Scalar  # 1/h, death by starvation
    ud_max_t: Scalar  # 1/h, death by lactate
    KI_lac: Scalar  # g/L, lactate that halves growth on glucose
    KI_glc: Scalar  # g/L, glucose that halves growth on lactate
    K_glc: Scalar  # g/L
    K_lac: Scalar  # g/L
    KD_lac: Scalar  # g/L
    KD_glc: Scalar  # g/L
    Y_xglc: Scalar  # 1e9 cells/g
    m_glc: Scalar  # g/1e9 cells/h
    Y_mab: Scalar  # g/1e9 cells, product with growth
    q_mab: Scalar  # g/1e9 cells/h, product without growth
    Y_lac_glc: Scalar  # g/g
    Y_xlac: Scalar  # 1e9 cells/g


GLUCOSE_GATE = 1e-3  # g/L, so small that the gate takes less than 1 % of maintenance at a steady state of 0.2 g/L
# molar masses as in `optim.units`


class ChoPerfusion(AbstractKineticModel):
    """Viable cells, glucose, lactate and product."""

    State: ClassVar[Any] = State
    Parameters: ClassVar[Any] = Parameters
    species: ClassVar[tuple[Species, ...]] = (
        Species("Xv", "1e9 cells/L", 1.0),
        Species("Glc", "g/L", 1.0, "glucose"),
        Species("Lac", "g/L", 1.0, "lactate"),
        Species("mAb", "g/L", 0.1, "titre", collected=True),
    )
    product: ClassVar[str] = "titre"
    inoculum: ClassVar[Inoculum] = Inoculum("vcd", {"Xv": 1.0})
    initial_variables: ClassVar[tuple[str, ...]] = ()

    def rates(self, p: Parameters, c: State, env: Environment) -> State:
        vigour = monod(c.Glc, p.K_glc) * inhibition(c.Lac, p.KI_lac)
        on_glucose = p.u_max_glc * vigour
        on_lactate = p.u_max_lac * monod(c.Lac, p.K_lac) * inhibition(c.Glc, p.KI_glc)
        growth = on_glucose + on_lactate
        death = p.ud_max_s * inhibition(c.Glc, p.KD_glc) + p.ud_max_t * monod(c.Lac, p.KD_lac)
        glucose_to_cells = on_glucose / p.Y_xglc
        return State(
            Xv=(growth - death) * c.Xv,
            Glc=-(glucose_to_cells + p.m_glc * gate(c.Glc, GLUCOSE_GATE)) * c.Xv,
            Lac=(p.Y_lac_glc * vigour * glucose_to_cells - on_lactate / p.Y_xlac) * c.Xv,
            mAb=(p.Y_mab * growth + p.q_mab) * c.Xv,
        )

    def observe(self, p: Parameters, c: State, env: Environment) -> dict[str, Scalar]:
        return {"vcd": c.Xv} | self.measured(c)
