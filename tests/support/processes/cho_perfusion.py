"""Perfusion with bleed, exchange of medium and harvest."""

from __future__ import annotations

from functools import partial

import numpy as np
from support.cases import NODES, Process, random_nodes, schedule

from optim.kinetics.base import Environment
from optim.schedule.schedule import Schedule
from optim.simulation.balance import Vessel

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


def process() -> Process:
    configs = ("cho_perfusion", "cho_perfusion_lt")
    return Process(configs, PERFUSION, PERFUSION_START, 1.0, perfusion(), partial(perfusion_random, "cho_perfusion"))
