"""Optima under uncertainty: a measure of risk over the parameter ensemble, and limits met in most parameter sets.

Every member of the ensemble is simulated at every point (members are lanes beside the starts), so a start sees the
whole distribution of the metric. Tails are those of the sample itself: CVaR is the mean of the worst share of the
members (Rockafellar & Uryasev 2000, J Risk 2:21). Chance constraints are kept by scenarios: all limits hold in a chosen
set of members, large enough for the chance asked for; the members given up are those that break most, chosen anew until
the choice stays (Campi & Garatti 2011, J Optim Theory Appl 148:257, discard scenarios in the same spirit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from optim.optimisation.sequential_quadratic import FEASIBLE
from optim.optimisation.solve import Answers, Bounds, Method, Progress, SequentialQuadratic, Solution, silent, solve
from optim.process.disturbance import broadcast_drift
from optim.process.lanes import Lanes, as_lanes
from optim.process.problem import Evaluation, ProcessProblem
from optim.settings.objective import RiskSettings
from optim.settings.optimisation import OptimiseSettings

# Width of the step that decides who belongs to a tail, as a share of the spread between members: narrow against the
# spread, wide enough that the measure has a derivative. Only the search sees it; measures are reported without.
WIDTH = 0.05
WATCHED_MARGIN = 0.2  # margins of at most this are watched
STAGES = (0.5, 0.8, 1.0)  # of the chance, on the way to it
SCENARIO_ROUNDS = 7


ESTIMATE = RiskSettings()


def risk_measure(risk: RiskSettings, values: np.ndarray) -> np.ndarray:
    """The measure of values [.., E] of which more is better; of 'nominal', that of member 0."""
    ordered = np.sort(values, axis=-1)
    if risk.measure == "nominal":
        return values[..., 0]
    if risk.measure == "expectation":
        return values.mean(axis=-1)
    if risk.measure == "quantile":
        return np.quantile(values, risk.tail, axis=-1)
    whole = risk.tail * values.shape[-1]
    weight = np.clip(whole - np.arange(values.shape[-1]), 0.0, 1.0)
    return ordered @ (weight / whole)


def smooth_measure(risk: RiskSettings, values: np.ndarray, width: float) -> tuple[float, np.ndarray]:
    """The measure of values [E] with the tail's edge softened over `width`, and its derivative by them, [E]."""
    n = len(values)
    if risk.measure in ("nominal", "expectation"):
        weights = np.eye(n)[0] if risk.measure == "nominal" else np.full(n, 1.0 / n)
        return float(weights @ values), weights
    whole = min(risk.tail * n, n - 1e-9)
    edge = brentq(lambda t: expit((t - values) / width).sum() - whole, *_around(values, width))
    share = expit((edge - values) / width)
    if risk.measure == "quantile":
        share = share * (1.0 - share)
        return float(edge), share / share.sum()
    # max over t of t - sum((t - v)+) / (tail E), with softplus for ()+
    return float(edge - width * np.logaddexp(0.0, (edge - values) / width).sum() / whole), share / whole


def judge_process(
    problem: ProcessProblem, x: np.ndarray, members: Lanes | np.ndarray, *, risk: RiskSettings
) -> tuple[float, float]:
    """The measure of the maximised metric over members, and the share of them in which all limits are met.

    A member that fails is the worst of all for the measure where a tail counts, and meets no limit.
    """
    members = as_lanes(members)
    e = problem.evaluate(np.tile(x, (members.number, 1)), members)
    good = e.status == 0
    values = risk_utility(problem, e.metrics)
    values = np.where(good, values, np.min(values[good], initial=np.inf))
    met = good & (e.margins >= -FEASIBLE).all(axis=1)
    return problem.objective.target.sign * float(risk_measure(risk, values)), float(np.mean(met))


def _around(values: np.ndarray, width: float) -> tuple[float, float]:
    return float(values.min()) - 40.0 * width, float(values.max()) + 40.0 * width


@dataclass(frozen=True)
class Robust:
    """Where a robust search from one start ended, and in how large a share of the members it keeps all limits."""

    solution: Solution
    met: float


def risk_utility(problem: ProcessProblem, metrics: np.ndarray) -> np.ndarray:
    """The maximised metric as something of which more is better, from all metrics [.., M]."""
    return problem.objective.target.sign * metrics[..., list(problem.metrics).index(problem.metric)]


def solve_robust(
    problem: ProcessProblem,
    starts: np.ndarray,
    members: Lanes | np.ndarray,
    *,
    risk: RiskSettings,
    options: OptimiseSettings,
    bounds: Bounds | None = None,
    progress: Progress = silent,
) -> list[Robust]:
    """Maximise the measure of risk over the members of an ensemble from every start [L, D]; member 0 is the estimate.

    A member is a parameter set with its own execution, a lane. Members that cannot be simulated at any start are left
    out. A chance is approached in stages, each from where the one before ended; a start that cannot keep it ends with
    `success` False and what it could keep. Objectives are those of the softened measure over the metric's size at the
    starts; judge a process by `risk_measure`.
    """
    program, asked = RobustProgram.able(problem, starts, as_lanes(members), risk=risk)
    wanted = min(program.count, int(np.ceil(risk.chance * asked - 1e-9))) if risk.chance > 0.0 else 0
    stages = sorted({int(np.ceil(share * wanted)) for share in STAGES}) if wanted else [0]
    found = []
    # one after another: the members of one point fill whole batches
    for start, x in enumerate(starts):
        own = None if bounds is None else Bounds(*(b[start][None] for b in bounds))
        lane = _Lane(x, np.array([0]), np.zeros((2, 0), int), asked)

        def solve_from(program: RobustProgram, lane: _Lane, own: Bounds | None = own) -> Solution:
            near = SequentialQuadratic.near([lane.last] if lane.last else [])
            (s,) = solve(program, lane.x[None], options, bounds=own, method=near, progress=progress)
            return s

        _approach(program, lane, stages, solve_from)
        found.append(_ended(lane, risk))
    return found


@dataclass
class _Lane:
    """One start on its way: where it stands, the members it must keep all limits in, the margins it watches."""

    x: np.ndarray
    required: np.ndarray  # [K] members
    watched: np.ndarray  # [2, n] (member, row)
    asked: int  # members in all, with those that cannot be simulated
    last: Solution | None = None
    best: Solution | None = None
    met: float = 0.0
    rank: tuple[bool, float, float] = (False, 0.0, -np.inf)  # limits kept, in how many members, the objective


def _approach(
    program: RobustProgram, lane: _Lane, stages: list[int], solve_from: Callable[[RobustProgram, _Lane], Solution]
) -> None:
    """Search on from where a start stands, stage by stage, until the members it must keep limits in stay the same."""
    margins, stage = program.all_margins(lane.x[None])[0], 0
    for _ in range(SCENARIO_ROUNDS):
        lane.required = _required(margins, stages[stage])
        lane.watched = _join(lane.watched, _near(margins, lane.required))
        lane.last = s = solve_from(replace(program, watched=lane.watched), lane)
        lane.x, margins = s.x, program.all_margins(s.x[None])[0]
        again = _required(margins, stages[stage])
        broken = float(max(0.0, -margins[again].min(initial=0.0)))
        met = float(np.sum(margins.min(axis=1, initial=0.0) >= -FEASIBLE)) / lane.asked  # who fails meets none
        ok = bool(np.isfinite(s.objective)) and broken <= FEASIBLE
        s = replace(s, max_violation=broken, success=s.success and ok)
        rank = (ok, min(met, program.risk.chance), s.objective if np.isfinite(s.objective) else -np.inf)
        if lane.best is None or rank >= lane.rank:
            lane.best, lane.met, lane.rank = s, met, rank
        if (ok and np.array_equal(again, lane.required)) or stage < len(stages) - 1:
            stage += 1
        if stage == len(stages):
            break


def _ended(lane: _Lane, risk: RiskSettings) -> Robust:
    assert lane.best is not None
    s = lane.best
    if risk.chance > 0.0 and lane.met < risk.chance - 1e-9:
        text = f"all limits are met in {lane.met:.0%} of the scenarios, not in {risk.chance:.0%}"
        s = replace(s, success=False, message=text, max_violation=max(s.max_violation, risk.chance - lane.met))
    return Robust(s, lane.met)


@dataclass(frozen=True)
class RobustProgram:
    """A measure of risk over the members of an ensemble to maximise, with the `watched` margins kept."""

    problem: ProcessProblem
    members: Lanes
    risk: RiskSettings
    size: float = 1.0  # of the metric
    width: float = 0.0  # over which the edge of a tail is softened, of the size
    watched: np.ndarray = field(default_factory=lambda: np.zeros((2, 0), int))  # [2, n] (member, row)

    @classmethod
    def able(
        cls, problem: ProcessProblem, starts: np.ndarray, members: Lanes, *, risk: RiskSettings
    ) -> tuple[RobustProgram, int]:
        """Over the members that can be simulated at one start at least; and of how many."""
        asked = members.number
        members = members._replace(drift=broadcast_drift(members.drift, asked))
        e = cls(problem, members, risk).evaluate(starts)
        able = np.flatnonzero((e.status.reshape(-1, asked) == 0).any(axis=0))
        size = float(np.nanmedian(np.abs(risk_utility(problem, e.metrics[e.status == 0])))) or 1.0
        values = risk_utility(problem, e.metrics).reshape(len(starts), asked)[:, able]
        width = WIDTH * max(float(np.nanmedian(np.nanstd(values, axis=1))) / size, 1e-6)
        return cls(problem, members.rows(able), risk, size, width), asked

    @property
    def lower(self) -> np.ndarray:
        """Lower bounds [D] of the decisions."""
        return self.problem.design.lower

    @property
    def upper(self) -> np.ndarray:
        """Upper bounds [D] of the decisions."""
        return self.problem.design.upper

    @property
    def method(self) -> Method:
        """By first derivatives."""
        return SequentialQuadratic()

    @property
    def count(self) -> int:
        """Members."""
        return self.members.number

    def evaluate(self, x: np.ndarray) -> Evaluation:
        """At points [L, D]: lanes are members within points."""
        return self.problem.evaluate(np.repeat(x, self.count, axis=0), self.members.tiled(len(x)))

    def all_margins(self, x: np.ndarray) -> np.ndarray:
        """Of all limits at points [L, D], [L, E, R]; those of a member that fails are -inf."""
        e = self.evaluate(x)
        m = np.where((e.status == 0)[:, None], np.nan_to_num(e.margins, nan=-np.inf), -np.inf)
        return m.reshape(len(x), self.count, -1)

    def answers(self, x: np.ndarray, lanes: np.ndarray) -> Answers:
        """Values and derivatives at points x [l, D]."""
        n = len(x)
        e, s = self.problem.derivatives(np.repeat(x, self.count, axis=0), self.members.tiled(n))
        values = (risk_utility(self.problem, e.metrics) / self.size).reshape(n, self.count)
        slopes = (risk_utility(self.problem, np.moveaxis(s.metrics, 1, -1)) / self.size).reshape(n, self.count, -1)
        good = (e.status.reshape(n, self.count) == 0).all(axis=1) & np.isfinite(values).all(axis=1)
        each = zip(values, good, strict=True)
        judged = [smooth_measure(self.risk, v, self.width) if ok else (np.nan, 0.0 * v) for v, ok in each]
        margins = e.margins.reshape(n, self.count, -1)
        jacobian = s.margins.reshape(*margins.shape, -1)
        return Answers(
            objective=np.array([value for value, _ in judged]),
            gradient=np.einsum("le,led->ld", np.array([weights for _, weights in judged]), np.nan_to_num(slopes)),
            margins=margins[:, *self.watched],
            jacobian=jacobian[:, *self.watched],
            good=good,
        )


def _required(margins: np.ndarray, count: int) -> np.ndarray:
    """The `count` members of margins [E, R] that break limits least; the estimate alone where none is asked for."""
    if count == 0 or not margins.shape[1]:
        return np.array([0])
    worst = np.nan_to_num(margins, nan=-np.inf).min(axis=1)
    return np.sort(np.argsort(-worst, kind="stable")[:count])


def _near(margins: np.ndarray, required: np.ndarray) -> np.ndarray:
    """Places [2, n] (member, row) of the margins that a search has to watch, among the members required."""
    member, row = np.nonzero(margins[required] < WATCHED_MARGIN)
    return np.stack([required[member], row])


def _join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.unique(np.concatenate([a, b], axis=1), axis=1)
