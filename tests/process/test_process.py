"""Cost, design and the process problem."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.app.build import build_process, compose
from optim.data.screened import Screen
from optim.errors import ConfigError
from optim.process.cost import CostBook, HarvestedBatch, PriceItem
from optim.process.design import Decision, Design
from optim.process.metrics import PRODUCTS
from optim.process.problem import Constraint
from optim.schedule.schedule import to_grid
from optim.simulation.engine.march import Integrator

EUR_PER_USD = 0.92


@pytest.fixture(scope="module")
def book() -> CostBook:
    return CostBook(**vars(compose([]).cost))


def batch(volume: float, titre: float, days: float, viability: float = 0.9) -> HarvestedBatch:
    """A batch of which a fifth was fed."""
    numbers = (0.8 * volume, 0.2 * volume, 24.0 * days, volume, titre, viability)
    return HarvestedBatch(*(jnp.asarray(v) for v in numbers))


def usd_per_g(book: CostBook, volume: float, titre: float, days: float) -> float:
    scaled = replace(book, production_volume_l=volume)
    h = batch(volume, titre, days)
    return float(jnp.sum(scaled.costs(jnp.asarray(book.prices()), h)) / scaled.released_amount(h)) / EUR_PER_USD


@pytest.mark.parametrize(
    ("volume", "titre", "days", "expected"),
    [(2000.0, 2.0, 14.0, 190.0), (2000.0, 5.0, 14.0, 85.0), (2000.0, 10.0, 14.0, 50.0), (15000.0, 2.03, 11.0, 73.0)],
)
def test_cost_of_goods_agrees_with_a_hand_written_bill(book, volume, titre, days, expected):
    assert usd_per_g(book, volume, titre, days) == pytest.approx(expected, rel=0.04)


def test_the_bill_has_the_shares_of_the_hand_written_one(book):
    h = batch(2000.0, 5.0, 14.0)
    costs = np.asarray(book.costs(jnp.asarray(book.prices()), h))
    share = {c: sum(x for i, x in zip(book.rows, costs, strict=True) if i.category == c) / costs.sum() for c in
             ("facility", "downstream", "labour", "quality")}  # fmt: skip
    assert share["facility"] == pytest.approx(0.42, abs=0.02)
    assert share["downstream"] == pytest.approx(0.20, abs=0.02)
    assert share["labour"] == pytest.approx(0.19, abs=0.02)
    assert share["quality"] == pytest.approx(0.10, abs=0.02)


def test_elasticities_add_up_and_match_differences(book):
    h = batch(2000.0, 5.0, 14.0)
    e = book.elasticities(h)
    assert sum(e.values()) == pytest.approx(1.0, rel=1e-12)
    prices = book.prices()
    total = float(jnp.sum(book.costs(jnp.asarray(prices), h)))
    for i, item in enumerate(book.rows):
        more = prices.copy()
        more[i] *= 1.01
        change = (float(jnp.sum(book.costs(jnp.asarray(more), h))) / total - 1.0) / 0.01
        assert e[item.name] == pytest.approx(change, rel=1e-6)
    assert e["suite"] == pytest.approx(0.42, abs=0.01)
    titre = (np.log(usd_per_g(book, 2000.0, 5.05, 14.0)) - np.log(usd_per_g(book, 2000.0, 5.0, 14.0))) / np.log(1.01)
    assert titre == pytest.approx(-0.82, abs=0.02)
    time = (np.log(usd_per_g(book, 2000.0, 5.0, 14.14)) - np.log(usd_per_g(book, 2000.0, 5.0, 14.0))) / np.log(1.01)
    assert time == pytest.approx(0.42, abs=0.02)


def test_dead_cells_make_clarification_dearer(book):
    alive = book.drivers(batch(2000.0, 5.0, 14.0, 0.95))["clarified_l"]
    dying = book.drivers(batch(2000.0, 5.0, 14.0, 0.5))["clarified_l"]
    assert float(dying) > 1.2 * float(alive)


def test_failed_batches_count_with_nothing(book):
    h = batch(2000.0, 5.0, 14.0)
    half = replace(book, success=0.5 * book.success)
    assert float(half.released_amount(h)) == pytest.approx(0.5 * float(book.released_amount(h)))


ITEM = dict(
    name="x", category="media", driver="basal_l", price=1.0, unit="EUR/L", low=0.5, high=2.0, year=2024, source="s",
    grade="list", verified=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category": "medium"}, "is not one of"),
        ({"driver": "basal"}, "Did you mean 'basal_l'"),
        ({"source": " "}, "source: missing"),
        ({"price": 3.0}, "must lie between"),
        ({"unit": "EUR/g"}, "must be a currency per L"),
    ],
)
def test_a_price_that_makes_no_sense_is_refused(change, words):
    PriceItem(**ITEM)
    with pytest.raises(ConfigError, match=words):
        PriceItem(**ITEM | change)


# --- design ---


def design(**changes) -> Design:
    kind = dict(
        decisions=(
            Decision("feed_day_1", "bolus", 0.0, 1.0, 0.4, 0.01, 24.0),
            Decision("feed_day_2", "bolus", 0.0, 1.0, 0.4, 0.01, 48.0),
            Decision("shift_time", "shift_time", 10.0, 60.0, 30.0, 1.0),
            Decision("shift_temperature", "shift_temperature", 30.0, 37.0, 33.0, 0.1),
            Decision("harvest", "harvest", 40.0, 72.0, 72.0, 1.0),
        ),
        start_volume_l=0.013,
        temperature_c=36.8,
        ph=7.0,
        end_h=72.0,
        node_step_h=24.0,
        sample_times_h=(24.0, 48.0),
        sample_volume_l=0.0003,
    )
    return Design(**kind | changes)


def test_decisions_become_the_schedule_they_say():
    d = design()
    grid, _ = to_grid(d.schedule(jnp.array([0.2, 0.6, 30.0, 33.0, 72.0])))
    n = int(grid.intervals)
    assert float(grid.t[n]) == 72.0
    assert float(grid.actions.bolus.sum()) == pytest.approx(0.8e-3)
    assert float(grid.actions.withdraw.sum()) == pytest.approx(0.6e-3)
    hours = {float(t): float(v) for t, v in zip(grid.t[:n], grid.actions.start.temperature[:n], strict=True)}
    assert hours[24.0] == 36.8
    assert hours[30.0] == 33.0


def test_a_process_depends_continuously_on_its_harvest():
    """A bolus whose day harvest cuts short is given in part: no jump as harvest passes a feed."""
    d = design()

    def fed(end: float) -> float:
        return float(to_grid(d.schedule(jnp.array([0.2, 0.6, 30.0, 33.0, end])))[0].actions.bolus.sum())

    assert fed(48.0 + 1e-6) == pytest.approx(fed(48.0 - 1e-6), abs=1e-9)
    assert fed(60.0) == pytest.approx(0.2e-3 + 0.3e-3)


def test_a_second_feed_is_named():
    for second in ("", "feed", "bse"):
        with pytest.raises(ConfigError, match=r"second_feed_id; '.*' is none of base"):
            design(feeds=("feed", "base"), second_feed=second, second_feed_ratio=0.2)


def test_an_exponential_feed_and_base_in_proportion():
    d = design(
        decisions=(
            Decision("feed_start", "feed_start", 1.0, 50.0, 10.0, 0.1),
            Decision("feed_exponent", "feed_exponent", 0.0, 0.2, 0.1, 0.001),
        ),
        end_h=10.0, node_step_h=0.25, sample_times_h=(), feeds=("feed", "base"),
        second_feed="base", second_feed_ratio=0.2,
    )  # fmt: skip
    grid, _ = to_grid(d.schedule(jnp.array([10.0, 0.1])))
    n = int(grid.intervals)
    given = np.sum(
        0.5 * np.asarray(grid.actions.rate_start + grid.actions.rate_end)[:n] * np.diff(np.asarray(grid.t))[:n, None],
        axis=0,
    )
    assert given[0] * 1000.0 == pytest.approx(10.0 * (np.e - 1.0) / 0.1, rel=1e-4)
    assert given[1] == pytest.approx(0.2 * given[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "bollus"}, "Did you mean 'bolus'"),
        ({"lower": 2.0}, "lower|bounds|between"),
        ({"platform": 9.0}, "platform"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused(change, words):
    good = dict(name="f", kind="bolus", lower=0.0, upper=1.0, platform=0.5, resolution=0.1, time_h=24.0)
    Decision(**good)
    with pytest.raises(ConfigError, match=words):
        Decision(**good | change)


def test_a_constraint_that_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match=r"constraints\.limits\.c\.kind: unknown 'most'.* Known: max, min"):
        Constraint(
            name="c", variable="lactate", kind="most", limit=1.0, unit="mmol/L", where="path", source="s", verified=True
        )
    with pytest.raises(ConfigError, match="gives the constraint no scale"):
        Constraint(
            name="c", variable="lactate", kind="max", limit=0.0, unit="mmol/L", where="path", source="s", verified=True
        )


LIMIT = {"variable": "lactate", "kind": "max", "where": "path", "source": "s", "verified": True}


@pytest.mark.parametrize(
    ("variable", "limit", "unit", "expected"),
    [
        ("lactate", 5.0, "g/L", (55.506, "mmol/L")),
        ("lactate", 55.0, "mmol/L", (55.0, "mmol/L")),
        ("volume", 0.015, "L", (15.0, "mL")),
        ("viability", 70.0, "%", (0.7, "-")),
        ("vcd", 80.0, "1e9 cells/L", (80.0, "1e9 cells/L")),
        ("titre_g_per_l", 4000.0, "mg/L", (4.0, "g/L")),
        ("cost_eur", 10.0, "EUR", (10.0, "EUR")),
        ("cogs_eur_per_g", 0.2, "EUR/mg", (200.0, "EUR/g")),
        ("harvest_h", 10.0, "d", (240.0, "h")),
    ],
)
def test_a_limit_is_converted_from_the_unit_it_is_written_in(variable, limit, unit, expected):
    where = "end" if "_" in variable else "path"
    written = Constraint(name="c", **LIMIT | {"variable": variable, "where": where, "limit": limit, "unit": unit})
    found = written.in_canonical_unit(PRODUCTS["titre"])
    assert (pytest.approx(found.limit, rel=1e-5), found.unit) == expected


@pytest.mark.parametrize(
    ("variable", "unit", "words"),
    [
        ("lactate", "furlongs", r"constraints\.limits\.c\.unit: .*furlongs.*mmol/L.*g/L"),
        ("lactate", "mol/l/h", r"constraints\.limits\.c\.unit: .*mol/l/h"),
        ("lactate", "mmolL", r"Did you mean 'mmol/L'"),
        ("volume", "g/L", r"constraints\.limits\.c\.unit: .*g/L.*'mL'"),
        ("cost_eur", "g", r"constraints\.limits\.c\.unit"),
    ],
)
def test_a_unit_that_a_limit_cannot_have_is_refused(variable, unit, words):
    where = "end" if "_" in variable else "path"
    written = Constraint(name="c", **LIMIT | {"variable": variable, "where": where, "limit": 5.0, "unit": unit})
    with pytest.raises(ConfigError, match=words):
        written.in_canonical_unit(PRODUCTS["titre"])


def test_the_unit_of_a_configured_limit_is_used():
    written = ["constraints.limits.lactate.limit=4.954", "constraints.limits.lactate.unit=g/L"]
    (limit,) = (c for c in build_process(compose(written), Screen.without_data()).constraints if c.name == "lactate")
    assert (round(limit.limit, 2), limit.unit) == (55.0, "mmol/L")


# --- the problem ---


def test_metrics_follow_from_the_simulation_and_the_bill(process_problem, published):
    problem = process_problem
    x = problem.design.platform[None]
    trace = problem.trace(x, published)
    m = dict(zip(problem.metrics, trace.metrics[0], strict=True))
    assert int(trace.status[0]) == 0
    titre = trace.observed[0, problem.observed.index("titre"), -1]
    assert m["titre_g_per_l"] == pytest.approx(titre)
    h = HarvestedBatch(*(jnp.asarray(v)[0] for v in trace.harvest))
    costs = problem.book.costs(jnp.asarray(problem.book.prices()), h)
    assert m["cost_eur"] == pytest.approx(float(costs.sum()))
    assert m["yield_per_cost_g_per_eur"] * m["cogs_eur_per_g"] == pytest.approx(1.0)
    # samples are the laboratory's: production harvests start volume plus feed, scaled
    fed_ml = 11 * 0.36
    assert m["harvest_volume_l"] == pytest.approx(2000.0 * (13.0 + fed_ml) / 13.0, rel=1e-6)


def test_derivatives_match_finite_differences(process_problem, published):
    tight = replace(process_problem, integrator=Integrator(rtol=1e-10, atol=1e-11))
    d = tight.design
    rng = np.random.default_rng(0)
    x = d.lower + (0.2 + 0.6 * rng.random(len(d.lower))) * (d.upper - d.lower)
    e, slope_of = tight.derivatives(x[None], published)
    g, j = slope_of.objective, slope_of.margins
    assert int(e.status[0]) == 0
    h = 1e-4 * (d.upper - d.lower)
    up = tight.evaluate(x[None] + np.diag(h), np.repeat(published, len(h), axis=0))
    down = tight.evaluate(x[None] - np.diag(h), np.repeat(published, len(h), axis=0))
    slope = (up.objective - down.objective) / (2.0 * h)
    assert np.allclose(g[0], slope, rtol=1e-3, atol=1e-5 * np.abs(g[0]).max())
    slopes = (up.margins - down.margins) / (2.0 * h)[:, None]
    assert np.allclose(j[0].T, slopes, rtol=5e-3, atol=1e-4 * np.abs(j[0]).max())


def test_values_beside_derivatives_are_the_values(process_problem, published):
    x = np.repeat(process_problem.design.platform[None], 3, axis=0)
    p = np.repeat(published, 3, axis=0)
    e, _ = process_problem.derivatives(x, p)
    f = process_problem.evaluate(x, p)
    assert np.allclose(e.objective, f.objective, rtol=1e-12)
    assert np.allclose(e.margins, f.margins, rtol=1e-10)


def test_a_process_that_fails_has_a_status_and_no_metric(process_problem, published):
    broken = replace(process_problem, integrator=Integrator(max_steps=4))
    e = broken.evaluate(process_problem.design.platform[None], published)
    assert int(e.status[0]) != 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective.maximise=yeild_per_cost", "Did you mean 'yield_per_cost'"),
        ("design.feed_id=feed_b", "Did you mean 'feed_a'"),
        ("design.medium_id=basal_b", "Did you mean 'basal_a'"),
        ("+design.feed_composition.glucos=400", r"'feed_a' cannot hold 'glucos'\. Did you mean 'glucose'"),
        ("+design.further_feeds.sugar={}", "has no medium 'sugar'"),
        ("+design.further_feeds.feed_a={}", "'feed_a' is the name of another feed"),
        ("design.second_feed_id=basal", "Did you mean 'basal_a'"),
        ("design.second_feed_ratio=0.1", "name the feed that flows with the first one in design.second_feed_id"),
        ("constraints.limits.lactate.variable=lactat", "Did you mean 'lactate'"),
        ("objective.maximise=product_per_biomass", "needs a model with biomass"),
        ("design.decisions.harvest.platform=[1,2]", "neither a number nor a list of 1 numbers"),
        ("design.decisions.harvest.platform=late", "'late' is no number"),
    ],
)
def test_a_process_config_that_makes_no_sense_is_refused(screen, override, words):
    with pytest.raises(ConfigError, match=words):
        build_process(compose([override]), Screen.from_dataset(screen))


def test_jax_derivatives_of_the_bill_need_no_rounding(book):
    h = batch(2000.0, 5.0, 14.0)
    slope = jax.grad(lambda t: jnp.sum(book.costs(jnp.asarray(book.prices()), h._replace(titre=t))))(h.titre)
    assert float(slope) > 0.0
