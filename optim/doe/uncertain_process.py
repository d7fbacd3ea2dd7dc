"""A process problem whose parameters are uncertain: simulated for clones at draws of a Gaussian posterior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optim.doe.posterior_normal import GaussianPosterior, model_parameters
from optim.estimation.problem import FitProblem
from optim.process.lanes import Lanes
from optim.process.problem import ProcessProblem


@dataclass(frozen=True)
class UncertainProcess:
    """A process problem, the fit problem that names its parameters, and their Gaussian posterior."""

    process: ProcessProblem
    fit: FitProblem
    belief: GaussianPosterior

    def model_parameters(self, theta: np.ndarray, clone: np.ndarray) -> np.ndarray:
        """Parameters [L, P] in the order of the model's, of clones [L] at theta [L, D]."""
        return model_parameters(self.fit, self.belief, theta, clone=clone)

    def lanes(self, theta: np.ndarray, clone: np.ndarray) -> Lanes:
        """The same as lanes of the process problem."""
        return Lanes(self.model_parameters(theta, clone))

    def at_mean(self, clone: np.ndarray) -> Lanes:
        """Lanes of clones [L] at the posterior mean."""
        return self.lanes(np.tile(self.belief.mean, (len(clone), 1)), clone)
