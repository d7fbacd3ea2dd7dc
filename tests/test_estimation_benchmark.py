"""The estimation benchmark: the problem has its published values, and every program computes the same."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "experiments" / "benchmarks" / "estimation"
sys.path.append(str(FOLDER))

import screen as made  # noqa: E402
from programs import Fitted  # noqa: E402
from with_optim import Optim  # noqa: E402
from with_scipy import Scipy  # noqa: E402


@pytest.fixture(scope="module")
def problem() -> made.Screen:
    return made.screen()


def test_the_problem_has_its_published_costs(problem):
    program = Scipy(problem)
    assert program.cost(problem.theta_true) == pytest.approx(made.COST_AT_TRUTH, abs=2e-3)
    assert program.cost(problem.prior_mu) == pytest.approx(made.COST_AT_PRIOR, rel=1e-6)


@pytest.mark.skipif("OPTIM_BENCH" not in os.environ, reason="set OPTIM_BENCH to the folder of cho24.npz")
def test_the_arrays_are_the_given_ones(problem):
    given = np.load(Path(os.environ["OPTIM_BENCH"]) / "cho24.npz")
    for name in given.files:
        assert np.allclose(getattr(problem, name), given[name], rtol=1e-8, atol=1e-9), name


def test_optim_computes_the_same_cost_and_derivatives_and_finds_the_optimum(problem):
    ours, theirs = Optim(problem), Scipy(problem)
    for theta in (problem.theta_true, problem.prior_mu):
        assert ours.cost(theta) == pytest.approx(theirs.cost(theta), rel=2e-5)
    theta = problem.theta_true
    residuals = theirs.residuals(theta)
    gradient = theirs.derivatives(theta).T @ residuals
    assert np.allclose(ours.derivatives(theta), gradient, rtol=0.02, atol=2e-3 * np.abs(gradient).max())
    end = ours.fit(problem.prior_mu)
    assert end.cost == pytest.approx(made.OPTIMUM, abs=1e-3)
    assert theirs.cost(end.theta) == pytest.approx(made.OPTIMUM, abs=1e-2)


def test_far_starts_find_the_optimum(problem):
    ends = Optim(problem).fit_many(made.starts(problem, 5))
    assert [abs(end.cost - made.OPTIMUM) < made.CLOSE for end in ends] == [True] * 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "kind"),
    [("with_diffrax", "Diffrax"), ("with_diffrax", "DiffraxReverse"), ("with_roadrunner", "RoadRunner")],
)
def test_every_program_computes_the_same(problem, module, kind):
    if module == "with_roadrunner" and importlib.util.find_spec("roadrunner") is None:
        pytest.skip("libRoadRunner is not installed")
    peer: Fitted = getattr(importlib.import_module(module), kind)(problem)
    assert peer.cost(problem.theta_true) == pytest.approx(made.COST_AT_TRUTH, abs=0.02)
    exact = Scipy(problem)
    gradient = exact.derivatives(problem.theta_true).T @ exact.residuals(problem.theta_true)
    found = peer.derivatives(problem.theta_true)
    found = found if found.ndim == 1 else found.T @ peer.residuals(problem.theta_true)
    assert np.allclose(found, gradient, rtol=0.05, atol=5e-3 * np.abs(gradient).max())
