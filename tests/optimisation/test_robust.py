"""Risk over an ensemble, chance constraints, trade-offs and stress, on problems whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.quadratic import OPTIONS, Toy, members

from optim.artefact import Lineage
from optim.errors import ConfigError
from optim.optimisation.pareto import hypervolume, nondominated_points, pareto_front
from optim.optimisation.process_program import Floor, ProcessProgram
from optim.optimisation.robust import judge_process, risk_measure, smooth_measure, solve_robust
from optim.optimisation.sensitivity import analyse_sensitivity
from optim.optimisation.solve import Bounds, solve
from optim.optimisation.study import Study
from optim.optimisation.tightening import limit_violations, tighten_constraints
from optim.process.disturbance import sample_execution_errors
from optim.process.lanes import Lanes, one_lane
from optim.settings.objective import ExecutionSettings, RiskSettings
from optim.settings.optimisation import DriftSettings, OptimiseSettings, ParetoSettings

STUDY = Study(Toy(), OPTIONS, Lineage("toy", "none", "", simulated=True, seed=0))

# --- the measure ---


@pytest.mark.parametrize("measure", ["expectation", "cvar", "quantile", "nominal"])
def test_the_smooth_measure_has_the_derivative_it_says(measure):
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 17))
    risk = RiskSettings(measure, 0.3)
    value, weights = smooth_measure(risk, a, 0.1)
    h = 1e-6
    slope = (smooth_measure(risk, a + h * b, 0.1)[0] - smooth_measure(risk, a - h * b, 0.1)[0]) / (2.0 * h)
    assert weights @ b == pytest.approx(slope, abs=1e-6)
    assert weights.sum() == pytest.approx(1.0)
    assert value == pytest.approx(float(risk_measure(risk, a)), abs=0.2)


def test_cvar_is_the_mean_of_the_worst_share():
    values = np.array([5.0, 1.0, 2.0, 3.0, 4.0])
    assert risk_measure(RiskSettings("cvar", 0.4), values) == pytest.approx(1.5)
    # half of the second worst
    assert risk_measure(RiskSettings("cvar", 0.3), values) == pytest.approx((1.0 + 0.5 * 2.0) / 1.5)
    assert risk_measure(RiskSettings("cvar", 1.0), values) == pytest.approx(3.0)
    assert risk_measure(RiskSettings("nominal"), values) == 5.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"measure": "cvaar"}, "Did you mean 'cvar'"),
        ({"tail": 0.0}, "above 0 and at most 1"),
        ({"chance": 1.5}, "chance: 1.5 is out of range"),
        ({"members": 1}, "at least 2"),
    ],
)
def test_a_risk_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        RiskSettings(**change)


# --- the search ---


def test_expectation_goes_to_the_mean_and_cvar_to_the_middle():
    p = members([0.0, 0.0, 0.0, 4.0])
    start = np.array([[3.0, 3.0]])
    (mean,) = solve_robust(Toy(), start, p, risk=RiskSettings("expectation"), options=OPTIONS)
    assert mean.solution.x == pytest.approx([1.0, 1.0], abs=1e-3)
    (worst,) = solve_robust(Toy(), start, p, risk=RiskSettings("cvar", 0.25), options=OPTIONS)
    assert worst.solution.x == pytest.approx([2.0, 1.0], abs=0.1)  # as far from the one as from the others
    assert worst.solution.success


def test_a_chance_gives_up_the_members_that_break_most():
    p = members(np.full(4, 6.0), np.array([2.0, 1.0, 3.0, 4.0]))
    found = {}
    for chance in (0.0, 0.5, 0.75, 1.0):
        (end,) = solve_robust(
            Toy(), np.array([[0.0, 0.0]]), p, risk=RiskSettings("expectation", chance=chance), options=OPTIONS
        )
        assert end.solution.success
        assert end.met >= chance - 1e-9
        found[chance] = end.solution.x.sum()
    assert found[0.0] == pytest.approx(2.0, abs=1e-5)  # the estimate's own limit
    assert found[0.5] == pytest.approx(3.0, abs=1e-5)
    assert found[0.75] == pytest.approx(2.0, abs=1e-5)
    assert found[1.0] == pytest.approx(1.0, abs=1e-5)


def test_a_chance_that_cannot_be_had_says_what_can():
    p = members(np.zeros(4), np.array([3.0, 3.0, 3.0, -20.0]))  # the last allows nothing within the bounds
    (end,) = solve_robust(
        Toy(), np.array([[0.0, 0.0]]), p, risk=RiskSettings("expectation", chance=1.0), options=OPTIONS
    )
    assert not end.solution.success
    assert end.met == pytest.approx(0.75)
    assert "75%" in end.solution.message


def test_a_member_that_cannot_be_simulated_is_left_out_of_the_search_and_counts_against_a_process():
    p = members([0.0, 0.0, 99.0, 0.0])
    (end,) = solve_robust(Toy(), np.array([[3.0, 3.0]]), p, risk=RiskSettings("expectation"), options=OPTIONS)
    assert end.solution.x == pytest.approx([0.0, 1.0], abs=1e-3)
    _, met = judge_process(Toy(), end.solution.x, p, risk=RiskSettings("expectation"))
    assert met == pytest.approx(0.75)


def test_errors_of_execution_are_kept_clear_of():
    p = members(np.full(200, 6.0), 3.0)
    spread = ExecutionSettings(feed=0.1)
    drift = sample_execution_errors(spread, 200, 1)
    risk = RiskSettings("expectation", chance=0.9, execution=spread)
    (end,) = solve_robust(Toy(), np.array([[0.0, 0.0]]), Lanes(p, drift=drift), risk=risk, options=OPTIONS)
    x = end.solution.x
    later = sample_execution_errors(spread, 20000, 2)
    _, met = judge_process(Toy(), x, Lanes(members(np.full(20000, 6.0), 3.0), drift=later), risk=risk)
    assert met == pytest.approx(0.9, abs=0.02)
    assert x.sum() < 3.0 - 0.05


def test_execution_begins_as_planned_and_is_never_early():
    d = sample_execution_errors(ExecutionSettings(0.1, 0.1, 0.1, 0.5, 0.1, 6.0), 50, 0)
    assert [float(v[0]) for v in d] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert np.all(d.delay_h >= 0.0)
    assert np.std(d.feed) == pytest.approx(0.1, rel=0.3)


# --- bounds and floors of a lane's own ---


def test_lanes_keep_bounds_and_floors_of_their_own():
    starts, p = np.zeros((3, 2)), np.tile(members([3.0]), (3, 1))
    bounds = Bounds(np.array([[-4.0, -4.0], [-4.0, 0.5], [2.0, -4.0]]), np.array([[8.0, 8.0], [8.0, 0.5], [2.0, 8.0]]))
    free, held_y, held_x = solve(ProcessProgram(Toy(), Lanes(p)), starts, OPTIONS, bounds=bounds)
    assert free.x == pytest.approx([3.0, 1.0], abs=1e-4)
    assert held_y.x == pytest.approx([3.0, 0.5], abs=1e-4)
    assert held_x.x == pytest.approx([2.0, 1.0], abs=1e-4)
    assert max(s.kkt for s in (free, held_y, held_x)) < 1e-4
    floors = (Floor("harvest_h", np.array([12.0, 8.0, 4.0])),)
    floored = solve(ProcessProgram(Toy(), Lanes(p), floors), starts, OPTIONS)
    assert all(s.success for s in floored)
    e = Toy().evaluate(np.array([s.x for s in floored]), p)
    assert e.metrics[:, 1] == pytest.approx([12.0, 8.0, 4.0], rel=1e-5)
    assert e.metrics[0, 0] > e.metrics[1, 0] > e.metrics[2, 0]


def test_a_limit_drawn_in_is_kept_clear_of():
    p = members([4.0], 3.0)
    (at,) = solve(ProcessProgram(Toy(), Lanes(p)), np.zeros((1, 2)), OPTIONS)
    (clear,) = solve(ProcessProgram(Toy(), Lanes(p), reserve={"room": 0.5}), np.zeros((1, 2)), OPTIONS)
    assert at.x.sum() == pytest.approx(3.0, abs=1e-6)
    assert clear.x.sum() == pytest.approx(2.5, abs=1e-6)


@pytest.mark.slow
def test_limits_hold_between_nodes_as_well(process_problem, published):
    """Daily nodes see osmolality just before a bolus, not just after it."""
    tight = tuple(replace(c, limit=350.0) if c.variable == "osmolality" else c for c in process_problem.constraints)
    few = replace(process_problem, constraints=tight)
    options = OptimiseSettings(starts=1, max_iterations=60, tolerance=1e-7)
    (first,) = solve(ProcessProgram(few, Lanes(published)), few.design.platform[None], options)
    assert max(limit_violations(few, first.x, one_lane(published[0])).values()) > 1e-4
    kept, left = tighten_constraints(few, first, one_lane(published[0]), options=options)
    assert left == {}
    assert max(limit_violations(few, kept.x, one_lane(published[0])).values()) <= 1e-6
    assert kept.objective <= first.objective + 1e-9


# --- the front ---


def test_a_front_is_that_of_the_known_problem():
    """At level L of x^2 + y^2 the best titre solves a Lagrange condition that a fine scan of angles finds as well."""
    found = pareto_front(STUDY, "C", members([3.0])[0], settings=ParetoSettings("culture_time", 7))
    assert len(found.points) == 7
    assert found.lost == 0
    angle = np.linspace(0.0, 2.0 * np.pi, 20001)
    for point in found.points:
        r = np.sqrt(max(point.second - 2.0, 0.0))
        x, y = r * np.cos(angle), r * np.sin(angle)
        assert point.first == pytest.approx(np.max(20.0 - (x - 3.0) ** 2 - 2.0 * (y - 1.0) ** 2), abs=2e-3)
    assert found.points[0].second > found.points[-1].second  # from the best titre to the shortest run
    assert 0.5 < found.hypervolume < 1.0  # titre is concave in the level
    assert found.platform == (pytest.approx(9.0), pytest.approx(2.0))


def test_fronts_are_counted_as_they_should():
    scores = np.array([[0.0, 1.0], [1.0, 0.0], [0.4, 0.4], [0.5, 0.5], [0.5, 0.5]])
    assert nondominated_points(scores) == [1, 3, 4, 0]
    assert hypervolume(np.array([[0.0, 1.0], [1.0, 0.0]])) == pytest.approx(0.5)
    assert hypervolume(np.array([[0.0, 2.0], [10.0, 2.0], [10.0, 0.0]])[1:2]) == 1.0


@pytest.mark.parametrize(
    ("against", "points", "words"), [("titer", 5, "titre"), ("titre", 5, "already"), ("cogs", 2, "3")]
)
def test_a_front_that_makes_no_sense_is_refused(against, points, words):
    with pytest.raises(ConfigError, match=words):
        pareto_front(STUDY, "C", members([3.0])[0], settings=ParetoSettings(against, points))


# --- stress ---


def test_stress_says_what_moves_the_optimum_and_what_flips_it():
    p = np.stack([np.linspace(2.5, 3.5, 21), np.full(21, 4.0)], axis=1)[[10, *range(10), *range(11, 21)]]
    asked = {"more": DriftSettings(feed=1.1), "missed": DriftSettings(missed="largest bolus")}
    found = analyse_sensitivity(STUDY, "C", np.array([3.0, 1.0]), ensemble=p, disturbances=asked)
    by = {r.name: r for r in found.influences}
    assert set(by) == {"best", "medium"}  # room does not vary
    assert by["medium"].swing == pytest.approx(0.0, abs=1e-6)  # y - 1 is zero, whatever it costs
    low, high = by["best"].low, by["best"].high
    assert low.value == pytest.approx(2.55)
    assert low.stay == pytest.approx(20.0 - 0.45**2, rel=1e-6)
    assert low.anew == pytest.approx(20.0, rel=1e-5)
    assert low.moved.startswith("x 3 -> 2.55")
    assert low.broken == ""
    assert high.broken == ""
    assert high.anew < 20.0  # the limit x + y <= 4 holds it
    more, missed = found.drifts
    assert more.breaks == "room"
    assert more.met == 0.0
    assert missed.met == 1.0
    assert missed.change < -0.3


def test_what_cannot_happen_is_not_asked():
    late = {"late": DriftSettings(harvest_h=5.0)}
    found = analyse_sensitivity(STUDY, "C", np.array([1.0, 1.0]), ensemble=members([1.0, 2.0]), disturbances=late)
    assert found.drifts == ()
    assert "late" in found.lineage.notes[-1]


def test_a_drift_of_a_decision_that_is_not_there_is_refused():
    unknown = {"n": DriftSettings(missed="xx")}
    with pytest.raises(ConfigError, match=r"stress\.drifts\.n\.missed: no decision 'xx'"):
        analyse_sensitivity(STUDY, "C", np.zeros(2), ensemble=members([1.0, 2.0]), disturbances=unknown)
