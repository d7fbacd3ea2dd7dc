"""SciPy alone: LSODA restarted at every bolus, sparse finite differences, least_squares."""

import numpy as np
from programs import Fitted
from screen import solved


class Scipy(Fitted):
    """One vessel after another."""

    name = "SciPy LSODA"
    derivative = "Jacobian, sparse finite differences"

    def predicted(self, lanes: np.ndarray) -> np.ndarray:
        s = self.screen
        return np.array([solved(p, s.y0[c], float(s.vf[c])) for c, p in enumerate(lanes)])
