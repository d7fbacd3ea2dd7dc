"""Agreement of uncertainty methods: Laplace approximation, profile likelihood and sampler."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optim.errors import ApproximationWarning
from optim.estimation.parameter_index import all_parameters
from optim.estimation.posterior import Posterior
from optim.estimation.result import ParameterEstimate
from optim.estimation.uncertainty.nuts import PosteriorSample
from optim.estimation.uncertainty.profile import LikelihoodProfile

# R-hat above which the chains do not sample one distribution (Vehtari et al. 2021, Bayesian Anal 16:667,
# ask for 1.01; draws for an interval do with less)
LARGEST_R_HAT = 1.05


@dataclass(frozen=True)
class MethodInterval:
    """A 90 % interval of one parameter by one method, on the natural scale."""

    method: str  # laplace | profile | nuts
    lower90: float
    upper90: float


@dataclass(frozen=True)
class IntervalComparison:
    """Comparison of the intervals of one parameter.

    `factor`: the largest ratio of two widths on the fitted scale, of the whole intervals or of their parts on one side
    of the estimate; inf where one of them is open.
    """

    name: str
    owner: str
    level: str
    intervals: tuple[MethodInterval, ...]
    factor: float
    worst: tuple[str, str]  # the two methods that differ most
    agrees: bool

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        whose = f" of {self.owner}" if self.owner else ""
        ends = ", ".join(f"{x.method} [{x.lower90:.4g}, {x.upper90:.4g}]" for x in self.intervals)
        by = f"by a factor of {self.factor:.2g}" if np.isfinite(self.factor) else "without limit"
        return f"{self.name}{whose}: 90 % intervals of {' and '.join(self.worst)} differ {by} in width ({ends})"


def compare_intervals(
    posterior: Posterior,
    laplace: Sequence[ParameterEstimate],
    *,
    profiles: Sequence[LikelihoodProfile] = (),
    sampled: PosteriorSample | None = None,
    factor: float = 1.5,
) -> tuple[IntervalComparison, ...]:
    """Compare the 90 % intervals of every parameter that has at least two of them.

    Intervals agree when no ratio of widths exceeds `factor`; else an `ApproximationWarning` names parameter and
    methods. Profiles without the parameter's prior (`priors=False`) answer another question and are ignored.
    """
    rows = {(r.name, r.owner, r.level): r for r in laplace}
    walked = {(x.name, x.owner, x.level): x for x in profiles if x.priors}
    found = []
    for place in all_parameters(posterior):
        key = (place.spec.name, place.owner, place.level)
        if key not in rows:
            continue
        row = rows[key]
        intervals = [MethodInterval("laplace", row.lower90, row.upper90)]
        open_ends = [(False, False)]
        if key in walked:
            profile = walked[key]
            intervals.append(MethodInterval("profile", profile.lower90, profile.upper90))
            open_ends.append((profile.ends[0] != "reached", profile.ends[1] != "reached"))
        if sampled is not None:
            u = place.value_in(sampled.draws.shared, sampled.draws.block)
            ends = place.spec.to_natural(np.quantile(u, (0.05, 0.95)))
            intervals.append(MethodInterval("nuts", float(ends[0]), float(ends[1])))
            open_ends.append((False, False))
        if len(intervals) < 2:
            continue
        widths = []
        for interval, (below, above) in zip(intervals, open_ends, strict=True):
            low, middle, high = (place.spec.to_fitted(x) for x in (interval.lower90, row.estimate, interval.upper90))
            half = (np.inf if below else middle - low, np.inf if above else high - middle)
            widths.append((*half, half[0] + half[1]))
        largest, worst = _largest(widths)
        methods = intervals[worst[0]].method, intervals[worst[1]].method
        found.append(IntervalComparison(*key, tuple(intervals), largest, methods, largest <= factor))
    for one in found:
        if not one.agrees:
            warnings.warn(one.sentence, ApproximationWarning, stacklevel=2)
    if sampled is not None:
        _warn_of_chains(sampled)
    return tuple(found)


def _largest(widths: Sequence[Sequence[float]]) -> tuple[float, tuple[int, int]]:
    """The largest ratio of widths of two methods, and which they are."""
    largest, worst = 1.0, (0, 1)
    for i, first in enumerate(widths):
        for j, second in enumerate(widths[:i]):
            for a, b in zip(first, second, strict=True):
                ratio = 1.0 if a == b else max(a, b) / max(min(a, b), 1e-12) if min(a, b) > 0.0 else np.inf
                if ratio > largest:
                    largest, worst = float(ratio), (j, i)
    return largest, worst


def _warn_of_chains(sampled: PosteriorSample) -> None:
    worst = float(max(np.max(part, initial=1.0) for part in sampled.r_hat))
    if worst > LARGEST_R_HAT or sampled.divergences:
        text = (
            f"R-hat up to {worst:.3g}, {sampled.divergences} divergences: the sampler has not seen the whole posterior"
        )
        warnings.warn(text, ApproximationWarning, stacklevel=3)
