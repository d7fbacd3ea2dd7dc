"""Penicillin by Bajpai and Reuss: the benchmark's check value, conservation, and derivatives by the feed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from optim.app.build import build_process, compose, configured_kinetics
from optim.data.screened import Screen
from optim.simulation.engine.march import Integrator

NAME = "penicillin_bajpai_reuss"


@pytest.fixture(scope="module")
def problem():
    exact = Integrator(rtol=1e-9, atol=1e-11)
    return replace(build_process(compose([f"model={NAME}"]), Screen.without_data()), integrator=exact)


@pytest.fixture(scope="module")
def published():
    return np.array([configured_kinetics(NAME)[1]])


def test_the_constant_feed_of_the_benchmark_makes_78_grams(problem, published):
    # 12 g of substrate an hour for 120 h; the value is that of the equations integrated by LSODA to 1e-7
    trace = problem.trace(problem.design.platform[None], published)
    assert int(trace.status[0]) == 0
    end = dict(zip(problem.observed, trace.observed[0, :, -1], strict=True))
    assert trace.volume[0, -1] == pytest.approx(9.88, rel=1e-9)
    assert end["product"] * trace.volume[0, -1] == pytest.approx(78.21, abs=5e-3)
    metrics = dict(zip(problem.metrics, trace.metrics[0], strict=True))
    assert metrics["released_g"] == pytest.approx(78.21, abs=5e-3)
    assert np.isnan(metrics["cost_eur"])  # nothing is priced
    assert trace.observed.min() >= 0.0


def test_less_feed_makes_what_the_benchmark_says(problem, published):
    x = problem.design.platform.copy()
    x[:-1] = 22.0  # 11 g/h
    trace = problem.trace(x[None], published)
    product = trace.observed[0, problem.observed.index("product"), -1] * trace.volume[0, -1]
    assert product == pytest.approx(72.19, abs=5e-3)


def test_substrate_is_conserved_where_nothing_is_burnt_or_hydrolysed(problem, published):
    names = list(problem.model.Parameters._fields)
    p = published.copy()
    p[0, [names.index("k_h"), names.index("m_s")]] = 0.0
    trace = problem.trace(problem.design.platform[None], p)
    v, amount = trace.volume[0], dict(zip(problem.observed, trace.observed[0], strict=True))
    grams = 0.180156 * amount["glucose"]
    bound = amount["biomass"] / p[0, names.index("Y_xs")] + amount["product"] / p[0, names.index("Y_ps")]
    fed = 500.0 * (v - 7.0) * (2775.4 * 0.180156 / 500.0)
    assert v * (grams + bound) - 7.0 * 1.5 / p[0, names.index("Y_xs")] == pytest.approx(fed, rel=1e-7, abs=1e-6)


def test_derivatives_by_feed_and_harvest_match_finite_differences(problem, published):
    x, h = problem.design.platform[None], 1e-3
    e, slopes = problem.derivatives(x, published)
    assert not e.status.any()
    moved = x + h * np.concatenate([np.eye(x.shape[1]), -np.eye(x.shape[1])])
    around = problem.evaluate(moved, np.tile(published, (len(moved), 1))).objective
    n = x.shape[1]
    assert slopes.objective[0] == pytest.approx((around[:n] - around[n:]) / (2.0 * h), rel=1e-4, abs=1e-8)
