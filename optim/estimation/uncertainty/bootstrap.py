"""Bootstrap: scatter of the estimates over resampled vessels or readings.

Noise and spread between groups stay fixed at their estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy.stats import chi2

from optim.errors import FitError
from optim.estimation.ensemble import Draws
from optim.estimation.levenberg_marquardt import Progress, Search, minimise
from optim.estimation.noise import ABOVE, BELOW, LEAST_FRACTION, MEASURED
from optim.estimation.posterior import Parts, Point, Posterior, Readings
from optim.runtime import require_float64
from optim.settings.estimation import AssaySettings, FitSettings

BootstrapKind = Literal["auto", "vessels", "parametric"]
# number of replicates that are fitted side by side; bounds the memory of their Jacobians
REPLICATES_AT_ONCE = 64


@dataclass(frozen=True)
class BootstrapOptions:
    """Settings of a bootstrap.

    Kind vessels: whole vessels are resampled within each group. parametric: new readings are drawn about the fit. auto:
    vessels where every group has at least two, else parametric.
    """

    replicates: int = FitSettings.draws
    kind: BootstrapKind = "auto"
    search: Search = field(default_factory=lambda: Search(30, 1e-6))


@dataclass(frozen=True)
class Bootstrap:
    """Refitted parameters; member 0 is the estimate itself."""

    draws: Draws
    kind: str  # vessels | parametric
    failed: int  # number of refits that did not converge; they are not among the draws


def bootstrap(
    posterior: Posterior,
    best: Point,
    options: BootstrapOptions | None = None,
    *,
    seed: int = 0,
    progress: Progress = lambda text: None,
) -> Bootstrap:
    """Bootstrap a fit: refit all replicates from the mode `best`, many at a time.

    The groups are fixed: the scatter of a population mean is that due to vessels or readings, not to other groups that
    might have been screened. Raises `FitError` when more than half of the refits fail, or when vessels are to be
    resampled and a group has only one.
    """
    require_float64("bootstrap")
    options = options or BootstrapOptions()
    rng = np.random.default_rng(seed)
    several = bool(np.all(np.bincount(posterior.problem.vessel_group) >= 2))
    kind = ("vessels" if several else "parametric") if options.kind == "auto" else options.kind
    if kind == "vessels" and not several:
        raise FitError("vessels cannot be drawn again where a clone has only one; use a parametric bootstrap")
    fresh = replace(best, damping=1e-4, reason="", iterations=0, history=[], needs_acceleration=False)
    if kind == "vessels":
        points = [_weighted(posterior, fresh, rng) for _ in range(options.replicates)]
    else:
        draw = _ReadingSampler(posterior, best)
        points = [replace(fresh, readings=draw(rng)) for _ in range(options.replicates)]
    ends: list[Point] = []
    for first in range(0, len(points), REPLICATES_AT_ONCE):
        ends += minimise(
            posterior, points[first : first + REPLICATES_AT_ONCE], options.search, progress=lambda text: None
        )
        progress(f"bootstrap: {len(ends)} of {len(points)} replicates")
    good = [p for p in ends if np.isfinite(p.cost) and p.reason in ("converged", "stalled: no step lowers the cost")]
    if 2 * len(good) < len(ends):
        raise FitError(
            f"{len(ends) - len(good)} of {len(ends)} refits of the bootstrap failed; see how the fit itself ends"
        )
    draws = Draws(np.stack([best.shared, *(p.shared for p in good)]), np.stack([best.block, *(p.block for p in good)]))
    return Bootstrap(draws, kind, len(ends) - len(good))


def _weighted(p: Posterior, point: Point, rng: np.random.Generator) -> Point:
    """A replicate in which every vessel counts as often as it was drawn.

    Of the k vessels of a group k - 1 are drawn and count k / (k - 1) times each: with few vessels, k draws would
    scatter too little (Rao & Wu 1988, J Am Stat Assoc 83:231).
    """
    weight = np.zeros(len(p.problem.vessel_group))
    for c in range(p.n_groups):
        own = np.flatnonzero(p.problem.vessel_group == c)
        k = len(own)
        np.add.at(weight, rng.choice(own, k - 1), k / (k - 1))
    return replace(point, weight=weight, prior_weight=_prior_weight(p, weight))


def _prior_weight(p: Posterior, weight: np.ndarray) -> Parts:
    """Weights of the priors: a vessel that counts twice stands for two, each with its own parameters and prior.

    The parameters of a vessel that does not count keep their prior alone.
    """
    block = np.ones((p.n_groups, p.block_width))
    for b, c in enumerate(p.problem.vessel_group):
        block[c, p.block_columns[b][p.n_per_group :]] = weight[b] if weight[b] > 0.0 else 1.0
    return np.ones(len(p.shared_part_specs)), block


class _ReadingSampler:
    """Sampler of readings of all vessels about the predictions of a fit.

    A reading beyond a limit of its assay is censored there. The limits are those of the censored readings in the data.
    """

    def __init__(self, posterior: Posterior, point: Point):
        self.problem, self.sd = posterior.problem, posterior.noise.sd
        self.y, status = self.problem.predict(posterior.lane_parameters(point))
        if status[point.weight > 0.0].any():
            raise FitError("the optimum cannot be simulated, so that no readings can be drawn about it")

    def __call__(self, rng: np.random.Generator) -> Readings:
        v = self.problem.vessels
        value, censored = v.value.copy(), v.censored.copy()
        z = rng.standard_normal(v.value.shape)
        quantile = rng.random(v.value.shape)
        for i, variable in enumerate(self.problem.variables):
            own = (v.variable == i) & (v.weight > 0.0)
            assay = self.problem.noise.assay_noise(variable)
            drawn = self._scattered(assay, self.y[own], self.sd[own], z[own], quantile[own])
            drawn = np.clip(drawn, *self.problem.noise.reading_range(variable))
            code = np.full(drawn.shape, MEASURED)
            for side, beyond in ((BELOW, np.less), (ABOVE, np.greater)):
                limits = v.value[own & (v.censored == side)]
                if limits.size:
                    # each censored reading has its own limit; the others have the median limit
                    limit = np.where(v.censored[own] == side, v.value[own], np.median(limits))
                    out = beyond(drawn, limit)
                    drawn, code = np.where(out, limit, drawn), np.where(out, side, code)
            value[own], censored[own] = drawn, code
        return Readings(value, censored)

    def _scattered(
        self, assay: AssaySettings, y: np.ndarray, sd: np.ndarray, z: np.ndarray, quantile: np.ndarray
    ) -> np.ndarray:
        """Readings about y from standard normal z; heavy tails, where the noise is robust, from uniform quantiles."""
        if assay.robust:
            nu = assay.robust
            # small residuals scatter as in a normal distribution, so the t distribution is wider by this factor
            z = z * np.sqrt(nu / chi2.ppf(quantile, nu)) * np.sqrt((nu + 1.0) / nu)
        if assay.kind == "lognormal":
            return np.asarray((y + assay.floor) * np.exp(sd * z) - assay.floor)
        if assay.kind == "logit":
            inside = np.clip(y, LEAST_FRACTION, 1.0 - LEAST_FRACTION)
            return np.asarray(1.0 / (1.0 + (1.0 / inside - 1.0) * np.exp(-sd * z)))
        return np.asarray(y + sd * z)
