"""The schedule of a run: its recorded actions in the form that a simulation takes."""

from __future__ import annotations

import numpy as np

from optim.data.dataset import Run
from optim.errors import ConfigError, DatasetError
from optim.schedule.plan import Plan, make_plan
from optim.schedule.schedule import Schedule


def feeds_of(run: Run) -> tuple[str, ...]:
    """Feeds of a run in order of first use; at least one name, so that arrays never have a zero axis."""
    return run.feeds() or ("",)


def schedule_of(run: Run, observed_h: np.ndarray, feeds: tuple[str, ...]) -> Schedule:
    """The schedule of a run, with a node at every observed time. Volumes in L, rates in L/h.

    Raises `DatasetError` that names the run where its actions contradict each other.
    """
    return plan_of_run(run, observed_h, feeds).schedule


def plan_of_run(run: Run, observed_h: np.ndarray, feeds: tuple[str, ...]) -> Plan:
    """The plan of a run, with a node at every observed time.

    Raises `DatasetError` that names the run, where its actions are no plan.
    """
    try:
        return make_plan(run.plan(), observed_h=observed_h, volume_ml=1000.0 * run.start_volume_l, feeds=feeds)
    except ConfigError as err:
        raise DatasetError(f"run '{run.run_id}': {err}") from err
