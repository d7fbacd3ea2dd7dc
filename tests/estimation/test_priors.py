"""Priors against SciPy's densities, ties and ratios, and the levels a parameter may have."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from optim.errors import ConfigError
from optim.parameters import ParameterSpec, ParameterTable, parameter_table
from optim.settings.model import ParameterSettings

GOOD = {
    "name": "k", "value": 1.5, "unit": "1/h", "level": "shared", "scale": "log", "lower": 0.1, "upper": 4.0,
    "prior_sd": 0.6, "spread": None, "source": "somewhere", "verified": True,
}  # fmt: skip


def density(spec: ParameterSpec):
    """The logarithm of the prior on the natural scale, from SciPy."""
    if spec.prior_family == "lognormal":
        return lambda x: stats.lognorm.logpdf(x, spec.prior_sd, scale=spec.value)
    if spec.prior_family == "normal":
        return lambda x: stats.norm.logpdf(x, spec.value, spec.prior_sd)
    if spec.prior_family == "half_normal":
        return lambda x: stats.halfnorm.logpdf(x, scale=spec.prior_sd)
    return lambda x: np.zeros_like(x)


@pytest.mark.parametrize("scale", ["log", "logit", "identity"])
@pytest.mark.parametrize("prior", ["normal", "lognormal", "half_normal", "uniform"])
def test_the_prior_is_the_density_over_the_fitted_scale(scale, prior):
    spec = ParameterSpec(**GOOD | {"scale": scale, "prior": prior, "prior_sd": None if prior == "uniform" else 0.6})
    u = np.array([spec.to_fitted(x) for x in np.linspace(0.3, 3.5, 9)])
    cost, slope, bend = spec.prior_score(u)
    x = spec.to_natural(u)
    change = (spec.to_natural(u + 1e-6) - spec.to_natural(u - 1e-6)) / 2e-6
    expected = -(density(spec)(x) + np.log(change))
    assert np.allclose(cost - cost[0], expected - expected[0], atol=1e-7)  # up to a constant
    assert np.allclose(change, spec.scale_slope(u), rtol=1e-6)
    numeric = (spec.prior_score(u + 1e-5)[0] - spec.prior_score(u - 1e-5)[0]) / 2e-5
    assert np.allclose(slope, numeric, atol=1e-6)
    assert np.all(bend >= 0.0)


def test_without_a_family_the_prior_is_normal_where_the_search_moves():
    for scale in ("log", "logit", "identity"):
        spec = ParameterSpec(**GOOD | {"scale": scale})
        u = np.linspace(-0.5, 0.9, 5) if scale != "identity" else np.linspace(0.2, 3.0, 5)
        cost, slope, bend = spec.prior_score(u)
        z = (u - spec.to_fitted(1.5)) / 0.6
        assert np.allclose(cost, 0.5 * z**2)
        assert np.allclose(slope, z / 0.6)
        assert np.allclose(bend, 1.0 / 0.36)
    flat = ParameterSpec(**GOOD | {"prior_sd": None})
    assert all(np.all(part == 0.0) for part in flat.prior_score(np.array([0.1, 0.5])))


def test_a_parameter_may_be_a_multiple_of_another():
    rows = (
        ParameterSpec(**GOOD),
        ParameterSpec(**GOOD | {"name": "tied", "value": 1.0, "level": "fixed", "times": "k"}),
        ParameterSpec(**GOOD | {"name": "ratio", "value": 0.4, "times": "k"}),
    )
    assert ParameterTable(rows).natural_values() == pytest.approx({"k": 1.5, "tied": 1.5, "ratio": 0.6})
    with pytest.raises(ConfigError, match="no parameter 'kk'"):
        ParameterTable((rows[0], ParameterSpec(**GOOD | {"name": "b", "times": "kk"})))
    with pytest.raises(ConfigError, match="itself a multiple"):
        ParameterTable((*rows, ParameterSpec(**GOOD | {"name": "b", "times": "ratio"})))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prior": "gamma"}, "not one of"),
        ({"prior": "half_normal", "prior_sd": None}, "needs its standard deviation"),
        ({"prior": "uniform"}, "a uniform prior has none"),
        ({"prior": "lognormal", "scale": "identity", "lower": -1.0}, "must not be negative"),
        ({"level": "batch", "prior_sd": None}, "needs a prior"),
    ],
)
def test_a_prior_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        ParameterSpec(**GOOD | change)


def test_what_an_assay_reads_is_a_matter_of_vessels_and_batches():
    row = ParameterSettings(**{key: value for key, value in GOOD.items() if key != "name"})
    factor = replace(row, level="batch", value=1.0)
    table = parameter_table({"k": row, "scale_titre": factor, "offset_viability": factor}, ("k",))
    assert [r.name for r in table.of_level("batch")] == ["scale_titre", "offset_viability"]
    with pytest.raises(ConfigError, match="level must be vessel, batch or fixed"):
        parameter_table({"k": row, "scale_titre": row}, ("k",))
    with pytest.raises(ConfigError, match="no such parameter"):
        parameter_table({"k": row, "scale_titer": factor}, ("k",))


def test_the_width_of_a_prior_where_the_search_moves():
    spec = ParameterSpec(**GOOD | {"prior": "normal"})
    assert spec.prior_sd_fitted() == pytest.approx(0.6 / 1.5)
    assert ParameterSpec(**GOOD).prior_sd_fitted() == 0.6
    assert math.isclose(ParameterSpec(**GOOD | {"scale": "identity", "prior": "lognormal"}).prior_sd_fitted(), 0.9)
