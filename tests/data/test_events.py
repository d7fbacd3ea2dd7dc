"""Events of files: every kind of action is read, and every fault is told with its line and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from optim.data.dataset import Dataset
from optim.data.reader import read_folder
from optim.errors import DatasetError
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
    Induce,
    Infect,
    Inoculate,
    Perfusion,
    Sample,
    Setpoint,
    TopUp,
    Transfect,
)

HEAD = "run_id,time_h,kind,value,unit,feed_id,value_end,until_h,ramp_h,growth_per_h,component\n"


@pytest.fixture
def read(tmp_path):
    """Events of one run of 96 h and 13 mL -> the dataset."""
    place = tmp_path / "mine"
    place.mkdir()
    (place / "dataset.yaml").write_text(
        "name: mine\ndescription: d\norganism: CHO\ncitation: none\nlicence: none\nsimulated: true\n"
    )
    media = "medium_id,component,value,unit\nm,glucose,35,mmol/L\nfeed,glucose,400,mmol/L\nwater,,,\n"
    (place / "media.csv").write_text(media)
    (place / "runs.csv").write_text(
        "run_id,clone_id,start_volume_ml,medium_id,temperature_c,end_time_h,inoculum_vcd_1e6_per_ml\n"
        "R1,C1,13,m,36.8,96,0.5\n"
    )
    (place / "measurements.csv").write_text(
        "run_id,time_h,variable,value,unit\nR1,24,vcd,0.5,1e6 cells/mL\nR1,24,off_gas_oxygen,0.2,1\n"
    )

    def go(*rows: str, head: str = HEAD, folder: Path = place) -> Dataset:
        (folder / "events.csv").write_text(head + "".join(f"R1,{row}\n" for row in rows))
        return read_folder(folder)

    return go


def row(time: str, kind: str, value: str, unit: str, **more: str) -> str:
    columns = ("feed_id", "value_end", "until_h", "ramp_h", "growth_per_h", "component")
    return ",".join([time, kind, value, unit, *(more.get(c, "") for c in columns)])


STATED: dict[str, tuple[str, Action]] = {
    "sample": (row("24", "sample", "300", "uL"), Sample(24.0, 0.3)),
    "drain": (row("24", "drain", "0.003", "L"), Drain(24.0, 3.0)),
    "bolus": (row("24", "bolus", "0.4", "mL", feed_id="feed"), Bolus(24.0, "feed", 0.4)),
    "water": (row("24", "bolus", "0.4", "mL", feed_id="water"), Bolus(24.0, "water", 0.4)),
    "inoculation": (row("0", "inoculation", "2", "mL", feed_id="feed"), Inoculate(0.0, "feed", 2.0)),
    "transfection": (row("3", "transfection", "1", "mL", feed_id="feed"), Transfect(3.0, "feed", 1.0)),
    "infection": (row("3", "infection", "1", "mL", feed_id="feed"), Infect(3.0, "feed", 1.0)),
    "induction": (row("3", "induction", "1", "mL", feed_id="feed"), Induce(3.0, "feed", 1.0)),
    "exchange": (row("3", "exchange", "5", "mL", feed_id="feed"), Exchange(3.0, 5.0, "feed")),
    "top-up": (
        row("3", "top_up", "2", "mmol/L", value_end="6", feed_id="feed", component="glucose"),
        TopUp("feed", "glucose", below=2.0, to=6.0, times_h=(3.0,)),
    ),
    "constant feed": (row("3", "feed_rate", "0.06", "L/d", feed_id="feed", until_h="9"), Feed("feed", 3.0, 2.5, stop_h=9.0)),
    "linear feed": (
        row("3", "feed_rate", "1", "mL/h", feed_id="feed", value_end="2"), Feed("feed", 3.0, 1.0, end_rate_ml_per_h=2.0),
    ),
    "exponential feed": (
        row("3", "feed_rate", "1", "mL/h", feed_id="feed", growth_per_h="-0.05"),
        Feed("feed", 3.0, 1.0, growth_per_h=-0.05),
    ),
    "perfusion in volumes": (row("3", "perfusion", "1.5", "1/day", feed_id="feed"), Perfusion(3.0, "feed", rate_vvd=1.5)),
    "perfusion in mL/h": (row("3", "perfusion", "1.5", "mL/h", feed_id="feed"), Perfusion(3.0, "feed", rate_ml_per_h=1.5)),
    "chemostat": (row("3", "chemostat", "2.4", "1/d", feed_id="feed"), Chemostat(3.0, "feed", 0.1)),
    "bleed": (row("3", "bleed", "0.5", "mL/h", until_h="9"), Bleed(3.0, rate_ml_per_h=0.5, stop_h=9.0)),
    "bleed above": (row("3", "bleed_above", "2e7", "cells/mL"), Bleed(3.0, above_vcd_1e6_per_ml=20.0)),
    "evaporation": (row("3", "evaporation", "0.01", "mL/h"), Evaporation(3.0, 0.01)),
    "temperature": (row("3", "temperature", "306.15", "kelvin"), Setpoint(3.0, temperature_c=33.0)),
    "pH ramp": (row("3", "ph", "6.8", "-", ramp_h="4"), Setpoint(3.0, ph=6.8, ramp_h=4.0)),
    "dissolved oxygen": (row("0", "do", "0.4", "1"), Setpoint(0.0, do_percent=40.0)),
    "kLa": (row("0", "kla", "0.1", "1/s"), Setpoint(0.0, kla_per_h=360.0)),
    "gas": (row("3", "gas_flow", "0.5", "L/min"), Aeration(3.0, gas_l_per_h=30.0)),
    "oxygen in the gas": (row("3", "gas_oxygen", "40", "%"), Aeration(3.0, oxygen_percent=40.0)),
}  # fmt: skip


@pytest.mark.parametrize("case", STATED)
def test_an_event_is_read_in_its_unit(read, case):
    text, expected = STATED[case]
    (found,) = read(text).runs[0].actions
    assert type(found) is type(expected)
    for name, value in vars(expected).items():
        ours = getattr(found, name)
        assert ours == pytest.approx(value) if isinstance(value, float) else ours == value, name


def test_files_of_before_are_read_as_before(read):
    head = "run_id,time_h,kind,value,unit,feed_id,value_end\n"
    found = read(
        "0,feed_rate,1,mL/h,feed,2", "5,feed_rate,0,mL/h,feed,", "2,feed_rate,3,mL/h,water,", "7,temperature,33,degC,,",
        head=head,
    ).runs[0]  # fmt: skip
    assert found.actions == (
        Feed("feed", 0.0, 1.0, end_rate_ml_per_h=2.0, stop_h=5.0),
        Feed("water", 2.0, 3.0),
        Feed("feed", 5.0, 0.0),
        Setpoint(7.0, temperature_c=33.0),
    )
    assert found.feeds() == ("feed", "water")


def test_what_is_written_down_for_the_end_does_not_happen(read):
    found = read(row("96", "bolus", "1", "mL", feed_id="feed"), row("96", "sample", "1", "mL")).runs[0]
    assert len(found.actions) == 2
    assert not any(isinstance(a, Bolus) for a in found.plan())


def test_a_setpoint_at_time_0_counts_before_that_of_the_run(read):
    plan = read(row("0", "temperature", "34", "degC")).runs[0].plan()
    assert [a for a in plan if isinstance(a, Setpoint)] == [Setpoint(0.0, ph=7.0), Setpoint(0.0, temperature_c=34.0)]


ZOO: dict[str, tuple[list[str], list[str]]] = {
    "unknown kind": ([row("3", "perfussion", "1", "vvd", feed_id="feed")],
                     ["events.csv:2", "unknown kind of event 'perfussion'. Did you mean 'perfusion'?"]),
    "harvest": ([row("96", "harvest", "0", "mL")], ["events.csv:2", "it is the end of the run, end_time_h of runs.csv"]),
    "wrong unit": ([row("3", "bleed", "1", "degC")],
                   ["events.csv:2", "'unit'", "unit 'degC' does not fit a bleed event; expected one like 'mL/h'"]),
    "wrong unit of two": ([row("3", "perfusion", "1", "mL", feed_id="feed")], ["expected one like 'vvd' or 'mL/h'"]),
    "unit of another component": ([row("3", "top_up", "1", "degC", value_end="3", feed_id="feed", component="glucose")],
                                  ["events.csv:2", "unit 'degC' does not fit; expected a unit like 'mmol/L'"]),
    "feed missing": ([row("3", "perfusion", "1", "vvd")], ["events.csv:2", "'feed_id'", "a perfusion event needs it"]),
    "unknown feed": ([row("3", "exchange", "1", "mL", feed_id="fed")],
                     ["events.csv:2", "not in media.csv. Did you mean 'feed'?"]),
    "a feed for a bleed": ([row("3", "bleed", "1", "mL/h", feed_id="feed")],
                           ["events.csv:2", "a bleed event has no feed; leave it blank"]),
    "a ramp of a bolus": ([row("3", "bolus", "1", "mL", feed_id="feed", ramp_h="2")],
                          ["a bolus event has no ramp_h; leave it blank. Those that have: temperature, ph, do, kla"]),
    "component missing": ([row("3", "top_up", "1", "mmol/L", value_end="3", feed_id="feed")],
                          ["events.csv:2", "'component'", "a top_up event needs it"]),
    "unknown component": ([row("3", "top_up", "1", "mmol/L", value_end="3", feed_id="feed", component="glucos")],
                          ["'component'", "Did you mean 'glucose'?"]),
    "top-up without a target": ([row("3", "top_up", "1", "mmol/L", feed_id="feed", component="glucose")],
                                ["'value_end'", "a top_up event needs it"]),
    "top-up downwards": ([row("3", "top_up", "5", "mmol/L", value_end="3", feed_id="feed", component="glucose")],
                         ["events.csv:2", "to 3 lies under below 5; swap them"]),
    "ramp without a start": ([row("5", "do", "40", "%", ramp_h="2")], ["events.csv:2", "no do_percent at time 0"]),
    "ramp from the start": ([row("0", "do", "40", "%", ramp_h="2")], ["events.csv:2", "has nothing to ramp from"]),
    "ramp into the next": ([row("5", "ph", "6.9", "1", ramp_h="9"), row("8", "ph", "6.8", "1")],
                           ["events.csv:3", "ph still ramps until 14 h; shorten that ramp"]),
    "set twice": ([row("5", "ph", "6.9", "1"), row("5", "ph", "6.8", "1")], ["events.csv:3", "ph is set twice"]),
    "after harvest": ([row("97", "bleed", "1", "mL/h")], ["events.csv:2", "'time_h'", "after the end of run R1 (96 h)"]),
    "ends before it begins": ([row("5", "bleed", "1", "mL/h", until_h="4")],
                              ["events.csv:2", "stop_h 4 is not after start_h"]),
    "flows twice": ([row("5", "bleed", "1", "mL/h", until_h="9"), row("8", "bleed", "2", "mL/h")],
                    ["events.csv:3", "bleed is in use until 9 h"]),
    "two feeds perfused at once": (
        [row("5", "perfusion", "1", "vvd", feed_id="feed"), row("8", "perfusion", "1", "vvd", feed_id="water")],
        ["events.csv:3", "level control is in use until 96 h by Perfusion of 'feed' at 5 h"]),
    "linear and exponential": ([row("5", "feed_rate", "1", "mL/h", feed_id="feed", value_end="2", growth_per_h="0.1")],
                               ["events.csv:2", "are both given; keep one"]),
    "gas twice": ([row("5", "gas_flow", "1", "L/h"), row("5", "gas_flow", "2", "L/h")], ["gas_l_per_h is given twice"]),
    "more than all oxygen": ([row("5", "gas_oxygen", "140", "%")], ["events.csv:2", "it is at most 100"]),
    "a text": ([row("5", "kla", "fast", "1/h")], ["events.csv:2", "'fast'", "not a number"]),
    "negative": ([row("5", "kla", "-1", "1/h")], ["events.csv:2", "must not be below 0"]),
    "drained dry": ([row("5", "drain", "14", "mL")], ["events.csv:2", "no volume left after this drain"]),
    "many at once": ([row("5", "bulus", "1", "mL"), row("5", "bleed", "1", "degC"), row("6", "kla", "x", "1/h")],
                     ["events.csv:2", "events.csv:3", "events.csv:4", "has 3 faults"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ZOO)
def test_a_bad_event_is_refused_with_its_line_and_the_remedy(read, case):
    rows, parts = ZOO[case]
    with pytest.raises(DatasetError) as caught:
        read(*rows)
    for part in parts:
        assert part in str(caught.value)
    assert len(caught.value.cells) == (3 if case == "many at once" else 1)
