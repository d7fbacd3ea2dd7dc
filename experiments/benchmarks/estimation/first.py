"""How long a fresh process takes until the first cost and the first fit, with an empty and a filled compile cache."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from programs import PROGRAMS, SEARCHING, load


def measure(quick: bool) -> list[dict[str, Any]]:
    """Programs that compile nothing run once."""
    rows = []
    for kind in ("Optim",) if quick else SEARCHING:
        place = PROGRAMS[kind]
        with tempfile.TemporaryDirectory() as cache:
            for state in ("empty", "filled") if place.compiles else ("none",):
                print(f"  first: {kind}, cache {state}", file=sys.stderr, flush=True)
                command = [sys.executable, str(Path(__file__)), kind]
                env = os.environ | {"OPTIM_CACHE": cache, "JAX_COMPILATION_CACHE_DIR": cache}
                ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
                if ended.stdout:
                    # compilers may have said something before
                    rows.append(json.loads(ended.stdout.splitlines()[-1]) | {"cache": state})
    return rows


def _born() -> float:
    """When this process started, on the clock of the machine, s."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    return float(fields[19]) / os.sysconf("SC_CLK_TCK")


def _fresh(kind: str) -> dict[str, Any] | None:
    """In the fresh process: wall and CPU seconds of its life, compilers with it, less those for making the screen."""
    import screen

    born = _born()

    def lived() -> tuple[float, float]:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - born, sum(os.times()[:4])

    before = lived()
    s = screen.screen()
    made = [b - a for a, b in zip(before, lived(), strict=True)]
    if PROGRAMS[kind].compiles == "JAX":
        from optim.runtime import configure

        configure()
    row: dict[str, Any] | None = None
    for program in load((kind,), s):
        row = {"program": program.name}
        for what, call in (("cost", program.cost), ("fit", program.fit)):
            call(s.prior_mu)
            wall, used = (a - b for a, b in zip(lived(), made, strict=True))
            row |= {f"first {what} s": wall, f"{what} CPU s": used}
    return row


if __name__ == "__main__":
    if (found := _fresh(sys.argv[1])) is not None:
        print(json.dumps(found))
