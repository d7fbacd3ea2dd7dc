"""Vessels of a dataset as arrays: interval grids, feeds and devices of all runs in one shape."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.data.dataset import Dataset
from optim.data.schedules import plan_of_run
from optim.errors import ConfigError, DatasetError
from optim.kinetics.base import AbstractKineticModel, Environment
from optim.schedule.grid import IntervalGrid, padded_length
from optim.schedule.plan import Plan
from optim.schedule.schedule import share_parts, to_grid
from optim.simulation.vessel import make_vessel

NO_FEED = "-"  # begins the names of columns that only fill up


class VesselArrays(NamedTuple):
    """All runs of a dataset in one shape, axis B first (J feeds, N species)."""

    grid: IntervalGrid
    nodes: tuple[np.ndarray, ...]  # h, of every vessel, the end of the run included
    feeds: np.ndarray  # [B, J, N]
    retention: np.ndarray | None  # [B, N]; None: no vessel has a retention device
    topup: np.ndarray | None  # [B, J, N]; None: no vessel tops up
    initial: np.ndarray  # [B, N]
    volume: np.ndarray  # [B] L


def vessel_arrays(model: AbstractKineticModel, dataset: Dataset, observed_h: list[np.ndarray]) -> VesselArrays:
    """The vessels of a dataset, with a node at every observed time of each run.

    Where medium is exchanged or perfused, cells and properties of cells are retained. Raises `DatasetError` that names
    the run, where a feed or medium is unknown, or the model needs something that the run does not state.
    """
    plans = _plans(dataset, observed_h)
    made = []
    for run, plan in zip(dataset.runs, plans, strict=True):
        _check_setpoints(model, plan, run.run_id)
        stocks = {feed: {} if _is_filler(feed) else dataset.medium(feed, run.run_id) for feed in plan.feeds}
        try:
            made.append(make_vessel(model, plan, stocks))
        except ConfigError as err:
            raise DatasetError(f"run '{run.run_id}': {err}") from err
    initial = np.zeros((len(dataset.runs), len(model.species)))
    for b, run in enumerate(dataset.runs):
        medium = dataset.medium(run.medium_id, run.run_id)
        try:
            start = model.initial(medium, run.inoculum_vcd, dataset.initial_sample(b))
        except DatasetError as err:
            raise DatasetError(f"run '{run.run_id}': {err}") from err
        initial[b] = [start[name] for name in model.names()]
    schedules = share_parts([plan.schedule for plan in plans])
    size = padded_length(max(len(s.times) for s in schedules))
    grids = [jax.tree.map(np.asarray, to_grid(s, size)[0]) for s in schedules]
    kept = [v.retention for v in made]
    topups = [v.topup for v in made]
    nothing = np.zeros_like(made[0].feeds)
    return VesselArrays(
        grid=jax.tree.map(lambda *x: np.stack(x), *grids),
        nodes=tuple(np.append(s.times, run.end_time_h) for s, run in zip(schedules, dataset.runs, strict=True)),
        feeds=np.stack([v.feeds for v in made]),
        retention=_stacked(kept, np.zeros(len(model.species))),
        topup=_stacked(topups, nothing),
        initial=initial,
        volume=np.array([run.start_volume_l for run in dataset.runs]),
    )


def _plans(dataset: Dataset, observed_h: list[np.ndarray]) -> list[Plan]:
    feeds = [run.feeds() or ("",) for run in dataset.runs]
    width = max(len(names) for names in feeds)
    plans = []
    for run, names, times in zip(dataset.runs, feeds, observed_h, strict=True):
        padded = names + tuple(f"{NO_FEED}{i}" for i in range(width - len(names)))
        plans.append(plan_of_run(run, times[times < run.end_time_h], padded))
    return plans


def _is_filler(feed: str) -> bool:
    return not feed or feed.startswith(NO_FEED)


def _stacked(parts: list[np.ndarray | None], nothing: np.ndarray) -> np.ndarray | None:
    if all(part is None for part in parts):
        return None
    return np.stack([nothing if part is None else part for part in parts])


def _check_setpoints(model: AbstractKineticModel, plan: Plan, run_id: str) -> None:
    """Whether a run states every setpoint that the model needs."""
    given = Environment(*(None if x is None else jnp.ones(()) for x in plan.schedule.setpoints))
    if given.kla is None and any(s.saturation is not None for s in model.species):
        raise DatasetError(
            f"run '{run_id}': the model exchanges oxygen with gas and the run states no kLa; add an event of kind kla "
            "at time 0"
        )
    p = model.Parameters(*(jnp.ones(()) for _ in model.Parameters._fields))
    c = model.State(*(jnp.ones(()) for _ in model.species))
    try:
        jax.eval_shape(lambda p, c, env: model.rates(p, c, env), p, c, given)
    except (ConfigError, TypeError) as err:
        if None in (given.do, given.kla):
            raise DatasetError(
                f"run '{run_id}' does not state every setpoint that the model needs; add events of kind do or kla at "
                f"time 0 ({err})"
            ) from err
        raise
