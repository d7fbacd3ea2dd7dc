"""Working hours, and discrete choices by enumeration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.quadratic import OPTIONS, Toy, members

from optim.errors import ConfigError, InfeasibleError
from optim.optimisation.choices import solve_choices
from optim.process.calendar import (
    bounds_with,
    fixed_decisions,
    hours_allow,
    idle_decisions,
    timed_decisions,
    working_windows,
)
from optim.process.decision import Decision
from optim.process.design import Design
from optim.process.lanes import one_lane
from optim.settings.process import WEEKDAYS, CalendarSettings

DAY = 24.0


def daily(**changes) -> Design:
    rows = [Decision(f"feed_day_{d}", "bolus", 0.0, 1.0, 0.5, 0.0, d * DAY) for d in range(1, 8)]
    rows.append(Decision("harvest", "harvest", 5.0 * DAY, 9.0 * DAY, 7.0 * DAY, 1.0))
    usual = dict(
        decisions=tuple(rows), start_volume_l=1.0, temperature_c=36.5, ph=7.0, end_h=7.0 * DAY, node_step_h=DAY,
        sample_times_h=(), sample_volume_l=0.0,
    )  # fmt: skip
    return Design(**usual | changes)


@pytest.mark.parametrize("start", WEEKDAYS[:5])
def test_nothing_is_fed_at_a_weekend(start):
    c, d = CalendarSettings(WEEKDAYS[:5]), daily()
    first = WEEKDAYS.index(start)
    expected = [day - 1 for day in range(1, 8) if (first + day) % 7 in (5, 6)]
    assert idle_decisions(c, d, start) == expected


def test_a_harvest_falls_into_working_hours():
    c, d = CalendarSettings(("monday",), start_hour=9.0, first_hour=6.0, last_hour=18.0), daily()
    parts = timed_decisions(c, d, "monday")[7]
    # day 5 and 6 are a weekend; 9 h is the clock at 0 h of the run, so a working day is from -3 to 9 h around its start
    assert parts == [
        (7.0 * DAY - 3.0, 7.0 * DAY + 9.0),
        (8.0 * DAY - 3.0, 8.0 * DAY + 9.0),
        (9.0 * DAY - 3.0, 9.0 * DAY),
    ]


def test_who_works_always_is_never_idle():
    c = CalendarSettings(WEEKDAYS, working_days=WEEKDAYS, first_hour=0.0, last_hour=24.0)
    assert idle_decisions(c, daily(), "sunday") == []
    assert idle_decisions(CalendarSettings(("friday",), by_hand=("harvest",)), daily(), "friday") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start_days": ("mondy",)}, "Did you mean 'monday'"),
        ({"start_days": ()}, "need a day"),
        ({"start_days": ("sunday",)}, "no working day"),
        ({"first_hour": 20.0}, "no part of a day"),
        ({"start_hour": 3.0}, "outside the working hours"),
        ({"by_hand": ("boluses",)}, "Did you mean 'bolus'"),
    ],
)
def test_a_calendar_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        CalendarSettings(**{"start_days": ("monday",)} | change)


def test_decisions_are_held_by_name_or_stem():
    d = daily()
    assert fixed_decisions(d, {"feed_day_2": 0.0}, "k") == {1: 0.0}
    assert set(fixed_decisions(d, {"feed": 0.3}, "k")) == set(range(7))
    with pytest.raises(ConfigError, match=r"optimise\.choices\.a: no decision 'fed'"):
        fixed_decisions(d, {"fed": 0.0}, "optimise.choices.a")
    with pytest.raises(ConfigError, match="outside the bounds"):
        fixed_decisions(d, {"feed_day_2": 2.0}, "k")
    b = bounds_with(d, {0: 0.25}, {7: (130.0, 140.0)})
    assert b[:, 0].tolist() == [0.25, 0.25]
    assert b[:, 7].tolist() == [130.0, 140.0]


def test_choices_are_compared_each_at_its_best():
    """titre = 20 - (x - 3)^2 - 2 (y - 1)^2: holding y costs 2 (y - 1)^2, holding x (x - 3)^2."""
    p = members([3.0])[0]
    found = solve_choices(
        Toy(),
        np.zeros((1, 2)),
        one_lane(p),
        calendar=None,
        options=replace(OPTIONS, choices={"low y": {"y": 0.0}, "no x": {"x": 0.0}, "free": {}}),
    )
    assert [v.name for v in found] == ["free", "low y", "no x"]
    titres = [float(np.exp(v.solution.objective)) for v in found]
    assert titres == pytest.approx([20.0, 18.0, 11.0], rel=1e-6)


def test_a_choice_without_any_process_is_told_from_the_others():
    p = members([3.0], -5.0)[0]  # x + y <= -5
    found = solve_choices(
        Toy(),
        np.full((1, 2), -3.0),
        one_lane(p),
        calendar=None,
        options=replace(OPTIONS, choices={"can": {}, "cannot": {"x": 8.0, "y": 8.0}}),
    )
    assert [v.solution is None for v in found] == [False, True]
    only = replace(OPTIONS, choices={"cannot": {"x": 8.0, "y": 8.0}})
    with pytest.raises(InfeasibleError, match="no choice"):
        solve_choices(Toy(), np.zeros((1, 2)), one_lane(p), calendar=None, options=only)


def test_a_choice_out_of_working_hours_is_told_from_those_within():
    c = CalendarSettings(("monday", "tuesday"))
    d = daily()
    assert hours_allow(c, d, "monday", fixed={7: 7.0 * DAY})
    assert not hours_allow(c, d, "monday", fixed={7: 6.0 * DAY})  # a sunday
    assert not hours_allow(c, d, "monday", fixed={7: 7.0 * DAY + 11.0})  # at 20 h
    fixed = replace(d, decisions=d.decisions[:-1], end_h=5.0 * DAY)
    assert not hours_allow(c, fixed, "monday", fixed={})
    assert hours_allow(CalendarSettings(("monday",), by_hand=("bolus",)), fixed, "monday", fixed={})


@pytest.mark.slow
def test_a_run_without_weekends_begins_on_the_day_that_suits_it(process_problem, published):
    calendar = CalendarSettings(("monday", "wednesday"))
    found = solve_choices(
        process_problem,
        process_problem.design.platform[None],
        one_lane(published[0]),
        calendar=calendar,
        options=OPTIONS,
    )
    assert len(found) == 2
    for v in found:
        day = v.name.removeprefix("start on ")
        idle = idle_decisions(calendar, process_problem.design, day)
        assert idle
        assert np.all(v.solution.x[idle] == 0.0)
        windows = working_windows(calendar, day, 336.0)
        assert any(a - 1e-9 <= v.solution.x[-1] <= b + 1e-9 for a, b in windows)
