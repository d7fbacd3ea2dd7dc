"""How long the first call takes: with an empty compile cache, and in a second process that finds it filled.

`python compiling.py MODEL WHAT` does it once, in a process of its own, and prints the seconds as JSON. The cache is in
JAX_COMPILATION_CACHE_DIR. Importing JAX and the package is not counted; it is the same for all.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from table import Row, text
from timing import clocked, say

COLUMNS = ("model", "method", "what", "cache", "trace s", "compile s", "first run s", "total s")
# the largest model of the library, and the CHO model of the other tables
MODELS = {"cho_xing": "Tsit5", "raav_nguyen": "Rodas5P"}
WHAT = ("simulate", "Jacobian", "gradient")
VESSELS = 64


def first_call(model: str, what: str) -> dict[str, float]:
    """Seconds of tracing and lowering, compiling (or reading the cache), and the first run.

    The Jacobian is that of all states by the first 14 parameters; the gradient that of the last species at the end, by
    all parameters and the start.
    """
    import jax
    import jax.numpy as jnp
    import peers
    import problem
    import raav
    from derivatives import jacobian_program

    from optim.simulation.simulate import simulate_cultivations

    process = raav.process() if model == "raav_nguyen" else problem.process("mild")
    integrator = peers.integrator_for(process, MODELS[model], problem.RTOL, guard=what != "simulate")
    arguments = peers.optim_arguments(process, VESSELS)

    def last(p: Any, start: Any, integrator: Any, cultivation: Any) -> Any:
        cultivation = cultivation._replace(initial=start)
        found = simulate_cultivations(process.model, p, cultivation, integrator=integrator, derivative="reverse")
        return jnp.sum(found.concentrations[-1][:, -1])

    if what == "gradient":
        program = jax.jit(jax.grad(last, argnums=(0, 1)))
        p, cultivation = arguments
        arguments = (p, cultivation.initial, integrator, cultivation)
    else:
        program = (peers.optim_program if what == "simulate" else jacobian_program)(process.model)
        arguments = (integrator, *arguments)
    traced, lowered = clocked(lambda: program.lower(*arguments))
    compiled, ready = clocked(lowered.compile)
    ran, _ = clocked(lambda: jax.block_until_ready(ready(*arguments)))
    return {"trace s": traced, "compile s": compiled, "first run s": ran, "total s": traced + compiled + ran}


def measure(quick: bool, cores: int) -> list[Row]:
    """Rows of both models, three programs, and both states of the cache."""
    rows: list[Row] = []
    for model in ("cho_xing",) if quick else MODELS:
        for what in WHAT[: 1 if quick else None]:
            say(f"compile: {model}, {what}")
            with tempfile.TemporaryDirectory() as folder:
                for cache in ("empty", "filled"):
                    answer = subprocess.run(
                        [sys.executable, str(Path(__file__)), model, what],
                        check=True,
                        capture_output=True,
                        text=True,
                        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": folder},
                    )
                    row: Row = {"model": model, "method": MODELS[model], "what": what, "cache": cache}
                    rows.append(row | json.loads(answer.stdout))
    return rows


def tables(rows: list[Row]) -> str:
    """The rows as text."""
    return text("First call of a process, 64 vessels", rows, COLUMNS)


if __name__ == "__main__":
    from optim.runtime import configure

    configure()
    print(json.dumps(first_call(*sys.argv[1:])))
