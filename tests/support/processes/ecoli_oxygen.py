"""Batch, exponential feed, constant feed with pulses of glucose, and gas transfer."""

from __future__ import annotations

from functools import partial

import numpy as np
from support.cases import NODES, Process, random_nodes, schedule

from optim.kinetics import load_kinetics
from optim.kinetics.base import Environment
from optim.schedule.schedule import Schedule
from optim.simulation.balance import Vessel

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


def process() -> Process:
    return Process(("ecoli_oxygen",), OXYGEN, OXYGEN_START, 2.0, oxygen(), partial(oxygen_random, "ecoli_oxygen"))
