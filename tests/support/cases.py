"""Processes that suit each model of the library, typical and random, and one compiled program per model and stepper."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from optim.app.build import model_config
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


DAYS = [24.0 * d for d in range(1, 14)]


def cho_vessel(name: str) -> Vessel:
    """A feed of glucose that also tops up, one of glutamine, and base for the lactate formed."""
    rich = state(name, Glc=900.0, Gln=20.0, Amm=0.5)
    second = state(name, Gln=120.0)
    titrant = state(name, Lac=5e-4)
    return Vessel(np.array([rich, second]), None, np.array(titrant), np.array([state(name, Glc=1.0), state(name)]))


def cho_start(name: str) -> tuple[float, ...]:
    other = {"Xd": 0.008} if name == "cho_xing" else {"Xt": 0.408, "Lac": 1e-6, "Osm": 250.0}
    return state(name, **({"Xv": 0.4, "Glc": 30.0, "Gln": 6.0, "Amm": 0.3} | other))


def cho(name: str) -> Schedule:
    """Fed-batch: samples, boluses, top-ups, a feed, a shift of temperature and pH, evaporation."""
    late = [d for d in DAYS if d >= 72.0]
    return schedule(
        336.0,
        {
            "withdraw": dict.fromkeys(DAYS, 0.004),
            "bolus": {d: (0.012, 0.006) for d in late},
            "topup_below": {d: (4.0, -np.inf) for d in late if d > 160.0},
            "topup_to": {d: (8.0, 0.0) for d in late if d > 160.0},
        },
        [(0.0, (0.0, 0.0), (0.0, 0.0)), (50.0, (1e-4, 0.0), (4e-4, 2e-5)), (250.0, (2e-4, 0.0), (2e-4, 0.0))],
        {"t": [0.0, 144.0, 200.0], "temperature": [36.8, 33.0, 33.5], "ph": [7.0, 7.0, 6.9]},
        feeds=2,
        evaporation=2e-5,
    )


def cho_random(name: str, rng: np.random.Generator) -> tuple[Schedule, tuple[float, ...], float]:
    rate_t, setpoint_t = ([0.0, *np.sort(rng.uniform(10.0, 300.0, 2))] for _ in range(2))
    times, end, on = random_nodes(rng, 336.0, [*rate_t, *setpoint_t])
    feeding = on & (times > 60.0) & (rng.random(NODES) < 0.5)
    topped = (on & (rng.random(NODES) < 0.2))[:, None] & np.array([True, False])
    plan = Schedule(
        times=times,
        withdraw=np.where(on & (rng.random(NODES) < 0.6), rng.uniform(0.0, 0.01, NODES), 0.0),
        bolus=np.where(feeding[:, None], rng.uniform(0.0, (0.03, 0.01), (NODES, 2)), 0.0),
        end=end,
        rate_t=np.array(rate_t),
        rate_start=rng.uniform(0.0, 3e-4, (3, 2)) * (rng.random((3, 2)) < 0.5),
        rate_end=rng.uniform(0.0, 3e-4, (3, 2)) * (rng.random((3, 2)) < 0.5),
        setpoint_t=np.array(setpoint_t),
        setpoints=Environment(rng.uniform(31.0, 38.0, 3), rng.uniform(6.7, 7.2, 3)),
        topup_below=np.where(topped, rng.uniform(0.0, 10.0, (NODES, 2)), -np.inf),
        topup_to=np.where(topped, rng.uniform(5.0, 20.0, (NODES, 2)), 0.0),
        flow_t=np.zeros(1),
        evaporation=rng.uniform(0.0, 5e-5, 1),
    )
    factors = np.exp(rng.normal(0.0, 0.3, len(cho_start(name))))
    return plan, tuple(np.array(cho_start(name)) * factors), 1.0


PERFUSION = Vessel(np.array([(0.0, 8.0, 0.0, 0.0)]), np.array([0.995, 0.0, 0.0, 0.1]))
PERFUSION_START = (0.5, 6.0, 0.1, 0.0)


def perfusion(limit: float = 12.0) -> Schedule:
    """Batch, exchange of medium, then perfusion with cells held back, the level held, and the VCD held by bleeding."""
    return schedule(
        480.0,
        {
            "withdraw": dict.fromkeys([24.0 * d for d in range(2, 20, 2)], 0.005),
            "bolus": {36.0: 0.4, 60.0: 0.05},
            "remove": {36.0: 0.4},
        },
        [(0.0, 0.0, 0.0), (48.0, 0.01, 0.045), (160.0, 0.05, 0.05)],
        {"t": [0.0], "temperature": [37.0], "ph": [7.0]},
        also=(100.0, 110.0),
        harvest=0.001,
        level=1.0,
        bleed_above=limit,
        bleed=2e-4,
        evaporation=1e-4,
    )


def perfusion_random(name: str, rng: np.random.Generator) -> tuple[Schedule, tuple[float, ...], float]:
    rate_t, flow_t = [0.0, *np.sort(rng.uniform(24.0, 400.0, 2))], [0.0, rng.uniform(50.0, 400.0)]
    times, end, on = random_nodes(rng, 480.0, [*rate_t, *flow_t])
    exchanged = np.where(on & (rng.random(NODES) < 0.08), rng.uniform(0.1, 0.5, NODES), 0.0)
    perfused = rng.random() < 0.7
    plan = Schedule(
        times=times,
        withdraw=np.where(on & (rng.random(NODES) < 0.5), rng.uniform(0.0, 0.01, NODES), 0.0),
        bolus=np.where(on & (rng.random(NODES) < 0.1), rng.uniform(0.0, 0.05, NODES), exchanged)[:, None],
        end=end,
        rate_t=np.array(rate_t),
        rate_start=rng.uniform(0.06, 0.12, (3, 1)) * perfused,
        rate_end=rng.uniform(0.06, 0.12, (3, 1)) * perfused,
        setpoint_t=np.zeros(1),
        setpoints=Environment(np.full(1, 37.0), np.full(1, 7.0)),
        remove=np.where(exchanged > 0.0, 0.9 * exchanged, 0.0),
        flow_t=np.array(flow_t),
        harvest=rng.uniform(0.0, 1e-3, 2) * perfused,
        level=np.where(rng.random(2) < 0.8, 1.0, rng.random(2)) * perfused,
        # never lowered: a bleed far above its limit empties the vessel
        bleed_above=np.full(2, rng.uniform(8.0, 40.0) if perfused and rng.random() < 0.7 else 1e6),
        bleed=rng.uniform(0.0, 3e-4, 2) * perfused,
        evaporation=rng.uniform(0.0, 1e-4, 2) * perfused,
    )
    return plan, tuple(np.array(PERFUSION_START) * np.exp(rng.normal(0.0, 0.3, 4))), 1.0


FED_FROM, FED_UNTIL = 11.4469, 16.3028
PULSES = {20.5833: 1.0, 22.3639: 0.04, 24.4472: 0.2, 29.5111: 0.2}  # h: glucose brought to, g/L
# the source sets the glucose of a pulse: a feed so strong that it adds no volume does the same
OXYGEN = Vessel(
    np.array([(0.0, 300.0, 0.0, 0.0, 0.0), (0.0, 1e7, 0.0, 0.0, 0.0)]),
    topup=np.array([(0.0,) * 5, (0.0, 1.0, 0.0, 0.0, 0.0)]),
)
OXYGEN_START = (0.17, 4.94, 0.0129, 98.0, 98.0)


def oxygen() -> Schedule:
    """Batch, exponential feed, constant feed with pulses: Anane et al. 2017."""
    last = 0.0087 * np.exp(0.222 * (FED_UNTIL - FED_FROM)) / 2.0
    return schedule(
        34.0,
        {
            "withdraw": {},
            "bolus": {},
            "topup_below": {t: (-np.inf, s) for t, s in PULSES.items()},
            "topup_to": {t: (0.0, s) for t, s in PULSES.items()},
        },
        [(0.0, 0.0, 0.0), (FED_FROM, (0.0087, 0.0), (0.0087, 0.0)), (FED_UNTIL, (last, 0.0), (last, 0.0))],
        {"t": [0.0, 14.34], "temperature": [37.0, 37.0], "ph": [7.0, 7.0], "kla": [220.0, 355.0]},
        feeds=2,
        also=(8.0, FED_FROM, 14.34, FED_UNTIL, 25.0, 27.0),
        growth=[(0.0, 0.0), (0.222, 0.0), (0.0, 0.0)],
        evaporation=0.0,
    )


def oxygen_random(name: str, rng: np.random.Generator) -> tuple[Schedule, tuple[float, ...], float]:
    fed_from, shift = rng.uniform(6.0, 14.0), rng.uniform(8.0, 20.0)
    fed_until = fed_from + rng.uniform(2.0, 8.0)
    times, end, on = random_nodes(rng, 34.0, [fed_from, fed_until, shift])
    first, mu = rng.uniform(0.002, 0.015), rng.uniform(0.05, 0.3)
    last = first * np.exp(mu * (fed_until - fed_from)) * rng.uniform(0.2, 1.0)
    pulsed = on & (times > 12.0) & (rng.random(NODES) < 0.2)
    feed = np.array([(0.0, 0.0), (first, 0.0), (last, 0.0)])
    topped = np.where(pulsed & (rng.random(NODES) < 0.5), rng.uniform(0.05, 1.0, NODES), 0.0)
    none = np.zeros(NODES)
    plan = Schedule(
        times=times,
        withdraw=np.where(on & (rng.random(NODES) < 0.5), rng.uniform(0.0, 0.02, NODES), 0.0),
        bolus=np.stack([np.where(pulsed & (topped == 0.0), rng.uniform(0.0, 0.02, NODES), 0.0), none], axis=1),
        end=end,
        rate_t=np.array([0.0, fed_from, fed_until]),
        rate_start=feed,
        rate_end=feed,
        rate_growth=np.array([(0.0, 0.0), (mu, 0.0), (0.0, 0.0)]),
        setpoint_t=np.array([0.0, shift]),
        setpoints=Environment(np.full(2, 37.0), np.full(2, 7.0), None, rng.uniform(100.0, 600.0, 2)),
        topup_below=np.stack([none - np.inf, np.where(topped > 0.0, topped, -np.inf)], axis=1),
        topup_to=np.stack([none, topped], axis=1),
        flow_t=np.zeros(1),
        evaporation=rng.uniform(0.0, 2e-3, 1),
    )
    start = np.array(OXYGEN_START) * np.exp(rng.normal(0.0, 0.3, 5) * [1.0, 1.0, 1.0, 0.0, 0.0])
    return plan, tuple(start)[: len(load_kinetics(name).species)], 2.0


def protein() -> Schedule:
    """From induction: exponential feed, a pulse, a ramp of temperature, samples."""
    return schedule(
        12.0,
        {"withdraw": {2.0: 0.01, 5.0: 0.01, 9.0: 0.01}, "bolus": {6.0: 0.02}},
        [(0.0, 0.030768, 0.030768), (8.0, 0.05, 0.04)],
        {"t": [0.0, 3.0, 7.0], "temperature": [31.0, 31.0, 35.0], "ph": [7.0, 7.0, 7.0]},
        also=(10.0,),
        growth=[0.09017, 0.0],
        ends={"temperature": [31.0, 35.0, 29.0], "ph": [7.0, 7.0, 7.0]},
    )


def unfed() -> Schedule:
    """Samples, and nothing else."""
    return schedule(
        264.0,
        {"withdraw": dict.fromkeys([48.0, 120.0, 200.0], 0.01), "bolus": {}},
        [(0.0, 0.0, 0.0)],
        {"t": [0.0], "temperature": [37.0], "ph": [7.0]},
    )


def transfection() -> Schedule:
    """Plasmids at the start, most of the medium exchanged at 6 h, samples."""
    return schedule(
        72.0,
        {"withdraw": dict.fromkeys([12.0, 24.0, 48.0], 0.01), "bolus": {6.0: 0.7}, "remove": {6.0: 0.7}},
        [(0.0, 0.0, 0.0)],
        {"t": [0.0], "temperature": [37.0], "ph": [7.0]},
        also=(60.0,),
    )


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
    """What suits a model."""

    configs: tuple[str, ...]
    vessel: Vessel
    start: tuple[float, ...]
    volume: float
    plan: Schedule
    mild: bool
    random: Callable[[np.random.Generator], tuple[Schedule, tuple[float, ...], float]] | None


@cache
def process(name: str) -> Process:
    if name in ("cho_xing", "cho_moller"):
        return Process((name,), cho_vessel(name), cho_start(name), 1.0, cho(name), True, partial(cho_random, name))
    if name == "cho_perfusion":
        configs = ("cho_perfusion", "cho_perfusion_lt")
        random = partial(perfusion_random, name)
        return Process(configs, PERFUSION, PERFUSION_START, 1.0, perfusion(), True, random)
    if name == "ecoli_oxygen":
        return Process((name,), OXYGEN, OXYGEN_START, 2.0, oxygen(), False, partial(oxygen_random, name))
    if name == "ecoli_oxygen_steady":
        vessel = OXYGEN._replace(feeds=OXYGEN.feeds[:, :3], topup=OXYGEN.topup[:, :3])
        return Process((name,), vessel, OXYGEN_START[:3], 2.0, oxygen(), True, partial(oxygen_random, name))
    if name == "ecoli_protein":
        configs = ("ecoli_protein_l", "ecoli_damage", "ecoli_published")
        vessel = Vessel(np.array([state(name, G=360.87)]))
        return Process(configs, vessel, state(name, X=30.0), 1.3, protein(), True, None)
    if name == "cho_growth":
        start = state(name, Xv=0.4, Xd=0.012, S=1.0)
        return Process((name,), Vessel(np.zeros((1, 4))), start, 1.0, unfed(), True, None)
    assert name == "raav_nguyen"
    # everything is in the cells, which are held back
    vessel = Vessel(np.zeros((1, 22)), np.ones(22))
    start = state(name, Xv=1.0, RC_E=7.6e4, Vec_E=7.6e4, Hel_E=7.6e4)
    return Process((name,), vessel, start, 1.0, transfection(), False, None)


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
