"""CPU seconds and wall time of the main job by stage: `python experiments/benchmarks/main_job.py [override ...]`.

Cold: an empty cache of compiled programs. Warm: the same command again, the better of two. A stage counts without what
stands in a row of its own: tracing and compiling are taken out of fit, rank and optimise. CPU seconds are those of all
threads, user and system. The machine decides the seconds; quote ratios of runs in the same hour.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

STAGES = ("import", "trace", "compile", "fit", "rank", "optimise", "export", "plots", "rest")
# what the command does, by where the command looks it up
WRAPPED = {
    "optim.app.commands.run:fit_command": "fit",
    "optim.app.commands.run:rank_command": "rank",
    "optim.app.commands.run:optimise_command": "optimise",
    "optim.app.commands.run:export_command": "export",
    "optim.app.session:Session.show_view": "plots",
}
IMPORTED = ("jax", "scipy.optimize", "scipy.stats", "matplotlib.pyplot", "omegaconf", "hydra", "optim.report.view")
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace",
    "/jax/core/compile/backend_compile_duration": "compile",  # or read from the cache
}
SAMPLE_S = 0.005


class Stopwatch:
    """Time of a process by stage. CPU seconds between two moments are read off samples of the process's clock."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.samples = [(self.begun, 0.0)]  # whatever was before belongs to the import
        self.spans: list[tuple[str, float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.samples.append((time.perf_counter(), time.process_time()))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Everything that happens inside belongs to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spans.append((name, start, time.perf_counter()))

    def wrapped(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The same function as a stage."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return timed

    def heard(self, event: str, seconds: float, **_: Any) -> None:
        """An event of JAX that has just ended."""
        if event in EVENTS:
            now = time.perf_counter()
            self.spans.append((EVENTS[event], now - seconds, now))

    def table(self) -> dict[str, tuple[float, float]]:
        """CPU seconds and wall time by stage; every moment belongs to the innermost span around it."""
        self._ended.set()
        self._thread.join()
        end = time.perf_counter()
        self.samples.append((end, time.process_time()))
        times, clock = zip(*self.samples, strict=True)
        edges = sorted({self.begun, end, *(t for _, a, b in self.spans for t in (max(a, self.begun), b))})
        found = {name: [0.0, 0.0] for name in STAGES}
        import numpy as np

        cpu = np.interp(edges, times, clock)
        middle = 0.5 * (np.array(edges[1:]) + np.array(edges[:-1]))
        owner = np.full(len(middle), STAGES.index("rest"))
        # shorter spans lie inside longer ones
        for name, a, b in sorted(self.spans, key=lambda s: s[1] - s[2]):
            owner[(middle >= a) & (middle < b)] = STAGES.index(name)
        for i, stage in enumerate(owner):
            found[STAGES[stage]][0] += float(cpu[i + 1] - cpu[i])
            found[STAGES[stage]][1] += edges[i + 1] - edges[i]
        return {name: (a, b) for name, (a, b) in found.items()}


def watched(overrides: list[str]) -> dict[str, tuple[float, float]]:
    """Run the job in this process, and say where its time went."""
    watch = Stopwatch()
    with watch.stage("import"):
        import jax.monitoring

        jax.monitoring.register_event_duration_secs_listener(watch.heard)
        for name in IMPORTED:
            importlib.import_module(name)
        for place, stage in WRAPPED.items():
            module, _, path = place.partition(":")
            *owners, last = path.split(".")
            owner: Any = importlib.import_module(module)
            for part in owners:
                owner = getattr(owner, part)
            setattr(owner, last, watch.wrapped(getattr(owner, last), stage))
        from optim.app.cli import main as command
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = command(["run", "--quiet", *overrides])
    if code:
        raise SystemExit(said.getvalue())
    return watch.table()


def main() -> None:
    """Cold, then warm twice; the table on the terminal."""
    if sys.argv[1:2] == ["--watched"]:
        print(json.dumps(watched(sys.argv[2:])))
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OPTIM_CACHE": str(Path(folder) / "cache")}
        command = [sys.executable, str(Path(__file__).resolve()), "--watched", f"out={folder}/out", *sys.argv[1:]]
        print(f"optim run {' '.join(sys.argv[1:])} on {os.cpu_count()} cores")
        runs = []
        for _ in range(3):
            done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        cold, warm = runs[0], min(runs[1:], key=lambda run: sum(cpu for cpu, _ in run.values()))
        print(f"{'':12}{'cold CPU s':>12}{'wall s':>9}{'warm CPU s':>13}{'wall s':>9}")
        for name in (*STAGES, "whole"):
            row = [
                value
                for run in (cold, warm)
                for value in (run[name] if name in run else [sum(v) for v in zip(*run.values(), strict=True)])
            ]
            print(f"{name:12}{row[0]:12.1f}{row[1]:9.1f}{row[2]:13.1f}{row[3]:9.1f}")
        # bytes on macOS, KiB elsewhere
        unit = 2**30 if sys.platform == "darwin" else 2**20
        print(f"peak memory {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit:.1f} GiB")


if __name__ == "__main__":
    main()
