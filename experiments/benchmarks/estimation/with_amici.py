"""AMICI (Froehlich et al. 2021, Bioinformatics 37:3676): compiled C++, CVODES, forward sensitivities.

It is in no extra, since installing it compiles it. `pip install amici scipy-openblas32` does, with a C++ compiler at
hand and `AMICI_BLAS_USE_SCIPY_OPENBLAS=TRUE` where there is no other BLAS.
"""

import hashlib
from functools import cache
from typing import Any

import amici
import numpy as np
from amici.importers.antimony import antimony2amici
from amici.sim.sundials import LinearSolver, ParameterScaling, SensitivityOrder, run_simulation
from programs import Fitted
from reactions import MODEL
from screen import ATOL, DAYS, OWN, RTOL, SHARED, STATES, Screen

from optim.paths import cache_dir

NAME = "screen_amici"


@cache
def _model() -> Any:
    """The compiled model; it stays in optim's cache, so that a second process finds it."""
    mark = hashlib.sha256((amici.__version__ + MODEL).encode()).hexdigest()[:16]
    folder = cache_dir() / "amici" / mark
    if not list(folder.rglob(f"_{NAME}*.so")):
        antimony2amici(MODEL, model_name=NAME, output_dir=folder, fixed_parameters=["dose"], observation_model=[])
    return amici.import_model_module(NAME, folder).get_model()


class Amici(Fitted):
    """One vessel after another."""

    name = "AMICI"
    derivative = "Jacobian, forward sensitivities"

    def __init__(self, s: Screen):
        super().__init__(s)
        self.model = _model()
        self.model.set_timepoints(DAYS.tolist())
        self.model.set_parameter_scale(ParameterScaling.ln)
        self.solver = self.model.create_solver()
        self.solver.set_relative_tolerance(RTOL)
        self.solver.set_absolute_tolerance(ATOL)
        self.solver.set_linear_solver(LinearSolver.dense)  # of eight states
        names, states = list(self.model.get_free_parameter_ids()), list(self.model.get_state_ids())
        self.order = [(*SHARED, *OWN).index(name) for name in names]
        self.slots = [names.index(name) for name in (*SHARED, *OWN)]
        self.start = [(*STATES, "V").index(name) for name in states]
        self.states = [states.index(name) for name in STATES]

    def _runs(self, logs: np.ndarray, order: SensitivityOrder) -> list[Any]:
        s, found = self.screen, []
        self.solver.set_sensitivity_order(order)
        for c, p in enumerate(logs):
            self.model.set_free_parameters(p[self.order])
            self.model.set_fixed_parameters([s.vf[c]])
            self.model.set_initial_state(s.y0[c, self.start])
            run = run_simulation(self.model, self.solver)
            if run.status != 0:
                raise RuntimeError(f"vessel {c}: status {run.status}")
            found.append(run)
        return found

    def predicted(self, lanes: np.ndarray) -> np.ndarray:
        return np.array([run.x[:, self.states] for run in self._runs(np.log(lanes), SensitivityOrder.none)])

    def blocks(self, theta: np.ndarray) -> np.ndarray:
        runs = self._runs(np.log(self.screen.lanes(theta)), SensitivityOrder.first)
        # [15, 14, states] of every vessel
        slopes = np.array([run.sx[:, self.slots][:, :, self.states] for run in runs])
        return np.swapaxes(slopes, 2, 3).reshape(len(runs), -1, 14)
