"""One vessel simulated from Python agrees with the commands, and says what it does not know."""

from __future__ import annotations

import numpy as np
import pytest

import optim
from optim import actions as do
from optim.app.build import build_process, compose
from optim.data.screened import Screen
from optim.errors import ConfigError
from optim.optimisation.evaluate import evaluate_process

START = do.Setpoint(0.0, temperature_c=36.8, ph=7.0)


@pytest.fixture(scope="module")
def model():
    return optim.load_model("cho_moller")


def test_the_actions_of_a_process_give_the_trajectory_of_the_process(model):
    cfg = compose(["model=cho_moller"])
    problem = build_process(cfg, Screen.without_data())
    values = model.parameters.natural_values()
    p = np.array([[values[name] for name in model.kinetics.Parameters._fields]])
    process = evaluate_process(problem, "platform", problem.design.platform, ensemble=p)
    run = optim.simulate(model, process.actions, times_h=process.trajectory.time_h)
    series = process.trajectory
    for name in ("vcd", "titre", "glucose", "volume"):
        expected = np.interp(run.time_h, series.time_h, series.p50[series.names.index(name)])
        at = np.isin(run.time_h, series.time_h)
        assert at.sum() > 10
        np.testing.assert_allclose(run[name][at], expected[at], rtol=1e-6, err_msg=name)


def test_inert_medium_dilutes_and_nothing_else(model):
    run = optim.simulate(
        model,
        [START, do.Bolus(10.0, "water", 10.0), do.Harvest(20.0)],
        initial={"Xv": 0.0, "Xt": 0.0, "Glc": 30.0, "Gln": 0.0},
        stocks={"water": {}},
        volume_ml=10.0,
        times_h=[0.0, 10.0, 10.5],
    )
    assert run.time_h.tolist() == [0.0, 10.0, 10.5, 20.0]
    np.testing.assert_allclose(run["Glc"], [30.0, 30.0, 15.0, 15.0], rtol=1e-12)
    np.testing.assert_allclose(run["volume"], [10.0, 10.0, 20.0, 20.0], rtol=1e-12)


def test_a_run_is_stored_and_read_again(model, tmp_path):
    run = optim.simulate(model, [START, do.Harvest(24.0)])
    assert len(run.time_h) == 201
    again = optim.load(optim.save(run, tmp_path / "run"))
    assert again.id == run.id
    np.testing.assert_array_equal(again["titre"], run["titre"])
    assert "titre [g/L]" in run.tables["trajectory"].columns
    with pytest.raises(KeyError, match="no 'titer' in this run"):
        run["titer"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial": {"Glucose": 1.0}}, r"initial: no species 'Glucose'.*Glc"),
        ({"parameters": {"mu_maxx": 1.0}}, r"parameters: no parameter 'mu_maxx'.*mu_max"),
        ({"parameters": {"mu_max": float("nan")}}, r"parameters: mu_max is nan"),
        ({"actions": [START, do.Bolus(1.0, "feed_z", 1.0), do.Harvest(2.0)]}, r"feed 'feed_z' has no stock.*feed_a"),
        ({"actions": [START, do.Bolus(1.0, "feed_a", 1.0)]}, r"this plan cannot be run\n.*[Hh]arvest"),
    ],
)
def test_what_is_not_known_is_refused_with_the_closest_name(model, changes, message):
    arguments = {"actions": [START, do.Harvest(24.0)]} | changes
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        optim.simulate(model, **arguments)
