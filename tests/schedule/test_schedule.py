"""Schedules and their interval grids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import plan
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.data.dataset import Run
from optim.data.schedules import feeds_of, schedule_of
from optim.schedule.actions import Action, Bolus, Feed, Sample, Setpoint
from optim.schedule.grid import padded_length
from optim.schedule.schedule import to_grid

hours = st.floats(0.0, 400.0, allow_nan=False).map(lambda t: round(t, 3))
litres = st.floats(0.0, 0.01, allow_nan=False)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(hours, litres, min_size=1, max_size=14), st.floats(1.0, 400.0).map(lambda t: round(t, 3)))
def test_the_grid_gives_what_the_schedule_says_and_nothing_after_the_end(doses, end):
    grid, place = to_grid(plan([], end, bolus=doses), 16)
    t = np.asarray(grid.t)
    assert np.all(np.diff(t) >= 0.0)
    assert t[-1] == end
    assert float(grid.actions.bolus.sum()) == pytest.approx(sum(v for h, v in doses.items() if h < end), abs=1e-15)
    nodes = sorted({0.0, *doses})
    for node, where in zip(nodes, np.asarray(place), strict=True):
        assert t[where] == min(node, end)


def test_linear_rates_are_cut_at_nodes_without_loss():
    grid, _ = to_grid(plan([3.0, 7.0], 10.0, rates=[(0.0, 1.0, 2.0), (5.0, 4.0, 4.0)]))
    n = int(grid.intervals)
    length = np.diff(np.asarray(grid.t))[:n]
    # nodes are 0, 3, 7, 10: the breakpoint at 5 h is no node, so a grid is only right when breakpoints are nodes
    assert n == 3
    whole, _ = to_grid(plan([3.0, 5.0, 7.0], 10.0, rates=[(0.0, 1.0, 2.0), (5.0, 4.0, 4.0)]))
    n = int(whole.intervals)
    length = np.diff(np.asarray(whole.t))[:n]
    given_l = float(np.sum(0.5 * (whole.actions.rate_start + whole.actions.rate_end)[:n, 0] * length))
    assert given_l == pytest.approx(0.5 * (1.0 + 2.0) * 5.0 + 4.0 * 5.0, rel=1e-14)
    assert float(whole.actions.rate_end[0, 0]) == pytest.approx(1.6)


def test_setpoints_hold_until_the_next():
    grid, _ = to_grid(plan([1.0, 2.0, 3.0], 4.0, temperature=[(0.0, 37.0), (2.0, 33.0)]))
    assert np.asarray(grid.actions.start.temperature)[:4].tolist() == [37.0, 37.0, 33.0, 33.0]


def test_a_bucket_holds_its_intervals():
    for n in (1, 16, 17, 300, 2048, 5000):
        assert padded_length(n) >= n
    with pytest.raises(ValueError, match="cannot hold"):
        to_grid(plan([1.0, 2.0, 3.0], 4.0), 2)


def run_of(*events: Action) -> Run:
    return Run("R1", "E1", "V1", "C1", 1.0, "m", 37.0, 7.0, 0.5, 20.0, events)


def test_a_run_becomes_its_schedule():
    run = run_of(
        Sample(2.0, 100.0),
        Bolus(2.0, "a", 200.0),
        Feed("b", 4.0, 10.0, 30.0, stop_h=8.0),
        Setpoint(6.0, temperature_c=33.0),
        Bolus(25.0, "a", 9000.0),
    )
    assert feeds_of(run) == ("a", "b")
    s = schedule_of(run, np.array([3.0]), feeds_of(run))
    assert s.times.tolist() == [0.0, 2.0, 3.0, 4.0, 6.0, 8.0]  # what lies after the end does not happen
    grid, _ = to_grid(jax.tree.map(jnp.asarray, s))
    assert float(grid.actions.bolus[:, 0].sum()) == 0.2
    assert float(grid.actions.withdraw.sum()) == 0.1
    n = int(grid.intervals)
    length = np.diff(np.asarray(grid.t))[:n]
    flowed = float(np.sum(0.5 * (grid.actions.rate_start + grid.actions.rate_end)[:n, 1] * length))
    assert flowed == pytest.approx(0.02 * 4.0, rel=1e-12)
    assert float(grid.actions.start.temperature[n - 1]) == 33.0


def test_two_feeds_with_different_breakpoints_keep_their_own_lines():
    run = run_of(
        Feed("a", 0.0, 0.0, 200.0, stop_h=10.0),
        Feed("b", 5.0, 100.0),
    )
    s = schedule_of(run, np.array([]), feeds_of(run))
    grid, _ = to_grid(jax.tree.map(jnp.asarray, s))
    n = int(grid.intervals)
    length = np.diff(np.asarray(grid.t))[:n]
    flowed = np.sum(0.5 * np.asarray(grid.actions.rate_start + grid.actions.rate_end)[:n] * length[:, None], axis=0)
    assert flowed == pytest.approx([1.0, 1.5], rel=1e-12)
