"""CHO growth, death and viability for data that hold cell counts and viability only.

Nutrients and by-products are not measured, so they stand here in the only units in which counts show them: cells formed
and cell-time. Everything is normalised to what a feeding strategy supplies; no yield, no concentration, no feed.
- Growth follows Monod (1949, Annu Rev Microbiol 3:371) on one pool of nutrient, 1 at the start, of which new cells use
  up 1/C_x each: C_x is the density of cells that the strategy's nutrients can form. Where K_S is far above 1, this is
  logistic growth.
- Cells also use up what keeps them alive, in proportion to cell-time: C_t is the cell-time (integral of viable cells)
  that the strategy sustains. Near it growth stops and cells starve, within a tenth of C_t or so. Form constructed.
- A by-product made in proportion to cell-time kills with the square of its level. Form constructed.
- Dead cells lyse (first order, Möller et al. 2020, Comput Chem Eng 134:106693).

What counts cannot tell: whether a culture stops for want of nutrient or for a by-product made with growth, and whether
it starves or is poisoned at C_t. Feeds are no inflow here: each pool is all that comes in, early or late. So a fitted
model predicts another run of a strategy that was seen, and says nothing of a strategy that was not.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.kinetics.ratelaws import hill_inhibition, monod
from optim.types import Scalar


class State(NamedTuple):
    """Xv, Xd in 1e9 cells/L; S, share of the nutrient that is left; W, cell-time so far in 1e9 cells h/L."""

    Xv: Scalar
    Xd: Scalar
    S: Scalar
    W: Scalar


class Parameters(NamedTuple):
    """Rates per hour."""

    mu_max: Scalar  # 1/h, growth with the nutrient of the start
    K_S: Scalar  # half saturation, as a share of the pool
    C_x: Scalar  # 1e9 cells/L, cells that the nutrient forms
    C_t: Scalar  # 1e9 cells h/L, cell-time that is sustained
    f_supply: Scalar  # factor on both: medium and feeds of one batch of runs
    k_d: Scalar  # 1/h, death in fresh medium
    k_w: Scalar  # 1/h, death by by-product at the cell-time W_REFERENCE
    k_s: Scalar  # 1/h, death of starved cells
    k_lys: Scalar  # 1/h


W_REFERENCE = 1000.0  # 1e9 cells h/L, about half of what a fed-batch reaches; chosen
STARVATION_HILL = 20.0  # steepness of starvation in cell-time; from 10 to 90 % within 22 % of C_t; chosen
INOCULUM_VIABILITY = 0.97  # mean of the NISTCHO runs at time 0


class ChoGrowth(AbstractKineticModel):
    """Two pools per feeding strategy: one for growth, one for staying alive."""

    State: ClassVar[Any] = State
    Parameters: ClassVar[Any] = Parameters
    species: ClassVar[tuple[Species, ...]] = (
        Species("Xv", "1e9 cells/L", 1.0),
        Species("Xd", "1e9 cells/L", 1.0),
        Species("S", "-", 1.0, start=1.0),
        Species("W", "1e9 cells h/L", 100.0),
    )
    product: ClassVar[str] = "vcd"
    inoculum: ClassVar[Inoculum] = Inoculum("vcd", {"Xv": 1.0, "Xd": 1.0 / INOCULUM_VIABILITY - 1.0})
    initial_variables: ClassVar[tuple[str, ...]] = ()

    def rates(self, p: Parameters, c: State, env: Environment) -> State:
        sustained = hill_inhibition(c.W, p.C_t * p.f_supply, STARVATION_HILL)
        mu = p.mu_max * (1.0 + p.K_S) * monod(c.S, p.K_S) * sustained
        mu_d = p.k_d + p.k_w * (c.W / W_REFERENCE) ** 2 + p.k_s * (1.0 - sustained)
        return State(
            Xv=(mu - mu_d) * c.Xv,
            Xd=mu_d * c.Xv - p.k_lys * c.Xd,
            S=-mu * c.Xv / (p.C_x * p.f_supply),
            W=c.Xv,
        )

    def observe(self, p: Parameters, c: State, env: Environment) -> dict[str, Scalar]:
        return {"vcd": c.Xv, "viability": c.Xv / (c.Xv + c.Xd)}
