"""Actions in human units: what each does to a vessel, exactly; and plans that must be refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import plan
from support.models import Rate, _Two

from optim.errors import ConfigError, Status
from optim.kinetics.cho_perfusion import ChoPerfusion
from optim.kinetics.raav_nguyen import RaavNguyen
from optim.schedule.actions import (
    Bleed,
    Bolus,
    Chemostat,
    Drain,
    Evaporation,
    Exchange,
    Feed,
    Harvest,
    Induce,
    Infect,
    Inoculate,
    Perfusion,
    Sample,
    Setpoint,
    TopUp,
    Transfect,
)
from optim.schedule.grid import IntervalGrid
from optim.schedule.plan import make_plan
from optim.schedule.schedule import FLOWS, to_grid
from optim.simulation.balance import Controls, Vessel, apply_left_edge
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.simulate import Trajectory, simulate_one
from optim.simulation.vessel import make_vessel

E = np.e
K = 0.04  # 1/h
STOCKS = {"medium": {"glucose": 4.0}, "seed": {"X": 50.0, "S": 1.0}, "salt": {"glucose": 100.0}}
START = (Setpoint(0.0, temperature_c=37.0, ph=7.0), Harvest(20.0))


class Warm(_Two):
    """Growth at rate k at 37 degC, in proportion to temperature; nothing takes up S."""

    def rates(self, p, c, env):
        return self.State(p.k * env.temperature / 37.0 * c.X, 0.0 * c.S)


MODEL = Warm()


@jax.jit
def simulated(k: float, grid: IntervalGrid, device: Vessel) -> Trajectory:
    cultivation = Cultivation((3.0, 1.0), 2.0, grid, device)
    return simulate_one(MODEL, Rate(k, 0.5), cultivation, integrator=Integrator(rtol=1e-10, atol=1e-11))


def filled(grid: IntervalGrid, device: Vessel) -> tuple[IntervalGrid, Vessel]:
    """With everything that is not done as done by nothing, and two feeds: then one program serves all tests."""
    a, n = grid.actions, grid.t.shape[0] - 1
    two = lambda x, rest=0.0: jnp.pad(x, ((0, 0), (0, 2 - x.shape[1])), constant_values=rest)  # noqa: E731
    none, each = jnp.zeros(n), jnp.zeros((n, 2))
    a = a._replace(
        bolus=two(a.bolus),
        rate_start=two(a.rate_start),
        rate_end=two(a.rate_end),
        end=a.start if a.end is None else a.end,
        growth=each if a.growth is None else two(a.growth),
        remove=none if a.remove is None else a.remove,
        topup_below=each - jnp.inf if a.topup_below is None else two(a.topup_below, -jnp.inf),
        topup_to=each if a.topup_to is None else two(a.topup_to),
        **{f: (none if f != "bleed_above" else none + jnp.inf) for f in FLOWS if getattr(a, f) is None},
    )
    rows = lambda x: np.pad(np.zeros((2, 2)) if x is None else x, ((0, 2 - (2 if x is None else len(x))), (0, 0)))  # noqa: E731
    kept = np.zeros(2) if device.retention is None else device.retention
    return grid._replace(actions=a), Vessel(rows(device.feeds), kept, None, rows(device.topup))


def run(*actions: Any, k: float = 0.0, **device: Any) -> dict[str, float]:
    """State at 20 h of 2 L that hold X = 3 and S = 1 at first. No other node than those of the actions."""
    made = make_plan([*START, *actions], volume_ml=2000.0)
    t = simulated(k, *filled(to_grid(made.schedule, 16)[0], make_vessel(MODEL, made, STOCKS, **device)))
    assert Status(int(t.status)) is Status.OK
    return {"X": float(t.concentrations.X[-1]), "S": float(t.concentrations.S[-1]), "V": float(t.volume[-1])}


def exactly(**values: float) -> Any:
    return pytest.approx(values, rel=1e-7)


WASH = np.exp(-1.0)  # 0.1 1/h for 10 h
CASES = {
    "nothing": ([], 0.0, {}, exactly(X=3.0, S=1.0, V=2.0)),
    "growth": ([], K, {}, exactly(X=3.0 * np.exp(20 * K), S=1.0, V=2.0)),
    "bolus": ([Bolus(5.0, "medium", 500.0)], 0.0, {}, exactly(X=6.0 / 2.5, S=4.0 / 2.5, V=2.5)),
    "two boluses at once": (
        [Bolus(5.0, "medium", 500.0), Bolus(5.0, "medium", 100.0), Bolus(5.0, "salt", 20.0)], 0.0, {},
        exactly(X=6.0 / 2.62, S=(2.0 + 2.4 + 2.0) / 2.62, V=2.62),
    ),
    "sample, then bolus": (
        [Bolus(5.0, "medium", 1000.0), Drain(5.0, 750.0), Sample(5.0, 250.0)], 0.0, {},
        exactly(X=1.5, S=2.5, V=2.0),
    ),
    "sample at harvest": ([Sample(20.0, 250.0)], 0.0, {}, exactly(X=3.0, S=1.0, V=2.0)),
    "cells from another vessel grow from then on": (
        [Inoculate(5.0, "seed", 500.0)], K, {},
        exactly(X=(6.0 * np.exp(20 * K) + 25.0 * np.exp(15 * K)) / 2.5, S=1.0, V=2.5),
    ),
    "exchange": ([Exchange(5.0, 1000.0, "medium")], 0.0, {}, exactly(X=3.0, S=2.5, V=2.0)),
    "constant feed": ([Feed("medium", 3.0, 100.0, stop_h=7.0)], 0.0, {}, exactly(X=6 / 2.4, S=3.6 / 2.4, V=2.4)),
    "feed to the end": ([Feed("medium", 15.0, 100.0)], 0.0, {}, exactly(X=6 / 2.5, S=4 / 2.5, V=2.5)),
    "linear feeds, each cut by the other": (
        [Feed("medium", 3.0, 0.0, end_rate_ml_per_h=200.0, stop_h=13.0), Feed("salt", 2.0, 10.0, stop_h=5.0),
         Feed("salt", 5.0, 0.0, end_rate_ml_per_h=10.0, stop_h=15.0)], 0.0, {},
        exactly(X=6.0 / 3.08, S=(2.0 + 4.0 + 8.0) / 3.08, V=3.08),
    ),
    "exponential feed, cut by another": (
        [Feed("medium", 5.0, 20.0, growth_per_h=0.1, stop_h=15.0), Feed("salt", 8.0, 10.0, stop_h=9.0)], 0.0, {},
        exactly(X=6.0 / (2.01 + 0.2 * (E - 1)), S=(3.0 + 0.8 * (E - 1)) / (2.01 + 0.2 * (E - 1)),
                V=2.01 + 0.2 * (E - 1)),
    ),
    "perfusion": ([Perfusion(5.0, "medium", rate_vvd=2.4, stop_h=15.0)], K, {},
                  exactly(X=3.0 * np.exp(20 * K), S=4.0 - 3.0 * WASH, V=2.0)),
    "perfusion with a feed beside it": (
        [Perfusion(5.0, "medium", rate_ml_per_h=100.0, stop_h=15.0), Feed("salt", 5.0, 100.0, stop_h=15.0)], 0.0, {},
        exactly(X=3.0, S=52.0 - 51.0 * WASH, V=2.0),
    ),
    "leaky retention": ([Perfusion(5.0, "medium", rate_vvd=2.4, stop_h=15.0)], 0.0, {"retention": {"X": 0.9}},
                        exactly(X=3.0 * np.exp(-0.1), S=4.0 - 3.0 * WASH, V=2.0)),
    "chemostat": ([Chemostat(5.0, "medium", 0.1, stop_h=15.0)], K, {},
                  exactly(X=3.0 * np.exp(20 * K - 1.0), S=4.0 - 3.0 * WASH, V=2.0)),
    "chemostat beside a retention device": (
        [Chemostat(5.0, "medium", 0.1, stop_h=15.0)], K, {"retention": {}},
        exactly(X=3.0 * np.exp(20 * K - 1.0), S=4.0 - 3.0 * WASH, V=2.0),
    ),
    "bleed": ([Bleed(10.0, rate_ml_per_h=50.0)], 0.0, {}, exactly(X=3.0, S=1.0, V=1.5)),
    "perfusion with bleed": (
        [Perfusion(0.0, "medium", rate_ml_per_h=200.0), Bleed(10.0, rate_ml_per_h=200.0)], 0.0, {},
        exactly(X=3.0 * WASH, S=4.0 - 3.0 * np.exp(-2.0), V=2.0),
    ),
    "evaporation": ([Evaporation(3.0, 100.0, stop_h=13.0)], 0.0, {}, exactly(X=6.0, S=2.0, V=1.0)),
    "top-up": ([TopUp("salt", "glucose", below=2.0, to=4.0, times_h=(5.0,))], 0.0, {},
               exactly(X=6.0 / 2.0625, S=4.0, V=2.0625)),
    "top-up of a species": ([TopUp("salt", "S", below=2.0, to=4.0, times_h=(5.0,))], 0.0, {},
                            exactly(X=6.0 / 2.0625, S=4.0, V=2.0625)),
    "top-up where there is enough": ([TopUp("salt", "glucose", below=0.9, to=4.0, times_h=(5.0,))], 0.0, {},
                                     exactly(X=3.0, S=1.0, V=2.0)),
    "top-up after the bolus of that time": (
        [TopUp("salt", "glucose", below=2.0, to=4.0, times_h=(5.0,)), Bolus(5.0, "salt", 50.0)], 0.0, {},
        exactly(X=6.0 / 2.05, S=7.0 / 2.05, V=2.05),
    ),
    "temperature step": ([Setpoint(7.5, temperature_c=33.0)], K, {},
                         exactly(X=3.0 * np.exp(K * (7.5 + 12.5 * 33.0 / 37.0)), S=1.0, V=2.0)),
    "temperature ramp": ([Setpoint(5.0, temperature_c=33.0, ramp_h=4.0)], K, {},
                         exactly(X=3.0 * np.exp(K * (5.0 + 4.0 * 35.0 / 37.0 + 11.0 * 33.0 / 37.0)), S=1.0, V=2.0)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_action_does_what_it_says(case):
    actions, k, device, expected = CASES[case]
    assert run(*actions, k=k, **device) == expected


def test_a_bleed_above_a_vcd_holds_it_and_does_nothing_below():
    perfused = [Perfusion(0.0, "medium", rate_vvd=4.0)]
    held = run(*perfused, Bleed(0.0, above_vcd_1e6_per_ml=4.0), k=K)
    assert held["X"] == pytest.approx(4.0, rel=0.01)
    assert held["X"] < 3.0 * np.exp(20 * K) * 0.7
    assert held["V"] == pytest.approx(2.0, rel=1e-6)
    free = run(*perfused, Bleed(0.0, above_vcd_1e6_per_ml=8.0), k=K)
    assert free["X"] == pytest.approx(3.0 * np.exp(20 * K), rel=1e-4)
    stopped = run(*perfused, Bleed(5.0, above_vcd_1e6_per_ml=3.0, stop_h=15.0), k=K)
    assert stopped["X"] == pytest.approx(3.0 * np.exp(5 * K), rel=0.01)


def test_every_check_of_a_repeated_top_up_happens():
    top = TopUp("salt", "glucose", below=2.0, to=4.0, every_h=2.0, start_h=1.0, stop_h=17.0)
    # half of the vessel is exchanged for water at 4 h and at 8 h: the checks at 5 h and 9 h lift it again
    water = {"water": {}} | STOCKS
    made = make_plan(
        [Setpoint(0.0, temperature_c=37.0, ph=7.0), Harvest(20.0), top]
        + [Exchange(t, 1300.0, "water") for t in (4.0, 8.0)]
    )
    t = simulated(0.0, *filled(to_grid(made.schedule, 16)[0], make_vessel(MODEL, made, water)))
    s = dict(zip(np.asarray(t.t), np.asarray(t.concentrations.S), strict=True))
    assert [round(s[h], 9) for h in (1.0, 3.0, 4.0, 7.0, 8.0, 11.0, 20.0)] == [1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    assert s[5.0] == pytest.approx(4.0 * (1.0 - 1.3 / 2.0625), rel=1e-6)
    checked = np.isfinite(made.schedule.topup_below[:, made.feeds.index("salt")])
    assert made.schedule.times[checked].tolist() == [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0]


def test_what_is_not_done_is_none_and_gives_the_same():
    made = make_plan(
        [Setpoint(0.0, temperature_c=37.0, ph=7.0), Chemostat(5.0, "medium", 0.1), Harvest(20.0)], volume_ml=2000.0
    )
    used = {name for name, value in made.schedule._asdict().items() if value is not None}
    raw = {"times", "withdraw", "bolus", "end", "rate_t", "rate_start", "rate_end", "setpoint_t", "setpoints"}
    assert used == raw | {"flow_t", "bleed"}
    assert made.schedule.setpoints.do is None
    assert made.schedule.setpoints.kla is None
    device = make_vessel(MODEL, made, STOCKS)
    assert device.retention is device.titrant is device.topup is None
    grid = to_grid(made.schedule, 16)[0]
    lean, full = simulated(K, grid, device), simulated(K, *filled(grid, device))
    assert np.allclose(lean.concentrations.X, full.concentrations.X, rtol=1e-12)
    assert float(lean.concentrations.X[-1]) == pytest.approx(3.0 * np.exp(20 * K - 1.5), rel=1e-8)


def test_a_plan_is_the_schedule_one_would_write_by_hand():
    made = make_plan(
        [
            Harvest(10.0),
            Setpoint(4.0, temperature_c=33.0),
            Bolus(2.0, "a", 300.0),
            Feed("a", 5.0, 3000.0),
            Feed("a", 0.0, 1000.0, end_rate_ml_per_h=2000.0, stop_h=5.0),
            Sample(3.0, 10.0),
            Setpoint(0.0, temperature_c=37.0, ph=7.0),
        ],
        observed_h=[7.0, 10.0],
    )
    by_hand = plan(
        [4.0, 5.0, 7.0], 10.0, bolus={2.0: 0.3}, withdraw={3.0: 0.01},
        rates=[(0.0, 1.0, 2.0), (5.0, 3.0, 3.0)], temperature=[(0.0, 37.0), (4.0, 33.0)],
    )  # fmt: skip
    for name, value in by_hand._asdict().items():
        jax.tree.map(np.testing.assert_array_equal, value, getattr(made.schedule, name))
    assert made.feeds == ("a",)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(made.schedule))


def test_breakpoints_are_nodes_and_close_times_are_one():
    start = [Setpoint(0.0, temperature_c=37.0, ph=7.0, do_percent=40.0, kla_per_h=100.0), Harvest(20.0)]
    made = make_plan(
        [
            *start,
            Feed("a", 0.1 * 3, 10.0, stop_h=6.0),
            Bolus(0.3, "b", 5.0),
            Evaporation(7.0, 1.0, stop_h=8.0),
            Setpoint(9.0, do_percent=20.0, ramp_h=2.0),
            Setpoint(11.0, kla_per_h=300.0),
        ],
        feeds=("b", "c", "a"),
    )
    assert made.schedule.times.tolist() == [0.0, 0.3, 6.0, 7.0, 8.0, 9.0, 11.0]
    assert made.schedule.bolus.shape == (7, 3)
    assert made.schedule.rate_start[:, 2].tolist() == [0.0, 0.01, 0.0]
    grid = to_grid(made.schedule)[0]
    assert np.asarray(grid.actions.start.do)[[4, 5, 6]].tolist() == [40.0, 40.0, 20.0]
    assert np.asarray(grid.actions.end.do)[[4, 5, 6]].tolist() == [40.0, 20.0, 20.0]
    assert np.asarray(grid.actions.start.kla)[[5, 6]].tolist() == [100.0, 300.0]
    assert np.asarray(grid.actions.end.kla)[[5, 6]].tolist() == [100.0, 300.0]


def test_additions_differ_in_name_only():
    plans = [make_plan([*START, kind(5.0, "x", 7.0)]) for kind in (Bolus, Inoculate, Transfect, Infect, Induce)]
    for made in plans:
        assert made.schedule.bolus.tolist() == [[0.0], [0.007]]
    assert Infect(5.0, "x", 7.0) != Induce(5.0, "x", 7.0)
    assert repr(Infect(5.0, "x", 7.0)) == "Infect(time_h=5.0, feed='x', volume_ml=7.0)"


REFUSED = {
    "two harvests": ([Harvest(30.0)], "2 harvests (20 h, 30 h): keep one"),
    "no action": (["feed it"], "'feed it' is no action"),
    "negative volume": ([Bolus(5.0, "a", -3.0)], "Bolus of 'a' at 5 h: volume_ml is -3; it must not be negative"),
    "before the run": ([Sample(-1.0, 3.0)], "Sample at -1 h: time_h is -1"),
    "not a number": ([Sample(5.0, float("nan"))], "Sample at 5 h: volume_ml is nan; give a finite number"),
    "a text": ([Feed("a", 5.0, "fast")], "Feed of 'a' at 5 h: rate_ml_per_h is 'fast'; give a finite number"),
    "no name": ([Bolus(5.0, "", 3.0)], "feed is ''; give a name"),
    "at harvest": ([Bolus(20.0, "a", 3.0)], "Bolus of 'a' at 20 h: 20 h is not before the harvest at 20 h"),
    "beyond harvest": ([Sample(21.0, 3.0)], "Sample at 21 h: 21 h is not before the harvest"),
    "ends beyond": ([Evaporation(5.0, 1.0, stop_h=21.0)], "Evaporation at 5 h: it ends at 21 h, after the harvest"),
    "ramps beyond": ([Setpoint(19.0, ph=6.0, ramp_h=2.0)], "Setpoint at 19 h: it ends at 21 h, after the harvest"),
    "ends first": ([Feed("a", 5.0, 1.0, stop_h=5.0)], "Feed of 'a' at 5 h: stop_h 5 is not after start_h"),
    "two feeds": ([Feed("a", 1.0, 1.0), Feed("a", 5.0, 1.0)],
                  "Feed of 'a' at 5 h: feed 'a' is in use until 20 h by Feed of 'a' at 1 h; give that one stop_h=5"),
    "one feed twice": ([Feed("a", 1.0, 1.0), Feed("a", 1.0, 1.0)], "in use until 20 h by Feed of 'a' at 1 h; keep one"),
    "perfused with what is fed": ([Feed("a", 1.0, 1.0), Perfusion(5.0, "a", rate_ml_per_h=1.0)],
                                  "Perfusion of 'a' at 5 h: feed 'a' is in use"),
    "two perfusions": ([Perfusion(1.0, "a", rate_ml_per_h=1.0), Perfusion(5.0, "b", rate_ml_per_h=1.0)],
                       "Perfusion of 'b' at 5 h: level control is in use until 20 h"),
    "two bleeds": ([Bleed(1.0, rate_ml_per_h=1.0), Bleed(5.0, rate_ml_per_h=2.0)], "Bleed at 5 h: bleed is in use"),
    "two kinds of bleed": ([Bleed(1.0, rate_ml_per_h=1.0, above_vcd_1e6_per_ml=9.0)],
                           "Bleed at 1 h: give one of rate_ml_per_h and above_vcd_1e6_per_ml"),
    "no kind of bleed": ([Bleed(1.0)], "Bleed at 1 h: give one of rate_ml_per_h and above_vcd_1e6_per_ml"),
    "bled of everything": ([Bleed(1.0, above_vcd_1e6_per_ml=0.0)], "above_vcd_1e6_per_ml is 0"),
    "two shapes": ([Feed("a", 1.0, 1.0, end_rate_ml_per_h=2.0, growth_per_h=0.1)],
                   "Feed of 'a' at 1 h: end_rate_ml_per_h (linear) and growth_per_h (exponential) are both given"),
    "two rates": ([Perfusion(1.0, "a", rate_vvd=1.0, rate_ml_per_h=1.0)], "give one of rate_vvd and rate_ml_per_h"),
    "volume unknown": ([Perfusion(1.0, "a", rate_vvd=1.0)], "rate_vvd refers to the vessel's volume; give volume_ml"),
    "volume unknown too": ([Chemostat(1.0, "a", 0.1)], "dilution_per_h refers to the vessel's volume"),
    "nothing set": ([Setpoint(5.0)], "Setpoint at 5 h: nothing is set"),
    "oxygen later": ([Setpoint(5.0, do_percent=40.0)], "no do_percent at time 0"),
    "ramp from nothing": ([Setpoint(0.0, do_percent=40.0, ramp_h=1.0)], "do_percent has nothing to ramp from"),
    "set twice": ([Setpoint(5.0, ph=6.9), Setpoint(5.0, ph=6.8)], "Setpoint at 5 h: ph is set twice"),
    "set in a ramp": ([Setpoint(5.0, ph=6.9, ramp_h=2.0), Setpoint(6.0, ph=6.8)],
                      "Setpoint at 6 h: ph still ramps until 7 h; shorten that ramp"),
    "top-up when": ([TopUp("a", "glucose", 1.0, 2.0)], "TopUp of 'a' at 0 h: give one of times_h and every_h"),
    "top-up downwards": ([TopUp("a", "glucose", 2.0, 1.0, times_h=(1.0,))], "to 1 lies under below 2"),
    "top-up too late": ([TopUp("a", "glucose", 1.0, 2.0, times_h=(1.0, 25.0))], "25 h is not before the harvest"),
    "two top-ups": ([TopUp("a", "glucose", 1.0, 2.0, times_h=(4.0,)), TopUp("a", "glucose", 1.0, 2.0, every_h=2.0)],
                    "TopUp of 'a' at 0 h: two top-ups of one feed at 4 h"),
    "two targets": ([TopUp("a", "glucose", 1.0, 2.0, times_h=(4.0,)), TopUp("a", "lactate", 1.0, 2.0, times_h=(5.0,))],
                    "the feed tops up glucose already"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_plan_is_refused_with_the_remedy(case):
    actions, message = REFUSED[case]
    with pytest.raises(ConfigError) as err:
        make_plan([*START, *actions])
    assert message in str(err.value)
    assert len(str(err.value).splitlines()) == 2, "one fault, one line"


def test_a_plan_needs_an_end_and_setpoints_at_its_start():
    with pytest.raises(ConfigError, match="no harvest: add Harvest"):
        make_plan([START[0]])
    with pytest.raises(ConfigError, match=r"no temperature_c at time 0; add Setpoint\(time_h=0.0, temperature_c=...\)"):
        make_plan([Setpoint(0.0, ph=7.0), Setpoint(2.0, temperature_c=37.0), START[1]])
    with pytest.raises(ConfigError, match="volume_ml is 0; give the volume"):
        make_plan(START, volume_ml=0.0)


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError) as err:
        make_plan(
            [*START, Bolus(30.0, "medum", 1.0), Setpoint(5.0, kla_per_h=3.0)], observed_h=[99.0], feeds=("medium",)
        )
    for part in ("30 h is not before", "no kla_per_h at time 0", "99 h lies outside", "Did you mean 'medium'?"):
        assert part in str(err.value)


def test_a_vessel_speaks_the_units_of_media():
    """Glucose is in mmol/L in the plan and the stock, in g/L in the model."""
    model = ChoPerfusion()
    top = TopUp("sugar", "glucose", below=11.0, to=33.0, times_h=(5.0,))
    made = make_plan([*START, top, Inoculate(0.0, "seed", 10.0)])
    device = make_vessel(
        model, made, {"sugar": {"glucose": 2000.0}, "seed": {"Xv": 20.0, "glucose": 30.0, "glutamine": 1.0}}
    )
    assert np.allclose(device.feeds, [[0.0, 2.0 * 180.156, 0.0, 0.0], [20.0, 0.03 * 180.156, 0.0, 0.0]])
    actions = jax.tree.map(lambda x: x[1], to_grid(made.schedule, 2)[0].actions)
    y = apply_left_edge(model, (2.0, 2.0 * 0.18, 0.0, 0.0, 2.0), Controls(jnp.asarray(15.0), actions), vessel=device)
    assert float(y[1] / y[4]) == pytest.approx(33.0 * 0.180156, rel=1e-12)
    assert float(y[4]) == pytest.approx(2.0 * (1.0 + (33.0 - 0.18 / 0.180156) / (2000.0 - 33.0)), rel=1e-12)


def test_properties_of_cells_are_kept_by_the_device_unless_said():
    made = make_plan([*START, Exchange(6.0, 500.0, "fresh")])
    model = RaavNguyen()
    device = make_vessel(model, made, {"fresh": {}}, retention={"Xv": 0.0, "Hel_E": 1.0}, titrant={"Xv": 0.5})
    names = model.names()
    assert [n for n, kept in zip(names, device.retention, strict=True) if kept == 0.0] == ["Xv", "RC_E", "Vec_E"]
    assert device.titrant.tolist() == [0.5] + [0.0] * (len(names) - 1)
    lacking = make_vessel(ChoPerfusion(), made, {"fresh": {}})
    assert lacking.retention.tolist() == [1.0, 0.0, 0.0, 0.0]


GOOD = {"a": {"glucose": 50.0}}
BAD_VESSELS = {
    "no stock": ({"b": {}}, {}, "feed 'a' has no stock"),
    "unknown component": ({"a": {"glucos": 50.0}}, {}, "stock 'a': unknown 'glucos'. Did you mean 'glucose'?"),
    "named twice": ({"a": {"glucose": 50.0, "S": 50.0}}, {}, "stock 'a': glucose and S are the same; keep one"),
    "negative": ({"a": {"glucose": -1.0}}, {}, "stock 'a': glucose is -1; give a concentration"),
    "too weak": ({"a": {"glucose": 3.0}}, {}, "feed 'a' holds 3 of glucose and cannot top up to 4"),
    "retention of what": (GOOD, {"retention": {"Xv": 1.0}}, "retention: unknown species 'Xv'. Did you mean 'X'?"),
    "retention too good": (GOOD, {"retention": {"X": 1.1}}, "retention: a fraction lies outside 0 to 1"),
    "titrant of what": (GOOD, {"titrant": {"Lac": 1.0}}, "titrant: unknown species 'Lac'"),
}


@pytest.mark.parametrize("case", BAD_VESSELS)
def test_a_bad_vessel_is_refused(case):
    stocks, device, message = BAD_VESSELS[case]
    made = make_plan([*START, TopUp("a", "glucose", 2.0, 4.0, times_h=(5.0,))])
    with pytest.raises(ConfigError) as err:
        make_vessel(MODEL, made, stocks, **device)
    assert message in str(err.value)


def test_a_top_up_of_what_the_model_lacks_is_refused():
    made = make_plan([*START, TopUp("a", "glutamine", 2.0, 4.0, times_h=(5.0,))])
    with pytest.raises(ConfigError, match="the model has no 'glutamine' to top up"):
        make_vessel(MODEL, made, GOOD)


def test_a_stock_cannot_hold_what_nothing_put_in_adds_to():
    made = make_plan([*START, Transfect(5.0, "dna", 10.0)])
    with pytest.raises(ConfigError, match="stock 'dna': RC_E is a property of cells"):
        make_vessel(RaavNguyen(), made, {"dna": {"RC_E": 1e5}})
