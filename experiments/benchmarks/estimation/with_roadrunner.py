"""libRoadRunner (Welsh et al. 2023, Bioinformatics 39:btac770): the model compiled, CVODE, finite differences."""

import antimony
import numpy as np
import roadrunner
from programs import Fitted
from reactions import MODEL
from screen import ATOL, DAYS, OWN, RTOL, SHARED, STATES, Screen


class RoadRunner(Fitted):
    """One vessel after another. Boluses are events of the model: stopping for them takes 2.5 times as long."""

    name = "libRoadRunner"
    derivative = "Jacobian, sparse finite differences"

    def __init__(self, s: Screen):
        super().__init__(s)
        if antimony.loadAntimonyString(MODEL) < 0:
            raise RuntimeError(antimony.getLastError())
        self.runner = roadrunner.RoadRunner(antimony.getSBMLString("screen"))
        self.runner.integrator.relative_tolerance = RTOL
        self.runner.integrator.absolute_tolerance = ATOL
        self.runner.timeCourseSelections = list(STATES)
        model = self.runner.model
        numbers, species = list(model.getGlobalParameterIds()), list(model.getFloatingSpeciesIds())
        self.numbers = [numbers.index(name) for name in (*SHARED, *OWN, "V", "dose")]
        self.species = [species.index(name) for name in STATES]

    def predicted(self, lanes: np.ndarray) -> np.ndarray:
        s, runner, days = self.screen, self.runner, DAYS.tolist()
        found = np.empty((len(lanes), len(DAYS), len(STATES)))
        for c, p in enumerate(lanes):
            runner.reset()
            runner.model.setGlobalParameterValues(self.numbers, [*p, s.y0[c, 7], s.vf[c]])
            runner.model.setFloatingSpeciesConcentrations(self.species, s.y0[c, :7])
            found[c] = runner.simulate(times=days)
        return found
