"""A reference fit that gross faults do not pull: Student-t noise, and the scatter of every assay from its median.

Faults of data are judged against it. A least-squares fit bends towards them, and calls the good readings beside them
wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from optim.estimation.levenberg_marquardt import Search, minimise
from optim.estimation.noise import MEASURED, NoiseModel
from optim.estimation.normal_equations import Arrow
from optim.estimation.posterior import Noise, Point, Posterior
from optim.estimation.problem import FitProblem

# degrees of freedom of Student's t: 4 keeps nine tenths of the efficiency on clean data (Lange et al. 1989,
# J Am Stat Assoc 84:881)
FREEDOM = 4.0
SEARCH = Search(30, 1e-5)
# the median absolute deviation of a normal distribution, inverse: 1 / 0.6745
MAD = 1.4826
# the standard error of a median of normal readings, in standard errors of their mean: sqrt(pi / 2)
MEDIAN_ERROR = 1.2533
# the stated noise counts as much as this many readings
STATED = 4.0


@dataclass(frozen=True)
class Reference:
    """A robust fit and how every reading lies about it. All arrays [B, M], of readings as in `FitProblem.vessels`.

    `z`: reading less prediction, in units of the noise found, on the scale on which the assay scatters; a censored one
    by the probability of its side. `alone`: the same for a reading that is predicted without itself. `use`: readings
    that are judged. `scale` [V]: the noise found, over the noise stated.
    """

    posterior: Posterior
    point: Point
    predicted: np.ndarray
    use: np.ndarray
    z: np.ndarray
    alone: np.ndarray
    scale: np.ndarray

    @property
    def problem(self) -> FitProblem:
        return self.posterior.problem

    @property
    def time_h(self) -> np.ndarray:
        """Time of every reading."""
        v = self.problem.vessels
        return np.asarray(np.take_along_axis(np.asarray(v.grid.t), v.node, axis=1))

    @property
    def measured(self) -> np.ndarray:
        """Readings that are judged and not censored."""
        return np.asarray(self.use & (self.problem.vessels.censored == MEASURED))

    def rows(self, vessel: int, variable: int, censored: bool = False) -> np.ndarray:
        """Places of the readings of an assay in a vessel, in order of time."""
        mask = self.use if censored else self.measured
        found = np.flatnonzero(mask[vessel] & (self.problem.vessels.variable[vessel] == variable))
        return np.asarray(found[np.argsort(self.time_h[vessel, found], kind="stable")])


def robust(problem: FitProblem, left_out: np.ndarray | None = None) -> FitProblem:
    """The problem with Student-t noise in every assay, without the readings of `left_out` [B, M]."""
    assays = {name: replace(a, robust=a.robust or FREEDOM) for name, a in problem.noise.assays.items()}
    v = problem.vessels
    weight = v.weight if left_out is None else np.where(left_out, 0.0, v.weight)
    noise = NoiseModel(assays, problem.noise.estimate_scale)
    return replace(problem, noise=noise, vessels=v._replace(weight=weight))


def reference(posterior: Posterior, starts: list[Point], left_out: np.ndarray | None = None) -> Reference:
    """The robust fit from several starts, the readings of `left_out` [B, M] unseen but judged against it all the same.

    Points whose simulation fails are dropped; with none left the result judges nothing (`use` is empty).
    """
    problem = robust(posterior.problem, left_out)
    noise = _by_prediction(posterior, starts[0], np.ones(len(problem.variables)))
    at = Posterior(problem, noise, posterior.spread)
    fresh = [replace(p, damping=1e-2, reason="", iterations=0, history=[], arrow=None) for p in starts]
    best = min(minimise(at, fresh, SEARCH, _quiet), key=lambda p: p.cost)
    for _ in range(2):
        scale = median_scale(at, best)
        at = Posterior(problem, _by_prediction(at, best, scale), posterior.spread)
        again = replace(best, damping=1e-3, reason="", iterations=0, history=[])
        best = minimise(at, [again], SEARCH, _quiet)[0]
    return judged(at, best, posterior.problem.vessels.weight > 0.0, scale)


def judged(at: Posterior, point: Point, use: np.ndarray, scale: np.ndarray) -> Reference:
    """How readings lie about a point that has been evaluated."""
    v = at.problem.vessels
    y, status = at.problem.predict(at.lane_parameters(point))
    use = use & (status == 0)[:, None] & np.isfinite(y)
    # left-out readings have no residual in the fit: they are judged by their deviation
    z = np.where(use, -at.problem.scaled_deviation(np.where(use, y, 1.0)) / at.noise.sd, 0.0)
    if point.residual is not None:
        z = np.where(use & (v.censored != MEASURED), _as_normal(point.residual), z)
    return Reference(at, point, y, use, z, _alone(at, point, z), scale)


def median_scale(at: Posterior, point: Point) -> np.ndarray:
    """Factor on the stated noise [V] from the median absolute residual of each assay."""
    problem, v = at.problem, at.problem.vessels
    y, status = problem.predict(at.lane_parameters(point))
    use = (v.weight * point.weight[:, None] > 0.0) & (v.censored == MEASURED) & (status == 0)[:, None]
    deviation, scale = problem.scaled_deviation(y), np.ones(len(problem.variables))
    for i, variable in enumerate(problem.variables):
        own = use & (v.variable == i)
        if not own.any():
            continue
        size, n = np.abs(deviation[own]) / problem.noise.sd_on_scale(variable, y[own]), own.sum()
        found = MAD * float(np.median(size))
        scale[i] = np.clip(np.sqrt((n * found**2 + STATED) / (n + STATED)), 0.1, 10.0)
    return scale


def lane_covariance(posterior: Posterior, arrow: Arrow) -> np.ndarray:
    """Covariance [B, Q, Q] of the parameters of every vessel's lane. Raises `LinAlgError` when singular."""
    shared, own, across = arrow.covariance()
    clone, outer, columns = posterior.problem.vessel_group, posterior.shared_columns, posterior.block_columns
    ss = shared[outer[:, :, None], outer[:, None, :]]
    cc = own[clone[:, None, None], columns[:, :, None], columns[:, None, :]]
    cs = across[clone[:, None, None], columns[:, :, None], outer[:, None, :]]
    return np.concatenate(
        [np.concatenate([ss, np.swapaxes(cs, 1, 2)], axis=2), np.concatenate([cs, cc], axis=2)], axis=1
    )


def _alone(at: Posterior, point: Point, z: np.ndarray) -> np.ndarray:
    """Residuals of readings predicted without themselves, in units of what is then expected of them.

    One step of Newton without the reading (Cook & Weisberg 1982, Residuals and influence in regression, 2.2).
    """
    if point.arrow is None or point.slopes is None:
        return z
    try:
        covariance = lane_covariance(at, point.arrow)
    except np.linalg.LinAlgError:
        return z
    jacobian, weight = point.slopes
    pull = np.maximum(np.einsum("bqm,bqp,bpm->bm", jacobian, covariance, jacobian), 0.0)
    rest = np.maximum(1.0 - np.clip(weight, 0.0, 1.0) * pull, 0.05)
    return np.asarray(z / rest / np.sqrt(1.0 + pull / rest))


def _as_normal(residual: np.ndarray) -> np.ndarray:
    """A censored reading's residual as the normal deviate of the same probability, positive where the reading is high.

    Its half square is minus the logarithm of the probability of its side.
    """
    p = np.exp(-0.5 * residual**2)
    return np.asarray(-np.sign(residual) * norm.isf(np.clip(0.5 * p, 1e-300, 0.5)))


def _by_prediction(at: Posterior, point: Point, scale: np.ndarray) -> Noise:
    """Noise of every reading by its prediction: by the reading, a fault would state its own noise."""
    problem, sd = at.problem, at.problem.vessels.sd.copy()
    y, status = problem.predict(at.lane_parameters(point))
    for i, variable in enumerate(problem.variables):
        own = problem.vessels.variable == i
        seen = own & (status == 0)[:, None] & np.isfinite(y)
        sd[seen] = problem.noise.sd_on_scale(variable, y[seen])
        sd[own] *= scale[i]
    return Noise(scale, sd)


def _quiet(text: str) -> None:
    pass
