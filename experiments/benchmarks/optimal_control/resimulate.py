"""The same problems once more, in NumPy and SciPy alone: what a returned control is really worth.

Nothing here is shared with the package: equations in concentrations as the papers print them, LSODA, restarted at every
change of a control.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp

Rates = Callable[[np.ndarray, np.ndarray], np.ndarray]


def park_ramirez(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    pm, pt, cells, s, v = x
    d = u[0] / v
    mu = 21.87 * s / ((s + 0.4) * (s + 62.5))
    f = s * np.exp(-5 * s) / (0.1 + s)
    phi = 4.75 * mu / (0.12 + mu)
    return np.array([phi * (pt - pm) - d * pm, f * cells - d * pt, mu * cells - d * cells,
                     -7.3 * mu * cells + d * (20 - s), u[0]])  # fmt: skip


def lee_ramirez(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    v, cells, s, p, i, a, b = x
    d = (u[0] + u[1]) / v
    q = s / (14.35 + s + s**2 / 111.5)
    mu = q * (a + 0.22 * b / (0.22 + i))
    r = 0.233 * q * (0.0005 + i) / (0.022 + i)
    k = 0.09 * i / (0.034 + i)
    return np.array([u[0] + u[1], mu * cells - d * cells, 100 * u[0] / v - d * s - mu * cells / 0.51,
                     r * cells - d * p, 4 * u[1] / v - d * i, -k * a, k * (1 - b)])  # fmt: skip


def penicillin(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    cells, p, s, v = x
    f = 500.0 * u[0]
    mu = 0.11 * s / (0.006 * cells + s)
    rho = 0.0055 * s / (0.0001 + s * (1 + 10 * s))
    ms = 0.029 * s / (0.0001 + s)
    return np.array([mu * cells - f * cells / (500 * v), rho * cells - 0.01 * p - f * p / (500 * v),
                     -(mu / 0.47 + rho / 1.2 + ms) * cells + f * (1 - s / 500) / v, f / 500])  # fmt: skip


def ethanol(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    cells, s, p, v = x
    d = u[0] / v
    mu = 0.408 / (1 + p / 16) * s / (0.22 + s)
    pi = 1 / (1 + p / 71.5) * s / (0.44 + s)
    return np.array([mu * cells - d * cells, -10 * mu * cells + d * (150 - s), pi * cells - d * p, u[0]])


def hybridoma(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Time in hours, as the package counts; the paper's days are converted at the end."""
    cells, glc, gln, lac, amm, mab, v = x
    feed = 24.0 * u  # L/day
    d = feed.sum() / v
    mu = 1.09 * glc / (1 + glc) * gln / (0.3 + gln)
    kd = 0.69 / ((1.09 - 0.01 * lac) * (1.09 - 0.06 * amm)) * 0.02 / (0.02 + gln)
    qgln = mu / 3.8
    qglc = mu / 1.09 + 0.17 * glc / (19 + glc)
    qmab = 2.57 * mu / (0.02 + mu) + 0.35
    per_day = [(mu - kd) * cells - d * cells, -qglc * cells + feed[0] * 25 / v - d * glc,
               -qgln * cells + feed[1] * 4 / v - d * gln, 1.8 * qglc * cells - d * lac,
               0.85 * qgln * cells - d * amm, qmab * cells - d * mab, feed.sum()]  # fmt: skip
    return np.array(per_day) / 24.0


# rates, start, value of (end, litres of every feed), limits as (index of the state, upper limit, along the path)
Value = Callable[[np.ndarray, np.ndarray], float]
MODELS: dict[str, tuple[Rates, list[float], Value, list[tuple[int, float, bool]]]] = {
    "park_ramirez": (park_ramirez, [0, 0, 1, 5, 1], lambda x, fed: x[0] * x[4], []),
    "lee_ramirez_q0": (lee_ramirez, [1, 0.1, 40, 0, 0, 1, 0], lambda x, fed: x[3] * x[0], []),
    "lee_ramirez_q2.5": (lee_ramirez, [1, 0.1, 40, 0, 0, 1, 0], lambda x, fed: x[3] * x[0] - 2.5 * fed[1], []),
    "lee_ramirez_q5": (lee_ramirez, [1, 0.1, 40, 0, 0, 1, 0], lambda x, fed: x[3] * x[0] - 5.0 * fed[1], []),
    "penicillin": (penicillin, [1.5, 0, 0, 7], lambda x, fed: x[1] * x[3],
                   [(0, 40.0, True), (2, 25.0, True), (3, 10.0, True)]),
    "ethanol": (ethanol, [1, 150, 0, 10], lambda x, fed: x[2] * x[3], [(3, 200.0, False)]),
    "hybridoma": (hybridoma, [2, 25, 4, 0, 0, 0, 0.79], lambda x, fed: x[5] * x[6], [(6, 2.0, False)]),
}  # fmt: skip


def resimulated(name: str, controls: np.ndarray, hours: float) -> tuple[float, float]:
    """Value, and the largest relative violation of a limit, of controls [N, feeds] in L/h; NaN where LSODA fails."""
    key = name if name in MODELS else name.rsplit("_", 1)[0]
    rates, start, value, limits = MODELS[key]
    x, worst = np.array(start, float), 0.0
    length = hours / len(controls)
    for k, u in enumerate(controls):
        found = solve_ivp(
            lambda t, x, u=u: rates(x, u), (0.0, length), x, "LSODA", rtol=1e-9, atol=1e-11,
            t_eval=np.linspace(0.0, length, 41),
        )  # fmt: skip
        if not found.success:
            return float("nan"), float("nan")
        x = found.y[:, -1]
        for i, limit, along in limits:
            if along or k == len(controls) - 1:
                seen = found.y[i] if along else x[i : i + 1]
                worst = max(worst, float(np.max(seen) / limit - 1.0))
    return float(value(x, controls.sum(axis=0) * length)), worst
