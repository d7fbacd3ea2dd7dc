"""Oxygen in steady state with the gas: its root, its cost, and the published process beside the full model."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import process, program, simulated, stacked, typed, typical
from support.processes.ecoli_oxygen import PULSES

from optim.errors import ConfigError, DatasetError
from optim.kinetics import load_kinetics
from optim.kinetics.base import Environment
from optim.kinetics.ecoli_oxygen import SATURATION, uptakes
from optim.kinetics.ecoli_oxygen_steady import steady_oxygen
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.steppers import Tsit5
from optim.simulation.simulate import Trajectory, observe_nodes

FULL, STEADY = load_kinetics("ecoli_oxygen"), load_kinetics("ecoli_oxygen_steady")
# bounds (measured): X, S, A relative to their size up to the first pulse (3.8e-5), and to the end (2.8e-4); DOT in % of
# saturation (0.083)
BEFORE, AFTER, DOT = 1e-4, 5e-4, 0.1


def climate(kla: float | None) -> Environment:
    return Environment(jnp.asarray(37.0), jnp.asarray(7.0), kla=None if kla is None else jnp.asarray(kla))


@cache
def both(rtol: float = 1e-8) -> tuple[Trajectory, Trajectory]:
    """The published process, with the source's affinity for oxygen and with a milder one."""
    full = simulated(FULL, "stiff", stacked(typical("ecoli_oxygen")[:2]), rtol)
    return full, simulated(STEADY, "explicit", stacked(typical("ecoli_oxygen_steady")[:2]), rtol)


# --- the root ---


@pytest.mark.parametrize("K_o", [1e-4, 0.1, 5.0])
@pytest.mark.parametrize("kla", [1.0, 220.0, 1000.0])
def test_oxygen_is_the_root_between_none_and_saturation(kla, K_o):
    demand = jnp.concatenate([jnp.zeros(1), jnp.logspace(-6.0, 9.0, 400)])
    dot = np.asarray(steady_oxygen(demand, jnp.asarray(kla), jnp.asarray(K_o)))
    assert (dot > 0.0).all()
    assert dot.max() <= SATURATION
    assert (np.diff(dot) <= 0.0).all()
    assert dot[0] == SATURATION
    # no digits are lost where oxygen is scarce: the residual is that of rounding, at DOT far below K_o too
    taken = np.asarray(demand) * dot / (K_o + dot)
    given = kla * (SATURATION - dot)
    assert np.allclose(taken, given, rtol=1e-12, atol=1e-13 * kla * SATURATION)
    scarce = np.asarray(demand) > 1e7 * kla
    assert np.allclose(taken[scarce], given[scarce], rtol=1e-13)


def test_its_derivatives_agree_with_finite_differences_also_where_its_form_changes():
    kla, K_o = 220.0, 0.1
    turn = kla * (SATURATION - K_o)  # the demand at which one form gives way to the other
    slope = jax.jit(jax.grad(steady_oxygen, argnums=(0, 1, 2)))
    for demand in (0.0, 1.0, 0.5 * turn, turn * (1.0 - 1e-9), turn, turn * (1.0 + 1e-9), 2.0 * turn, 1e3 * turn):
        x = np.array([demand, kla, K_o])
        found = np.asarray(slope(*x))
        assert np.isfinite(found).all()
        for j, size in enumerate((max(demand, 1.0), kla, K_o)):
            e = 1e-5 * size * np.eye(3)[j]
            up, down = float(steady_oxygen(*(x + e))), float(steady_oxygen(*(x - e)))
            rounding = 1e-14 * SATURATION / (1e-5 * size)
            assert found[j] == pytest.approx((up - down) / (2e-5 * size), rel=1e-5, abs=rounding), (demand, j)


def test_vessels_without_cells_or_without_gas_have_finite_derivatives():
    p = typical("ecoli_oxygen_steady")[0].p
    slope = jax.jacfwd(lambda c, k: jnp.stack(STEADY.rates(p, STEADY.State(*c), climate(k))), argnums=(0, 1))
    for c, kla in (((0.0, 5.0, 0.1), 220.0), ((0.0, 0.0, 0.0), 220.0), ((5.0, 5.0, 0.1), 0.0), ((50.0, 5.0, 0.1), 1.0)):
        assert all(np.isfinite(np.asarray(x)).all() for x in slope(jnp.array(c), kla)), (c, kla)
    seen = STEADY.observe(p, STEADY.State(0.0, 5.0, 0.1), climate(220.0))
    assert float(seen["dissolved_oxygen"]) == SATURATION
    # without gas nothing is respired: as in the full model at no oxygen
    none = STEADY.rates(p, STEADY.State(5.0, 1.0, 0.2), climate(0.0))
    full = FULL.rates(typical("ecoli_oxygen")[0].p, FULL.State(5.0, 1.0, 0.2, 0.0, 0.0), climate(0.0))
    assert np.allclose(np.array(none), np.array(full[:3]), rtol=1e-12)


def test_rates_are_those_of_the_full_model_at_its_steady_oxygen():
    p, q = typical("ecoli_oxygen")[1].p, typical("ecoli_oxygen_steady")[1].p
    for c in ((8.8, 0.13, 0.23), (20.0, 1.0, 0.1), (0.2, 4.9, 0.01)):
        dot = STEADY.observe(q, STEADY.State(*c), climate(300.0))["dissolved_oxygen"]
        full = FULL.rates(p, FULL.State(*c, dot, dot), climate(300.0))
        assert float(full.DOT + 300.0 * (SATURATION - dot)) == pytest.approx(0.0, abs=1e-9 * 300.0 * SATURATION)
        assert np.allclose(np.array(STEADY.rates(q, STEADY.State(*c), climate(300.0))), np.array(full[:3]), rtol=1e-9)


# --- the published process ---


def test_the_published_process_is_that_of_the_full_model():
    full, steady = both()
    assert not full.status.any()
    assert not steady.status.any()
    # Before the first pulse the two differ by what is stored; in a pulse oxygen runs out, and the cells of the full
    # model burn what was stored, 55 % or 4 mg/L, which the other does not have.
    n = int(process("ecoli_oxygen").plan.times.size) + 1
    t = full.t[0, :n]
    for until, allowed in ((min(PULSES), BEFORE), (34.0, AFTER)):
        among = t <= until
        for name, scale in (("X", 10.0), ("S", 1.0), ("A", 0.1)):
            a, b = (getattr(x.concentrations, name)[:, :n][:, among] for x in (full, steady))
            assert np.abs(a - b).max() < allowed * max(scale, np.abs(a).max()), (name, until)


def test_dissolved_oxygen_is_that_of_the_full_model_away_from_pulses():
    full, steady = both()
    cases = typical("ecoli_oxygen_steady")[:2]
    n = int(cases[0].grid.intervals) + 1
    for v, case in enumerate(cases):
        one = jax.tree.map(lambda a, v=v: a[v], steady)
        seen = np.asarray(observe_nodes(STEADY, case.p, one, grid=case.grid)["dissolved_oxygen"])[1:n]
        # every node lies well after the last pulse or step of kLa; a node is just before its own
        assert np.abs(seen - full.concentrations.DOT[v, 1:n]).max() < DOT
        assert (seen > 0.0).all()
        assert (seen <= SATURATION).all()


def test_an_explicit_stepper_does_what_needs_a_stiff_one_in_the_full_model():
    cases, rtol = typical("ecoli_oxygen")[1:2], 1e-6  # the milder affinity: with the source's it does not end
    explicit = simulated(FULL, "explicit", stacked(cases), rtol)
    steady = simulated(STEADY, "explicit", stacked(typical("ecoli_oxygen_steady")[:2]), rtol)
    assert not explicit.status.any()
    # measured: 8,705 against 1,518 and 1,510
    assert 5.0 * steady.steps.max() < explicit.steps[0]
    # the stiff stepper takes 873 and 890 for the full model
    assert steady.steps.max() < 2000


@pytest.mark.slow
def test_forward_derivatives_of_the_process_agree_with_finite_differences():
    base = typical("ecoli_oxygen_steady")[1]
    fields = ("qS_max", "Y_os", "K_o", "qA_max")
    places = [base.p._fields.index(f) for f in fields]

    integrator = Integrator(Tsit5(), 1e-9, 1e-10, max_steps=400_000)
    case = typed(stacked([base]))

    def end(x: jax.Array) -> jax.Array:
        p = list(case.p)
        for i, place in enumerate(places):
            p[place] = case.p[place] * x[i]
        found = program(STEADY)(integrator, case._replace(p=type(case.p)(*p)))
        c = found.concentrations
        return jnp.stack([c.X[0, 4], c.X[0, 6], c.X[0, -1], c.A[0, 4]])

    one, step = jnp.ones(len(fields)), 1e-4
    found = np.asarray(jax.jacfwd(end)(one))
    for j in range(len(fields)):
        e = step * np.eye(len(fields))[j]
        difference = np.asarray(end(one + e) - end(one - e)) / (2.0 * step)
        assert np.allclose(found[:, j], difference, rtol=2e-4, atol=2e-5), (fields[j], found[:, j], difference)


# --- what is refused ---


def test_a_vessel_without_kla_is_one_clear_error():
    case = typical("ecoli_oxygen_steady")[0]
    with pytest.raises(ConfigError, match=r"ecoli_oxygen_steady.*kla_per_h"):
        STEADY.observe(case.p, STEADY.State(1.0, 1.0, 0.1), climate(None))
    blind = case.grid.actions._replace(start=case.grid.actions.start._replace(kla=None))
    case = case._replace(grid=case.grid._replace(actions=blind))
    with pytest.raises(ConfigError, match=r"ecoli_oxygen_steady.*kla_per_h"):
        simulated(STEADY, "explicit", stacked([case]), 1e-6)


def test_it_starts_from_samples_and_needs_biomass():
    start = STEADY.initial({"glucose": 30.0, "acetate": 0.1}, None, {"biomass": 0.2, "glucose": 27.0})
    assert start == pytest.approx({"X": 0.2, "S": 27.0 * 0.180156, "A": 0.1}, rel=1e-12)
    with pytest.raises(DatasetError, match="biomass"):
        STEADY.initial({"glucose": 30.0}, None, {})


def test_parameters_are_those_of_the_full_model_without_the_probe():
    full = [f for f in FULL.Parameters._fields if f != "tau"]
    assert list(STEADY.Parameters._fields) == full
    q = uptakes(typical("ecoli_oxygen_steady")[0].p, 0.13, 0.23)
    assert q.respired + q.overflow == pytest.approx(q.q_S, rel=1e-14)
