"""The optimiser: known optima, constraints, ranking, and what it says when nothing is feasible."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from optim.app.build import build_process, compose
from optim.artefact import Lineage
from optim.data.screened import Screen
from optim.errors import InfeasibleError, SimulationError
from optim.optimisation.evaluate import evaluate_process
from optim.optimisation.optimise import optimise_process
from optim.optimisation.process_program import ProcessProgram, start_points
from optim.optimisation.rank import _price_flips, rank_clones
from optim.optimisation.solve import best_solution, kkt_residual, solve
from optim.optimisation.study import Study
from optim.process.design import Decision
from optim.process.lanes import Lanes
from optim.process.metrics import relative_change
from optim.process.objective import Objective
from optim.process.problem import Constraint, Evaluation, Slopes
from optim.report.ranking import ranking_metrics
from optim.settings.optimisation import OptimiseSettings
from optim.simulation.engine.march import Integrator

FEW = OptimiseSettings(starts=3, rank_starts=1, max_iterations=40, tolerance=1e-7)


@dataclass
class _Box:
    decisions: tuple
    lower: np.ndarray
    upper: np.ndarray
    platform: np.ndarray


class Known:
    """maximise -((x-3)^2 + (y-1)^2) subject to x + y <= 2: the optimum is (2, 0), and bounds may cut it."""

    def __init__(self, lower=(-5.0, -5.0), upper=(5.0, 5.0), bad=False):
        rows = tuple(Decision(n, "bolus", a, b, 0.0, 0.0) for n, a, b in zip("xy", lower, upper, strict=True))
        self.design = _Box(rows, np.array(lower), np.array(upper), np.zeros(2))
        self.bad = bad

    def derivatives(self, x, lanes):
        f = -((x[:, 0] - 3.0) ** 2) - (x[:, 1] - 1.0) ** 2
        g = np.stack([-2.0 * (x[:, 0] - 3.0), -2.0 * (x[:, 1] - 1.0)], axis=1)
        margins = (2.0 - x.sum(axis=1))[:, None]
        status = (x[:, 0] > 4.0).astype(int) if self.bad else np.zeros(len(x), int)
        f = np.where(status == 0, f, np.nan)
        slopes = Slopes(g, -np.ones((len(x), 1, 2)), np.zeros((len(x), 1, 2)))
        return Evaluation(f, margins, np.zeros((len(x), 1)), status), slopes


def program(problem, lanes):
    return ProcessProgram(problem, Lanes(np.zeros((lanes, 1))))


def test_a_known_constrained_optimum_is_found_from_every_start():
    problem = Known()
    starts = start_points(problem, 6, 0)
    found = solve(program(problem, 6), starts, FEW)
    assert len(found) == 6  # none is dropped
    for s in found:
        assert s.success
        assert s.x == pytest.approx([2.0, 0.0], abs=1e-4)
        assert s.kkt < 1e-3
        assert s.max_violation < 1e-6


def test_a_bound_can_be_the_optimum():
    found = best_solution(solve(program(Known(upper=(1.0, 5.0)), 3), start_points(Known(), 3, 0) * 0.1, FEW))
    assert found.x == pytest.approx([1.0, 1.0], abs=1e-5)
    assert found.kkt < 1e-4


def test_a_start_that_cannot_be_simulated_is_reported_and_not_chosen():
    problem = Known(bad=True)
    found = solve(program(problem, 2), np.array([[4.5, -4.0], [0.0, 0.0]]), FEW)
    assert best_solution(found).x == pytest.approx([2.0, 0.0], abs=1e-4)
    lost = [s for s in found if not np.isfinite(s.objective)]
    assert all(not s.success and "could not be simulated" in s.message for s in lost)


def test_kkt_residual_is_zero_only_at_a_stationary_point():
    z, c, j = np.array([0.5, 0.5]), np.array([0.0]), np.array([[-1.0, -1.0]])
    assert kkt_residual(z, np.array([-1.0, -1.0]), c, jacobian=j) == pytest.approx(0.0, abs=1e-12)
    assert kkt_residual(z, np.array([1.0, 1.0]), c, jacobian=j) > 1.0
    assert kkt_residual(z, np.array([1.0, -1.0]), np.array([0.3]), jacobian=j) == pytest.approx(np.sqrt(2.0))


def test_starts_are_the_platform_and_then_spread(process_problem):
    a, b = start_points(process_problem, 9, 1), start_points(process_problem, 9, 1)
    assert np.array_equal(a, b)
    assert np.array_equal(a[0], process_problem.design.platform)
    assert not np.array_equal(a, start_points(process_problem, 9, 2))
    d = process_problem.design
    assert np.all((a >= d.lower - 1e-12) & (a <= d.upper + 1e-12))


@pytest.fixture(scope="module")
def lineage(small_problem):
    from optim.estimation.fit import fit_problem
    from optim.settings.estimation import FitSettings

    result = fit_problem(small_problem, FitSettings(1, 10, 1e-4, 4, 0.3, 1), seed=1, model_name="cho_moller")
    return Lineage.from_parents(result, seed=1, notes=("a note",))


@pytest.fixture(scope="module")
def small_design(screen):
    """Two decisions, so that a grid of processes is an oracle."""
    keep = ["shift_temperature", "harvest"]
    drop = [f"~design.decisions.{n}" for n in ("feed_volume", "shift_time")]
    problem = build_process(
        compose([*drop, "design.decisions.shift_temperature.kind=temperature"]), Screen.from_dataset(screen)
    )
    assert [d.name for d in problem.design.decisions] == keep
    return problem


def test_it_beats_a_grid_of_processes(small_design, published, lineage):
    problem = small_design
    o = optimise_process(Study(problem, FEW, lineage), "C01", np.repeat(published, 4, axis=0))
    d = problem.design
    grid = np.array(
        [(a, b) for a in np.linspace(d.lower[0], d.upper[0], 12) for b in np.linspace(d.lower[1], d.upper[1], 12)]
    )
    e = problem.evaluate(grid, np.repeat(published, len(grid), axis=0))
    feasible = (e.margins >= -1e-6).all(axis=1)
    top = float(np.exp(e.objective[feasible].max()))
    assert o.optimum.metrics[problem.metric].p50 >= top * (1.0 - 1e-6)
    assert o.optimum.metrics[problem.metric].p50 >= o.baseline.metrics[problem.metric].p50
    assert all(c.margin >= -1e-6 * abs(c.limit) for c in o.optimum.constraints)
    assert len(o.starts) == 3
    assert o.lineage.notes[0] == "a note"


@pytest.mark.slow
def test_more_freedom_is_never_worse(small_design, process_problem, published, lineage):
    few = optimise_process(Study(small_design, FEW, lineage), "C01", published)
    many = optimise_process(Study(process_problem, FEW, lineage), "C01", published)
    key = process_problem.metric
    assert many.optimum.metrics[key].p50 > few.optimum.metrics[key].p50


def test_an_impossible_process_names_the_limits_in_conflict(small_design, published, lineage):
    strict = Constraint(
        name="titre_at_harvest",
        variable="titre",
        kind="min",
        limit=500.0,
        unit="g/L",
        where="end",
        source="none",
        verified=False,
    )
    with pytest.raises(InfeasibleError, match=r"titre_at_harvest: .* against a min of 500 g/L"):
        optimise_process(Study(replace(small_design, constraints=(strict,)), FEW, lineage), "C01", published)


def test_clones_are_ranked_by_what_they_can_do(small_design, published, lineage):
    names = list(small_design.model.Parameters._fields)
    good, poor = published.copy(), published.copy()
    good[0, names.index("qP")] *= 2.0
    rng = np.random.default_rng(0)
    spread = np.exp(0.02 * rng.standard_normal((16, 1)))
    ensembles = {"poor": poor * np.ones((16, 1)), "good": good * np.ones((16, 1)), "middle": poor.repeat(16, 0)}
    ensembles["middle"] = ensembles["middle"].copy()
    ensembles["middle"][:, names.index("qP")] *= 1.3 * spread[:, 0]
    r = rank_clones(
        Study(small_design, FEW, lineage),
        ensembles,
        truth=lambda clone, x: {"poor": 1.0, "middle": 2.0, "good": 3.0}[clone],
    )
    assert [row.clone for row in r.rows] == ["good", "middle", "poor"]
    assert [row.truth_rank for row in r.rows] == [1, 2, 3]
    assert r.rows[0].probability_best == 1.0
    assert r.rows[0].expected_loss == 0.0
    assert r.rows[2].expected_loss > r.rows[1].expected_loss > 0.0
    assert sum(row.probability_best for row in r.rows) == pytest.approx(1.0)
    assert r.price_flips == ()  # they differ in titre alone, so that every price falls on all alike


def test_clones_are_ranked_by_cost_of_goods_the_cheapest_first(small_design, published, lineage):
    names = list(small_design.model.Parameters._fields)
    good = published.repeat(4, 0)
    good[:, names.index("qP")] *= 2.0
    problem = replace(small_design, objective=Objective("cogs"))
    truth = {"good": 40.0, "poor": 70.0}
    r = rank_clones(
        Study(problem, FEW, lineage),
        {"poor": published.repeat(4, 0), "good": good},
        truth=lambda clone, x: truth[clone],
    )
    assert [row.clone for row in r.rows] == ["good", "poor"]
    assert r.rows[0].objective.p50 < r.rows[1].objective.p50
    assert [row.probability_best for row in r.rows] == [1.0, 0.0]
    assert [row.truth_rank for row in r.rows] == [1, 2]
    assert ranking_metrics(r).get("ranking/regret", 0.0) == 0.0


def test_a_price_that_changes_who_leads_is_named(process_problem, published):
    """More product for more feed: what feed costs decides between the two."""
    book = process_problem.book
    dear = replace(book.items["feed_medium"], high=1e6)
    problem = replace(process_problem, book=replace(book, items=book.items | {"feed_medium": dear}))
    fed, hungry = problem.design.platform, problem.design.platform.copy()
    hungry[[i for i, d in enumerate(problem.design.decisions) if d.kind == "bolus"]] = 0.0
    both = {"fed": (fed, published[0]), "hungry": (hungry, published[0])}
    assert _price_flips(problem, both, "fed") == ("hungry leads where feed_medium is 1e+06 EUR/L",)
    assert _price_flips(problem, {"fed": (fed, published[0])}, "fed") == ()
    known = {name: replace(i, low=i.price, high=i.price) for name, i in problem.book.items.items()}
    sure = replace(problem, book=replace(problem.book, items=known))
    assert _price_flips(sure, both, "fed") == ()


def test_changes_of_what_may_be_negative_have_the_right_sign():
    assert relative_change(-50.0, -100.0) == pytest.approx(0.5)
    assert relative_change(2.0, 1.0) == pytest.approx(1.0)


def test_members_that_fail_are_counted_and_left_out(small_design, published):
    names = list(small_design.model.Parameters._fields)
    ensemble = np.repeat(published, 5, axis=0)
    ensemble[3, names.index("mu_max")] = np.nan
    found = evaluate_process(small_design, "platform", small_design.design.platform, ensemble=ensemble)
    assert found.failed_members == 1
    assert np.isfinite(found.metrics["titre_g_per_l"].p95)


def test_an_estimate_that_fails_is_an_error(small_design, published):
    broken = replace(small_design, integrator=Integrator(max_steps=4))
    with pytest.raises(SimulationError, match="cannot be simulated: max_steps"):
        evaluate_process(broken, "platform", small_design.design.platform, ensemble=published)


def test_what_lies_outside_the_screen_says_so(small_design, published):
    ranges = {"harvest": (0.0, 200.0), "temperature": (31.0, 35.0)}
    screened = replace(small_design, screened=ranges)
    found = evaluate_process(screened, "platform", np.array([33.0, 336.0]), ensemble=published)
    flags = {d.name: d.outside_screened for d in found.decisions}
    assert flags == {"shift_temperature": False, "harvest": True}


def test_a_lane_has_the_same_digits_in_any_company(process_problem, published):
    """Simulations and solver alike: what else is in the batch, and where, must not show."""
    starts = start_points(process_problem, 3, 4)
    few = OptimiseSettings(max_iterations=2)
    clones = np.repeat(published, 3, axis=0) * np.array([[1.0], [1.01], [0.99]])

    def solved(places):
        return solve(ProcessProgram(process_problem, Lanes(clones[places])), starts[places], few)

    together, backward, (alone,) = solved([0, 1, 2]), solved([2, 1, 0])[::-1], solved([1])
    for a, b in ((together[0], backward[0]), (together[1], backward[1]), (together[1], alone)):
        assert np.array_equal(a.x, b.x)
        assert np.array_equal(a.history, b.history, equal_nan=True)
        assert a.kkt == b.kkt
