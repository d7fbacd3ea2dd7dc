"""Robust fit: Student-t noise, and the scatter of every assay by its median absolute residual.

Faults of the data are judged against it. A least-squares fit follows gross faults, and makes the good readings beside
them seem wrong.
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
DEGREES_OF_FREEDOM = 4.0
ROBUST_SEARCH = Search(30, 1e-5)
# the median absolute deviation of a normal distribution, inverse: 1 / 0.6745
MAD = 1.4826
# the standard error of a median of normal readings, in standard errors of their mean: sqrt(pi / 2)
MEDIAN_ERROR = 1.2533
# the stated noise counts as much as this many readings
STATED_NOISE_READINGS = 4.0


@dataclass(frozen=True)
class RobustFit:
    """A robust fit with the residual of every reading. Arrays are [B, M], in the order of `FitProblem.vessels`.

    `predicted`: in the unit of the assay. `use`: readings that are judged. `z`: reading less prediction in units of the
    estimated noise, on the scale on which the assay scatters; that of a censored reading is the normal deviate of the
    same probability. `alone`: the leave-one-out residual, of a reading predicted without itself. `scale` [V]: estimated
    over stated noise.
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
        """The fit problem, with robust noise."""
        return self.posterior.problem

    @property
    def time_h(self) -> np.ndarray:
        """Time of every reading [B, M]."""
        v = self.problem.vessels
        return np.asarray(np.take_along_axis(np.asarray(v.grid.t), v.node, axis=1))

    @property
    def uncensored(self) -> np.ndarray:
        """Mask [B, M] of the readings that are judged and not censored."""
        return np.asarray(self.use & (self.problem.vessels.censored == MEASURED))

    def readings_of(self, vessel: int, variable: int, censored: bool = False) -> np.ndarray:
        """Indices along M of the readings of a variable in a vessel, in order of time."""
        mask = self.use if censored else self.uncensored
        rows = np.flatnonzero(mask[vessel] & (self.problem.vessels.variable[vessel] == variable))
        return np.asarray(rows[np.argsort(self.time_h[vessel, rows], kind="stable")])


def with_robust_noise(problem: FitProblem, excluded: np.ndarray | None = None) -> FitProblem:
    """The problem with Student-t noise in every assay, without the readings of `excluded` [B, M]."""
    assays = {name: replace(a, robust=a.robust or DEGREES_OF_FREEDOM) for name, a in problem.noise.assays.items()}
    v = problem.vessels
    weight = v.weight if excluded is None else np.where(excluded, 0.0, v.weight)
    noise = NoiseModel(assays, problem.noise.estimate_scale)
    return replace(problem, noise=noise, vessels=v._replace(weight=weight))


def fit_robustly(posterior: Posterior, starts: list[Point], excluded: np.ndarray | None = None) -> RobustFit:
    """Robust fit from several starts, without the readings of `excluded` [B, M], which are judged against it as well.

    Noise starts from the predictions at the first start. The best start is kept; when every start fails, `use` is
    empty.
    """
    problem = with_robust_noise(posterior.problem, excluded)
    noise = _by_prediction(posterior, starts[0], np.ones(len(problem.variables)))
    robust = Posterior(problem, noise, posterior.spread)
    fresh = [replace(p, damping=1e-2, reason="", iterations=0, history=[], arrow=None) for p in starts]
    best = min(minimise(robust, fresh, ROBUST_SEARCH, progress=_quiet), key=lambda p: p.cost)
    for _ in range(2):
        scale = median_scale(robust, best)
        robust = Posterior(problem, _by_prediction(robust, best, scale), posterior.spread)
        again = replace(best, damping=1e-3, reason="", iterations=0, history=[])
        best = minimise(robust, [again], ROBUST_SEARCH, progress=_quiet)[0]
    return judge_readings(robust, best, posterior.problem.vessels.weight > 0.0, scale=scale)


def judge_readings(at: Posterior, point: Point, use: np.ndarray, *, scale: np.ndarray) -> RobustFit:
    """Residuals of the readings in `use` [B, M] about an evaluated point; `scale` [V] as in `RobustFit`."""
    v = at.problem.vessels
    y, status = at.problem.predict(at.lane_parameters(point))
    use = use & (status == 0)[:, None] & np.isfinite(y)
    # excluded readings have no residual in the fit: they are judged by their deviation
    z = np.where(use, -at.problem.scaled_deviation(np.where(use, y, 1.0)) / at.noise.sd, 0.0)
    if point.residual is not None:
        z = np.where(use & (v.censored != MEASURED), _as_normal(point.residual), z)
    return RobustFit(at, point, y, use, z, _alone(at, point, z), scale)


def median_scale(at: Posterior, point: Point) -> np.ndarray:
    """Factor on the stated noise [V] by the median absolute residual of each assay."""
    problem, v = at.problem, at.problem.vessels
    y, status = problem.predict(at.lane_parameters(point))
    use = (v.weight * point.weight[:, None] > 0.0) & (v.censored == MEASURED) & (status == 0)[:, None]
    deviation, scale = problem.scaled_deviation(y), np.ones(len(problem.variables))
    for i, variable in enumerate(problem.variables):
        own = use & (v.variable == i)
        if not own.any():
            continue
        size, n = np.abs(deviation[own]) / problem.noise.sd_on_scale(variable, y[own]), own.sum()
        scatter = MAD * float(np.median(size))
        scale[i] = np.clip(np.sqrt((n * scatter**2 + STATED_NOISE_READINGS) / (n + STATED_NOISE_READINGS)), 0.1, 10.0)
    return scale


def lane_covariance(posterior: Posterior, arrow: Arrow) -> np.ndarray:
    """Posterior covariance of the parameters of every vessel [B, Q, Q]. Raises `LinAlgError` when singular."""
    shared, own, across = arrow.covariance()
    group, outer, columns = posterior.problem.vessel_group, posterior.shared_columns, posterior.block_columns
    ss = shared[outer[:, :, None], outer[:, None, :]]
    cc = own[group[:, None, None], columns[:, :, None], columns[:, None, :]]
    cs = across[group[:, None, None], columns[:, :, None], outer[:, None, :]]
    return np.concatenate(
        [np.concatenate([ss, np.swapaxes(cs, 1, 2)], axis=2), np.concatenate([cs, cc], axis=2)], axis=1
    )


def _alone(at: Posterior, point: Point, z: np.ndarray) -> np.ndarray:
    """Leave-one-out residuals [B, M], in units of their expected deviation.

    By one Newton step without the reading (Cook & Weisberg 1982, Residuals and influence in regression, 2.2).
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
    """Noise of every reading from its prediction; from the reading, a fault would set its own noise."""
    problem, sd = at.problem, at.problem.vessels.sd.copy()
    y, status = problem.predict(at.lane_parameters(point))
    for i, variable in enumerate(problem.variables):
        own = problem.vessels.variable == i
        use = own & (status == 0)[:, None] & np.isfinite(y)
        sd[use] = problem.noise.sd_on_scale(variable, y[use])
        sd[own] *= scale[i]
    return Noise(scale, sd)


def _quiet(text: str) -> None:
    pass
