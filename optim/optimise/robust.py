"""Optima under uncertainty: a measure of risk over the parameter ensemble, and limits met in most parameter sets.

Every member of the ensemble is simulated at every point (members are lanes beside the starts), so a start sees the
whole distribution of the metric. Tails are those of the sample itself: CVaR is the mean of the worst share of the
members (Rockafellar & Uryasev 2000, J Risk 2:21). Chance constraints are kept by scenarios: all limits hold in a chosen
set of members, large enough for the chance asked for; the members given up are those that break most, chosen anew until
the choice stays (Campi & Garatti 2011, J Optim Theory Appl 148:257, discard scenarios in the same spirit).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from optim.errors import ConfigError, nearest
from optim.optimise.solve import FEASIBLE, Answers, OptimiseOptions, Progress, Solution, best, search
from optim.process.objective import LESS_IS_BETTER
from optim.process.problem import ProcessProblem

MEASURES = ("nominal", "expectation", "cvar", "quantile")
# Width of the step that decides who belongs to a tail, as a share of the spread between members: narrow against the
# spread, wide enough that the measure has a derivative. Only the search sees it; measures are reported without.
WIDTH = 0.05
NEAR = 0.2  # margins of at most this are watched
ROUNDS = 6


@dataclass(frozen=True)
class Risk:
    """How an uncertain process is judged.

    `tail` is the share of the worst parameter sets: CVaR is their mean, the quantile their boundary. `chance` is the
    share of parameter sets in which all limits are to be met at once; at 0 they are met at the estimate only. `members`
    of the ensemble are used for the search; the others, which it does not see, say what it is worth.
    """

    measure: str = "nominal"
    tail: float = 0.2
    chance: float = 0.0
    members: int = 16

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ConfigError(
                f"objective.risk.measure: unknown '{self.measure}'.{nearest(self.measure, MEASURES)} "
                f"Known: {', '.join(MEASURES)}"
            )
        if not 0.0 < self.tail <= 1.0:
            raise ConfigError(f"objective.risk.tail: {self.tail} is not a share above 0 and up to 1")
        if not 0.0 <= self.chance <= 1.0:
            raise ConfigError(f"objective.risk.chance: {self.chance} is not a share from 0 to 1")
        if self.members < 2:
            raise ConfigError("objective.risk.members: needs at least 2 parameter sets")

    @property
    def on(self) -> bool:
        """Whether there is anything to do beside the estimate."""
        return self.measure != "nominal" or self.chance > 0.0

    def of(self, values: np.ndarray) -> np.ndarray:
        """The measure of values [.., E] of which more is better; of 'nominal', that of member 0."""
        ordered = np.sort(values, axis=-1)
        if self.measure == "nominal":
            return values[..., 0]
        if self.measure == "expectation":
            return values.mean(axis=-1)
        if self.measure == "quantile":
            return np.quantile(values, self.tail, axis=-1)
        whole = self.tail * values.shape[-1]
        weight = np.clip(whole - np.arange(values.shape[-1]), 0.0, 1.0)
        return ordered @ (weight / whole)

    def smooth(self, values: np.ndarray, width: float) -> tuple[float, np.ndarray]:
        """The measure of values [E] with the tail's edge softened over `width`, and its derivative by them, [E]."""
        n = len(values)
        if self.measure in ("nominal", "expectation"):
            weights = np.eye(n)[0] if self.measure == "nominal" else np.full(n, 1.0 / n)
            return float(weights @ values), weights
        whole = min(self.tail * n, n - 1e-9)
        edge = brentq(lambda t: expit((t - values) / width).sum() - whole, *_around(values, width))
        share = expit((edge - values) / width)
        if self.measure == "quantile":
            share = share * (1.0 - share)
            return float(edge), share / share.sum()
        # max over t of t - sum((t - v)+) / (tail E), with softplus for ()+
        return float(edge - width * np.logaddexp(0.0, (edge - values) / width).sum() / whole), share / whole


def _around(values: np.ndarray, width: float) -> tuple[float, float]:
    return float(values.min()) - 40.0 * width, float(values.max()) + 40.0 * width


@dataclass(frozen=True)
class Robust:
    """Where a robust search ended. `required` are the members in which it keeps all limits."""

    solutions: list[Solution]
    required: np.ndarray
    rounds: int


def utility(problem: ProcessProblem, metrics: np.ndarray) -> np.ndarray:
    """The maximised metric as something of which more is better, from all metrics [.., M]."""
    sign = -1.0 if problem.metric in LESS_IS_BETTER else 1.0
    return sign * metrics[..., list(problem.metrics).index(problem.metric)]


def solve_robust(
    problem: ProcessProblem,
    starts: np.ndarray,
    ensemble: np.ndarray,
    risk: Risk,
    options: OptimiseOptions,
    progress: Progress = lambda text: None,
) -> Robust:
    """Maximise the measure of risk over an ensemble [E, P] from every start [L, D], member 0 being the estimate.

    Members that cannot be simulated at any start are left out (`required` never names them). A solution's objective is
    the smooth measure divided by the metric's size at the first start; judge it by `Risk.of`.
    """
    n, members = len(starts), len(ensemble)
    first = problem.evaluate(np.repeat(starts, members, axis=0), np.tile(ensemble, (n, 1)))
    able = np.flatnonzero((first.status.reshape(n, members) == 0).any(axis=0))
    ensemble = ensemble[able]
    members = len(able)
    metric = list(problem.metrics).index(problem.metric)
    sign = -1.0 if problem.metric in LESS_IS_BETTER else 1.0
    size = float(np.nanmedian(np.abs(utility(problem, first.metrics)))) or 1.0
    spread = np.nanstd(utility(problem, first.metrics).reshape(n, -1)[:, able] / size, axis=1)
    width = WIDTH * max(float(np.nanmedian(spread)), 1e-9)
    margins = first.margins.reshape(n, -1, first.margins.shape[-1])[:, able]
    count = int(np.ceil(risk.chance * members - 1e-9)) if risk.chance > 0.0 else 0
    required = [_required(m, count) for m in margins]
    watched = [_near(m, r) for m, r in zip(margins, required, strict=True)]
    points, found = starts, []
    rounds = 0
    while rounds < ROUNDS:
        rounds += 1

        def evaluate(x: np.ndarray, lanes: np.ndarray, rows: list[np.ndarray] = watched) -> Answers:
            e, s = problem.derivatives(np.repeat(x, members, axis=0), np.tile(ensemble, (len(x), 1)))
            values = (sign * e.metrics[:, metric] / size).reshape(len(x), members)
            slopes = (sign * s.metrics[:, metric] / size).reshape(len(x), members, -1)
            m = e.margins.reshape(len(x), members, -1)
            j = s.margins.reshape(*m.shape, -1)
            good = (e.status.reshape(len(x), members) == 0).all(axis=1) & np.isfinite(values).all(axis=1)
            judged = [risk.smooth(v, width) if ok else (np.nan, 0.0 * v) for v, ok in zip(values, good, strict=True)]
            return Answers(
                objective=np.array([value for value, _ in judged]),
                gradient=np.einsum("le,led->ld", np.array([weights for _, weights in judged]), slopes),
                margins=[m[i][tuple(rows[lane])] for i, lane in enumerate(lanes)],
                jacobian=[j[i][tuple(rows[lane])] for i, lane in enumerate(lanes)],
                good=good,
            )

        found = search(evaluate, points, problem.design, options, progress)
        points = np.array([s.x for s in found])
        e = problem.evaluate(np.repeat(points, members, axis=0), np.tile(ensemble, (n, 1)))
        m = e.margins.reshape(n, members, -1)
        chosen = [_required(row, count) for row in m]
        now = [
            np.minimum(row[r].min(axis=1, initial=0.0).min(initial=0.0), 0.0) for row, r in zip(m, chosen, strict=True)
        ]
        found = [
            replace(s, max_violation=max(0.0, float(-v))) if np.isfinite(s.objective) else s
            for s, v in zip(found, now, strict=True)
        ]
        same = all(np.array_equal(a, b) for a, b in zip(chosen, required, strict=True))
        if same and all(v >= -FEASIBLE for v in now):
            break
        required = chosen
        watched = [_join(w, _near(row, r)) for w, row, r in zip(watched, m, required, strict=True)]
    top = best(found)
    place = found.index(top) if top is not None else 0
    return Robust(found, able[required[place]], rounds)


def _required(margins: np.ndarray, count: int) -> np.ndarray:
    """The `count` members of margins [E, R] that break limits least; the estimate alone where none is asked for."""
    if count == 0 or not margins.shape[1]:
        return np.array([0])
    worst = np.nan_to_num(margins, nan=-np.inf).min(axis=1)
    return np.sort(np.argsort(-worst, kind="stable")[:count])


def _near(margins: np.ndarray, required: np.ndarray) -> np.ndarray:
    """Places [2, n] (member, row) of the margins that a search has to watch, among the members required."""
    member, row = np.nonzero(margins[required] < NEAR)
    return np.stack([required[member], row])


def _join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.unique(np.concatenate([a, b], axis=1), axis=1)
