"""A batch of CHO fed-batch vessels, in NumPy and SciPy: the problem that every program of this folder solves.

Fourteen days from `START`; at the start of days 3 to 13 (counted from 0) a bolus of feed. Between two boluses nothing
changes the volume, so the balance is in concentrations. In the case "depleted" the cells use up the glucose of every
bolus within the day: the gate Glc / (Glc + 0.01) then makes the system stiff.

Order of the state: X, Xd (1e9 cells/L), Glc, Gln, Lac, Amm (mmol/L), mAb (g/L); time in hours. An answer holds one row
a day, the state at its end, with the volume (L) as an eighth column.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

SPECIES = ("X", "Xd", "Glc", "Gln", "Lac", "Amm", "mAb")
CASES = ("mild", "depleted")
RTOL, ATOL = 1e-6, 1e-7

DAY_H = 24.0
DAYS = 14
START = np.array([0.4, 0.01, 30.0, 6.0, 0.5, 0.5, 0.0])
START_L = 1.0

BOLUS_H = 24.0 * np.arange(3, 14)
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


def parameters(n: int) -> NDArray[np.float64]:
    """Parameters of vessels 0 to n - 1, in the order of `NOMINAL`: [n, 17]."""
    nominal = np.array(list(NOMINAL.values()))
    i, j = np.arange(n)[:, None], np.arange(len(nominal))[None, :]
    return nominal * np.exp(0.1 * np.sin(0.7 * (i + 1) * (j + 1) + j))


def rates(t: float, y: NDArray[np.float64], p: tuple[float, ...]) -> NDArray[np.float64]:
    """dy/dt of one vessel. Plain floats, because arithmetic on single NumPy numbers is several times slower."""
    mumax, kd, k_glc, k_gln, ki_lac, ki_amm, kd_lac, kd_amm, yx_glc, yx_gln, y_lac, y_amm, r_amm, m_glc, a1, a2, q = p
    x, _, glc, gln, lac, amm, _ = y.tolist()
    growth = mumax * glc / (k_glc + glc) * gln / (k_gln + gln) * ki_lac / (ki_lac + lac) * ki_amm / (ki_amm + amm)
    death = kd * lac / (kd_lac + lac) * amm / (kd_amm + amm)
    uptake = growth / yx_glc + m_glc * glc / (glc + 0.01)
    return np.array(
        [
            (growth - death) * x,
            death * x,
            -uptake * x,
            -(growth / yx_gln + a1 * gln / (a2 + gln)) * x,
            y_lac * uptake * x,
            (y_amm * growth / yx_gln - r_amm * amm / (amm + 0.1)) * x,
            q * (1 - growth / mumax) * x,
        ]
    )


def simulate(
    case: str, p: NDArray[np.float64], method: str = "LSODA", rtol: float = RTOL, atol: float = ATOL
) -> tuple[NDArray[np.float64], int]:
    """One vessel by SciPy's `solve_ivp`, restarted every day: the states [14, 8] and the accepted steps."""
    y, volume, steps = START, START_L, 0
    days = np.empty((DAYS, len(START) + 1))
    for day in range(DAYS):
        if DAY_H * day in BOLUS_H:
            y = (y * volume + FEED[case] * BOLUS_L) / (volume + BOLUS_L)
            volume += BOLUS_L
        # no dense output: only the end of the day is asked for; the kinetics know no clock, so each day starts at 0
        solution = solve_ivp(rates, (0.0, DAY_H), y, method, args=(tuple(p.tolist()),), rtol=rtol, atol=atol)
        if not solution.success:
            raise RuntimeError(f"{method}, day {day}: {solution.message}")
        y = solution.y[:, -1]
        steps += len(solution.t) - 1
        days[day] = [*y, volume]
    return days, steps


@cache
def reference(case: str, n: int) -> NDArray[np.float64]:
    """States [n, 14, 8] of the first n vessels, tight enough to judge the peers by."""
    return np.stack([simulate(case, p, "Radau", rtol=1e-10, atol=1e-12)[0] for p in parameters(n)])
