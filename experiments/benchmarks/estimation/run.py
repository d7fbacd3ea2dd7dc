"""All measurements of this folder: `python run.py [--quick] [--only NAME,...] [--clones 100,300,1000] [--out FOLDER]`.

Tables go to the terminal as they come, `results.json` to the folder of this file, or `--out`. Every part runs in a
process of its own on one core; seconds are CPU seconds of all its threads.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "simulation")]  # the other benchmark's tables and clocks

from machine import machine, pin  # noqa: E402
from table import FORMATS, Row, add_ratio, text  # noqa: E402

COLUMNS = {
    "evaluate": (
        *("program", "cost s", "least cost s", "x optim "),
        *("derivative", "derivative s", "least derivative s", "x optim"),
    ),
    "fit": ("program", "fit s", "least", "x optim", "steps", "above optimum", "note"),
    "starts": ("program", "starts", "found", "fit s", "least", "x optim", "steps", "note"),
    "first": ("program", "cache", "first cost s", "cost CPU s", "first fit s", "fit CPU s"),
    "scaling": ("program", "clones", "parameters", "fit s", "least", "x smallest", "steps", "cost", "MiB"),
}
TITLES = {
    "evaluate": "One evaluation at the prior's centre, CPU s (warm)",
    "fit": "One fit from the prior's centre to the optimum, CPU s (warm)",
    "starts": "Starts drawn from the prior, CPU s of all (warm); found: within 0.1 of the optimum; steps: mean",
    "first": "A process from its start until the first number, wall s and CPU s, one core",
    "scaling": "More clones: one fit from the prior's centre, CPU s (warm), and peak memory of the process",
}
PARTS = tuple(COLUMNS)
FORMATS |= {
    "cost s": ".2g",
    "least cost s": ".2g",
    "derivative s": ".2g",
    "least derivative s": ".2g",
    "fit s": ".3g",
    "least": ".3g",
    "cost": ".2f",
    "above optimum": ".1e",
}
PACKAGES = ("jax", "jaxlib", "diffrax", "scipy", "numpy", "libroadrunner", "amici")
# of `scaling`, besides optim; diffrax in its faster form
ALSO = ("DiffraxBySpecies", "Amici", "RoadRunner", "Scipy")


def _part(name: str, quick: bool, kind: str, clones: int, file: Path) -> None:
    """In the process of the part: measure, and leave the rows in a file."""
    pin(1)
    if name == "first":
        # its processes set themselves up
        import first

        rows = first.measure(quick)
    else:
        from optim.runtime import configure

        configure()
        import measure

        parts = {"evaluate": measure.evaluate, "fit": measure.fit, "starts": measure.many}
        rows = measure.scaling(kind, clones) if name == "scaling" else parts[name](quick)
    file.write_text(json.dumps(rows))


def _apart(name: str, quick: bool, kind: str = "Optim", clones: int = 24) -> list[Row]:
    """The rows of a part, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, str(HERE / "run.py"), "--part", name, "--kind", kind, "--clones", str(clones)]
        subprocess.run([*command, *(["--quick"] if quick else []), "--out", str(file)], check=True)
        rows: list[Row] = json.loads(file.read_text())
        return rows


def _scaling(sizes: list[int], peers_to: int) -> list[Row]:
    rows = []
    for clones in sizes:
        for kind in ("Optim", *(ALSO if clones <= peers_to else ())):
            rows += _apart("scaling", False, kind, clones)
    add_ratio(rows, "x smallest", lambda r: bool(r["clones"] == sizes[0]), ("program",), of="fit s")
    return rows


def main() -> None:
    """Every part in turn; results are written after each, so that a run cut short is not lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few programs: does it run?")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--clones", default="100,300,1000", help="sizes of the part scaling")
    parser.add_argument("--peers-to", type=int, default=0, help="size up to which scaling runs other programs, too")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="Optim", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [int(word) for word in options.clones.split(",")]
    if options.part:
        _part(options.part, options.quick, options.kind, sizes[0], options.out)
        return
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(PACKAGES), "quick": options.quick, "parts": {}}
    for name in chosen:
        if name == "scaling":
            rows = _scaling(sizes[:1] if options.quick else sizes, options.peers_to)
        else:
            rows = _apart(name, options.quick)
        print(text(TITLES[name], rows, COLUMNS[name]), end="\n\n", flush=True)
        results["parts"][name] = rows
        (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
