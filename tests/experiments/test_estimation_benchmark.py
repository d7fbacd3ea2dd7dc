"""The estimation benchmark: the problem has its published values, and every program computes the same."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"
sys.path += [str(FOLDER / "estimation"), str(FOLDER / "simulation")]

import measure  # noqa: E402
import programs  # noqa: E402
import screen as made  # noqa: E402
from programs import PROGRAMS, Fit, Fitted, Place  # noqa: E402
from with_optim import Optim  # noqa: E402
from with_scipy import Scipy  # noqa: E402


@pytest.fixture(scope="module")
def problem() -> made.Screen:
    return made.screen()


def test_the_problem_has_its_published_costs(problem):
    program, exact = Scipy(problem), Scipy(problem, rtol=1e-10, atol=1e-12)
    assert program.cost(problem.theta_true) == pytest.approx(made.COST_AT_TRUTH, abs=2e-3)
    assert program.cost(problem.prior_mu) == pytest.approx(made.COST_AT_PRIOR, rel=1e-6)
    # the published ones were found at rtol 1e-6
    assert exact.cost(problem.theta_true) == pytest.approx(made.COST_AT_TRUTH, abs=3e-4)
    assert exact.cost(problem.prior_mu) == pytest.approx(made.COST_AT_PRIOR, rel=2e-6)


@pytest.mark.skipif("OPTIM_BENCH" not in os.environ, reason="set OPTIM_BENCH to the folder of cho24.npz")
def test_the_arrays_are_the_given_ones(problem):
    given = np.load(Path(os.environ["OPTIM_BENCH"]) / "cho24.npz")
    for name in given.files:
        assert np.allclose(getattr(problem, name), given[name], rtol=1e-8, atol=1e-9), name


def test_screens_of_other_sizes_begin_with_the_same_clones(problem):
    small = made.screen(3)
    assert small.data.shape == (3, 15, 7)
    assert np.array_equal(small.theta_true, problem.theta_true[:22])
    assert set(small.vf) <= {0.03, 0.045, 0.06}


def test_starts_are_the_centre_and_draws_within_bounds(problem):
    first, *others = made.starts(problem, 20)
    assert np.array_equal(first, problem.prior_mu)
    assert len(others) == 19
    away = (np.array(others) - problem.prior_mu) / problem.prior_sd
    assert np.abs(away * problem.prior_sd).max() <= 0.95 * made.BOUND + 1e-12
    assert abs(away.std() - 1.0) < 0.05


@pytest.mark.slow
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


@pytest.mark.slow
def test_far_starts_find_the_optimum(problem):
    ends = Optim(problem).fit_many(made.starts(problem, 5))
    assert [abs(end.cost - made.OPTIMUM) < made.CLOSE for end in ends] == [True] * 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in PROGRAMS if kind not in ("Optim", "Scipy")])
def test_every_program_computes_the_same(problem, kind):
    if any(importlib.util.find_spec(package) is None for package in PROGRAMS[kind].needs):
        pytest.skip(f"{', '.join(PROGRAMS[kind].needs)} not installed")
    peer: Fitted = programs.load((kind,), problem)[0]
    assert peer.cost(problem.theta_true) == pytest.approx(made.COST_AT_TRUTH, abs=0.02)
    exact = Scipy(problem)
    gradient = exact.derivatives(problem.theta_true).T @ exact.residuals(problem.theta_true)
    found = peer.derivatives(problem.theta_true)
    found = found if found.ndim == 1 else found.T @ peer.residuals(problem.theta_true)
    assert np.allclose(found, gradient, rtol=0.05, atol=5e-3 * np.abs(gradient).max())


def test_what_is_not_installed_is_left_out(problem, monkeypatch, capsys):
    monkeypatch.setitem(PROGRAMS, "Missing", Place("with_missing", ("no_such_package",)))
    assert programs.load(("Missing",), problem) == []
    assert "no_such_package not installed" in capsys.readouterr().err


def test_ends_are_judged_by_themselves_not_by_what_a_program_says_of_them(problem):
    """A program that stops at the start and calls it the optimum, and one that gives up."""

    def gives_up():
        raise RuntimeError("too many steps\nand more")

    liar = measure._fitted("liar", lambda: [Fit(problem.prior_mu, made.OPTIMUM, 1)])
    lost = measure._fitted("lost", gives_up)
    for peer in (liar, lost):
        peer.answer = peer.run()
    (above,) = measure._above(problem, liar)
    assert above == pytest.approx(made.COST_AT_PRIOR - made.OPTIMUM, rel=1e-5)
    assert measure._above(problem, lost) == []
    assert lost.answer.failed == "too many steps"


def test_rows_count_what_was_found_and_say_why_not(problem, monkeypatch):
    def program(name, call):
        return SimpleNamespace(name=name, fit_many=call)

    def gives_up(at):
        if len(at) > 1:
            raise RuntimeError("too many steps")

    stays = program("optim", lambda at: [Fit(theta, 0.0, 2) for theta in at])
    monkeypatch.setattr(measure, "load", lambda kinds, s: [stays, program("lost", gives_up)])
    best, at_truth = problem.prior_mu, problem.theta_true
    monkeypatch.setattr(measure, "OPTIMUM", Scipy(problem, 1e-10, 1e-12).cost(at_truth))
    rows = measure._searches([best, at_truth], problem, False, 2)
    assert [(row["program"], row["found"], row["note"]) for row in rows] == [
        ("optim", 1, ""),
        ("lost", 0, "too many steps"),
    ]
    assert rows[0]["x optim"] == 1.0
    assert rows[1]["fit s"] is None
