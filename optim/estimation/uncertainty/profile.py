"""Profile likelihoods: the cost along one parameter, with all others fitted again (Raue et al. 2009, Bioinformatics
25:1923).

Many profiles are computed at once, each to both sides, so that their simulations fill the lanes of one program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from optim.errors import FitError
from optim.estimation.levenberg_marquardt import LONGEST_STEP, Progress, Search, minimise
from optim.estimation.parameter_index import ParameterIndex
from optim.estimation.posterior import Z90, Parts, Point, Posterior
from optim.runtime import require_float64

# rise of the cost at the ends of a 90 % interval: half the 0.90 quantile of chi square with one degree of freedom
INTERVAL_RISE = 0.5 * Z90**2
# number of shorter steps that are tried when a step was too long or could not be simulated
MOST_RETRIES = 5
VERDICTS = {
    (True, True): "identifiable",
    (True, False): "bounded below only",
    (False, True): "bounded above only",
    (False, False): "not identifiable",
}


@dataclass(frozen=True)
class ProfileOptions:
    """Settings of profile likelihoods.

    `priors`: profile the posterior; else without the prior of the profiled parameter (of a group parameter: its
    pooling), so that the verdict is about the data. `step`: increase per step of the root of twice the rise, for a
    parabola the distance in standard deviations. `disagreement`: ratio of half-widths from which the Laplace interval
    disagrees.
    """

    priors: bool = True
    points: int = 14  # of each side, at most
    step: float = 0.45
    beyond: float = 1.2  # factor on the rise of the interval up to which a side is computed
    disagreement: float = 1.5
    search: Search = field(default_factory=lambda: Search(25, 1e-6))


@dataclass(frozen=True)
class LikelihoodProfile:
    """Profile likelihood of one parameter, on the natural scale.

    Where the profile does not reach the rise of a 90 % interval, that end of the interval is the bound, and `ends`
    states why. `ratio`: half-widths below and above the estimate, on the fitted scale, relative to the Laplace
    approximation; inf where the end was not reached.
    """

    name: str
    owner: str
    level: str  # shared | population | clone | batch | vessel
    unit: str
    value: np.ndarray  # [P] ascending
    rise: np.ndarray  # [P] cost less its minimum
    estimate: float
    lower90: float
    upper90: float
    verdict: str  # identifiable | bounded below only | bounded above only | not identifiable
    ends: tuple[str, str]  # below, above: reached | bound | points | failed
    laplace90: tuple[float, float]
    ratio: tuple[float, float]
    laplace_disagrees: bool
    priors: bool  # whether the prior of the parameter is included
    gained: float  # cost of the fit less the lowest cost of the profile; above 0.1 the fit was not at its optimum


@dataclass
class _Side:
    """One side of a profile, from the optimum outwards."""

    place: ParameterIndex
    sign: float
    at: Point
    step: float
    lower: float
    upper: float
    points: list[Point] = field(default_factory=list)
    roots: list[float] = field(default_factory=list)
    misses: int = 0  # number of steps that were too long since the last point
    failures: int = 0
    ended: str = ""

    @property
    def fitted_value(self) -> float:
        """The profiled parameter at the last point, on the fitted scale."""
        return float(self.place.value_in(self.at.shared, self.at.block))

    def next_value(self) -> float:
        """The profiled parameter at the next point, on the fitted scale."""
        return float(np.clip(self.fitted_value + self.sign * self.step, self.lower, self.upper))

    def judge_point(self, fitted: Point, least: float, options: ProfileOptions) -> None:
        """Accept a fitted point, or retry with a shorter step; set `ended` where the side ends."""
        if not np.isfinite(fitted.cost):
            self.failures += 1
            self.step *= 0.25
            # limited in total, or a region that fails would be approached without end
            self.ended = "failed" if self.failures > MOST_RETRIES else ""
            return
        root = np.sqrt(2.0 * max(fitted.cost - least, 0.0))
        last = self.roots[-1] if self.roots else 0.0
        if root - last > 2.5 * options.step and self.misses < MOST_RETRIES:
            self.misses += 1
            self.step *= max(0.25, options.step / (root - last))
            return
        moved = abs(float(self.place.value_in(fitted.shared, fitted.block)) - self.fitted_value)
        self.points.append(fitted)
        self.roots.append(float(root))
        self.at, self.misses = fitted, 0
        # steps grow along a flat profile, but slowly enough for the other parameters to follow
        self.step = min(moved * float(np.clip(options.step / max(root - last, 1e-9), 0.4, 2.5)), LONGEST_STEP)
        if 0.5 * root**2 >= INTERVAL_RISE * options.beyond:
            self.ended = "reached"
        elif self.fitted_value <= self.lower or self.fitted_value >= self.upper:
            self.ended = "bound"
        elif len(self.points) >= options.points:
            self.ended = "points"


def profile_likelihoods(
    posterior: Posterior,
    best: Point,
    places: Sequence[ParameterIndex],
    *,
    options: ProfileOptions | None = None,
    progress: Progress = lambda text: None,
) -> tuple[LikelihoodProfile, ...]:
    """Profile likelihoods of some parameters, from the mode `best` of a posterior with fixed noise and spread.

    A point that cannot be simulated is retried nearer; at worst it ends its side. Raises `FitError` when the optimum
    itself cannot be simulated.
    """
    require_float64("profile_likelihoods")
    options = options or ProfileOptions()
    starts = _starts(posterior, best, places, options)
    sides = []
    for place, start in zip(places, starts, strict=True):
        lower, upper = _bounds(posterior, place)
        for sign in (-1.0, 1.0):
            step = float(np.clip(options.step * _sd(place, start), 1e-6, LONGEST_STEP))
            sides.append(_Side(place, sign, start, step, lower, upper))
            if not lower < sides[-1].fitted_value < upper and sides[-1].next_value() == sides[-1].fitted_value:
                sides[-1].ended = "bound"
    while active := [s for s in sides if not s.ended]:
        found = minimise(posterior, [_ahead(posterior, s) for s in active], options.search, progress=lambda text: None)
        for side, point in zip(active, found, strict=True):
            both = [s for s in sides if s.place is side.place]
            least = min(starts[places.index(side.place)].cost, *(p.cost for s in both for p in s.points), np.inf)
            side.judge_point(point, min(least, point.cost), options)
        left = len({id(s.place) for s in sides if not s.ended})
        progress(f"profiles: {len(places) - left} of {len(places)} done")
    return tuple(
        _profile(place, start, best, below, above, options)
        for place, start, below, above in zip(places, starts, sides[::2], sides[1::2], strict=True)
    )


def _starts(
    posterior: Posterior, best: Point, places: Sequence[ParameterIndex], options: ProfileOptions
) -> list[Point]:
    """The optimum of each profile: of the posterior, or of that without the parameter's prior."""
    fresh = replace(best, damping=1e-4, reason="", iterations=0, history=[], needs_acceleration=False)
    if options.priors:
        found = minimise(posterior, [fresh], options.search, progress=lambda text: None) * len(places)
    else:
        loose = [replace(fresh, prior_weight=_without_prior(place, best)) for place in places]
        found = minimise(posterior, loose, options.search, progress=lambda text: None)
    if not all(np.isfinite(p.cost) for p in found):
        raise FitError("the optimum cannot be simulated, so that nothing can be profiled from it")
    return found


def _without_prior(place: ParameterIndex, point: Point) -> Parts:
    weight = np.ones(point.shared.shape), np.ones(point.block.shape)
    place.set_in(*weight, 0.0)
    return weight


def _bounds(p: Posterior, place: ParameterIndex) -> tuple[float, float]:
    lower = place.value_in(p.lower_shared, np.broadcast_to(p.lower_block, (p.n_groups, p.block_width)))
    upper = place.value_in(p.upper_shared, np.broadcast_to(p.upper_block, (p.n_groups, p.block_width)))
    return float(lower), float(upper)


def _column(place: ParameterIndex, point: Point) -> Parts | None:
    """Column of the posterior covariance that belongs to a parameter; None where the information is singular."""
    assert point.arrow is not None
    gs, gc = np.zeros_like(point.arrow.gs), np.zeros_like(point.arrow.gc)
    place.set_in(gs, gc, -1.0)
    none = np.zeros(gs.shape, bool), np.zeros(gc.shape, bool)
    try:
        column_s, column_c = replace(point.arrow, gs=gs, gc=gc).with_damping(1e-9, *none).newton_step()
    except np.linalg.LinAlgError:
        return None
    own = place.value_in(column_s, column_c)
    return (column_s, column_c) if np.isfinite(own) and own > 0.0 else None


def _sd(place: ParameterIndex, point: Point) -> float:
    """Standard deviation of a parameter by the curvature at a point; inf where the information is singular."""
    column = _column(place, point)
    return np.inf if column is None else float(np.sqrt(place.value_in(*column)))


def _ahead(posterior: Posterior, side: _Side) -> Point:
    """Start of the next fit: the other parameters follow along the tangent of the profile."""
    place, at = side.place, side.at
    target = side.next_value()
    shared, block = at.shared.copy(), at.block.copy()
    column = None if side.misses > 1 or side.failures > 1 else _column(place, at)
    if column is not None:
        factor = (target - side.fitted_value) / place.value_in(*column)
        step_s, step_c = factor * column[0], factor * column[1]
        if max(np.abs(step_s).max(initial=0.0), np.abs(step_c).max(initial=0.0)) <= LONGEST_STEP:
            moved = posterior.move_point(replace(at, fixed=None), step_s, step_c)
            shared, block = moved.shared, moved.block
    place.set_in(shared, block, target)
    return replace(
        at, shared=shared, block=block, fixed=place.mask_of(at), damping=1e-4, reason="", iterations=0, history=[],
        needs_acceleration=False, cost=np.inf, arrow=None, slopes=None,
    )  # fmt: skip


def _profile(
    place: ParameterIndex, start: Point, best: Point, below: _Side, above: _Side, options: ProfileOptions
) -> LikelihoodProfile:
    spec = place.spec
    points = [*below.points[::-1], start, *above.points]
    u = np.array([float(place.value_in(p.shared, p.block)) for p in points])
    cost = np.array([p.cost for p in points])
    rise = cost - cost.min()
    middle = int(np.argmin(rise))
    sd = _sd(place, start)
    lower, reached_lower = _crossing(u[middle::-1], rise[middle::-1], below.lower)
    upper, reached_upper = _crossing(u[middle:], rise[middle:], below.upper)
    half = Z90 * sd
    ratio = tuple(
        abs(end - u[middle]) / half if reached else np.inf
        for end, reached in ((lower, reached_lower), (upper, reached_upper))
    )
    natural = spec.to_natural(np.array([u[middle], lower, upper]))
    laplace = spec.to_natural(np.clip(np.array([u[middle] - half, u[middle] + half]), below.lower, below.upper))
    within = 1.0 / options.disagreement, options.disagreement
    return LikelihoodProfile(
        name=spec.name,
        owner=place.owner,
        level=place.level,
        unit=spec.unit,
        value=spec.to_natural(u),
        rise=rise,
        estimate=float(natural[0]),
        lower90=float(natural[1]),
        upper90=float(natural[2]),
        verdict=VERDICTS[reached_lower, reached_upper],
        ends=(below.ended, above.ended),
        laplace90=(float(laplace[0]), float(laplace[1])),
        ratio=(float(ratio[0]), float(ratio[1])),
        laplace_disagrees=not all(within[0] <= r <= within[1] for r in ratio),
        priors=options.priors,
        gained=max(float(best.cost - cost.min()), 0.0) if options.priors else max(float(start.cost - cost.min()), 0.0),
    )


def _crossing(u: np.ndarray, rise: np.ndarray, bound: float) -> tuple[float, bool]:
    """Value at which the rise of the cost reaches that of the interval, going outwards, and whether it does.

    The bound where it does not. The root of the rise is nearly linear, so that is interpolated.
    """
    past = np.flatnonzero(rise >= INTERVAL_RISE)
    if not past.size:
        return bound, False
    i = int(past[0])
    a, b = np.sqrt(rise[i - 1]), np.sqrt(rise[i])
    return float(u[i - 1] + (u[i] - u[i - 1]) * (np.sqrt(INTERVAL_RISE) - a) / (b - a)), True
