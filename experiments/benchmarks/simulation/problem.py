"""A batch of CHO fed-batch vessels: mild, and with glucose used up every day.

Fourteen days from `START`; at the start of days 3 to 13 (counted from 0) a bolus of feed. Between two boluses nothing
changes the volume, so the balance is in concentrations. In the case "depleted" the cells use up the glucose of every
bolus within the day: the gate Glc / (Glc + 0.01) then makes the system stiff.

Order of the state: X, Xd (1e9 cells/L), Glc, Gln, Lac, Amm (mmol/L), mAb (g/L); time in hours.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from process import Floats, Process, perturbed

from optim.kinetics.base import Environment
from optim.kinetics.cho_xing import ChoXing
from optim.schedule.grid import IntervalActions, IntervalGrid
from optim.simulation.balance import Vessel

SPECIES = ("X", "Xd", "Glc", "Gln", "Lac", "Amm", "mAb")
CASES = ("mild", "depleted")
RTOL, ATOL = 1e-6, 1e-7

DAY_H = 24.0
DAYS = 14
START = np.array([0.4, 0.01, 30.0, 6.0, 0.5, 0.5, 0.0])
START_L = 1.0

BOLUS_DAYS = np.arange(3, 14)
BOLUS_L = 0.03
# concentrations in the feed, in the order of the state
FEED = {
    "mild": np.array([0.0, 0.0, 1500.0, 80.0, 0.0, 0.0, 0.0]),
    "depleted": np.array([0.0, 0.0, 500.0, 80.0, 0.0, 0.0, 0.0]),
}

NOMINAL = {
    "mumax": 0.039,
    "kd": 0.004,
    "Kglc": 1.0,
    "Kgln": 0.047,
    "KIlac": 43.0,
    "KIamm": 6.51,
    "KDlac": 45.8,
    "KDamm": 6.51,
    "Yxglc": 0.357,
    "Yxgln": 0.974,
    "Ylac": 0.70,
    "Yamm": 0.67,
    "ramm": 6.3e-3,
    "mglc": 69.2e-3,
    "a1": 3.2e-3,
    "a2": 2.1,
    "Q": 1.51e-3,
}

# vessel 0 at 336 h by Radau at rtol 1e-10, and the mean final mAb of vessels 0 to 999
CHECK_FINAL = {
    "mild": {"X": 20.391501, "Xd": 1.417349, "Glc": 123.611016, "Lac": 173.611074, "mAb": 4.460149},
    "depleted": {"X": 18.467553, "Xd": 1.154806, "Lac": 94.05619, "mAb": 4.235425},
}
CHECK_FINAL_L = 1.33
CHECK_MEAN_MAB = {"mild": 4.0789479, "depleted": 3.5911912}


def parameters(n: int) -> Floats:
    """Parameters of vessels 0 to n - 1, in the order of `NOMINAL`: [n, 17]."""
    return perturbed(list(NOMINAL.values()), n)


def rates(t: Any, y: Sequence[Any], p: Sequence[Any], u: Sequence[Any], exp: Callable[[Any], Any]) -> list[Any]:
    """dy/dt of one vessel, per hour."""
    mumax, kd, k_glc, k_gln, ki_lac, ki_amm, kd_lac, kd_amm, yx_glc, yx_gln, y_lac, y_amm, r_amm, m_glc, a1, a2, q = p
    x, _, glc, gln, lac, amm, _ = y
    growth = mumax * glc / (k_glc + glc) * gln / (k_gln + gln) * ki_lac / (ki_lac + lac) * ki_amm / (ki_amm + amm)
    death = kd * lac / (kd_lac + lac) * amm / (kd_amm + amm)
    uptake = growth / yx_glc + m_glc * glc / (glc + 0.01)
    return [
        (growth - death) * x,
        death * x,
        -uptake * x,
        -(growth / yx_gln + a1 * gln / (a2 + gln)) * x,
        y_lac * uptake * x,
        (y_amm * growth / yx_gln - r_amm * amm / (amm + 0.1)) * x,
        q * (1 - growth / mumax) * x,
    ]


def edge(y: Sequence[Any], u: Sequence[Any]) -> list[Any]:
    """A bolus: what is kept of the concentrations, and what is added to glucose and glutamine."""
    kept, glc, gln = u
    x, xd, *rest = (kept * value for value in y)
    return [x, xd, rest[0] + glc, rest[1] + gln, *rest[2:]]


@cache
def process(case: str, nodes_per_day: int = 1) -> Process:
    """The problem with that many nodes a day; boluses at the first of a day."""
    count = DAYS * nodes_per_day
    bolus = np.zeros(count)
    bolus[BOLUS_DAYS * nodes_per_day] = BOLUS_L
    after = START_L + np.cumsum(bolus)
    feed = FEED[case]
    controls = np.stack([1.0 - bolus / after, feed[2] * bolus / after, feed[3] * bolus / after], axis=1)
    nodes = DAY_H / nodes_per_day * np.arange(count + 1)
    still = np.zeros((count, 1))
    climate = Environment(np.full(count, 37.0), np.full(count, 7.0))
    actions = IntervalActions(np.zeros(count), bolus[:, None], still, still, climate)
    return Process(
        name=case,
        parameters=parameters,
        start=START,
        nodes=nodes,
        controls=controls,
        rates=rates,
        edge=edge,
        sizes=np.ones(len(START)),
        model=ChoXing(),
        grid=IntervalGrid(nodes, actions, np.asarray(count, np.int32)),
        vessel=Vessel(feed[None]),
        start_l=START_L,
        # its scales are 10 at most: never looser than the others
        optim_atol=0.1,
    )
