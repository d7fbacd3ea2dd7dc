"""Metrics and products: names and units that follow from the product, directions, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from optim.errors import ConfigError
from optim.process.cost import DRIVERS
from optim.process.metrics import (
    METRICS,
    MIX,
    OBJECTIVES,
    PRODUCTS,
    PROFIT,
    FinishedBatch,
    batch_metrics,
    compute_metrics,
    find_metric,
    find_product,
    is_metric,
    name_of_metric,
    readable_name,
)
from optim.process.objective import Market, Objective

IN_GRAMS = {
    "yield_per_cost_g_per_eur": "g/EUR",
    "cogs_eur_per_g": "EUR/g",
    "released_g": "g per batch",
    "cost_eur": "EUR per batch",
    "titre_g_per_l": "g/L",
    "space_time_yield_g_per_l_d": "g/L/d",
    "productivity_g_per_d": "g per day of the suite",
    "harvest_h": "h",
    "harvest_volume_l": "L per batch",
    "product_per_biomass_g_per_g": "g/g",
    "viability_at_harvest": "-",
}
# amount per litre that one canonical unit of the variable is
AMOUNTS = {"titre": 1.0, "vector_genomes": 1e12, "vcd": 1e9, "rna": 1e-6, "activity": 1e3}


def test_metrics_of_a_product_in_grams_have_the_names_that_results_have():
    assert {m.name: m.unit for m in batch_metrics(PRODUCTS["titre"]).values()} == IN_GRAMS


def test_names_and_units_follow_from_the_unit_of_the_product():
    names = batch_metrics(PRODUCTS["vector_genomes"])
    assert names["yield_per_cost_vg_per_eur"].unit == "vg/EUR"
    assert names["cogs_eur_per_vg"].unit == "EUR/vg"
    assert Objective("space_time_yield", product=PRODUCTS["activity"]).target.name == "space_time_yield_u_per_l_d"
    assert Objective("titre", product=PRODUCTS["activity"]).target.unit == "U/L"
    assert all("{" not in m.name + m.unit for p in PRODUCTS.values() for m in batch_metrics(p).values())


@pytest.mark.parametrize("name", AMOUNTS)
def test_an_amount_is_counted_in_the_unit_of_the_product(name):
    assert PRODUCTS[name].per_canonical == pytest.approx(AMOUNTS[name], rel=1e-15)


def test_every_metric_has_one_title_whatever_the_product():
    assert readable_name("yield_per_cost_vg_per_eur") == readable_name("yield_per_cost_g_per_eur") == "yield per cost"
    assert readable_name("cogs_eur_per_cells") == "cost of goods"
    assert readable_name("profit_eur_per_year") == "profit"
    assert readable_name("vessel_volume") == "vessel volume"  # no metric: its words
    assert len({m.title for m in METRICS}) == len({m.key for m in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", [*METRICS, PROFIT, MIX], ids=lambda m: m.key)
def test_a_solver_maximises_what_is_better(metric):
    low, high = 2.0, 3.0
    worse, better = (high, low) if metric.less_is_better else (low, high)
    scale = 7.0 if metric.signed else 1.0
    assert metric.to_solver(better, scale) > metric.to_solver(worse, scale)
    assert metric.from_solver(metric.to_solver(low, scale), scale) == pytest.approx(low, rel=1e-14)
    assert metric.relative_gain(better, worse) > 0.0 > metric.relative_gain(worse, better)


def test_profit_may_be_negative():
    assert PROFIT.to_solver(-5.0, 10.0) == -0.5
    assert PROFIT.relative_gain(-50.0, -100.0) == pytest.approx(0.5)


def test_a_metric_that_needs_what_the_model_does_not_predict_is_not_a_number():
    batch = FinishedBatch(8.0, 4.0, 2.0, 5.0, 24.0, 2.0, 0.9, {"biomass": 4.0})
    names = batch_metrics(PRODUCTS["product"])
    full = dict(zip(names, np.asarray(compute_metrics(batch, PRODUCTS["product"])), strict=True))
    assert full["yield_per_cost_g_per_eur"] == 2.0
    assert full["space_time_yield_g_per_l_d"] == pytest.approx(8.0 / (5.0 * 2.0))
    assert full["product_per_biomass_g_per_g"] == 0.5
    bare = np.asarray(compute_metrics(batch._replace(observed={}), PRODUCTS["product"]))
    assert [name for name, v in zip(names, bare, strict=True) if np.isnan(v)] == ["product_per_biomass_g_per_g"]


def test_a_metric_is_found_by_its_name_or_the_nearest_is_named():
    assert find_metric("released_mol").key == "released"
    assert is_metric("titre_vg_per_l")
    assert not is_metric("volume")
    assert name_of_metric("released", ["harvest_h", "released_cells"]) == "released_cells"
    assert name_of_metric("released", ["harvest_h", "volume"]) == ""
    with pytest.raises(ConfigError, match="Did you mean 'titre_g_per_l'"):
        find_metric("titer_g_per_l")
    with pytest.raises(ConfigError, match=r"'glucose' measures no product.*PRODUCTS"):
        find_product("glucose")


def test_the_table_marks_what_may_be_maximised():
    assert set(OBJECTIVES) == {
        "yield_per_cost", "cogs", "released", "titre", "space_time_yield", "productivity", "product_per_biomass",
        "culture_time", "profit",
    }  # fmt: skip


def test_a_market_in_grams_sells_no_vectors():
    market = Market(
        price_eur_per_g=400.0,
        demand_g_per_year=1e4,
        suite_days_per_year=330.0,
        turnaround_h=48.0,
        source="made",
        verified=False,
    )
    with pytest.raises(ConfigError, match=r"objective\.market: .*counted in vg"):
        Objective("profit", market=market, product=PRODUCTS["vector_genomes"])


def test_a_price_per_gram_of_product_is_refused_for_another_product(process_problem):
    assert DRIVERS["captured_vg"] == "vg"
    process_problem.book.check_product(PRODUCTS["product"])
    with pytest.raises(ConfigError, match=r"cost\.items\..*'captured_g' counts a product in g"):
        process_problem.book.check_product(PRODUCTS["vector_genomes"])
