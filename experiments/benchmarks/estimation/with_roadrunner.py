"""libRoadRunner (Welsh et al. 2023, Bioinformatics 39:btac770): the model compiled, CVODE, finite differences."""

import antimony
import numpy as np
import roadrunner
from programs import Fitted
from screen import ATOL, EPS, K_LYS, KD0, KLAC_UP, KSW, OWN, QLAC_UP, RTOL, SHARED, STATES, Screen, fed, segments

MODEL = f"""
model screen
  compartment c = 1;
  species {", ".join(f"{s} in c" for s in STATES)};
  {"; ".join(f"{name} = 1" for name in (*SHARED, *OWN))};
  mu := mum*Glc/(Kg+Glc)*Gln/(Kq+Gln)*KIl/(KIl+Lac)*KIa/(KIa+Amm);
  death := {KD0} + kd*Amm/(Kda+Amm);
  qg := mu/Yg + mg*Glc/({EPS}+Glc);
  qq := mu/Yq;
  uptake := {QLAC_UP}*Lac/({KLAC_UP}+Lac)*{KSW}/({KSW}+Glc);
  Xv' = (mu-death)*Xv;
  Xd' = death*Xv - {K_LYS}*Xd;
  Glc' = -qg*Xv;
  Gln' = -qq*Xv - kdq*Gln;
  Lac' = (Yl*qg-uptake)*Xv;
  Amm' = Ya*qq*Xv + kdq*Gln;
  mAb' = qp*Xv;
{chr(10).join(f"  {s} = 1;" for s in STATES)}
end
"""


class RoadRunner(Fitted):
    """One vessel after another, from bolus to bolus."""

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
        names = list(model.getGlobalParameterIds())
        self.places = [names.index(name) for name in (*SHARED, *OWN)]
        # a state with a rate rule may count as a species or as a parameter
        self.states = [f"[{name}]" if name in model.getFloatingSpeciesIds() else name for name in STATES]

    def predicted(self, lanes: np.ndarray) -> np.ndarray:
        s = self.screen
        return np.array([self._vessel(p, s.y0[c], float(s.vf[c])) for c, p in enumerate(lanes)])

    def _vessel(self, p: np.ndarray, y0: np.ndarray, dose: float) -> np.ndarray:
        runner, rows = self.runner, []
        runner.resetAll()
        runner.model.setGlobalParameterValues(self.places, p)
        y, volume = np.array(y0[:7]), float(y0[7])
        for i, (a, b, days) in enumerate(segments()):
            if i:
                y, volume = fed(y, volume, dose)
            for name, value in zip(STATES, y, strict=True):
                runner.setValue(name, float(value))
            at = [a, *[d for d in days if d > a]]
            if at[-1] < b:
                at.append(b)
            found = np.asarray(runner.simulate(times=at))
            kept = np.isin(at, days)
            rows.append(found[kept])
            y = found[-1]
        return np.concatenate(rows)
