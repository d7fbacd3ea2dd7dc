"""What nodes cost: the batch of CHO vessels with daily nodes whose states are kept, the same but nothing is kept, and
with nodes every three hours at most of which nothing happens but that the state is kept.

The first two show what storing costs. A node also ends a step: the third has both, since steps that are shortened to
end at a node are part of the price of a sample. The column of steps shows how many more there are.
"""

from typing import Any
from unittest import mock

import jax
import peers
import problem
from process import Process
from table import Row, add_ratio, text
from timing import Peer, in_turn, say

from optim.simulation.engine import march
from optim.simulation.simulate import simulate_cultivations

COLUMNS = ("case", "method", "nodes", "kept", "vessels", "ms/vessel", "least", "x not kept", "steps", "us/step")
PLANS = ((1, False), (1, True), (8, True))  # nodes per day, and whether their states are kept


def forgetful(process: Process, stepper: str, vessels: int) -> Peer:
    """Does all that `simulate_cultivations` does, but that its visits keep no states."""
    visit = march.serve_lanes

    def keeps_nothing(model: Any, table: Any, loop: march.LoopState, *, integrator: Any) -> march.LoopState:
        return visit(model, table, loop, integrator=integrator)._replace(states=loop.states)

    program = jax.jit(
        lambda integrator, *arguments: simulate_cultivations(process.model, *arguments, integrator=integrator)
    )
    with mock.patch.object(march, "serve_lanes", keeps_nothing):
        return peers.optim(process, stepper, vessels, problem.RTOL, program=program)


def measure(quick: bool, cores: int) -> list[Row]:
    """Rows of both cases, methods and numbers of nodes."""
    rows: list[Row] = []
    vessels = 24 if quick else 1000
    for case in problem.CASES[: 1 if quick else None]:
        for stepper in ("Tsit5",) if quick else tuple(peers.STEPPERS):
            say(f"storing: {case}, {stepper}")
            chosen = [
                peers.optim(problem.process(case, n), stepper, vessels, problem.RTOL)
                if kept
                else forgetful(problem.process(case, n), stepper, vessels)
                for n, kept in PLANS
            ]
            in_turn(chosen, 2 if quick else 7, 20.0)
            for (per_day, kept), peer in zip(PLANS, chosen, strict=True):
                assert peer.answer is not None
                rows.append(
                    {
                        "case": case,
                        "method": stepper,
                        "nodes": problem.DAYS * per_day,
                        "kept": "yes" if kept else "no",
                        "vessels": vessels,
                        "ms/vessel": peer.ms,
                        "least": peer.least_ms,
                        "steps": peer.answer.steps,
                        "us/step": 1e3 * peer.ms / peer.answer.steps,
                    }
                )
    add_ratio(rows, "x not kept", lambda r: r["kept"] == "no", ("case", "method"))
    return rows


def tables(rows: list[Row]) -> str:
    """The rows as text."""
    return text("Daily nodes kept or not; and nodes every three hours, with the steps that they end", rows, COLUMNS)
