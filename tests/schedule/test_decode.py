"""Actions of a schedule, and events of files: plans come back as they were, and what nothing can state is refused."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.data.dataset import Run
from optim.data.reader import read_folder
from optim.data.schedules import schedule_of
from optim.data.writer import event_table, media_table, run_table, write_dataset
from optim.errors import ConfigError
from optim.kinetics.base import Environment
from optim.schedule.actions import (
    Action,
    Aeration,
    Bleed,
    Bolus,
    Chemostat,
    Drain,
    Evaporation,
    Exchange,
    Feed,
    Harvest,
    Induce,
    Infect,
    Inoculate,
    Perfusion,
    Sample,
    Setpoint,
    TopUp,
    Transfect,
    start_time,
)
from optim.schedule.cut import actions_before
from optim.schedule.decode import actions_of, to_ml
from optim.schedule.events import EVENT_KINDS, EventRow, event_actions, event_kind, event_rows
from optim.schedule.plan import make_plan
from optim.schedule.schedule import FLOWS, Schedule

FEEDS = ("a", "b", "medium", "sugar")
VOLUME_ML = 1234.5
number = st.floats(0.01, 99.0, allow_nan=False).map(lambda x: float(f"{x:.6g}"))
full = st.floats(0.01, 99.0, allow_nan=False)  # all digits
ADDITIONS = (Bolus, Inoculate, Transfect, Infect, Induce)


@st.composite
def stretches(draw: st.DrawFn, end: float, most: int = 3) -> list[tuple[float, float | None]]:
    """Parts of a run that do not overlap; some touch, and the last may run to the end."""
    times = draw(st.lists(st.floats(0.0, 0.9), min_size=2, max_size=most + 1, unique_by=lambda x: round(x, 3)))
    cuts = [round(t * end, 3) for t in sorted(times)]
    pairs = [pair for pair in itertools.pairwise(cuts) if draw(st.booleans())]
    return [*pairs, (cuts[-1], None)] if draw(st.booleans()) else pairs


@st.composite
def plans(draw: st.DrawFn) -> list[Action]:
    """Plans with every action of the vocabulary that a schedule can state."""
    end = draw(st.floats(20.0, 400.0).map(lambda x: round(x, 3)))
    within = st.floats(0.0, 0.95).map(lambda x: x * end)
    found: list[Action] = []
    for feed in ("a", "b"):
        for start, stop in draw(stretches(end)):
            shape = draw(st.sampled_from(("level", "line", "curve")))
            rest = {"line": {"end_rate_ml_per_h": draw(full)}, "curve": {"growth_per_h": draw(st.floats(-0.05, 0.05))}}
            found.append(Feed(feed, start, draw(full), stop_h=stop, **rest.get(shape, {})))
    kind = draw(st.sampled_from(("perfusion", "chemostat", "neither")))
    for start, stop in draw(stretches(end)) if kind != "neither" else ():
        if kind == "chemostat":
            found.append(Chemostat(start, "medium", draw(st.floats(0.01, 0.2)), stop_h=stop))
        elif draw(st.booleans()):
            found.append(Perfusion(start, "medium", rate_vvd=draw(number), stop_h=stop))
        else:
            found.append(Perfusion(start, "medium", rate_ml_per_h=draw(full), stop_h=stop))
    if kind != "chemostat":
        found += [Bleed(start, rate_ml_per_h=draw(full), stop_h=stop) for start, stop in draw(stretches(end))]
    found += [Bleed(start, above_vcd_1e6_per_ml=draw(number), stop_h=stop) for start, stop in draw(stretches(end, 2))]
    found += [Evaporation(start, draw(full), stop_h=stop) for start, stop in draw(stretches(end, 2))]
    for time in draw(st.lists(within, max_size=3)):
        found.append(draw(st.sampled_from(ADDITIONS))(time, draw(st.sampled_from(FEEDS)), draw(full)))
    found += [draw(st.sampled_from((Sample, Drain)))(t, draw(full)) for t in draw(st.lists(within, max_size=3))]
    found += [Exchange(t, draw(full), "b") for t in draw(st.lists(within, max_size=1))]
    checks = tuple(round(t, 3) for t in draw(st.lists(within, max_size=2, unique_by=lambda x: round(x, 3))))
    if checks:
        found.append(TopUp("sugar", "glucose", below=draw(number), to=100.0, times_h=checks))
    elif draw(st.booleans()):
        found.append(TopUp("sugar", "glucose", below=draw(number), to=100.0, every_h=end / 5.0, start_h=1.0))
    for name in ("temperature_c", "ph", "do_percent", "kla_per_h"):
        level = st.floats(0.01, 14.0) if name == "ph" else full
        if name in ("temperature_c", "ph") or draw(st.booleans()):
            found.append(Setpoint(0.0, **{name: draw(level)}))
            for start, stop in draw(stretches(end)):
                if start > 0.0:
                    ramp = 0.0 if stop is None else draw(st.sampled_from((0.0, 0.5, 1.0))) * (stop - start)
                    found.append(Setpoint(start, **{name: draw(level)}, ramp_h=ramp))
    return [*found, Harvest(end)]


def readings(s: Schedule) -> dict[str, np.ndarray]:
    """What flows and is set at both edges of every interval between nodes, by the definition of a schedule."""
    t = np.append(s.times, s.end)
    left, right = t[:-1], t[1:]
    found = {}

    def line(times, first, last, growth=None):
        i = np.clip(np.searchsorted(times, 0.5 * (left + right), side="right") - 1, 0, None)
        begin, until = times[i], np.append(times[1:], s.end)[i]
        shape = (-1,) + (1,) * (first.ndim - 1)
        for name, at in (("left", left), ("right", right)):
            share = ((at - begin) / (until - begin)).reshape(shape)
            value = first[i] + (last[i] - first[i]) * share
            if growth is not None:
                value = value * np.exp(growth[i] * (at - begin).reshape(shape))
            yield name, value

    for edge, value in line(s.rate_t, s.rate_start, s.rate_end, s.rate_growth):
        found[f"rate {edge}"] = value
    ends = s.setpoints if s.setpoints_end is None else s.setpoints_end
    for name, first, last in zip(s.setpoints._fields, s.setpoints, ends, strict=True):
        if first is not None:
            found |= {f"{name} {edge}": value for edge, value in line(s.setpoint_t, first, last)}
    for name in FLOWS:
        flow, nothing = getattr(s, name), np.inf if name == "bleed_above" else 0.0
        i = None if s.flow_t is None else np.searchsorted(s.flow_t, 0.5 * (left + right), side="right") - 1
        found[name] = np.full(len(left), nothing) if flow is None else flow[i]
    return found


def at_nodes(s: Schedule) -> dict[str, np.ndarray]:
    n, shape = len(s.times), s.bolus.shape
    none = {"remove": np.zeros(n), "topup_below": np.full(shape, -np.inf), "topup_to": np.zeros(shape)}
    return {"times": s.times, "withdraw": s.withdraw, "bolus": s.bolus, "end": s.end} | {
        name: nothing if getattr(s, name) is None else getattr(s, name) for name, nothing in none.items()
    }


@settings(max_examples=150, deadline=None)
@given(plan=plans())
def test_a_plan_comes_back_from_its_schedule(plan):
    made = make_plan(plan, volume_ml=VOLUME_ML, feeds=FEEDS)
    found = actions_of(made.schedule, FEEDS, topups=made.topups, perfused=("medium",))
    assert [start_time(a) for a in found] == sorted(start_time(a) for a in found)
    again = make_plan(found, observed_h=made.schedule.times, volume_ml=VOLUME_ML, feeds=FEEDS)
    exchanged = any(isinstance(a, Exchange) for a in plan)
    for name, value in at_nodes(made.schedule).items():
        other = at_nodes(again.schedule)[name]
        # the sum of several volumes may lie between the litres that millilitres can state
        assert np.allclose(value, other, rtol=1e-14 if exchanged else 5e-16, atol=0.0), name
    theirs = readings(again.schedule)
    for name, value in readings(made.schedule).items():
        assert np.allclose(value, theirs[name], rtol=1e-9, atol=1e-12), name
    assert again.topups == made.topups


def run_of(plan: list[Action]) -> Run:
    (end,) = [a.time_h for a in plan if isinstance(a, Harvest)]
    actions = tuple(sorted((a for a in plan if not isinstance(a, Harvest)), key=start_time))
    return Run("R1", "E1", "V1", "C1", VOLUME_ML / 1000.0, "medium", 37.0, 7.0, 0.5, end, actions)


def written_and_read(run: Run) -> Run:
    header = dict.fromkeys(("name", "description", "organism", "citation", "licence"), "x") | {"simulated": True}
    reading = {"run_id": "R1", "time_h": 1.0, "variable": "vcd", "value": 1.0, "unit": "1e6 cells/mL"}
    media = {name: {"glucose": 500.0} for name in FEEDS} | {"a": {}}
    tables = {
        "runs.csv": run_table([run]),
        "events.csv": event_table([run]),
        "media.csv": media_table(media),
        "measurements.csv": [reading],
    }
    with tempfile.TemporaryDirectory() as place:
        dataset = read_folder(write_dataset(Path(place) / "d", header, tables))
    assert dataset.media == media
    return dataset.runs[0]


@settings(max_examples=60, deadline=None)
@given(plan=plans(), gas=st.booleans())
def test_a_plan_comes_back_from_a_file_to_the_last_digit(plan, gas):
    air = [Aeration(0.0, gas_l_per_h=30.0, oxygen_percent=20.95), Aeration(9.1, oxygen_percent=1 / 3)] if gas else []
    run = run_of([*plan, *air])
    again = written_and_read(run)
    assert replace(again, actions=()) == replace(run, actions=())
    ours, theirs = (schedule_of(r, np.array([]), FEEDS) for r in (run, again))
    for a, b in zip(_leaves(ours), _leaves(theirs), strict=True):
        assert np.array_equal(a, b)
    assert {a for a in again.actions if isinstance(a, Aeration)} == {
        replace(a, **{name: None}) if getattr(a, name) is not None else a
        for a in air
        for name in ("gas_l_per_h", "oxygen_percent")
        if getattr(a, "gas_l_per_h" if name == "oxygen_percent" else "oxygen_percent") is not None
    }
    kinds = {type(a) for a in run.actions if not isinstance(a, TopUp)}
    assert kinds == {type(a) for a in again.actions if not isinstance(a, TopUp)}


def _leaves(s: Schedule):
    for part in s:
        yield from part if isinstance(part, Environment) else (part,)


@given(litres=st.floats(1e-9, 1e3))
def test_millilitres_are_exact_and_short(litres):
    ml = to_ml(litres)
    assert ml * 1e-3 == pytest.approx(litres, rel=2e-16)
    assert to_ml(ml * 1e-3) * 1e-3 == ml * 1e-3
    assert to_ml(0.35 * 1e-3) == 0.35


START = [Setpoint(0.0, temperature_c=37.0, ph=7.0), Harvest(20.0)]


def test_pieces_of_one_line_are_one_action():
    """A line that is cut by another one's breakpoints is told once; a step is no line."""
    plan = [
        *START,
        Feed("a", 2.0, 1.0, end_rate_ml_per_h=5.0, stop_h=18.0),
        Feed("b", 5.0, 3.0, stop_h=9.0),
        Feed("b", 9.0, 4.0, growth_per_h=0.1),
        Setpoint(3.0, temperature_c=33.0, ramp_h=6.0),
        Setpoint(4.0, ph=6.8),
    ]
    made = make_plan(plan, volume_ml=VOLUME_ML)
    found = actions_of(made.schedule, made.feeds)
    assert sorted(found, key=repr) == sorted(
        [*plan[:1], *plan[2:], Harvest(20.0)],
        key=repr,
    )


def test_actions_come_in_the_order_in_which_they_are_done():
    plan = [Bolus(5.0, "a", 3.0), Sample(5.0, 1.0), Setpoint(5.0, ph=6.9), Exchange(5.0, 2.0, "b"), *START]
    made = make_plan(plan)
    kinds = [type(a) for a in actions_of(made.schedule, made.feeds)]
    assert kinds == [Setpoint, Setpoint, Sample, Exchange, Bolus, Harvest]


def test_what_harvest_cuts_is_told_as_far_as_it_comes():
    made = make_plan([*START, Feed("a", 0.0, 0.0, end_rate_ml_per_h=20.0), Setpoint(10.0, ph=6.0, ramp_h=10.0)])
    early = made.schedule._replace(end=np.asarray(15.0), rate_t=np.array([0.0, 20.0]),
                                   rate_start=np.array([[0.0], [0.02]]), rate_end=np.array([[0.02], [0.02]]),
                                   setpoint_t=np.append(made.schedule.setpoint_t, 20.0),
                                   setpoints=_more(made.schedule.setpoints), setpoints_end=_more(
                                       made.schedule.setpoints_end))  # fmt: skip
    found = actions_of(early, ("a",))
    assert Feed("a", 0.0, 0.0, end_rate_ml_per_h=15.0) in found
    assert Setpoint(10.0, ph=6.5, ramp_h=5.0) in found


def _more(e: Environment) -> Environment:
    return Environment(*(None if x is None else np.append(x, x[-1]) for x in e))


UNSTATED = {
    "medium taken and not replaced": (dict(remove=[0.0, 0.1]), "100 mL of medium are taken and not replaced"),
    "a harvest at its own rate": (dict(harvest=[0.2]), "a harvest at a rate of its own"),
    "half of the inflow": (dict(level=[0.5]), "0.5 of the inflow leaves"),
    "a line times an exponential": (dict(rate_growth=[[0.1]], rate_end=[[0.2]]), "linearly and exponentially"),
    "a ramp from a step": (
        dict(setpoint_t=[0.0, 5.0], setpoints=Environment(np.array([37.0, 36.0]), np.array([7.0, 7.0])),
             setpoints_end=Environment(np.array([37.0, 33.0]), np.array([7.0, 7.0]))),
        "temperature_c steps and ramps at once at 5 h",
    ),
    "steady perfusion": (dict(level=[1.0], rate_end=[[0.2]]), "perfusion of 'a' at 0 h changes steadily"),
    "a top-up of nobody knows what": (
        dict(topup_below=[[-np.inf], [3.0]], topup_to=[[0.0], [5.0]]), "what 'a' tops up is not known",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSTATED)
def test_a_schedule_that_no_action_can_state_is_refused(case):
    change, words = UNSTATED[case]
    plain = Schedule(
        times=np.array([0.0, 4.0]), withdraw=np.zeros(2), bolus=np.zeros((2, 1)), end=np.asarray(20.0),
        rate_t=np.zeros(1), rate_start=np.full((1, 1), 0.1), rate_end=np.full((1, 1), 0.1), setpoint_t=np.zeros(1),
        setpoints=Environment(np.full(1, 37.0), np.full(1, 7.0)), flow_t=np.zeros(1),
    )  # fmt: skip
    assert actions_of(plain, ("a",))[1] == Feed("a", 0.0, 100.0)
    arrays = {k: np.array(v) if isinstance(v, list) else v for k, v in change.items()}
    with pytest.raises(ConfigError, match=words):
        actions_of(plain._replace(**arrays), ("a",))


class Stir(Sample):
    """An action that nobody has taught the translators."""


def test_every_translator_refuses_an_action_that_it_does_not_know():
    from optim.errors import IncompatibleError
    from optim.recipe.steps import feed_schedule

    with pytest.raises(ConfigError, match="no event of a file can state a Stir"):
        event_rows([Stir(5.0, 1.0)], 20.0)
    with pytest.raises(ConfigError, match="is no action"):
        make_plan([*START, object()])
    top_up = TopUp("a", "glucose", below=1.0, to=2.0, times_h=(5.0,))
    with pytest.raises(IncompatibleError, match="a recipe cannot state a TopUp"):
        feed_schedule([*START, top_up], 1000.0, 2000.0)


def test_every_kind_of_event_states_its_action():
    for kind in EVENT_KINDS.values():
        assert kind.meaning
        for unit in kind.units:
            row = EventRow(
                2.0, kind.name, 3.0, unit or "mmol/L", "a" if "feed_id" in kind.needs else "",
                value_end=5.0 if kind.end_field else None, component="glucose" if "component" in kind.needs else "",
            )  # fmt: skip
            (action,) = event_actions([row])
            assert isinstance(action, kind.action)
            (back,) = event_rows([action], 20.0)
            assert back.unit == unit or back.component
            assert replace(back, unit=row.unit) == row
    with pytest.raises(ConfigError, match="Did you mean 'perfusion'"):
        event_kind("perfussion")
    with pytest.raises(ConfigError, match=r"it is the end of the run, end_time_h of runs\.csv"):
        event_kind("harvest")


def test_a_species_is_no_component_of_a_file():
    with pytest.raises(ConfigError, match="no event of a file can state 'Glc': it is no component of media"):
        event_rows([TopUp("a", "Glc", below=1.0, to=2.0, times_h=(3.0,))], 20.0)


def test_a_flow_lasts_until_the_next_of_its_kind_and_feed():
    rows = [
        EventRow(0.0, "feed_rate", 1.0, "mL/h", "a", value_end=2.0),
        EventRow(0.0, "feed_rate", 7.0, "mL/h", "b"),
        EventRow(5.0, "feed_rate", 0.0, "mL/h", "a"),
        EventRow(3.0, "bleed", 1.0, "mL/h"),
        EventRow(6.0, "bleed", 2.0, "mL/h", until_h=9.0),
        EventRow(6.0, "bleed_above", 20.0, "1e6 cells/mL"),
    ]
    assert event_actions(rows) == (
        Feed("a", 0.0, 1.0, end_rate_ml_per_h=2.0, stop_h=5.0),
        Feed("b", 0.0, 7.0),
        Feed("a", 5.0, 0.0),
        Bleed(3.0, rate_ml_per_h=1.0, stop_h=6.0),
        Bleed(6.0, rate_ml_per_h=2.0, stop_h=9.0),
        Bleed(6.0, above_vcd_1e6_per_ml=20.0),
    )
    again = event_rows(event_actions(rows), 20.0)
    assert sorted(again, key=repr) == sorted(rows, key=repr)


def test_a_plan_that_is_cut_short_has_come_as_far_as_it_would():
    plan = [
        *START,
        Feed("a", 0.0, 0.0, end_rate_ml_per_h=20.0),
        Feed("b", 2.0, 4.0, growth_per_h=0.1, stop_h=6.0),
        Perfusion(8.0, "c", rate_vvd=1.0, stop_h=12.0),
        Bleed(11.0, rate_ml_per_h=1.0),
        Sample(10.0, 1.0),
        Sample(9.0, 1.0),
        Setpoint(6.0, temperature_c=33.0, ph=6.8, ramp_h=8.0),
        TopUp("s", "glucose", 1.0, 2.0, times_h=(3.0, 12.0)),
        TopUp("t", "lactate", 1.0, 2.0, every_h=4.0, stop_h=13.0),
    ]
    found = set(actions_before(plan, 10.0, 20.0))
    assert found == {
        START[0],
        Feed("a", 0.0, 0.0, end_rate_ml_per_h=10.0),
        plan[3],
        Perfusion(8.0, "c", rate_vvd=1.0),
        Sample(9.0, 1.0),
        Setpoint(6.0, temperature_c=35.0, ramp_h=4.0),
        Setpoint(6.0, ph=6.9, ramp_h=4.0),
        TopUp("s", "glucose", 1.0, 2.0, times_h=(3.0,)),
        TopUp("t", "lactate", 1.0, 2.0, every_h=4.0),
    }
    # a plan that is not cut stays as it is, whatever ends at its end
    assert set(actions_before(plan, 20.0, 20.0)) == set(plan) - {Harvest(20.0)}


@settings(max_examples=60, deadline=None)
@given(plan=plans(), share=st.floats(0.1, 0.9))
def test_a_cut_plan_is_the_plan_until_then(plan, share):
    """Against the schedule itself: all readings before the cut are those of the whole plan."""
    (end,) = [a.time_h for a in plan if isinstance(a, Harvest)]
    cut = round(share * end, 3)
    short = [*actions_before(plan, cut, end), Harvest(cut)]
    nodes = make_plan(plan, volume_ml=VOLUME_ML, feeds=FEEDS).schedule.times
    whole = make_plan(plan, observed_h=[cut], volume_ml=VOLUME_ML, feeds=FEEDS).schedule
    part = make_plan(short, observed_h=nodes[nodes < cut], volume_ml=VOLUME_ML, feeds=FEEDS).schedule
    n = len(part.times)
    assert np.array_equal(part.times, whole.times[:n])
    for name, value in readings(part).items():
        assert np.allclose(value, readings(whole)[name][:n], rtol=1e-9, atol=1e-9), name
    for name, value in at_nodes(part).items():
        if name not in ("end", "times"):
            assert np.array_equal(value, at_nodes(whole)[name][:n]), name
