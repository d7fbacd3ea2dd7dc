"""What may be chosen and what it is judged by: every kind of decision, mixes, profit, limits on metrics, perfusion."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from support.decisions import FEEDS, design_with

from optim.app.build import build_process, compose, model_config
from optim.data.screened import QUANTITIES, Screen
from optim.errors import ConfigError
from optim.kinetics import load_kinetics
from optim.optimisation.evaluate import process_actions
from optim.process.decision import DECISION_KINDS, Decision
from optim.process.design import Component, Design
from optim.process.disturbance import AS_PLANNED
from optim.process.lanes import Lanes
from optim.process.metrics import PRODUCTS, batch_metrics
from optim.process.objective import Market, Objective
from optim.process.problem import Constraint
from optim.recipe.steps import feed_schedule, setpoint_phases
from optim.schedule.actions import Action, Bleed, Feed, Harvest, Perfusion, Setpoint
from optim.schedule.decode import actions_of
from optim.schedule.plan import make_plan
from optim.schedule.schedule import to_grid
from optim.settings.process import BY_HAND
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.simulate import observe_nodes, simulate_one
from optim.simulation.vessel import make_vessel

DAY = 24.0


def design(*decisions: Decision, **changes) -> Design:
    usual = dict(
        decisions=decisions, start_volume_l=1.0, temperature_c=36.5, ph=7.0, end_h=96.0, node_step_h=24.0,
        sample_times_h=(), sample_volume_l=0.0, feeds=("feed", "other"),
    )  # fmt: skip
    return Design(**usual | changes)


def grid_of(d: Design, *x: float):
    return to_grid(d.schedule(jnp.asarray(x)))[0]


def given(d: Design, *x: float) -> np.ndarray:
    """Litres of each feed."""
    grid = grid_of(d, *x)
    a, length = grid.actions, np.diff(np.asarray(grid.t))
    return np.sum(0.5 * np.asarray(a.rate_start + a.rate_end) * length[:, None] + np.asarray(a.bolus), axis=0)


def level(d: Design, what: str, hour: float, *x: float) -> float:
    """A setpoint at an hour that is no node."""
    grid = grid_of(d, *x)
    t = np.asarray(grid.t)
    i = int(np.searchsorted(t, hour) - 1)
    first = float(getattr(grid.actions.start, what)[i])
    last = first if grid.actions.end is None else float(getattr(grid.actions.end, what)[i])
    return first + (last - first) * (hour - t[i]) / (t[i + 1] - t[i])


def one(name: str, kind: str, lower: float, upper: float, platform: float, **more) -> Decision:
    return Decision(name, kind, lower, upper, platform, 0.0, **more)


def test_feeds_of_every_shape_give_what_they_say():
    boluses = design(
        one("a", "bolus", 0.0, 50.0, 1.0, time_h=24.0), one("b", "bolus", 0.0, 50.0, 1.0, time_h=24.0, feed="other")
    )
    assert given(boluses, 10.0, 20.0) == pytest.approx([0.01, 0.02])
    steps = design(one("a", "feed_rate", 0.0, 9.0, 1.0, time_h=24.0), one("b", "feed_rate", 0.0, 9.0, 1.0, time_h=48.0))
    assert given(steps, 1.0, 2.0) == pytest.approx([0.001 * (24.0 + 2.0 * 48.0), 0.0])
    straight = design(
        one("a", "feed_node", 0.0, 9.0, 1.0, time_h=0.0), one("b", "feed_node", 0.0, 9.0, 1.0, time_h=48.0), end_h=72.0
    )
    assert given(straight, 1.0, 3.0) == pytest.approx([0.001 * (48.0 * 2.0 + 24.0 * 3.0), 0.0])  # then level
    both = design(
        one("a", "feed_rate", 0.0, 9.0, 1.0, feed="other"), one("s", "feed_start", 0.0, 9.0, 1.0),
        one("e", "feed_exponent", 0.0, 0.1, 0.01), node_step_h=0.5,
    )  # fmt: skip
    assert given(both, 2.0, 1.0, 0.02) == pytest.approx([0.001 * (np.exp(0.02 * 96.0) - 1.0) / 0.02, 0.192], rel=1e-4)


def test_setpoints_step_shift_and_ramp():
    steps = design(one("a", "temperature", 30.0, 38.0, 36.0), one("b", "temperature", 30.0, 38.0, 36.0, time_h=48.0))
    assert level(steps, "temperature", 40.0, 37.0, 33.0) == 37.0
    assert level(steps, "temperature", 50.0, 37.0, 33.0) == 33.0
    shift = design(
        one("t", "shift_time", 10.0, 90.0, 30.0), one("to", "shift_temperature", 30.0, 37.0, 33.0),
        one("ph", "shift_ph", 6.5, 7.2, 6.9), one("ramp", "shift_ramp", 0.0, 24.0, 10.0),
    )  # fmt: skip
    at = [level(shift, "temperature", h, 31.0, 33.0, 6.8, 10.0) for h in (30.0, 36.0, 50.0)]
    assert at == pytest.approx([36.5, 34.75, 33.0])
    assert level(shift, "ph", 36.0, 31.0, 33.0, 6.8, 10.0) == pytest.approx(6.9)
    held = design(one("o", "do", 10.0, 60.0, 40.0), kla_per_h=5.0)
    assert level(held, "do", 50.0, 30.0) == 30.0
    assert level(held, "kla", 50.0, 30.0) == 5.0


def test_an_addition_happens_when_and_as_much_as_decided():
    d = design(
        one("when", "addition_time", 10.0, 80.0, 30.0, feed="other"),
        one("much", "addition_volume", 0.0, 50.0, 5.0, feed="other"),
    )
    grid = grid_of(d, 31.5, 20.0)
    node = int(np.flatnonzero(np.asarray(grid.actions.bolus[:, 1]))[0])
    assert float(grid.t[node]) == 31.5
    assert float(grid.actions.bolus[node, 1]) == pytest.approx(0.02)


def test_additions_belong_to_their_stock_in_any_order():
    d = design(
        one("a_when", "addition_time", 10.0, 80.0, 30.0, feed="other"),
        one("b_when", "addition_time", 10.0, 80.0, 30.0, feed="feed"),
        one("b_much", "addition_volume", 0.0, 50.0, 5.0, feed="feed"),
        one("a_much", "addition_volume", 0.0, 50.0, 5.0, feed="other"),
    )
    grid = grid_of(d, 20.0, 40.0, 3.0, 7.0)
    t, bolus = np.asarray(grid.t), np.asarray(grid.actions.bolus)
    assert [(t[i], bolus[i, j]) for i, j in zip(*np.nonzero(bolus), strict=True)] == [
        (20.0, pytest.approx(0.007)),
        (40.0, pytest.approx(0.003)),
    ]


def test_media_cells_and_feeds_start_as_decided():
    d = design(
        one("cells", "inoculum", 0.2, 5.0, 0.5),
        one("sugar", "medium_component", 10.0, 60.0, 30.0, component="glucose"),
        one("strong", "feed_component", 100.0, 900.0, 400.0, component="glucose", feed="other"),
        inoculum_vcd=0.5, inoculum_species=(0, 1), components=(Component("glucose", 2, 1.0, 0.5),),
    )  # fmt: skip
    x = jnp.array([1.0, 40.0, 800.0])
    assert np.asarray(d.initial(x, jnp.array([0.5, 0.1, 9.0, 7.0]))) == pytest.approx([1.0, 0.2, 21.0, 7.0])
    stocks = np.asarray(d.stocks(x, jnp.ones((2, 4))))
    assert stocks[0] == pytest.approx(np.ones(4))
    assert stocks[1] == pytest.approx([1.0, 1.0, 401.0, 1.0])


@pytest.mark.parametrize(
    ("decisions", "words"),
    [
        ((one("a", "bolus", 0.0, 1.0, 0.5, feed="fed"),), "Did you mean 'feed'"),
        ((one("a", "shift_ph", 6.0, 7.0, 6.5),), "needs a shift_time"),
        ((one("a", "addition_volume", 0.0, 7.0, 6.5, feed="other"),), "belong together"),
        ((one("a", "inoculum", 0.1, 7.0, 6.5),), "inoculum_vcd"),
        ((one("a", "harvest", 10.0, 50.0, 20.0), one("a", "harvest", 10.0, 50.0, 20.0)), "given twice"),
        ((), "empty"),
    ],
)
def test_a_design_that_makes_no_sense_is_refused(decisions, words):
    with pytest.raises(ConfigError, match=words):
        design(*decisions)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (dict(kind="harvest", time_h=5.0), "no times"),
        (dict(kind="addition_time"), "feed: missing"),
        (dict(kind="medium_component"), "component: missing"),
    ],
)
def test_a_decision_that_lacks_something_is_refused(row, words):
    with pytest.raises(ConfigError, match=words):
        Decision(**dict(name="d", lower=0.0, upper=10.0, platform=5.0, resolution=0.0) | row)


def test_every_kind_of_decision_has_a_unit_and_a_meaning():
    for name, kind in DECISION_KINDS.items():
        assert kind.name == name
        assert kind.meaning
        assert kind.unit or kind.needs_component
        assert kind.screened in ("", *QUANTITIES)
        assert kind.replanned in ("", "open", "start")
        assert kind.action is None or issubclass(kind.action, Action)
    assert {name for name, kind in DECISION_KINDS.items() if kind.by_hand} == set(BY_HAND)


@pytest.mark.parametrize("kind", DECISION_KINDS)
def test_every_kind_of_decision_moves_the_process_through_its_action(kind):
    """A kind that a design knows not of would change nothing."""
    d, x, moved = design_with(kind)
    medium, stocks = jnp.array([1.0, 2.0]), jnp.ones((2, 2))
    before, after = (
        [d.schedule(jnp.asarray(v)), d.initial(jnp.asarray(v), medium), d.stocks(jnp.asarray(v), stocks)]
        for v in (x, moved)
    )
    action = DECISION_KINDS[kind].action
    if action is None:
        same = [np.allclose(a, b) for a, b in zip(before[1:], after[1:], strict=True)]
        assert same.count(False) == 1
        return
    ours, theirs = (set(actions_of(parts[0], FEEDS)) for parts in (before, after))
    assert any(isinstance(a, action) for a in ours - theirs)
    assert any(isinstance(a, action) for a in theirs - ours)


def told(d: Design, *x: float):
    """The actions of a recipe, of a design alone."""

    class Problem:
        design = d

    return process_actions(Problem, np.array(x))  # type: ignore[arg-type]


def test_a_recipe_tells_a_ramp_and_what_is_held_after_it():
    d = design(
        one("t", "shift_time", 10.0, 90.0, 30.0), one("to", "shift_temperature", 30.0, 37.0, 33.0),
        one("ramp", "shift_ramp", 0.0, 24.0, 10.0),
    )  # fmt: skip
    done = told(d, 31.0, 33.0, 10.0)
    assert [a for a in done if isinstance(a, Setpoint)][1:] == [Setpoint(31.0, temperature_c=33.0, ramp_h=10.0)]
    rows = [p for p in setpoint_phases(done, ()) if p.parameter == "temperature"]
    assert [(24.0 * p.start_day, p.target, p.target_end) for p in rows] == [
        (0.0, 36.5, None), (31.0, 36.5, 33.0), (41.0, 33.0, None),
    ]  # fmt: skip


def test_a_recipe_feeds_what_the_simulation_does():
    d = design(
        one("a", "feed_node", 0.0, 0.1, 0.0, time_h=0.0), one("b", "feed_node", 0.0, 9.0, 1.0, time_h=48.0),
        one("c", "feed_rate", 0.0, 9.0, 1.0, time_h=0.0, feed="other"),
        one("d", "feed_rate", 0.0, 9.0, 0.0, time_h=24.0, feed="other"),
        one("harvest", "harvest", 20.0, 96.0, 40.0),
    )  # fmt: skip
    x = (0.0, 4.8, 2.0, 0.0, 30.0)
    rows = feed_schedule(told(d, *x), 1000.0, 2000.0)
    for j, name in enumerate(d.feeds):
        assert sum(r.volume_ml for r in rows if r.feed_id == name) == pytest.approx(1000.0 * given(d, *x)[j])
    assert given(d, *x)[1] == pytest.approx(0.048)  # it stops on day 1


def test_what_is_perfused_does_not_fill_the_vessel():
    d = design(one("flow", "perfusion", 0.0, 3.0, 1.0, feed="other"), one("cells", "bleed_above", 5.0, 50.0, 20.0))
    rows = feed_schedule(told(d, 2.0, 30.0), 1000.0, 2000.0)
    assert [(r.mode, r.vessel_volume_after_ml) for r in rows] == [("perfusion", 1000.0)]
    assert rows[0].volume_ml == pytest.approx(2.0 * 4.0 * 1000.0)
    assert [a for a in told(d, 2.0, 30.0) if isinstance(a, Bleed)] == [Bleed(0.0, above_vcd_1e6_per_ml=30.0)]


def test_a_delay_delays_flows_as_well():
    d = design(one("a", "bleed", 0.0, 3.0, 1.0, time_h=24.0), one("b", "bleed", 0.0, 3.0, 1.0, time_h=48.0))
    late = AS_PLANNED._replace(delay_h=6.0).applied(d.schedule(jnp.array([1.0, 2.0])))
    assert np.asarray(late.flow_t).tolist() == [0.0, 30.0, 54.0]


# --- through the whole problem ---

ALL_KINDS = """
title: everything
feed_id: feed_a
further_feeds: {sugar: {glucose: 1500.0}}
medium_id: basal_a
inoculum_vcd_1e6_per_ml: 0.5
temperature_c: 36.8
end_h: 336.0
sample_every_h: 24.0
sample_until_h: 312.0
decisions:
  early: {kind: bolus, lower: 0, upper: 1.2, platform: 0.4, times_h: [72, 120]}
  rate: {kind: feed_node, lower: 0, upper: 0.05, platform: 0.01, times_h: [144, 192, 240], feed: sugar}
  inoculum: {kind: inoculum, lower: 0.2, upper: 2.0, platform: 0.6}
  basal: {kind: medium_component, component: glutamine, lower: 2, upper: 10, platform: 6}
  strength: {kind: feed_component, component: glucose, feed: sugar, lower: 500, upper: 2500, platform: 1500}
  shift_time: {kind: shift_time, lower: 72.0, upper: 240.0, platform: 144.0}
  shift_temperature: {kind: shift_temperature, lower: 31.0, upper: 36.8, platform: 33.0}
  shift_ph: {kind: shift_ph, lower: 6.8, upper: 7.1, platform: 6.95}
  ramp: {kind: shift_ramp, lower: 1, upper: 48, platform: 12}
  harvest: {kind: harvest, lower: 192.0, upper: 336.0, platform: 300.0}
"""
PERFUSION = """
title: perfusion
feed_id: feed_a
further_feeds: {fresh: {glucose: 35.0}}
medium_id: basal_a
inoculum_vcd_1e6_per_ml: 1.0
temperature_c: 36.8
end_h: 240.0
decisions:
  flow: {kind: perfusion, lower: 0.2, upper: 2.0, platform: 1.0, times_h: [0, 96], feed: fresh}
  cells: {kind: bleed_above, lower: 5, upper: 40, platform: 15}
  extra: {kind: feed_rate, lower: 0, upper: 0.01, platform: 0.002, times_h: [48]}
"""


def configured(folder, text: str, *overrides: str):
    """The configuration with a design of one's own, as a site would keep it."""
    (folder / "design").mkdir()
    (folder / "design" / "mine.yaml").write_text(text)
    return compose(["design=mine", *overrides], folder)


def test_derivatives_by_every_kind_of_decision_match_differences(screen, published, tmp_path):
    problem = build_process(configured(tmp_path, ALL_KINDS), Screen.from_dataset(screen))
    problem = replace(problem, integrator=Integrator(rtol=1e-10, atol=1e-11))
    d = problem.design
    rng = np.random.default_rng(5)
    x = d.lower + (0.3 + 0.4 * rng.random(len(d.lower))) * (d.upper - d.lower)
    e, s = problem.derivatives(x[None], published)
    assert int(e.status[0]) == 0
    h = 1e-4 * (d.upper - d.lower)
    tiled = np.repeat(published, len(h), axis=0)
    up, down = (problem.evaluate(x[None] + sign * np.diag(h), tiled) for sign in (1.0, -1.0))
    slope = (up.objective - down.objective) / (2.0 * h)
    assert np.allclose(s.objective[0] * h, slope * h, rtol=2e-3, atol=1e-5 * np.abs(slope * h).max())
    metrics = (up.metrics - down.metrics) / (2.0 * h)[:, None]
    known = np.isfinite(metrics).all(axis=0)
    assert known.sum() > 5
    metrics, exact = metrics[:, known], s.metrics[0].T[:, known]
    scale = np.abs(metrics).max(axis=0)
    assert np.allclose(exact / scale, metrics / scale, rtol=5e-3, atol=2e-3)
    assert np.all(np.abs(s.objective[0] * (d.upper - d.lower)) > 1e-6)  # every one of them does something


def test_a_drift_is_what_it_says(process_problem, published):
    problem = process_problem
    x = problem.design.platform
    plain = problem.trace(x[None], published)
    boluses = [i for i, d in enumerate(problem.design.decisions) if d.kind == "bolus"]
    more = x.copy()
    more[boluses] *= 1.1
    drifted = problem.evaluate(x[None], Lanes(published, drift=AS_PLANNED._replace(feed=1.1)))
    assert drifted.metrics[0] == pytest.approx(problem.evaluate(more[None], published).metrics[0], nan_ok=True)
    seeded = problem.trace(x[None], Lanes(published, drift=AS_PLANNED._replace(inoculum=1.2)))
    vcd = problem.observed.index("vcd")
    assert seeded.observed[0, vcd, 0] == pytest.approx(1.2 * plain.observed[0, vcd, 0])
    warm = problem.trace(x[None], Lanes(published, drift=AS_PLANNED._replace(temperature_c=0.5)))
    assert warm.temperature[0] == pytest.approx(plain.temperature[0] + 0.5)


def test_dearer_prices_are_lanes(process_problem, published):
    x = process_problem.design.platform
    prices = np.tile(process_problem.book.prices(), (2, 1))
    prices[1] *= 2.0
    e = process_problem.evaluate(np.tile(x, (2, 1)), Lanes(np.tile(published, (2, 1)), prices=prices))
    cost = list(process_problem.metrics).index("cost_eur")
    assert e.metrics[1, cost] == pytest.approx(2.0 * e.metrics[0, cost])


def test_a_metric_may_be_limited(process_problem, published):
    top = Constraint(
        name="cogs",
        variable="cogs_eur_per_g",
        kind="max",
        limit=60.0,
        unit="EUR/g",
        where="end",
        source="own",
        verified=True,
    )
    problem = replace(process_problem, constraints=(top,))
    e = problem.evaluate(problem.design.platform[None], published)
    value = e.metrics[0, list(problem.metrics).index("cogs_eur_per_g")]
    assert e.margins[0] == pytest.approx([(60.0 - value) / 60.0])
    with pytest.raises(ConfigError, match="say where: end"):
        Constraint(
            name="cogs",
            variable="cogs_eur_per_g",
            kind="max",
            limit=60.0,
            unit="EUR/g",
            where="path",
            source="own",
            verified=True,
        )


# --- perfusion, against a plan that a process team would write ---


def test_perfusion_agrees_with_the_plan_it_stands_for(screen, tmp_path):
    gone = (f"~constraints.limits.{name}" for name in ("osmolality_proxy", "viability_at_harvest"))
    cfg = replace(configured(tmp_path, PERFUSION, *gone), model=model_config("cho_perfusion"))
    problem = replace(build_process(cfg, Screen.from_dataset(screen)), integrator=Integrator(rtol=1e-9, atol=1e-10))
    model, d = problem.model, problem.design
    p = np.array([[float(cfg.model.parameters[n].value) for n in model.Parameters._fields]])
    x = np.array([0.8, 1.5, 12.0, 0.004])
    trace = problem.trace(x[None], p)
    assert int(trace.status[0]) == 0
    volume_ml = 1000.0 * d.start_volume_l
    plan = make_plan(
        [
            Setpoint(0.0, temperature_c=d.temperature_c, ph=d.ph),
            Perfusion(0.0, "fresh", rate_vvd=0.8, stop_h=96.0),
            Perfusion(96.0, "fresh", rate_vvd=1.5),
            Bleed(0.0, above_vcd_1e6_per_ml=12.0),
            Feed("feed_a", 48.0, 0.004),
            Harvest(240.0),
        ],
        volume_ml=volume_ml,
    )
    stocks = {"fresh": {"glucose": 35.0}, "feed_a": dict(screen.media["feed_a"])}
    device = make_vessel(model, plan, stocks)
    grid = to_grid(plan.schedule)[0]
    start = model.State(*problem.initial)
    plain, cultivation = model.Parameters(*p[0]), Cultivation(start, d.start_volume_l, grid, device)
    t = simulate_one(model, plain, cultivation, integrator=problem.integrator)
    seen = observe_nodes(model, plain, t, grid=grid)
    last = int(grid.intervals)
    grams = float(seen["titre"][last] * t.volume[last] + t.collected["mAb"][last])
    scale = problem.book.production_volume_l / d.start_volume_l
    m = dict(zip(problem.metrics, trace.metrics[0], strict=True))
    assert m["titre_g_per_l"] * m["harvest_volume_l"] == pytest.approx(grams * scale, rel=1e-6)
    vcd = problem.observed.index("vcd")
    assert trace.observed[0, vcd, -1] == pytest.approx(float(seen["vcd"][last]), rel=1e-6)
    perfused = volume_ml / 1000.0 * (0.8 * 4.0 + 1.5 * 6.0)
    h = trace.harvest
    assert float(h.basal_l[0]) == pytest.approx((d.start_volume_l + perfused) * scale, rel=1e-9)
    assert float(h.feed_l[0]) == pytest.approx(0.004e-3 * 192.0 * scale, rel=1e-9)


# --- objectives ---

MARKET = Market(
    price_eur_per_g=400.0,
    demand_g_per_year=50_000.0,
    suite_days_per_year=330.0,
    turnaround_h=48.0,
    source="made",
    verified=False,
)

METRICS = batch_metrics(PRODUCTS["titre"])


def batch(**changes: float) -> np.ndarray:
    usual = {name: 2.0 for name in METRICS} | {"released_g": 8000.0, "cost_eur": 400_000.0, "harvest_h": 336.0}
    return np.array([(usual | changes)[name] for name in METRICS])


@pytest.mark.parametrize(
    "objective",
    [
        Objective("yield_per_cost"),
        Objective("cogs"),
        Objective("profit", market=MARKET),
        Objective("titre", (("space_time_yield", 0.5), ("cogs", 2.0)), MARKET),
    ],
)
def test_what_a_solver_sees_is_the_metric_and_its_slope(objective):
    rng = np.random.default_rng(0)
    rows = batch() * (1.0 + 0.1 * rng.random((5, len(METRICS))))
    slopes = rng.standard_normal((5, len(METRICS), 3)) * rows[:, :, None]
    metrics = np.asarray(objective.complete(rows))
    value = metrics[:, list(objective.metrics).index(objective.target.name)]
    assert objective.from_solver(objective.to_solver(metrics)) == pytest.approx(value, rel=1e-12)
    every = objective.slopes(rows, slopes)
    gradient = np.asarray(objective.slopes_to_solver(metrics, every))
    h = 1e-6
    for k in range(3):
        up, down = (
            np.asarray(objective.to_solver(objective.complete(rows + s * h * slopes[:, :, k]))) for s in (1, -1)
        )
        assert gradient[:, k] == pytest.approx((up - down) / (2.0 * h), rel=1e-5, abs=1e-8)


def test_less_is_better_where_it_is():
    cheap, dear = (np.asarray(Objective("cogs").complete(batch(cogs_eur_per_g=c))) for c in (50.0, 60.0))
    assert Objective("cogs").to_solver(cheap) > Objective("cogs").to_solver(dear)


def test_profit_sells_no_more_than_the_market_takes_and_makes_no_more_than_the_suite_can():
    few = float(MARKET.profit(1000.0, 50_000.0, 336.0))  # the suite is the limit: 330 d / 16 d
    assert few == pytest.approx(330.0 / 16.0 * (1000.0 * 400.0 - 50_000.0), rel=1e-6)
    many = float(MARKET.profit(20_000.0, 1e6, 336.0))  # the market is: 2.5 batches
    assert many == pytest.approx(2.5 * (20_000.0 * 400.0 - 1e6), rel=1e-6)
    assert float(MARKET.profit(10.0, 50_000.0, 336.0)) < 0.0


def test_a_mix_has_the_optimum_of_its_parts_when_they_agree():
    mixed = Objective("titre", (("released", 3.0),))
    metrics = np.asarray(mixed.complete(batch(titre_g_per_l=4.0, released_g=16.0)))
    assert metrics[-1] == pytest.approx((4.0 * 16.0**3) ** 0.25)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective.maximise=profit", "objective.market: missing"),
        ("+objective.mix.titer=1", "Did you mean 'titre'"),
        ("+objective.mix.yield_per_cost=1", "twice"),
        ("+objective.mix.titre=0", "above 0"),
        ("+design.decisions.harvest.component=glucoze", "Did you mean 'glucose'"),
    ],
)
def test_an_objective_or_component_that_makes_no_sense_is_refused(screen, override, words):
    with pytest.raises(ConfigError, match=words):
        build_process(compose([override]), Screen.from_dataset(screen))


def test_the_model_library_names_cells_that_an_inoculum_scales():
    model = load_kinetics("cho_moller")
    assert model.inoculum_species
