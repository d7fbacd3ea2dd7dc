"""Processes that suit each model of the library, typical and random, and one compiled program per model and stepper."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.app.build import build_process, compose, model_config, model_names
from optim.data.screened import Screen
from optim.kinetics import load_kinetics
from optim.kinetics.base import AbstractKineticModel, Environment
from optim.schedule.grid import IntervalGrid
from optim.schedule.schedule import Schedule, to_grid
from optim.simulation.balance import Vessel
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.rosenbrock import Rodas5P
from optim.simulation.engine.steppers import Tsit5
from optim.simulation.simulate import Trajectory, simulate_cultivations

VESSELS = 1000  # of every program
INTERVALS = 64
NODES = 40  # of a random schedule
OPTIMA = ("T_opt", "pH_opt")  # places on a scale: 10 % of them is another organism
STEPPERS = {"explicit": Tsit5, "stiff": Rodas5P}


class Case(NamedTuple):
    """A model's parameters and a cultivation, field by field."""

    p: Any
    initial: Any
    volume: Any
    grid: IntervalGrid
    vessel: Vessel

    @property
    def cultivation(self) -> Cultivation:
        return Cultivation(self.initial, self.volume, self.grid, self.vessel)


def stacked(cases: list[Case]) -> Case:
    """Cases with a leading axis."""
    cases = [case._replace(initial=tuple(case.initial)) for case in cases]
    return jax.tree.map(lambda *x: np.stack([np.asarray(v, float) for v in x]), *cases)


def typed(case: Case) -> Case:
    """The number of intervals is an integer."""
    return case._replace(grid=case.grid._replace(intervals=np.asarray(case.grid.intervals, np.int32)))


@cache
def program(model: AbstractKineticModel) -> Callable[..., Trajectory]:
    """The tolerances are arguments: one program serves all of them."""
    return jax.jit(
        lambda integrator, case: simulate_cultivations(model, case.p, case.cultivation, integrator=integrator)
    )


def simulated(
    model: AbstractKineticModel,
    stepper: str,
    case: Case,
    rtol: float,
    atol: float | None = None,
    first_step_h: float = 0.05,
    vessels: int = VESSELS,
) -> Trajectory:
    """Every vessel of a stacked case. Programs have places for `vessels`: those left over do nothing, at once."""
    given = len(case.volume)
    rows = np.minimum(np.arange(vessels), given - 1)
    full = typed(jax.tree.map(lambda a: a[rows], case))
    idle = np.arange(vessels) >= given
    t = np.where(idle[:, None], 0.0, full.grid.t)
    full = full._replace(grid=full.grid._replace(t=t, intervals=np.where(idle, 1, full.grid.intervals)))
    atol = rtol * 0.1 if atol is None else atol
    integrator = Integrator(STEPPERS[stepper](), rtol, atol, max_steps=400_000, first_step_h=first_step_h)
    found: Trajectory = program(model)(integrator, full)
    return jax.tree.map(lambda a: np.asarray(a)[:given], found)


def configured(config: str) -> Any:
    """Parameters of a configuration."""
    cfg = model_config(config)
    fields = load_kinetics(cfg.kinetics).Parameters._fields
    return load_kinetics(cfg.kinetics).Parameters(*(float(cfg.parameters[f].value) for f in fields))


def state(name: str, **values: float) -> tuple[float, ...]:
    return tuple(values.get(n, 0.0) for n in load_kinetics(name).names())


def schedule(
    end: float,
    nodes: dict[str, dict[float, Any]],
    rates: list[tuple[float, Any, Any]],
    setpoints: dict[str, list[Any]],
    feeds: int = 1,
    also: tuple[float, ...] = (),
    growth: list[Any] | None = None,
    ends: dict[str, list[Any]] | None = None,
    **flows: float,
) -> Schedule:
    """A schedule from what is done at which time; `setpoints` holds the times under 't'; flows are constant."""
    breaks = {*(row[0] for row in rates), *setpoints["t"]}
    times = sorted({0.0, *also, *breaks, *(t for done in nodes.values() for t in done)})
    wide = ("bolus", "topup_below", "topup_to")
    idle = {"topup_below": -np.inf}

    def at(kind: str) -> np.ndarray:
        size = (feeds,) if kind in wide else ()
        none = np.full(size, idle.get(kind, 0.0))
        return np.array([np.broadcast_to(nodes[kind].get(t, none), size) for t in times], float)

    def climate(values: dict[str, list[Any]]) -> Environment:
        kla = np.array(values["kla"], float) if "kla" in values else None
        return Environment(np.array(values["temperature"], float), np.array(values["ph"], float), None, kla)

    r = len(rates)
    return Schedule(
        times=np.array(times),
        withdraw=at("withdraw"),
        bolus=at("bolus"),
        end=np.asarray(end),
        rate_t=np.array([row[0] for row in rates]),
        rate_start=np.array([np.broadcast_to(row[1], feeds) for row in rates], float),
        rate_end=np.array([np.broadcast_to(row[2], feeds) for row in rates], float),
        setpoint_t=np.array(setpoints["t"], float),
        setpoints=climate(setpoints),
        setpoints_end=None if ends is None else climate(ends),
        rate_growth=None if growth is None else np.array(growth, float).reshape(r, feeds),
        flow_t=np.zeros(1) if flows else None,
        **{k: at(k) for k in ("remove", "topup_below", "topup_to") if k in nodes},
        **{k: np.array([v], float) for k, v in flows.items()},
    )


def case_of(p: Any, start: tuple[float, ...], volume: float, plan: Schedule, vessel: Vessel) -> Case:
    grid = jax.tree.map(np.asarray, to_grid(plan, max(INTERVALS, len(plan.times)))[0])
    return Case(p, start, volume, grid, vessel)


def random_nodes(
    rng: np.random.Generator, end: float, breaks: list[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Node times, the end, and the nodes at which something may happen: some are at once, some never come.

    Breakpoints of rates, setpoints and flows are nodes.
    """
    until = np.asarray(end * rng.uniform(0.6, 1.0))
    times = rng.uniform(0.0, end, NODES)
    times[0] = 0.0
    times[1:4] = times[4:7]
    times[rng.integers(16, NODES) :] = end
    times[7 : 7 + len(breaks)] = breaks
    return times, until, times < until


class Process(NamedTuple):
    """A process that suits a model. `random` draws a schedule, a start and a volume."""

    configs: tuple[str, ...]
    vessel: Vessel
    start: tuple[float, ...]
    volume: float
    plan: Schedule
    random: Callable[[np.random.Generator], tuple[Schedule, tuple[float, ...], float]] | None = None


@cache
def process(name: str) -> Process:
    """That of `support/processes/<name>.py`; without such a file, the platform process that the model brings."""
    if find_spec(f"support.processes.{name}"):
        found: Process = import_module(f"support.processes.{name}").process()
        return found
    config = next(c for c in model_names() if model_config(c).kinetics == name)
    problem = build_process(compose([f"model={config}"]), Screen.without_data())
    plan = jax.tree.map(np.asarray, problem.design.schedule(jnp.asarray(problem.design.platform)))
    kept = problem.static.retention
    vessel = Vessel(problem.feeds, None if kept is None else np.array(kept))
    return Process((config,), vessel, tuple(problem.initial), problem.design.start_volume_l, plan)


def typical(name: str) -> list[Case]:
    """The process of a model with every configuration, and with all parameters of the first 10 % up or down."""
    of = process(name)
    sets = [configured(c) for c in of.configs]
    if name.startswith("ecoli_oxygen"):
        sets.append(sets[0]._replace(K_o=0.1))
    rng = np.random.default_rng(5)
    for _ in range(2):
        factors = dict(zip(sets[0]._fields, rng.choice([0.9, 1.1], len(sets[0])), strict=True))
        for field in OPTIMA:
            factors[field] = factors.get(field, 1.0) ** 0.1
        sets.append(type(sets[0])(*(v * factors[f] for f, v in zip(sets[0]._fields, sets[0], strict=True))))
    return [case_of(p, of.start, of.volume, of.plan, of.vessel) for p in sets]


def random_cases(name: str, count: int, seed: int) -> Case:
    """Random schedules, starts and parameters (log-normal, 30 %), stacked."""
    of, rng = process(name), np.random.default_rng(seed)
    assert of.random is not None
    made = [of.random(rng) for _ in range(count)]
    plans = jax.tree.map(lambda *x: np.stack(x), *(plan for plan, _, _ in made))
    grids = jax.jit(jax.vmap(lambda plan: to_grid(plan, INTERVALS)[0]))(plans)
    grids = jax.tree.map(np.asarray, grids)
    base = configured(of.configs[0])
    if name.startswith("ecoli_oxygen"):
        base = base._replace(K_o=0.1)
    shaken = np.array(base)[:, None] * np.exp(rng.normal(0.0, 0.3, (len(base), count)))
    for field in (f for f in OPTIMA if f in base._fields):
        shaken[base._fields.index(field)] = getattr(base, field) * np.exp(rng.normal(0.0, 0.02, count))
    return Case(
        p=type(base)(*shaken),
        initial=tuple(np.array([start for _, start, _ in made]).T),
        volume=np.array([volume for _, _, volume in made]),
        grid=grids,
        vessel=jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))), of.vessel),
    )
