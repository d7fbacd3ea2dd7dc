"""A CHO fed-batch with all that can be done to it."""

from __future__ import annotations

from functools import partial

import numpy as np
from support.cases import NODES, Process, random_nodes, schedule, state

from optim.kinetics.base import Environment
from optim.schedule.schedule import Schedule
from optim.simulation.balance import Vessel

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


def fed_batch(name: str) -> Process:
    return Process((name,), cho_vessel(name), cho_start(name), 1.0, cho(name), partial(cho_random, name))


def process() -> Process:
    return fed_batch("cho_xing")
