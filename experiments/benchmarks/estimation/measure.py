"""What is measured in one warm process: evaluations, fits, many starts, and larger screens. Programs run in turn."""

import resource
from collections.abc import Callable
from typing import Any

import numpy as np
from programs import PROGRAMS, SEARCHING, Fit, Program, cpu, load
from screen import CLOSE, OPTIMUM, Screen, screen, starts
from table import Row, add_ratio
from timing import Answer, Peer, in_turn, say
from with_scipy import Scipy

STARTS = 20
BUDGET_S = 20.0  # of a program, after which it sits out the rounds that remain


def _evaluated(name: str, call: Callable[[], Any]) -> Peer:
    """A program that is compiled here, and then runs so often that a clock sees it."""
    call()
    times = 1 if cpu(call)[0] > 0.2 else 5

    def run() -> Answer:
        return Answer(cpu(lambda: [call() for _ in range(times)])[0] / times, np.empty(0), 1.0)

    return Peer(name, 1, run)


def _fitted(name: str, call: Callable[[], list[Fit]]) -> Peer:
    """Fits of a program; its states are where they ended, one per start."""

    def run() -> Answer:
        try:
            seconds, ends = cpu(call)
        except RuntimeError as err:  # an integrator that gave up
            return Answer(float("nan"), np.empty((0, 0)), float("nan"), str(err).strip().splitlines()[0])
        return Answer(seconds, np.array([end.theta for end in ends]), float(np.mean([end.steps for end in ends])))

    return Peer(name, 1, run)


def _seconds(peer: Peer) -> tuple[float | None, float | None]:
    """Median and least."""
    assert peer.answer is not None
    return (None, None) if peer.answer.failed else (peer.ms / 1e3, peer.least_ms / 1e3)


def _above(s: Screen, peer: Peer) -> list[float]:
    """How far above the optimum fits ended, by one judge for all: an integrator's own error is no merit."""
    assert peer.answer is not None
    judge = Scipy(s, rtol=1e-10, atol=1e-12)
    return [judge.cost(theta) - OPTIMUM for theta in peer.answer.states]


def _is_optim(row: Row) -> bool:
    return bool(row["program"] == "optim")


def evaluate(quick: bool) -> list[Row]:
    """Cost and derivatives at the prior's centre."""
    s = screen()
    at = s.prior_mu
    chosen, costs, slopes = load(("Optim", "Diffrax") if quick else PROGRAMS, s), [], []
    for p in chosen:
        say(f"evaluate: {p.name}")
        costs.append(_evaluated(p.name, lambda p=p: p.cost(at)))
        slopes.append(_evaluated(p.name, lambda p=p: p.derivatives(at)))
    in_turn([*costs, *slopes], 2 if quick else 9, BUDGET_S)
    rows = []
    for p, cost, slope in zip(chosen, costs, slopes, strict=True):
        row = {"program": p.name, "derivative": p.derivative}
        row |= zip(("cost s", "least cost s"), _seconds(cost), strict=True)
        row |= zip(("derivative s", "least derivative s"), _seconds(slope), strict=True)
        rows.append(row)
    add_ratio(rows, "x optim ", _is_optim, (), of="cost s")
    add_ratio(rows, "x optim", _is_optim, (), of="derivative s")
    return rows


def _ready(p: Program, at: list[np.ndarray]) -> Peer:
    """Fits from some starts; compiled before, where the program does that."""
    say(f"{p.name}, {len(at)} starts")
    # optim's programs know how many starts they take together
    p.fit_many(at if p.name == "optim" else at[:1])
    return _fitted(p.name, lambda: p.fit_many(at))


def _searches(at: list[np.ndarray], s: Screen, quick: bool, repeats: int) -> list[Row]:
    peers = [_ready(p, at) for p in load(("Optim",) if quick else SEARCHING, s)]
    in_turn(peers, 1 if quick else repeats, BUDGET_S)
    rows = []
    for peer in peers:
        assert peer.answer is not None
        above = _above(s, peer)
        row = {
            "program": peer.name,
            "starts": len(at),
            "steps": peer.answer.steps,
            "above optimum": max(above, default=None),
            "found": sum(a < CLOSE for a in above),
            "note": peer.answer.failed,
        }
        rows.append(row | dict(zip(("fit s", "least"), _seconds(peer), strict=True)))
    add_ratio(rows, "x optim", _is_optim, (), of="fit s")
    return rows


def fit(quick: bool) -> list[Row]:
    """One fit from the prior's centre, by every program that has a search."""
    s = screen()
    return _searches([s.prior_mu], s, quick, 5)


def many(quick: bool) -> list[Row]:
    """Starts drawn from the prior."""
    s = screen()
    return _searches(starts(s, 3 if quick else STARTS), s, quick, 3)


def scaling(kind: str, clones: int) -> list[Row]:
    """One fit of a larger screen; in a process of its own, for its memory."""
    say(f"scaling: {kind}, {clones} clones")
    s = screen(clones)
    rows = []
    for p in load((kind,), s):
        p.fit(s.prior_mu)
        ends: list[Fit] = []
        peer = _fitted(p.name, lambda p=p, ends=ends: ends.append(p.fit(s.prior_mu)) or ends[-1:])
        in_turn([peer], 3, BUDGET_S)
        median, least = _seconds(peer)
        rows.append(
            {
                "program": p.name,
                "clones": clones,
                "parameters": len(s.prior_mu),
                "fit s": median,
                "least": least,
                "steps": ends[-1].steps,
                "cost": ends[-1].cost,
                "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
            }
        )
    return rows
