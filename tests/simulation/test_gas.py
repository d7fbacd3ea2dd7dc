"""Oxygen transfer and exhaust gas: hand-computed values, uptake against transfer, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import configured, process, simulated, stacked, typical

from optim.errors import ConfigError, SimulationError
from optim.kinetics import load_kinetics
from optim.kinetics.ecoli_oxygen import SATURATION, uptakes
from optim.schedule.grid import IntervalGrid
from optim.simulation.gas import AIR_CARBON_DIOXIDE, AIR_OXYGEN, OffGas, check_off_gas, off_gas, oxygen_transfer_rate
from optim.simulation.simulate import Trajectory

MODELS = {"ecoli_oxygen": "stiff", "ecoli_oxygen_steady": "explicit"}
MMOL = 1000.0 / 31.998


def run(name: str) -> tuple[Any, Any, Trajectory, IntervalGrid, int]:
    """Model, parameters, one vessel of the published process, and the number of its nodes."""
    case = typical(name)[0]
    found = simulated(load_kinetics(name), MODELS[name], stacked([case]), 1e-6)
    one = jax.tree.map(lambda a: a[0], found)
    return load_kinetics(name), case.p, one, case.grid, int(case.grid.intervals) + 1


def transfer(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Transfer and uptake in mmol/L/h at every node but the first."""
    model, p, found, grid, n = run(name)
    c = found.concentrations
    given = None if name == "ecoli_oxygen" else SATURATION
    otr = np.asarray(
        oxygen_transfer_rate(model, p, found, grid=grid, percent_per_g_per_l=p.H, saturation_percent=given)
    )
    assert otr.shape == grid.t.shape
    dot = SATURATION - otr / MMOL * p.H / np.where(grid.t <= 14.34, 220.0, 355.0)
    our = uptakes(p, c.S, c.A).q_O * dot / (p.K_o + dot) * c.X * MMOL
    return otr[1:n], np.asarray(our)[1:n]


def test_transfer_is_uptake_where_oxygen_is_in_steady_state():
    otr, our = transfer("ecoli_oxygen_steady")
    assert np.allclose(otr, our, rtol=1e-9)


def test_transfer_is_nearly_uptake_where_oxygen_is_a_state():
    otr, our = transfer("ecoli_oxygen")
    # what is left is the change of what is stored: measured, 0.11 % at these nodes
    assert np.allclose(otr, our, rtol=0.003), np.abs(otr / our - 1.0).max()
    assert 10.0 < otr.max() < 100.0


def test_transfer_agrees_between_the_two_models():
    (full, _), (steady, _) = transfer("ecoli_oxygen"), transfer("ecoli_oxygen_steady")
    assert np.allclose(full, steady, rtol=0.003), np.abs(full / steady - 1.0).max()


def test_transfer_by_hand():
    model, p, found, grid, _ = run("ecoli_oxygen")
    c = found.concentrations
    otr = np.asarray(oxygen_transfer_rate(model, p, found, grid=grid, percent_per_g_per_l=14000.0))
    assert otr[0] == pytest.approx(220.0 * 1.0 / 14000.0 / 31.998 * 1000.0, rel=1e-12)  # 98 of 99 % at the start
    assert otr[3] == pytest.approx(220.0 * (99.0 - c.DOT[3]) / 14000.0 / 0.031998, rel=1e-12)
    assert grid.t[3] == 14.34  # before the step of kLa, which happens here
    assert otr[4] == pytest.approx(355.0 * (99.0 - c.DOT[4]) / 14000.0 / 0.031998, rel=1e-12)


def test_without_uptake_the_exhaust_is_the_inlet():
    gas = off_gas(jnp.zeros(3), 1.0)
    assert np.allclose(gas.oxygen_fraction, AIR_OXYGEN, rtol=1e-14)
    assert np.allclose(gas.carbon_dioxide_fraction, AIR_CARBON_DIOXIDE, rtol=1e-14)
    assert np.allclose(gas.flow_mmol_per_l_h, 60.0 / 22.41397e-3, rtol=1e-6)  # molar volume: CODATA


def test_exhaust_by_hand():
    # 60 L/L/h over 24 L/mol are 2.5 mol; of 0.5 mol of oxygen 0.1 are taken, and 0.05 of carbon dioxide formed
    pressure = 8.314462618 * 300.0 / 24.0
    gas = off_gas(
        jnp.asarray(100.0),
        1.0,
        respiratory_quotient=0.5,
        inlet_oxygen_fraction=0.2,
        inlet_carbon_dioxide_fraction=0.0,
        gas_temperature_c=26.85,
        gas_pressure_kpa=pressure,
    )
    assert float(gas.flow_mmol_per_l_h) == pytest.approx(2450.0, rel=1e-12)
    assert float(gas.oxygen_fraction) == pytest.approx(400.0 / 2450.0, rel=1e-12)
    assert float(gas.carbon_dioxide_fraction) == pytest.approx(50.0 / 2450.0, rel=1e-12)


@pytest.mark.parametrize("quotient", [0.6, 1.0, 1.3])
def test_the_inert_gas_closes_the_balance(quotient):
    otr, vvm = jnp.linspace(0.0, 200.0, 5), jnp.linspace(0.5, 2.0, 5)
    gas, none = off_gas(otr, vvm, respiratory_quotient=quotient), off_gas(jnp.zeros(5), vvm)
    # the way a laboratory reads it: inlet flow and both compositions give uptake and quotient
    inert = [1.0 - g.oxygen_fraction - g.carbon_dioxide_fraction for g in (none, gas)]
    out = none.flow_mmol_per_l_h * inert[0] / inert[1]
    assert np.allclose(out, gas.flow_mmol_per_l_h, rtol=1e-12)
    taken = none.flow_mmol_per_l_h * AIR_OXYGEN - out * gas.oxygen_fraction
    formed = out * gas.carbon_dioxide_fraction - none.flow_mmol_per_l_h * AIR_CARBON_DIOXIDE
    assert np.allclose(taken, otr, rtol=1e-10, atol=1e-10)
    assert np.allclose(formed, quotient * otr, rtol=1e-10, atol=1e-10)
    assert quotient != 1.0 or np.allclose(out, none.flow_mmol_per_l_h, rtol=1e-12)


def test_a_vessel_that_takes_more_oxygen_than_enters_is_named():
    t = np.array([[0.0, 5.0, 9.0]] * 3)
    otr = jnp.array([[10.0, 20.0, 30.0], [10.0, 600.0, 700.0], [10.0, 20.0, np.nan]])
    with pytest.raises(SimulationError, match=r"'B' at 5 h") as told:
        check_off_gas(t, off_gas(otr, 1.0), ("A", "B", "C"))
    assert "'A'" not in str(told.value)
    assert "'C'" not in str(told.value)
    check_off_gas(t, off_gas(otr[::2], 1.0), ("A", "C"))
    # more than all of the gas, and nothing formed: the quotient of two negative numbers is not taken for a fraction
    gone: OffGas = off_gas(jnp.full((1, 3), 5000.0), 1.0, respiratory_quotient=0.0)
    assert float(gone.oxygen_fraction[0, 0]) > 0.0
    with pytest.raises(SimulationError, match="more oxygen"):
        check_off_gas(t[:1], gone, ("A",))


def test_what_has_no_oxygen_no_saturation_or_no_kla_is_refused():
    model, p, found, grid, _ = run("ecoli_oxygen_steady")
    with pytest.raises(ConfigError, match="saturation_percent"):
        oxygen_transfer_rate(model, p, found, grid=grid, percent_per_g_per_l=p.H)
    blind = grid._replace(actions=grid.actions._replace(start=grid.actions.start._replace(kla=None)))
    with pytest.raises(ConfigError, match="kla_per_h"):
        oxygen_transfer_rate(model, p, found, grid=blind, percent_per_g_per_l=p.H, saturation_percent=SATURATION)
    other = load_kinetics("cho_perfusion")
    c = other.State(*(jnp.ones_like(grid.t) for _ in process("cho_perfusion").start))
    with pytest.raises(ConfigError, match="no dissolved oxygen"):
        oxygen_transfer_rate(
            other, configured("cho_perfusion"), found._replace(concentrations=c), grid=grid, percent_per_g_per_l=p.H
        )
