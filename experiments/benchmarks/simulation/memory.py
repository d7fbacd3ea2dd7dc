"""Peak memory, each in a process of its own: what a batch takes beyond the same program for one vessel.

Compiling takes hundreds of MiB for a moment and would hide the rest: every process runs twice, with a compile cache of
its own, and the second, which only loads the program, counts.

`python memory.py WHAT STEPPER VESSELS CHUNK` prints the peak of its own process in MiB.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import peers
import problem
from table import Row, text
from timing import say

COLUMNS = ("what", "method", "vessels", "chunk", "MiB", "of GiB 2", "note")
TARGET_MIB = 2048.0
VESSELS = 10_000
# what, vessels in one call: the Jacobian of all vessels at once is 1.2 GB of numbers; a caller takes it in chunks
PLANS = (("plain", VESSELS), ("Jacobian", 1000), ("gradient", VESSELS), ("gradient", 1000))


def run_once(what: str, stepper: str, vessels: int, chunk: int) -> int:
    """Run it chunk by chunk, keeping of a Jacobian only the sum of its squares; vessels that did not finish."""
    from derivatives import decisions, gradient_program, jacobian_program

    process = problem.process("mild")
    integrator = peers.integrator_for(process, stepper, problem.RTOL, guard=what != "plain")
    p, *rest = peers.optim_arguments(process, vessels)
    glucose, at, bad = problem.FEED["mild"][2], decisions("mild", vessels), 0
    for first in range(0, vessels, chunk):
        part, *others, own = jax.tree.map(lambda a, n=first: a[n : n + chunk], (p, *rest, at))
        if what == "plain":
            status = peers.optim_program(process.model)(integrator, part, *others).status
        elif what == "Jacobian":
            slopes, (status, _) = jacobian_program(process.model)(integrator, part, *others)
            float((slopes**2).sum())
        else:
            _, (status, _) = gradient_program(process.model)(integrator, glucose, own, part, *others)
        bad += int((np.asarray(status) != 0).sum())
    return bad


def _peak(what: str, stepper: str, vessels: int, chunk: int) -> tuple[float, int]:
    command = [sys.executable, str(Path(__file__)), what, stepper, str(vessels), str(chunk)]
    with tempfile.TemporaryDirectory() as cache:
        env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        for _ in range(2):
            words = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.split()
    return float(words[0]), int(words[1])


def measure(quick: bool, cores: int) -> list[Row]:
    """Rows of every plan."""
    rows: list[Row] = []
    for what, chunk in PLANS[: 1 if quick else None]:
        for stepper in ("Tsit5",) if quick else tuple(peers.STEPPERS):
            say(f"memory: {what}, {stepper}, chunks of {chunk}")
            vessels = 24 if quick else VESSELS
            least, _ = _peak(what, stepper, 1, 1)
            most, bad = _peak(what, stepper, vessels, min(chunk, vessels))
            rows.append(
                {
                    "what": what,
                    "method": stepper,
                    "vessels": vessels,
                    "chunk": min(chunk, vessels),
                    "MiB": most - least,
                    "of GiB 2": (most - least) / TARGET_MIB,
                    "note": f"{bad} vessels did not finish" if bad else "",
                }
            )
    return rows


def tables(rows: list[Row]) -> str:
    """The rows as text."""
    return text("Peak memory of the mild batch beyond that of a program for one vessel", rows, COLUMNS)


if __name__ == "__main__":
    from optim.runtime import configure

    configure()
    failed = run_once(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0, failed)
