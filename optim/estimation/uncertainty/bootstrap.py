"""Bootstrap: how estimates scatter when the vessels, or their readings, had come out otherwise.

Noise and spread between clones stay as they were found: what is asked is how the parameters scatter.
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

Kind = Literal["auto", "vessels", "parametric"]
# replicates that are fitted side by side; bounds the memory of their Jacobians
REPLICATES_AT_ONCE = 64


@dataclass(frozen=True)
class BootstrapOptions:
    """Settings of a bootstrap.

    vessels: whole vessels are drawn again, within each clone. parametric: new readings are drawn about the fit. auto:
    vessels where every clone has at least two, else parametric.
    """

    replicates: int = FitSettings.draws
    kind: Kind = "auto"
    search: Search = field(default_factory=lambda: Search(30, 1e-6))


@dataclass(frozen=True)
class Bootstrap:
    """Refitted parameters, member 0 the estimate itself."""

    draws: Draws
    kind: str  # vessels | parametric
    failed: int  # refits that did not converge, and are not among the draws


def bootstrap(
    posterior: Posterior,
    best: Point,
    options: BootstrapOptions | None = None,
    seed: int = 0,
    progress: Progress = lambda text: None,
) -> Bootstrap:
    """Refits of all replicates from the optimum `best`, many at a time.

    Clones are taken as given: of a population mean the scatter shows what is due to vessels or readings, not that other
    clones might have been screened. Raises `FitError` when more than half of the refits failed, or where vessels are to
    be drawn again of which a clone has only one.
    """
    require_float64("bootstrap")
    options = options or BootstrapOptions()
    rng = np.random.default_rng(seed)
    clone = posterior.problem.vessel_group
    several = bool(np.all(np.bincount(clone) >= 2))
    kind = ("vessels" if several else "parametric") if options.kind == "auto" else options.kind
    if kind == "vessels" and not several:
        raise FitError("vessels cannot be drawn again where a clone has only one; use a parametric bootstrap")
    fresh = replace(best, damping=1e-4, reason="", iterations=0, history=[], needs_acceleration=False)
    if kind == "vessels":
        points = [_weighted(posterior, fresh, rng) for _ in range(options.replicates)]
    else:
        draw = _Readings(posterior, best)
        points = [replace(fresh, readings=draw(rng)) for _ in range(options.replicates)]
    ends: list[Point] = []
    for first in range(0, len(points), REPLICATES_AT_ONCE):
        ends += minimise(posterior, points[first : first + REPLICATES_AT_ONCE], options.search, lambda text: None)
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

    Of a clone's k vessels k - 1 are drawn and count k / (k - 1) times each: with few vessels, k draws would scatter too
    little (Rao & Wu 1988, J Am Stat Assoc 83:231).
    """
    weight = np.zeros(len(p.problem.vessel_group))
    for c in range(p.n_groups):
        own = np.flatnonzero(p.problem.vessel_group == c)
        k = len(own)
        np.add.at(weight, rng.choice(own, k - 1), k / (k - 1))
    return replace(point, weight=weight, prior_weight=_belief(p, weight))


def _belief(p: Posterior, weight: np.ndarray) -> Parts:
    """A vessel that counts twice stands for two, each with parameters of its own and their prior.

    One that does not count keeps its prior, which then decides alone.
    """
    block = np.ones((p.n_groups, p.block_width))
    for b, c in enumerate(p.problem.vessel_group):
        block[c, p.block_columns[b][p.n_per_group :]] = weight[b] if weight[b] > 0.0 else 1.0
    return np.ones(len(p.shared_part_specs)), block


class _Readings:
    """Draws readings of all vessels about the predictions of a fit.

    A reading beyond a limit of its assay is censored there. Of limits only those are known that censored readings of
    the same assay show.
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
        share = rng.random(v.value.shape)
        for i, variable in enumerate(self.problem.variables):
            own = (v.variable == i) & (v.weight > 0.0)
            assay = self.problem.noise.assay_noise(variable)
            seen = self._scattered(assay, self.y[own], self.sd[own], z[own], share[own])
            seen = np.clip(seen, *self.problem.noise.reading_range(variable))
            code = np.full(seen.shape, MEASURED)
            for side, beyond in ((BELOW, np.less), (ABOVE, np.greater)):
                limits = v.value[own & (v.censored == side)]
                if limits.size:
                    # each censored reading has its limit; for the others that of most
                    limit = np.where(v.censored[own] == side, v.value[own], np.median(limits))
                    out = beyond(seen, limit)
                    seen, code = np.where(out, limit, seen), np.where(out, side, code)
            value[own], censored[own] = seen, code
        return Readings(value, censored)

    def _scattered(
        self, assay: AssaySettings, y: np.ndarray, sd: np.ndarray, z: np.ndarray, share: np.ndarray
    ) -> np.ndarray:
        """Readings about y, from standard normal z; heavy tails, where the noise is robust, from uniform shares."""
        if assay.robust:
            nu = assay.robust
            # small residuals are as those of a normal distribution, which makes the t wider by this factor
            z = z * np.sqrt(nu / chi2.ppf(share, nu)) * np.sqrt((nu + 1.0) / nu)
        if assay.kind == "lognormal":
            return np.asarray((y + assay.floor) * np.exp(sd * z) - assay.floor)
        if assay.kind == "logit":
            inside = np.clip(y, LEAST_FRACTION, 1.0 - LEAST_FRACTION)
            return np.asarray(1.0 / (1.0 + (1.0 / inside - 1.0) * np.exp(-sd * z)))
        return np.asarray(y + sd * z)
