"""What the gas gives and how it leaves: oxygen transfer of a trajectory, and the composition of the exhaust.

Per litre of broth, with G the flow of dry gas in mmol/L/h, y mole fractions, and RQ = CO2 formed per O2 taken up:
  OTR = kLa (c* - c),
  inert  G_out (1 - yO_out - yC_out) = G_in (1 - yO_in - yC_in),
  O2     G_out yO_out = G_in yO_in - OTR,
  CO2    G_out yC_out = G_in yC_in + RQ OTR,
so G_out = G_in - (1 - RQ) OTR. The standard gas balance on inert nitrogen, read from the uptake to the exhaust; see
Doran 2013, Bioprocess Engineering Principles, 2nd ed., ch. 10, with OTR = OUR. Carbon dioxide stored in the broth and
water vapour are neglected, and c* stays what the model says, however much oxygen the gas loses on its way.
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

OXYGEN = "dissolved_oxygen"  # component of media, and variable
OXYGEN_MMOL_PER_G = 1000.0 / 31.998  # molar mass: PubChem CID 977
GAS_CONSTANT = 8.314462618  # J/mol/K, CODATA 2018
ICE_POINT = 273.15  # K
AIR_OXYGEN, AIR_CARBON_DIOXIDE = 0.2095, 0.0004  # mole fractions of dry air


class OffGas(NamedTuple):
    """Dry exhaust, each [K+1] (or whatever shape the transfer has)."""

    oxygen_fraction: Array  # mol/mol
    carbon_dioxide_fraction: Array  # mol/mol
    flow_mmol_per_l_h: Array  # of all gas, per litre of broth


def oxygen_transfer_rate(
    model: AbstractKineticModel,
    p: Any,
    trajectory: Trajectory,
    grid: IntervalGrid,
    percent_per_g_per_l: Any,
    saturation_percent: float | None = None,
) -> Array:
    """Oxygen that the gas gives at every node of one vessel, mmol per litre of broth and hour, [K+1].

    percent_per_g_per_l: % of saturation per g/L of dissolved oxygen, such as the parameter H of `ecoli_oxygen`.
    saturation_percent: dissolved oxygen in equilibrium with the gas, where no species of the model states it; then the
    observed `dissolved_oxygen` is taken, which must be that of the broth and not of a slow probe.
    As in `observe`, state and kLa are those just before the node. Raises `ConfigError` for a model or a plan without
    oxygen or kLa.
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
        seen = observe_nodes(model, p, trajectory, grid)
        if OXYGEN not in seen:
            raise ConfigError(f"oxygen transfer: model {type(model).__name__} has no dissolved oxygen")
        if saturation_percent is None:
            raise ConfigError(
                f"oxygen transfer: no species of {type(model).__name__} states its saturation with oxygen; "
                "give saturation_percent"
            )
        saturation, dissolved = saturation_percent, seen[OXYGEN]
    before = np.maximum(np.arange(grid.t.shape[-1]) - 1, 0)
    lacking = saturation - dissolved
    return jnp.asarray(setpoints.kla)[before] * lacking / percent_per_g_per_l * OXYGEN_MMOL_PER_G


def off_gas(
    transfer_mmol_per_l_h: Array,
    vvm_per_min: Any,
    respiratory_quotient: Any = 1.0,
    inlet_oxygen_fraction: Any = AIR_OXYGEN,
    inlet_carbon_dioxide_fraction: Any = AIR_CARBON_DIOXIDE,
    gas_temperature_c: Any = 0.0,
    gas_pressure_kpa: Any = 101.325,
) -> OffGas:
    """The exhaust that goes with an oxygen transfer.

    vvm_per_min: litres of dry gas per litre of broth and minute, above zero; where a gas flow is held while the broth
    grows, the flow over the volume at every node. Temperature and pressure are those at which that flow is stated (mass
    flow controllers: 0 degC and 101.325 kPa), not those of the vessel.
    Fractions are as computed: where more oxygen is taken than enters, that of oxygen makes no sense, and
    `check_off_gas` says so.
    """
    litres_per_mmol = 1e-3 * GAS_CONSTANT * (gas_temperature_c + ICE_POINT) / gas_pressure_kpa
    into = 60.0 * vvm_per_min / litres_per_mmol
    out = into - (1.0 - respiratory_quotient) * transfer_mmol_per_l_h
    return OffGas(
        oxygen_fraction=(into * inlet_oxygen_fraction - transfer_mmol_per_l_h) / out,
        carbon_dioxide_fraction=(into * inlet_carbon_dioxide_fraction + respiratory_quotient * transfer_mmol_per_l_h)
        / out,
        flow_mmol_per_l_h=out,
    )


def check_off_gas(t_h: Array, gas: OffGas, vessels: tuple[str, ...]) -> None:
    """Raise `SimulationError` naming every vessel that takes more oxygen than enters, and when it first does.

    Leaves have a leading axis of vessels. Nodes after a failure hold NaN and are left to `optim.simulate.check`.
    """
    t, oxygen, flow = (np.atleast_2d(np.asarray(x)) for x in (t_h, gas.oxygen_fraction, gas.flow_mmol_per_l_h))
    wrong = (oxygen < 0.0) | (flow <= 0.0)  # without any gas left, the quotient is positive again
    lines = [
        f"vessel '{vessels[b]}' at {t[b, np.argmax(wrong[b])]:.4g} h: more oxygen is taken than enters"
        for b in np.flatnonzero(wrong.any(axis=1))
    ]
    if lines:
        raise SimulationError("\n  ".join(["the gas balance does not close; raise vvm or inlet oxygen", *lines]))
