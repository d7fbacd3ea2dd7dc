"""Shared pieces of the tests. Precision is set before anything is traced; the compile cache is the user's own."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

# Most programs of the tests run a few times: less optimisation compiles them in half the time, to the same tolerances.
# A user's XLA_FLAGS come after and win. It has to be said before jax is loaded.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim.app.build import build_fit, build_process, compose
from optim.data.open import read_dataset
from optim.data.screened import Screen
from optim.kinetics.base import AbstractKineticModel, Environment
from optim.runtime import configure
from optim.schedule.grid import IntervalGrid
from optim.schedule.schedule import Schedule, to_grid
from optim.simulation.balance import Vessel
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.simulate import Trajectory, simulate_one

configure()

ROOT = Path(__file__).resolve().parent.parent
PUBLIC_SET = "optfed_ecoli_proteinL"
COUNTS_SET = "nistcho_feeding_strategies"
# experiments whose data say nothing of feeds and product: these are fitted, and no more
FIT_ONLY = ("nistcho_growth",)


def has_public_data(name: str = PUBLIC_SET) -> bool:
    """Whether a public set lies in the folder named by OPTIM_DATA."""
    given = os.environ.get("OPTIM_DATA")
    return bool(given) and (Path(given) / name).is_dir()


def needs(name: str) -> pytest.MarkDecorator:
    """Skips a test where a public set is not at hand."""
    return pytest.mark.skipif(not has_public_data(name), reason="set OPTIM_DATA to the folder of public datasets")


needs_public_data = needs(PUBLIC_SET)
needs_counts = needs(COUNTS_SET)


def skip_without_data(dataset: str) -> None:
    """Skips the test that runs where the dataset is a public one and not at hand."""
    public = (ROOT / "datasets" / dataset / "source.yaml").exists()
    if public and not has_public_data(dataset):
        pytest.skip("set OPTIM_DATA to the folder of public datasets")


def plan(
    times: list[float],
    end: float,
    bolus: dict[float, float] | None = None,
    withdraw: dict[float, float] | None = None,
    rates: list[tuple[float, float, float]] | None = None,
    temperature: list[tuple[float, float]] | None = None,
    ph: float = 7.0,
) -> Schedule:
    """A schedule with one feed: volumes in L by time, rates as (from h, L/h at the start, L/h at the end)."""
    bolus, withdraw = bolus or {}, withdraw or {}
    nodes = sorted({0.0, *times, *bolus, *withdraw})
    rates = rates or [(0.0, 0.0, 0.0)]
    temperature = temperature or [(0.0, 37.0)]
    return Schedule(
        times=np.asarray(nodes),
        withdraw=np.asarray([withdraw.get(t, 0.0) for t in nodes]),
        bolus=np.asarray([[bolus.get(t, 0.0)] for t in nodes]),
        end=np.asarray(end),
        rate_t=np.asarray([r[0] for r in rates]),
        rate_start=np.asarray([[r[1]] for r in rates]),
        rate_end=np.asarray([[r[2]] for r in rates]),
        setpoint_t=np.asarray([t for t, _ in temperature]),
        setpoints=Environment(np.asarray([v for _, v in temperature]), np.full(len(temperature), ph)),
    )


@partial(jax.jit, static_argnums=(0, 3))
def _followed(model: AbstractKineticModel, p: object, cultivation: Cultivation, integrator: Integrator) -> Trajectory:
    """One program per model, integrator and shape, whichever test asks for it."""
    return simulate_one(model, p, cultivation, integrator=integrator)


def follow(
    model: AbstractKineticModel,
    p: object,
    start: dict[str, float],
    schedule: Schedule,
    volume: float = 1.0,
    feed: dict[str, float] | None = None,
    integrator: Integrator | None = None,
    size: int | None = None,
) -> tuple[Trajectory, IntervalGrid]:
    """Simulate one vessel with one feed; species that are not named start at zero."""
    grid, _ = to_grid(schedule, size)
    initial = model.State(*(start.get(n, 0.0) for n in model.names()))
    feeds = jnp.asarray([[(feed or {}).get(n, 0.0) for n in model.names()]])
    chosen = integrator or Integrator(rtol=1e-9, atol=1e-10)
    return _followed(model, p, Cultivation(initial, volume, grid, Vessel(feeds)), chosen), grid


def at(trajectory: Trajectory, species: str, time: float) -> float:
    """Value of a species just before the actions at a node."""
    place = int(np.argmin(np.abs(np.asarray(trajectory.t) - time)))
    return float(getattr(trajectory.concentrations, species)[place])


@pytest.fixture(scope="session")
def screen():
    return read_dataset("cho_clone_screen")


@pytest.fixture(scope="session")
def small_screen(tmp_path_factory):
    """Four simulated clones: enough structure, little to compute."""
    from optim.synthetic import ScreenOptions, make_screen

    folder = tmp_path_factory.mktemp("data") / "small"
    return make_screen(folder, "small", ScreenOptions(clones=4, seed=7))


@pytest.fixture(scope="session")
def screen_of_others(tmp_path_factory):
    """Two clones that the small screen has not."""
    from optim.synthetic import ScreenOptions, make_screen

    folder = make_screen(tmp_path_factory.mktemp("others") / "others", "others", ScreenOptions(clones=2, seed=9))
    for name in ("runs.csv", "events.csv", "measurements.csv", "truth.csv"):
        file = folder / name
        file.write_text(re.sub(r"\bC(\d\d)", r"N\1", file.read_text()))
    return folder


@pytest.fixture(scope="session")
def small_problem(small_screen):
    cfg = compose([f"dataset.name={small_screen}"])
    return build_fit(cfg, read_dataset(str(small_screen)))


@pytest.fixture(scope="session")
def process_problem(screen):
    return build_process(compose([]), Screen.from_dataset(screen))


@pytest.fixture(scope="session")
def published(process_problem):
    """Configured parameters of the CHO model, [1, P]."""
    rows = compose([]).model.parameters
    return np.array([[float(rows[n].value) for n in process_problem.model.Parameters._fields]])
