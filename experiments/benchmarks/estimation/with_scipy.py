"""SciPy alone: LSODA restarted at every bolus, sparse finite differences, least_squares.

By `odeint`: `solve_ivp` runs the same LSODA, but from Python step by step, and takes 2.8 times as long.
"""

import numpy as np
from programs import Fitted
from scipy.integrate import odeint
from screen import ATOL, RTOL, Screen, fed, rates, segments


class Scipy(Fitted):
    """One vessel after another."""

    name = "SciPy LSODA"
    derivative = "Jacobian, sparse finite differences"

    def __init__(self, s: Screen, rtol: float = RTOL, atol: float = ATOL):
        super().__init__(s)
        self.rtol, self.atol = rtol, atol

    def predicted(self, lanes: np.ndarray) -> np.ndarray:
        s = self.screen
        return np.array([self._vessel(p, s.y0[c], float(s.vf[c])) for c, p in enumerate(lanes)])

    def _vessel(self, p: np.ndarray, y0: np.ndarray, dose: float) -> np.ndarray:
        y, volume, rows, values = np.array(y0[:7]), float(y0[7]), [], tuple(p.tolist())

        def slope(t: float, y: np.ndarray) -> list[float]:
            # plain floats, because arithmetic on single NumPy numbers is several times slower
            return rates(t, y.tolist(), values)

        for i, (a, b, days) in enumerate(segments()):
            if i:
                y, volume = fed(y, volume, dose)
            at = np.unique([a, *days, b])
            found = odeint(slope, y, at, rtol=self.rtol, atol=self.atol, tfirst=True, mxstep=10_000)
            rows.append(found[np.isin(at, days)])
            y = found[-1]
        return np.concatenate(rows)
