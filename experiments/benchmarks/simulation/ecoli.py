"""E. coli with dissolved oxygen in the process of Anane et al. 2017: batch, exponential feed, constant feed pulses.

Equations of `optim/kinetics/ecoli_oxygen.py`, written once more for the other programs. Oxygen follows the cells within
seconds; with the affinity of the source, 1e-4 % of saturation, it is stiffer still once it runs out.

Order of the state: X, S, A (g/L), DOT, DOTm (% of saturation), volume (L); time in hours.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from process import Process, perturbed

from optim.app.build import model_config
from optim.kinetics.base import Environment
from optim.kinetics.ecoli_oxygen import SATURATION, SECONDS_PER_HOUR, EcoliOxygen, Parameters
from optim.schedule.grid import IntervalActions, IntervalGrid
from optim.simulation.balance import Vessel

START = np.array([0.17, 4.94, 0.0129, 98.0, 98.0, 2.0])
END_H = 34.0
FED_FROM_H, FED_UNTIL_H = 11.4469, 16.3028
FIRST_FEED_L_PER_H, FEED_GROWTH_PER_H = 0.0087, 0.222
SHIFT_H, KLA_PER_H = 14.34, (220.0, 355.0)
FEED_G_PER_L = 300.0
# the source sets the glucose of a pulse: a feed so strong that it adds no volume does the same
PULSES_G_PER_L = {20.5833: 1.0, 22.3639: 0.04, 24.4472: 0.2, 29.5111: 0.2}
PULSE_FEED_G_PER_L = 1e7
NODES_H = np.array(sorted({0.0, 8.0, FED_FROM_H, SHIFT_H, FED_UNTIL_H, *PULSES_G_PER_L, 25.0, 27.0, END_H}))


def rates(t: Any, y: Sequence[Any], p: Sequence[Any], u: Sequence[Any], exp: Callable[[Any], Any]) -> list[Any]:
    """dy/dt of one vessel, per hour; u: feed at the node (L/h), its growth (1/h), kLa (1/h), glucose topped up to."""
    k_ap, k_sa, k_o, k_s, k_ia, k_is, pa_max, qa_max, q_m, qs_max = p[:10]
    y_as, y_oa, y_xa, y_em, y_os, y_xof, c_s, c_x, h, tau = p[10:]
    x, s, a, dot, probe, volume = y
    first, growth, kla, _ = u
    feed = first * exp(growth * t)
    oxygen = dot / (k_o + abs(dot))
    q_s = qs_max * k_ia / (k_ia + a) * s / (s + k_s)
    overflow = pa_max * q_s / (q_s + k_ap)
    respired = q_s - overflow
    q_a = qa_max * k_is / (k_is + q_s) * a / (a + k_sa) * oxygen
    anabolic = (respired - q_m) * y_em * c_x / c_s
    q_o = y_os * (respired - anabolic) * oxygen + y_oa * q_a
    mu = (respired * oxygen - q_m) * y_em + y_xa * q_a + y_xof * overflow
    dilution = feed / volume
    return [
        (mu - dilution) * x,
        dilution * (FEED_G_PER_L - s) - q_s * x,
        (y_as * overflow - q_a) * x - dilution * a,
        kla * (SATURATION - dot) - q_o * h * x - dilution * dot,
        SECONDS_PER_HOUR / tau * (dot - probe),
        feed,
    ]


def edge(y: Sequence[Any], u: Sequence[Any]) -> list[Any]:
    """A pulse: glucose is brought to a concentration, if it is below."""
    x, s, a, dot, probe, volume = y
    lacking = u[3] - s
    dose = (lacking + abs(lacking)) / 2.0 * volume / (PULSE_FEED_G_PER_L - u[3])
    after = volume + dose
    kept = volume / after
    return [x * kept, s * kept + dose / after * PULSE_FEED_G_PER_L, a * kept, dot * kept, probe, after]


@cache
def process(k_o: float) -> Process:
    """The process with an affinity for oxygen (% of saturation)."""
    rows = model_config("ecoli_oxygen").parameters
    values = {name: float(rows[name].value) for name in Parameters._fields} | {"K_o": k_o}
    left, count = NODES_H[:-1], len(NODES_H) - 1
    growth = np.where((left >= FED_FROM_H) & (left < FED_UNTIL_H), FEED_GROWTH_PER_H, 0.0)
    last = FIRST_FEED_L_PER_H * np.exp(FEED_GROWTH_PER_H * (FED_UNTIL_H - FED_FROM_H)) / 2.0
    rising = FIRST_FEED_L_PER_H * np.exp(FEED_GROWTH_PER_H * (left - FED_FROM_H))
    feed = np.select([left < FED_FROM_H, left < FED_UNTIL_H], [0.0, rising], last)
    kla = np.where(left < SHIFT_H, *KLA_PER_H)
    pulse = np.array([PULSES_G_PER_L.get(t, 0.0) for t in left])
    none = np.zeros(count)
    rate = np.stack([feed, none], axis=1)
    actions = IntervalActions(
        withdraw=none,
        bolus=np.zeros((count, 2)),
        rate_start=rate,
        rate_end=rate,
        start=Environment(np.full(count, 37.0), np.full(count, 7.0), None, kla),
        growth=np.stack([growth, none], axis=1),
        topup_below=np.stack([none - np.inf, np.where(pulse > 0.0, pulse, -np.inf)], axis=1),
        topup_to=np.stack([none, pulse], axis=1),
    )
    model = EcoliOxygen()
    feeds, topup = np.zeros((2, 5)), np.zeros((2, 5))
    feeds[:, 1] = FEED_G_PER_L, PULSE_FEED_G_PER_L
    topup[1, 1] = 1.0
    return Process(
        name=f"E. coli, K_o {k_o:g} %",
        parameters=lambda n: perturbed(list(values.values()), n),
        start=START,
        nodes=NODES_H,
        controls=np.stack([feed, growth, kla, pulse], axis=1),
        rates=rates,
        edge=edge,
        sizes=np.array([*(s.scale for s in model.species), 1.0]),
        model=model,
        grid=IntervalGrid(NODES_H, actions, np.asarray(count, np.int32)),
        vessel=Vessel(feeds, topup=topup),
        start_l=float(START[-1]),
    )
