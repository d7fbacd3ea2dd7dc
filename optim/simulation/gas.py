"""Gas balance: the oxygen transfer rate of a trajectory, and the composition of the off-gas.

Per litre of broth, with G the flow of dry gas in mmol/L/h, y mole fractions, and RQ = CO2 formed per O2 taken up:
  OTR = kLa (c* - c),
  inert  G_out (1 - yO_out - yC_out) = G_in (1 - yO_in - yC_in),
  O2     G_out yO_out = G_in yO_in - OTR,
  CO2    G_out yC_out = G_in yC_in + RQ OTR,
so G_out = G_in - (1 - RQ) OTR. This is the standard gas balance on inert nitrogen (Doran 2013, Bioprocess Engineering
Principles, 2nd ed., ch. 10, with OTR = OUR), solved for the off-gas. It neglects the carbon dioxide stored in the broth
and the water vapour. The saturation c* is that of the model, even if the gas loses much of its oxygen in the broth.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from optim.errors import ConfigError, SimulationError
from optim.kinetics.base import AbstractKineticModel
from optim.schedule.grid import IntervalGrid
from optim.simulation.simulate import Trajectory, observe_nodes
from optim.types import Array
from optim.units import ICE_POINT_K

OXYGEN = "dissolved_oxygen"  # name of the component of media, and of the observed variable
OXYGEN_MMOL_PER_G = 1000.0 / 31.998  # molar mass: PubChem CID 977
GAS_CONSTANT = 8.314462618  # J/mol/K, CODATA 2018
AIR_OXYGEN, AIR_CARBON_DIOXIDE = 0.2095, 0.0004  # mole fractions of dry air


class OffGas(NamedTuple):
    """Composition and flow of the dry off-gas, each [K+1] (the shape of the transfer rate)."""

    oxygen_fraction: Array  # mol/mol
    carbon_dioxide_fraction: Array  # mol/mol
    flow_mmol_per_l_h: Array  # of all gas, per litre of broth


def oxygen_transfer_rate(
    model: AbstractKineticModel,
    p: Any,
    trajectory: Trajectory,
    *,
    grid: IntervalGrid,
    percent_per_g_per_l: Any,
    saturation_percent: float | None = None,
) -> Array:
    """Oxygen transfer rate (OTR) at every node of one cultivation.

    As in `observe_nodes`, the state and the kLa of a node are those just before it.

    Args:
        model: kinetic model.
        p: the model's Parameters.
        trajectory: a trajectory without a batch axis.
        grid: the schedule of that trajectory; it must set the kLa.
        percent_per_g_per_l: % of saturation per g/L of dissolved oxygen, such as the parameter H of `ecoli_oxygen`.
        saturation_percent: dissolved oxygen in equilibrium with the gas, in %. Needed where no species of the model
            states it. The observed `dissolved_oxygen` is then taken, which must be that of the broth and not that of a
            slow probe.

    Returns:
        The OTR [K+1] in mmol per litre of broth and hour.

    Raises:
        ConfigError: the model has no oxygen, or the schedule sets no kLa.
    """
    setpoints = grid.actions.end or grid.actions.start
    if setpoints.kla is None:
        raise ConfigError("oxygen transfer: the plan gives no kLa; give kla_per_h in the setpoints at time 0")
    species = [s for s in model.species if s.component == OXYGEN and s.saturation is not None]
    if species:
        if species[0].unit != "%":
            raise ConfigError(f"oxygen transfer: {species[0].name} is in {species[0].unit}; expected %")
        saturation, dissolved = species[0].saturation, getattr(trajectory.concentrations, species[0].name)
    else:
        observed = observe_nodes(model, p, trajectory, grid=grid)
        if OXYGEN not in observed:
            raise ConfigError(f"oxygen transfer: model {type(model).__name__} has no dissolved oxygen")
        if saturation_percent is None:
            raise ConfigError(
                f"oxygen transfer: no species of {type(model).__name__} states its saturation with oxygen; "
                "give saturation_percent"
            )
        saturation, dissolved = saturation_percent, observed[OXYGEN]
    before = np.maximum(np.arange(grid.t.shape[-1]) - 1, 0)
    deficit = saturation - dissolved
    return jnp.asarray(setpoints.kla)[before] * deficit / percent_per_g_per_l * OXYGEN_MMOL_PER_G


def off_gas(
    transfer_mmol_per_l_h: Array,
    vvm_per_min: Any,
    *,
    respiratory_quotient: Any = 1.0,
    inlet_oxygen_fraction: Any = AIR_OXYGEN,
    inlet_carbon_dioxide_fraction: Any = AIR_CARBON_DIOXIDE,
    gas_temperature_c: Any = 0.0,
    gas_pressure_kpa: Any = 101.325,
) -> OffGas:
    """Composition of the off-gas from the oxygen transfer rate.

    Args:
        transfer_mmol_per_l_h: oxygen transfer rate, of any shape.
        vvm_per_min: litres of dry gas per litre of broth and minute, above zero. If the gas flow is constant while the
            volume of broth grows, pass the flow over the volume at every node.
        respiratory_quotient: mol of carbon dioxide formed per mol of oxygen taken up.
        inlet_oxygen_fraction: mole fraction of oxygen in the dry inlet gas.
        inlet_carbon_dioxide_fraction: mole fraction of carbon dioxide in the dry inlet gas.
        gas_temperature_c: temperature at which the gas flow is stated, not that of the vessel (mass flow controllers:
            0 degC).
        gas_pressure_kpa: pressure at which the gas flow is stated (mass flow controllers: 101.325 kPa).

    Returns:
        The off-gas. If more oxygen is taken up than enters, its oxygen fraction has no meaning; `check_off_gas` refuses
        such a result.
    """
    litres_per_mmol = 1e-3 * GAS_CONSTANT * (gas_temperature_c + ICE_POINT_K) / gas_pressure_kpa
    into = 60.0 * vvm_per_min / litres_per_mmol
    out = into - (1.0 - respiratory_quotient) * transfer_mmol_per_l_h
    return OffGas(
        oxygen_fraction=(into * inlet_oxygen_fraction - transfer_mmol_per_l_h) / out,
        carbon_dioxide_fraction=(into * inlet_carbon_dioxide_fraction + respiratory_quotient * transfer_mmol_per_l_h)
        / out,
        flow_mmol_per_l_h=out,
    )


def check_off_gas(t_h: Array, gas: OffGas, vessels: tuple[str, ...]) -> None:
    """Refuse an off-gas from which more oxygen is taken up than enters.

    Nodes after a failed simulation hold NaN. They are not judged here; `check_trajectory` reports them.

    Args:
        t_h: [B, K+1] time of the nodes.
        gas: off-gas, each [B, K+1].
        vessels: the name of each vessel [B].

    Raises:
        SimulationError: names every vessel whose gas balance does not close, and the first time at which it does not.
    """
    t, oxygen, flow = (np.atleast_2d(np.asarray(x)) for x in (t_h, gas.oxygen_fraction, gas.flow_mmol_per_l_h))
    wrong = (oxygen < 0.0) | (flow <= 0.0)  # without any gas left, the quotient is positive again
    lines = [
        f"vessel '{vessels[b]}' at {t[b, np.argmax(wrong[b])]:.4g} h: more oxygen is taken than enters"
        for b in np.flatnonzero(wrong.any(axis=1))
    ]
    if lines:
        raise SimulationError("\n  ".join(["the gas balance does not close; raise vvm or inlet oxygen", *lines]))
