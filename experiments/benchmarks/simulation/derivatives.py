"""Derivatives of the batch of CHO vessels, as ratios to plain simulations of the same vessels by the same method.

Jacobian: of the states at the end of every day by the first 14 parameters, forward. Gradient, reverse: of the sum of
all final mAb by the volume of every bolus, its concentration of glucose, its time, and the cells at the start: 34
numbers per vessel. A feed's composition is that of a vessel, not of a bolus, so a bolus is the mix of two stocks, one
without glucose and one with twice the usual; the mix is part of what is differentiated.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import peers
import problem
from table import Row, add_ratio, text
from timing import Answer, Peer, clocked, in_turn, say, warmed

from optim.simulation.engine.march import Integrator
from optim.simulation.simulate import simulate_cultivations

COLUMNS = (
    "case",
    "method",
    "what",
    "vessels",
    "ms/vessel",
    "least",
    "x plain",
    "x guarded",
    "steps",
    "off finite diff.",
    "note",
)
BY = 14  # parameters
STRONG = 2.0  # glucose of the second stock, in units of that of the feed
CHECKED = 2  # vessels compared with finite differences
TIGHT = 1e-10  # tolerance of that comparison: steps of finite differences follow the values, which is noise


class Decisions(NamedTuple):
    """What the gradient is taken by, per vessel."""

    volume: Any  # [V, 11] L
    glucose: Any  # [V, 11] mmol/L
    shift: Any  # [V, 11] h, of the time of the bolus
    cells: Any  # [V] 1e9 cells/L at the start


def decisions(case: str, vessels: int) -> Decisions:
    """Those of the problem."""
    each = np.ones((vessels, len(problem.BOLUS_DAYS)))
    glucose = problem.FEED[case][2]
    found = Decisions(problem.BOLUS_L * each, glucose * each, 0.0 * each, problem.START[0] * each[:, 0])
    return jax.tree.map(jnp.asarray, found)


@cache
def jacobian_program(model: Any) -> Callable[..., Any]:
    """Slopes [14, V, N, K+1] of the states, status and steps [V]."""

    def states(p: Any, cultivation: Any, integrator: Integrator) -> tuple[Any, Any]:
        found = simulate_cultivations(model, p, cultivation, integrator=integrator)
        return jnp.stack(found.concentrations, axis=1), (found.status, found.steps)

    def program(integrator: Integrator, p: Any, cultivation: Any) -> tuple[Any, Any]:
        table = jnp.stack(p)

        def along(direction: Any) -> tuple[Any, Any]:
            moved = tuple(jnp.broadcast_to(direction[i], x.shape) for i, x in enumerate(p))
            _, slope, ended = jax.jvp(
                lambda p: states(p, cultivation, integrator), (p,), (type(p)(*moved),), has_aux=True
            )
            return slope, ended

        # directions outside, vessels inside, as fitting does it
        return jax.vmap(along, out_axes=(0, None))(jnp.eye(len(table))[:BY])

    return jax.jit(program)


def _titre(model: Any, integrator: Integrator, case: Any, d: Decisions, arguments: Any, way: Any) -> tuple[Any, Any]:
    """Sum of final mAb, and status and steps. `case`: glucose in the feed, mmol/L."""
    p, cultivation = arguments
    grid, vessel = cultivation.grid, cultivation.vessel
    k = problem.BOLUS_DAYS
    strong = d.volume * d.glucose / (STRONG * case)
    bolus = jnp.zeros((*grid.actions.bolus.shape[:2], 2)).at[:, k].set(jnp.stack([d.volume - strong, strong], axis=-1))
    still = jnp.zeros_like(bolus)
    actions = grid.actions._replace(bolus=bolus, rate_start=still, rate_end=still)
    grid = grid._replace(t=grid.t.at[:, k].add(d.shift), actions=actions)
    feeds = jnp.concatenate([vessel.feeds, vessel.feeds], axis=1).at[:, 0, 2].set(0.0).at[:, 1, 2].multiply(STRONG)
    cultivation = cultivation._replace(
        initial=cultivation.initial._replace(Xv=d.cells), grid=grid, vessel=vessel._replace(feeds=feeds)
    )
    found = simulate_cultivations(model, p, cultivation, integrator=integrator, derivative=way)
    return jnp.sum(found.concentrations.mAb[:, -1]), (found.status, found.steps)


@cache
def gradient_program(model: Any) -> Callable[..., Any]:
    """The gradient (`Decisions`), status and steps [V]."""

    def program(integrator: Integrator, case: Any, d: Decisions, *arguments: Any) -> tuple[Any, Any]:
        loss = lambda d: _titre(model, integrator, case, d, arguments, "reverse")  # noqa: E731
        return jax.grad(loss, has_aux=True)(d)

    return jax.jit(program)


@cache
def _titre_program(model: Any) -> Callable[..., Any]:
    return jax.jit(lambda integrator, case, d, *arguments: _titre(model, integrator, case, d, arguments, "forward")[0])


def _peer(name: str, vessels: int, program: Callable[[], tuple[Any, Any]]) -> Peer:
    def run() -> Answer:
        seconds, (_, (status, steps)) = clocked(lambda: jax.block_until_ready(program()))
        bad = int((np.asarray(status) != 0).sum())
        failed = f"{bad} of {vessels} vessels did not finish" if bad else ""
        return Answer(seconds, np.empty(0), float(np.mean(steps)), failed)

    return warmed(name, vessels, run)


def _plain(process: Any, integrator: Integrator, vessels: int) -> Callable[[], tuple[Any, Any]]:
    program, arguments = peers.optim_program(process.model), peers.optim_arguments(process, vessels)

    def call() -> tuple[Any, Any]:
        found = program(integrator, *arguments)
        return found.concentrations, (found.status, found.steps)

    return call


def _chosen(case: str, stepper: str, vessels: int, quick: bool) -> list[Peer]:
    process = problem.process(case)
    settings = partial(peers.integrator_for, process, stepper, problem.RTOL)
    arguments = peers.optim_arguments(process, vessels)
    glucose = problem.FEED[case][2]
    jacobian, gradient = jacobian_program(process.model), gradient_program(process.model)
    guarded = settings(guard=True)
    at = decisions(case, vessels)
    found = [
        _peer("plain", vessels, _plain(process, settings(), vessels)),
        _peer("plain, guarded", vessels, _plain(process, guarded, vessels)),
        _peer("gradient", vessels, lambda: gradient(guarded, glucose, at, *arguments)),
    ]
    # compiling it alone takes as long as all of a quick run may
    return found if quick else [*found, _peer("Jacobian", vessels, lambda: jacobian(guarded, *arguments))]


def check_jacobian(case: str, stepper: str) -> float:
    """Largest difference from central differences, relative to the largest slope of a species by a parameter."""
    process = problem.process(case)
    integrator = peers.integrator_for(process, stepper, TIGHT, guard=True)
    arguments = peers.optim_arguments(process, CHECKED)
    slopes, _ = jacobian_program(process.model)(integrator, *arguments)
    program, p = peers.optim_program(process.model), arguments[0]
    worst = 0.0
    for i in range(BY):
        step = 1e-4 * p[i]
        two = [
            np.stack(
                program(integrator, type(p)(*p[:i], p[i] + s * step, *p[i + 1 :]), *arguments[1:]).concentrations, 1
            )
            for s in (1.0, -1.0)
        ]
        by_hand = (two[0] - two[1]) / (2.0 * np.asarray(step)[:, None, None])
        size = np.abs(by_hand).max(axis=2, keepdims=True)
        worst = max(worst, float(np.max(np.abs(slopes[i] - by_hand) / np.where(size > 0.0, size, 1.0))))
    return worst


def check_gradient(case: str, stepper: str) -> float:
    """Largest difference from central differences, relative to the largest entry of its kind (volume, time, ...)."""
    process = problem.process(case)
    integrator = peers.integrator_for(process, stepper, TIGHT, guard=True)
    arguments, glucose = peers.optim_arguments(process, CHECKED), problem.FEED[case][2]
    at = decisions(case, CHECKED)
    found, (status, _) = gradient_program(process.model)(integrator, glucose, at, *arguments)
    if np.any(status):
        return float("nan")
    titre, worst = _titre_program(process.model), 0.0
    steps = Decisions(1e-6, 1e-4 * glucose, 1e-3, 1e-5)
    for kind, step, values in zip(Decisions._fields, steps, at, strict=True):
        by_hand = np.empty(values.shape)
        for place in np.ndindex(values.shape):
            two = [
                titre(integrator, glucose, at._replace(**{kind: values.at[place].add(s)}), *arguments)
                for s in (step, -step)
            ]
            by_hand[place] = (two[0] - two[1]) / (2.0 * step)
        worst = max(worst, float(np.max(np.abs(getattr(found, kind) - by_hand)) / np.max(np.abs(by_hand))))
    return worst


def measure(quick: bool, cores: int) -> list[Row]:
    """Rows of both cases and both methods."""
    rows: list[Row] = []
    for case in problem.CASES[: 1 if quick else None]:
        for stepper in ("Tsit5",) if quick else tuple(peers.STEPPERS):
            say(f"derivatives: {case}, {stepper}")
            vessels = 24 if quick else 1000
            chosen = _chosen(case, stepper, vessels, quick)
            in_turn(chosen, 2 if quick else 5, 30.0)
            checks = {} if quick else {"Jacobian": check_jacobian, "gradient": check_gradient}
            for peer in chosen:
                assert peer.answer is not None
                failed = peer.answer.failed
                rows.append(
                    {
                        "case": case,
                        "method": stepper,
                        "what": peer.name,
                        "vessels": vessels,
                        "ms/vessel": None if failed else peer.ms,
                        "least": None if failed else peer.least_ms,
                        "steps": peer.answer.steps,
                        "off finite diff.": None
                        if failed or peer.name not in checks
                        else checks[peer.name](case, stepper),
                        "note": failed,
                    }
                )
    add_ratio(rows, "x plain", lambda r: r["what"] == "plain", ("case", "method"))
    add_ratio(rows, "x guarded", lambda r: r["what"] == "plain, guarded", ("case", "method"))
    return rows


def tables(rows: list[Row]) -> str:
    """The rows as text."""
    return text("Derivatives, rtol 1e-6: Jacobian 98 x 14 a vessel, gradient by 34 decisions a vessel", rows, COLUMNS)
