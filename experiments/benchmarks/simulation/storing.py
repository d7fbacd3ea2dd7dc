"""What nodes cost: the batch of CHO vessels with daily nodes, and with nodes every three hours at most of which nothing
happens but that the state is kept.

A node ends a step and stores a state. Both are in the difference, and cannot be told apart: steps that are shortened to
end at a node are part of the price of a sample. The column of steps shows how many more there are.
"""

import peers
import problem
from table import Row, add_ratio, text
from timing import in_turn, say

COLUMNS = ("case", "method", "nodes", "vessels", "ms/vessel", "least", "x daily", "steps", "us/step")
PER_DAY = (1, 8)


def measure(quick: bool, cores: int) -> list[Row]:
    """Rows of both cases, methods and numbers of nodes."""
    rows: list[Row] = []
    vessels = 24 if quick else 1000
    for case in problem.CASES[: 1 if quick else None]:
        for stepper in ("Tsit5",) if quick else tuple(peers.STEPPERS):
            say(f"storing: {case}, {stepper}")
            chosen = [peers.optim(problem.process(case, n), stepper, vessels, problem.RTOL) for n in PER_DAY]
            in_turn(chosen, 2 if quick else 7, 20.0)
            for per_day, peer in zip(PER_DAY, chosen, strict=True):
                assert peer.answer is not None
                rows.append(
                    {
                        "case": case,
                        "method": stepper,
                        "nodes": problem.DAYS * per_day,
                        "vessels": vessels,
                        "ms/vessel": peer.ms,
                        "least": peer.least_ms,
                        "steps": peer.answer.steps,
                        "us/step": 1e3 * peer.ms / peer.answer.steps,
                    }
                )
    add_ratio(rows, "x daily", lambda r: r["nodes"] == problem.DAYS, ("case", "method"))
    return rows


def tables(rows: list[Row]) -> str:
    """The rows as text."""
    return text("Daily nodes against nodes every three hours: ends of steps and storage together", rows, COLUMNS)
