"""Optimal control: exact derivatives, optima with known answers, published problems, limits, infeasible problems."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from support.models import Inert, Monod, Undefined
from support.quadratic import Toy, members

from optim.errors import ConfigError, InfeasibleError
from optim.optimal_control.interior_point import solve_interior_point
from optim.optimal_control.problem import ControlLimit, ControlProblem, ControlProfile
from optim.optimal_control.second_order import RADAU, _inverse
from optim.optimisation.control_profiles import (
    ControlProgram,
    InteriorPoint,
    optimise_profiles,
)
from optim.optimisation.control_starts import (
    coarsen_problem,
    neighbouring_starts,
    random_starts,
    resample_decisions,
)
from optim.optimisation.process_program import ProcessProgram
from optim.optimisation.solve import SequentialQuadratic, best_solution, solve
from optim.process.lanes import Lanes
from optim.settings.optimisation import OptimiseSettings
from optim.simulation.engine.march import Integrator

FOLDER = ROOT / "experiments" / "benchmarks" / "optimal_control"


def part(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


CASES = part("problems").CASES
resimulated = part("resimulate").resimulated

VOLUME = ControlLimit("volume", lambda c, v: v, "max", 2.0, "end")
SUBSTRATE = ControlLimit("substrate", lambda c, v: c.S, "max", 0.4)


def problem(model=None, **change) -> ControlProblem:
    """A litre of cells on S, fed with 10 g/L of it; everything may vary."""
    given = dict(
        model=model or Monod(),
        parameters=np.array([0.3, 0.2]),
        initial=np.array([0.1, 0.2]),
        volume_l=1.0,
        composition=np.array([[0.0, 10.0]]),
        profiles=(ControlProfile("feed", 0.0, 0.2),),
        intervals=6,
        hours=(8.0, 16.0),
        value=lambda end: end.state.X * end.volume - 0.3 * end.fed[0] - 0.01 * end.hours,
        limits=(SUBSTRATE, VOLUME),
        integrator=Integrator(rtol=1e-9, atol=1e-10),
    )
    return ControlProblem(**given | change)


HEATED = (ControlProfile("feed", 0.0, 0.2), ControlProfile("temperature", 30.0, 40.0, None))


@pytest.mark.parametrize(
    "p",
    [problem(), problem(profiles=HEATED), problem(hours=(12.0, 12.0), limits=())],
    ids=["free end", "heated", "fixed"],
)
def test_derivatives_match_finite_differences(p):
    rng = np.random.default_rng(1)
    w, direction, step = rng.uniform(0.2, 0.8, (3, p.decision_count)), rng.normal(size=p.decision_count), 1e-5
    weights = rng.normal(size=p.simulate_decisions(w).margins.shape)

    def lagrangian(w):
        run = p.simulate_decisions(w)
        slopes = p.first_derivatives(w, run.paths)
        value = run.value + (weights * run.margins).sum(axis=1)
        slope = slopes.value + np.einsum("lr,lrd->ld", weights, slopes.margins)
        return value, slope, p.second_derivatives(w, run.paths, first=slopes, weights=weights)

    up, down, here = lagrangian(w + step * direction), lagrangian(w - step * direction), lagrangian(w)
    assert np.allclose((up[0] - down[0]) / (2 * step), here[1] @ direction, rtol=1e-4, atol=1e-5)
    bent = here[2] @ direction
    assert np.allclose((up[1] - down[1]) / (2 * step), bent, rtol=2e-3, atol=2e-3 * np.abs(bent).max())


def test_small_matrices_are_inverted_as_lapack_does():
    """Of stage equations: decays up to 1e8 times faster than the step, and growth by a factor of three."""
    rng = np.random.default_rng(3)
    n, rows = 5, 64
    rates = -(10.0 ** rng.uniform(-3.0, 8.0, (rows, n)))
    rates[:, 0] = 1.0
    mixed = 0.3 * rng.normal(size=(rows, n, n)) * np.minimum(np.abs(rates), 1.0)[:, None]
    jacobian = np.einsum("rn,nm->rnm", rates, np.eye(n)) + mixed
    m = np.eye(3 * n) - np.einsum("ij,rab->riajb", RADAU, jacobian).reshape(rows, 3 * n, 3 * n)
    found = np.moveaxis(np.asarray(_inverse(jnp.asarray(np.moveaxis(m, 0, -1)))), -1, 0)
    assert np.allclose(found, np.linalg.inv(m), rtol=1e-7, atol=1e-10)


def test_a_lane_does_not_depend_on_those_beside_it():
    p = problem()
    w = np.random.default_rng(0).uniform(0.1, 0.9, (11, p.decision_count))
    many, one = p.simulate_decisions(w), p.simulate_decisions(w[7:8])
    assert np.array_equal(many.value[7:8], one.value)
    assert np.array_equal(many.paths[7].y, one.paths[0].y)


def test_what_must_be_fed_is_fed_and_no_more():
    # nothing reacts: 10 g/L times what fits into the vessel, however it is spread
    p = problem(Inert(), value=lambda end: end.state.S * end.volume, limits=(VOLUME,), hours=(16.0, 16.0))
    found = optimise_profiles(p, OptimiseSettings(4))
    assert found.value == pytest.approx(0.2 + 10.0, rel=1e-5)
    assert found.binding == ("volume",)
    assert all(s.success for s in found.starts)


def test_cells_are_kept_at_the_temperature_that_they_like():
    p = problem(profiles=HEATED, limits=(VOLUME,), hours=(12.0, 12.0), value=lambda end: end.state.X * end.volume)
    found = optimise_profiles(p, OptimiseSettings(4))
    assert found.controls[:, 1] == pytest.approx(37.0, abs=0.05)
    assert len(found.distinct_optima) == 1


def test_a_limit_holds_between_the_nodes_too():
    # fed hard over few intervals, S peaks within them: a limit at their ends alone would be broken
    p = problem(intervals=3, hours=(15.0, 15.0), limits=(SUBSTRATE, VOLUME), value=lambda end: end.state.X * end.volume)
    loose = solve_interior_point(p, np.full((1, p.decision_count), 0.3), OptimiseSettings(), scale=1.0)
    assert p.margins_along_path(loose.w[0], loose.paths[0]).min() < -1e-4
    found = optimise_profiles(p, OptimiseSettings(3))
    assert found.violation <= 1e-6
    fine = replace(p, parts=200)
    nodes = fine.simulate_decisions(fine.encode_decisions(found.controls[None], np.array([found.hours]))).margins
    assert -2e-6 <= nodes.min() < 1e-4
    assert "substrate" in found.binding


def test_what_cannot_be_met_is_named():
    needed = ControlLimit("biomass", lambda c, v: c.X, "min", 50.0, "end")
    with pytest.raises(InfeasibleError, match=r"biomass \(min 50, violated by"):
        optimise_profiles(problem(limits=(VOLUME, needed)), OptimiseSettings(3))


def test_bad_problems_are_refused():
    for change, words in (
        ({"profiles": (ControlProfile("feed", 0.0, 0.2, 1),)}, "there is no feed 1"),
        ({"profiles": (ControlProfile("a", 0.0, 0.2), ControlProfile("b", 0.0, 0.1))}, "two profiles"),
        ({"hours": (10.0, 5.0)}, "in order"),
        ({"intervals": 0}, "nothing to optimise"),
        ({"initial": np.array([0.1])}, r"initial: expected 2 values in a row \(X, S\), not shape \(1,\)"),
        ({"composition": np.array([10.0])}, "composition: expected 2 values"),
        ({"parameters": np.zeros(3)}, r"parameters: expected 2 values in a row \(k, Ks\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            problem(**change)
    with pytest.raises(ConfigError, match="cannot flow backward"):
        ControlProfile("feed", -0.1, 0.1)


def test_a_start_of_the_wrong_size_is_refused():
    with pytest.raises(ConfigError, match="expected 7 scaled decisions per start"):
        optimise_profiles(problem(), OptimiseSettings(1), first=np.zeros(6))


def test_both_methods_find_the_same_optimum_by_one_face():
    p = problem(limits=(VOLUME,), hours=(12.0, 12.0))
    program, options = ControlProgram(p), OptimiseSettings(max_iterations=200)
    starts = program.unscaled(random_starts(p, 3, 1))
    exact = solve(program, starts, options)
    first = solve(program, starts, options, method=SequentialQuadratic())
    assert all(s.success for s in (*exact, *first))
    assert best_solution(first).objective == pytest.approx(best_solution(exact).objective, rel=1e-5)
    assert all(np.all((s.x >= program.lower) & (s.x <= program.upper)) for s in (*exact, *first))


def test_a_process_has_no_second_derivatives():
    with pytest.raises(ConfigError, match="a ProcessProgram does not have; use SequentialQuadratic"):
        solve(
            ProcessProgram(Toy(), Lanes(members([3.0]))), np.zeros((1, 2)), OptimiseSettings(), method=InteriorPoint()
        )


def test_what_did_not_converge_says_so():
    p = problem(limits=(VOLUME,))
    found = optimise_profiles(p, OptimiseSettings(2, max_iterations=2))
    assert not found.success
    assert found.message == "iterations used up"
    assert not found.distinct_optima
    assert optimise_profiles(p, OptimiseSettings(2)).success


def test_what_cannot_be_simulated_is_no_number():
    p = problem(Undefined())
    with np.errstate(all="ignore"), pytest.raises(InfeasibleError, match="no start could be simulated"):
        optimise_profiles(p, OptimiseSettings(2))
    run = p.simulate_decisions(np.full((1, p.decision_count), 0.5))
    assert np.isnan(run.value[0])
    assert run.status[0] != 0


def test_a_finer_grid_keeps_what_a_coarse_one_feeds():
    p = problem(intervals=60)
    rough = coarsen_problem(p)
    assert rough.intervals == 30
    w = random_starts(rough, 3, 0)
    there = resample_decisions(rough, p, w)
    assert np.allclose(resample_decisions(p, rough, there), w)
    assert np.allclose(p.simulate_decisions(there).value, rough.simulate_decisions(w).value, rtol=1e-6)
    odd = replace(p, intervals=37)
    assert np.allclose(
        odd.decode_decisions(resample_decisions(rough, odd, w))[0].mean(axis=1),
        rough.decode_decisions(w)[0].mean(axis=1),
    )


@pytest.mark.parametrize("name", ["park_ramirez", pytest.param("lee_ramirez_q5", marks=pytest.mark.slow)])
def test_published_problems_are_solved_from_the_naive_feed(name):
    case = CASES[name]
    p = case.problem(20)
    naive = p.encode_decisions(np.tile(case.naive, (1, 20, 1)), np.full(1, np.mean(p.hours)))
    found = optimise_profiles(p, OptimiseSettings(), first=naive, random=False)
    value, violation = resimulated(name, found.controls, found.hours)
    assert found.value == pytest.approx(value, rel=1e-6)
    assert violation <= 1e-6
    assert value > case.peer[20] * (1 - 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_random_starts_find_the_published_optimum_and_keep_its_limits(name):
    found = optimise_profiles(CASES[name].problem(20), OptimiseSettings(8))
    value, violation = resimulated(name, found.controls, found.hours)
    assert found.value == pytest.approx(value, rel=1e-5)
    assert violation <= 1e-6
    assert value > CASES[name].peer[20] * (1 - 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["penicillin_126h", "ethanol_free", "an optimum at a hundredth of the pump's range"])
def test_four_of_five_starts_reach_the_best_optimum(name):
    case = CASES.get(name, CASES["penicillin_free"])
    if name not in CASES:
        less = ControlLimit("biomass", lambda c, v: c.X, "max", 20.0)
        case = replace(case, upper=(2.0,), limits=(less, *(x for x in case.limits if x.name != "biomass")))
    found = optimise_profiles(case.problem(20), OptimiseSettings(16, max_iterations=100), seed=1)
    assert found.starts_at_best >= 0.8 * 16, found.summary()


def test_starts_beside_an_optimum_are_its_profiles_sooner_later_and_smoothed():
    p = problem(profiles=HEATED)
    w = np.linspace(0.0, 1.0, p.decision_count)[None]
    feed = w[:, :-1].reshape(6, 2)[:, 0]
    sooner, later, smooth = (n[0, :-1].reshape(6, 2)[:, 0] for n in neighbouring_starts(p, w))
    assert sooner.tolist() == [*feed[1:], feed[-1]]
    assert later.tolist() == [feed[0], *feed[:-1]]
    assert np.allclose(smooth[1:-1], feed[1:-1])  # of a straight line
    assert np.all(neighbouring_starts(p, w)[:, 0, -1] == w[0, -1])  # the duration stays


def test_levels_of_random_starts_cover_the_range_and_the_decades_below_it():
    p = problem()
    level = random_starts(p, 40, 0)[:, :6].max(axis=1)
    assert (level[::2] < 0.05).sum() <= 2
    assert (level[1::2] < 0.1).sum() >= 10
    assert (level[1::2] < 0.01).sum() >= 4


def test_a_limit_of_zero_is_kept():
    """A balance that must not fall below 0: the yield on what is fed."""
    balance = ControlLimit("balance", lambda c, v: c.X * v - 0.45, "min", 0.0, "end")
    free = optimise_profiles(problem(limits=(VOLUME,), value=lambda end: -end.fed[0]), OptimiseSettings(3))
    held = optimise_profiles(problem(limits=(VOLUME, balance), value=lambda end: -end.fed[0]), OptimiseSettings(3))
    assert free.value > held.value + 1e-3
    assert held.binding == ("balance",)
    assert held.violation <= 1e-6


def test_a_summary_says_how_many_starts_reached_which_optimum():
    found = optimise_profiles(problem(limits=(VOLUME,)), OptimiseSettings(4))
    assert found.summary() == f"4 of 4 starts reached the best of {len(found.distinct_optima)} distinct optima"


def test_equal_seeds_give_equal_numbers_and_every_start_is_reported():
    p = problem()
    a, b = (optimise_profiles(p, OptimiseSettings(5), seed=3) for _ in range(2))
    assert np.array_equal(a.controls, b.controls)
    assert [s.start for s in a.starts] == list(range(5))
    assert all(a.joined[lead] == lead for lead in a.joined)
    assert [s.objective for s in a.starts] == [a.starts[lead].objective for lead in a.joined]
    assert a.value >= max(s.objective for s in a.starts if s.success) - 1e-12
