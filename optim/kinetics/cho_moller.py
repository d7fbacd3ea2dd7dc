"""CHO fed-batch with temperature, pH and viability.

Source: Möller et al. 2020, Comput Chem Eng 134:106693, SI table 2, as carried by the package insilicho 1.1.4; the
temperature and pH factors are that package's addition. Repairs made here, each of them smooth:
- lactate uptake below 0.5 mmol/L glucose is gated by lactate (the published form drives lactate below zero);
- the stop of production above KIa ammonia is a Hill function instead of a switch;
- productivity may rise below 37 degC by `kappa_T` per degree (0 in the source);
- an unmeasured growth inhibitor `Byp` formed with growth (`y_byp` = 0 in the source), for screens whose truth has a
  mechanism that the fitted model lacks. Such inhibitors are known from CHO amino-acid catabolism (Mulukutla et al.
  2017, Biotechnol Bioeng 114:1779); the rate law here is constructed.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.kinetics.ratelaws import bell, below, gate, hill_inhibition, inhibition, monod
from optim.types import Scalar


class State(NamedTuple):
    """Xv, Xt in 1e9 cells/L; Glc, Gln, Lac, Amm in mmol/L; mAb in g/L; Osm, Byp see `species`."""

    Xv: Scalar
    Xt: Scalar
    Glc: Scalar
    Gln: Scalar
    Lac: Scalar
    Amm: Scalar
    mAb: Scalar
    Osm: Scalar
    Byp: Scalar


class Parameters(NamedTuple):
    """Rates per hour; specific rates per 1e9 cells."""

    mu_max: Scalar  # 1/h
    mu_d_max: Scalar  # 1/h
    mu_d_min: Scalar  # 1/h
    k_lys: Scalar  # 1/h
    k_glc: Scalar  # mmol/L
    k_gln: Scalar  # mmol/L
    KI_amm: Scalar  # mmol/L
    KS_glc: Scalar  # mmol/L
    KS_gln: Scalar  # mmol/L
    q_glc_max: Scalar  # mmol/1e9 cells/h
    q_gln_max: Scalar  # mmol/1e9 cells/h
    q_lac_max: Scalar  # mmol/1e9 cells/h
    Y_amm: Scalar  # mol/mol
    Y_lac: Scalar  # mol/mol
    K_lac: Scalar  # mmol/L
    qP: Scalar  # g/1e9 cells/h
    kappa_T: Scalar  # 1/degC
    T_opt: Scalar  # degC
    s_T: Scalar  # degC
    pH_opt: Scalar
    s_pH: Scalar
    y_byp: Scalar  # inhibitor per growth, 1 = one unit per 1e9 cells formed
    KI_byp: Scalar  # inhibitor level that halves growth


GLUCOSE_SWITCH = 0.5  # mmol/L, below which lactate is taken up (source)
SWITCH_WIDTH = 0.05  # mmol/L
LACTATE_GATE = 0.5  # mmol/L
AMMONIA_HILL = 20.0  # steepness of the production stop; 20 leaves qP at 0.99 when ammonia is at 80 % of KIa
REFERENCE_TEMPERATURE = 37.0  # degC, where kappa_T has no effect
INOCULUM_VIABILITY = 0.98


class ChoMoller(AbstractKineticModel):
    """Unstructured CHO model A2 with growth, death, lysis, four metabolites and product."""

    State: ClassVar[Any] = State
    Parameters: ClassVar[Any] = Parameters
    species: ClassVar[tuple[Species, ...]] = (
        Species("Xv", "1e9 cells/L", 1.0),
        Species("Xt", "1e9 cells/L", 1.0),
        Species("Glc", "mmol/L", 10.0, "glucose"),
        Species("Gln", "mmol/L", 1.0, "glutamine"),
        Species("Lac", "mmol/L", 10.0, "lactate"),
        Species("Amm", "mmol/L", 1.0, "ammonia"),
        Species("mAb", "g/L", 1.0, "titre", collected=True),
        # osmolality of salts, amino acids and other solutes that cells neither make nor use up here
        Species("Osm", "mOsm/kg", 100.0, "background_osmolality"),
        Species("Byp", "-", 1.0),
    )

    product: ClassVar[str] = "titre"
    inoculum: ClassVar[Inoculum] = Inoculum("vcd", {"Xv": 1.0, "Xt": 1.0 / INOCULUM_VIABILITY})
    initial_variables: ClassVar[tuple[str, ...]] = ()

    def rates(self, p: Parameters, c: State, env: Environment) -> State:
        climate = bell(env.temperature, p.T_opt, p.s_T) * bell(env.ph, p.pH_opt, p.s_pH)
        byproduct = inhibition(c.Byp, p.KI_byp)
        ammonia = inhibition(c.Amm, p.KI_amm)
        mu = p.mu_max * monod(c.Glc, p.KS_glc) * monod(c.Gln, p.KS_gln) * ammonia * climate * byproduct
        starving = inhibition(c.Glc, p.KS_glc) * inhibition(c.Gln, p.KS_gln)
        mu_d = p.mu_d_min + p.mu_d_max * starving * c.Amm / (c.Amm + p.KI_amm)

        q_glc = p.q_glc_max * monod(c.Glc, p.k_glc) * (mu / (mu + p.mu_max) + 0.5)
        q_gln = p.q_gln_max * monod(c.Gln, p.k_gln)
        q_lac_up = p.q_lac_max * below(c.Glc, GLUCOSE_SWITCH, SWITCH_WIDTH) * gate(c.Lac, LACTATE_GATE)
        q_lac = p.Y_lac * c.Glc / (c.Lac + p.K_lac) * q_glc - q_lac_up
        q_p = p.qP * (1.0 + p.kappa_T * (REFERENCE_TEMPERATURE - env.temperature))
        q_p = q_p * hill_inhibition(c.Amm, p.KI_amm, AMMONIA_HILL)
        return State(
            Xv=(mu - mu_d) * c.Xv,
            Xt=mu * c.Xv - p.k_lys * (c.Xt - c.Xv),
            Glc=-q_glc * c.Xv,
            Gln=-q_gln * c.Xv,
            Lac=q_lac * c.Xv,
            Amm=p.Y_amm * q_gln * c.Xv,
            mAb=q_p * c.Xv,
            Osm=0.0 * c.Osm,
            Byp=p.y_byp * mu * c.Xv,
        )

    def observe(self, p: Parameters, c: State, env: Environment) -> dict[str, Scalar]:
        return {
            "vcd": c.Xv,
            "viability": c.Xv / c.Xt,
            "glucose": c.Glc,
            "glutamine": c.Gln,
            "lactate": c.Lac,
            "ammonia": c.Amm,
            "titre": c.mAb,
            # proxy: lactate and ammonia are neutralised by base or acid, so each brings a counter-ion
            "osmolality": c.Osm + c.Glc + c.Gln + 2.0 * c.Lac + 2.0 * c.Amm,
        }
