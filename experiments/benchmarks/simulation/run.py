"""All measurements of this folder: `python run.py [--quick] [--only NAME,...] [--threads 1,2] [--out FOLDER]`.

Tables go to the terminal as they come; `results.json` and `work_precision.png` to the folder of this file, or `--out`.
Every part runs in a process of its own, pinned to as many cores as it has threads, since XLA counts the cores once.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from machine import machine, pin

# name of a part -> its module
PARTS = {
    "batch": "batch",
    "stiff": "stiff",
    "derivatives": "derivatives",
    "storing": "storing",
    "memory": "memory",
    "compile": "compiling",
    "precision": "precision",
}
ON_MORE_CORES = ("batch",)
HERE = Path(__file__).parent
RESULTS, FIGURE = "results.json", "work_precision.png"
PACKAGES = ("jax", "jaxlib", "diffrax", "scipy", "numpy")


def _part(name: str, quick: bool, threads: int, file: Path) -> None:
    """In the process of the part: measure, and leave the rows in a file."""
    cores = pin(threads)
    from optim.runtime import configure

    configure()
    rows = import_module(PARTS[name]).measure(quick, cores)
    file.write_text(json.dumps(rows))


def _apart(name: str, quick: bool, threads: int) -> list[dict[str, Any]]:
    """The rows of a part, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        options = ["--quick"] if quick else []
        command = [sys.executable, str(HERE / "run.py"), "--part", name, "--threads", str(threads), *options]
        subprocess.run([*command, "--out", str(file)], check=True)
        rows: list[dict[str, Any]] = json.loads(file.read_text())
        return rows


def _threads(words: str) -> list[int]:
    counts = [int(word) for word in words.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("at least one thread")
    return counts


def main() -> None:
    """Every part in turn; results are written after each, so that a run cut short is not lost."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few vessels, few programs: does it run?")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--threads", type=_threads, help="e.g. 1,2: cores of the batch; by default one, then all")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        _part(options.part, options.quick, options.threads[0], options.out)
        return
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    wanted = options.threads or ([1] if options.quick else sorted({1, cores}))
    counts = [n for n in wanted if n <= cores]
    if missing := sorted(set(wanted) - set(counts)):
        print(f"only {cores} cores here: nothing on {missing}", file=sys.stderr)
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(PACKAGES), "quick": options.quick, "parts": {}}
    for name in chosen:
        rows = []
        for threads in counts if name in ON_MORE_CORES else [1]:
            rows += _apart(name, options.quick, threads)
        module = import_module(PARTS[name])
        print(module.tables(rows), end="\n\n", flush=True)
        results["parts"][name] = rows
        (options.out / RESULTS).write_text(json.dumps(results, indent=1) + "\n")
        if name == "precision":
            module.figure(rows, options.out / FIGURE)


if __name__ == "__main__":
    main()
