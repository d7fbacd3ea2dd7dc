"""E. coli making a recombinant intracellular protein on glycerol, with temperature.

Source of the structure: Schlögel et al. 2024, Comput Struct Biotechnol J 23:3651 ("OptFed"): glycerol uptake is split
into maintenance, product and growth; synthesis of product declines with generations since induction, follows an
Arrhenius law with reversible inactivation in temperature, and product loads the cell. Deviations:
- the saturation constant of uptake is 0.2 instead of 0.001 g/L: glycerol is below its limit of detection wherever it
  limits, and the smaller value only makes the system stiff;
- min() of the source becomes a smooth cap, equal to it within 0.1 % below half of the cap;
- maintenance of the source, 2.4e-5 g/g/h without uptake, is a parameter of its own, drawn from growth.
Extensions, each switched off by the value in brackets:
- `k_ind` (20 1/h): synthesis starts with a lag after induction, while transcript and ribosomes are recruited;
- `K_c` (1000): soluble product saturates at a content of the cells of the order of K_c;
- `b_E` (0): glycerol in excess raises the burden of product (overflow metabolism of loaded cells);
- `k_deg` (0): product is lost by first order (proteolysis in the cell), faster when warmer (`E_deg`); what it was made
  of stays in the cell;
- `k_ex` (0): cells exposed to excess glycerol lose capacity for uptake for good (methylglyoxal toxicity of excess
  glycerol: Freedberg, Kistler & Lin 1971, J Bacteriol 108:137).
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.kinetics.ratelaws import capped, gate, inhibition, monod
from optim.types import Scalar
from optim.units import ICE_POINT_K

GAS_CONSTANT_KJ = 8.314e-3  # kJ/mol/K
REFERENCE_K = 304.15  # 31 degC, the reference temperature of the source's experiments
LN2 = 0.6931471805599453
EXCESS_G = 5.0  # g/L glycerol, where the extra burden of overflow is half developed; constructed


class State(NamedTuple):
    """X, P, G in g/L; properties of the cells: n generations since induction, D damage by excess
    glycerol, E readiness for synthesis (0 to 1)."""

    X: Scalar
    P: Scalar
    G: Scalar
    n: Scalar
    D: Scalar
    E: Scalar


class Parameters(NamedTuple):
    """Rates per hour and per g of active biomass (X - P)."""

    g_max: Scalar  # g/g/h, capacity of uptake
    E_g: Scalar  # kJ/mol, temperature dependence of capacity
    K_G: Scalar  # g/L
    KI_G: Scalar  # g/L
    m_0: Scalar  # g/g/h, maintenance
    b_0: Scalar  # share of uptake that yields neither growth nor product
    b_P: Scalar  # relative rise of that share per product content
    k_P: Scalar  # g/g/h, product formation at 31 degC
    K_x: Scalar  # g/g/h
    K_n: Scalar  # generations
    E_P: Scalar  # kJ/mol
    H_P: Scalar  # kJ/mol
    T_eq: Scalar  # degC
    Y_X: Scalar  # g/g
    Y_P: Scalar  # g/g
    k_ex: Scalar  # 1/h
    K_ex: Scalar  # g/L
    K_c: Scalar  # g/g, product content that halves synthesis
    b_E: Scalar  # further rise in excess glycerol
    k_ind: Scalar  # 1/h
    k_deg: Scalar  # 1/h, loss of product at 31 degC
    E_deg: Scalar  # kJ/mol


class EcoliProtein(AbstractKineticModel):
    """Biomass (with product), intracellular product, glycerol."""

    State: ClassVar[Any] = State
    Parameters: ClassVar[Any] = Parameters
    species: ClassVar[tuple[Species, ...]] = (
        Species("X", "g/L", 10.0, "biomass"),
        Species("P", "g/L", 1.0, "product"),
        Species("G", "g/L", 1.0, "glycerol"),
        Species("n", "-", 1.0, dilutes=False),
        Species("D", "-", 1.0, dilutes=False),
        Species("E", "-", 1.0, dilutes=False),
    )
    product: ClassVar[str] = "product"
    inoculum: ClassVar[Inoculum] = Inoculum("biomass", {"X": 1.0})
    initial_variables: ClassVar[tuple[str, ...]] = ("product", "glycerol")

    def rates(self, p: Parameters, c: State, env: Environment) -> State:
        kelvin = env.temperature + ICE_POINT_K
        arrhenius = (1.0 / REFERENCE_K - 1.0 / kelvin) / GAS_CONSTANT_KJ
        unfolding = p.H_P / GAS_CONSTANT_KJ * (1.0 / (p.T_eq + ICE_POINT_K) - 1.0 / kelvin)
        climate = jnp.exp(p.E_P * arrhenius) / (1.0 + jnp.exp(jnp.minimum(unfolding, 200.0)))

        content = c.P / c.X
        capacity = p.g_max * jnp.exp(p.E_g * arrhenius) * jnp.exp(-c.D)
        g = capacity * monod(c.G, p.K_G) * inhibition(c.G, p.KI_G)
        burden = p.b_0 * (1.0 + (p.b_P + p.b_E * gate(c.G, EXCESS_G)) * content)
        x = g * (1.0 - capped(burden))
        vigour = climate * inhibition(c.n, p.K_n) * c.E / (1.0 + (content / p.K_c) ** 2)
        g_P = x * capped(vigour * p.k_P / (p.K_x + x))
        active = 1.0 - content
        q_P = g_P * p.Y_P * active
        growth = (x - g_P) * p.Y_X * active + q_P
        mu = growth - p.m_0 * p.Y_X * active
        return State(
            X=mu * c.X,
            P=q_P * c.X - p.k_deg * jnp.exp(p.E_deg * arrhenius) * c.P,
            G=-g * (c.X - c.P),
            n=mu / LN2,
            D=p.k_ex * gate(c.G, p.K_ex),
            E=p.k_ind * (1.0 - c.E),
        )

    def observe(self, p: Parameters, c: State, env: Environment) -> dict[str, Scalar]:
        return self.measured(c)
