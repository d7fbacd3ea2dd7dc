"""All measurements of this folder: `python run.py [--quick] [--only NAME,...] [--clones 100,300,1000] [--out FOLDER]`.

Tables go to the terminal as they come, `results.json` to the folder of this file, or `--out`. Every part runs in a
process of its own on one core; seconds are CPU seconds of all its threads.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module, util
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "simulation")]  # the other benchmark's tables and clocks

from table import FORMATS, Row, add_ratio, text  # noqa: E402
from timing import pin, say  # noqa: E402

# module, class, packages it needs
PROGRAMS = (
    ("with_optim", "Optim", ()),
    ("with_diffrax", "Diffrax", ("diffrax",)),
    ("with_diffrax", "DiffraxReverse", ("diffrax",)),
    ("with_roadrunner", "RoadRunner", ("roadrunner", "antimony")),
    ("with_scipy", "Scipy", ()),
)
PARTS = ("evaluate", "fit", "starts", "first", "scaling")
STARTS = 20
COLUMNS = {
    "evaluate": ("program", "cost s", "x optim ", "derivative", "derivative s", "x optim"),
    "fit": ("program", "fit s", "x optim", "steps", "above optimum"),
    "starts": ("program", "starts", "found", "all s", "x optim"),
    "first": ("program", "cache", "first cost s", "first fit s"),
    "scaling": ("clones", "parameters", "fit s", "x smallest", "steps", "cost", "MiB"),
}
TITLES = {
    "evaluate": "One evaluation at the prior's centre, CPU s (warm)",
    "fit": "One fit from the prior's centre to the optimum, CPU s (warm)",
    "starts": "Twenty starts drawn from the prior, CPU s (warm); found: within 0.1 of the optimum",
    "first": "A process from its start until the first number, wall s, one core",
    "scaling": "optim on more clones: one fit from the prior's centre, CPU s (warm), and peak memory of the process",
}
FORMATS |= {"cost s": ".2g", "derivative s": ".2g", "fit s": ".3g", "above optimum": ".1e", "cost": ".2f"}


def programs(s: Any, names: tuple[str, ...] = ()) -> list[Any]:
    """The programs that are installed, ready to run; `names` of classes, default all."""
    found = []
    for module, kind, needs in PROGRAMS:
        if names and kind not in names:
            continue
        if any(util.find_spec(package) is None for package in needs):
            say(f"{kind}: not installed, left out (the extra `bench` has it)")
            continue
        found.append(getattr(import_module(module), kind)(s))
    return found


def evaluate(quick: bool) -> list[Row]:
    """Cost and derivatives in turn."""
    import numpy as np
    from programs import cpu
    from screen import screen

    s, rows = screen(), []
    chosen = programs(s, ("Optim", "Diffrax") if quick else ())
    seconds: dict[tuple[str, str], list[float]] = {}
    for p in chosen:
        say(f"evaluate: {p.name}")
        p.cost(s.prior_mu), p.derivatives(s.prior_mu)  # compiles
    for turn in range(2 if quick else 9):
        for p in chosen:
            for what in ("cost", "derivatives"):
                spent = seconds.setdefault((p.name, what), [])
                if turn and sum(spent) > 10.0:
                    continue
                count = 1 if not spent or spent[-1] > 0.2 else 5
                used, _ = cpu(lambda p=p, what=what, n=count: [getattr(p, what)(s.prior_mu) for _ in range(n)])
                spent.append(used / count)
    for p in chosen:
        rows.append(
            {
                "program": p.name,
                "cost s": float(np.median(seconds[p.name, "cost"])),
                "derivative": p.derivative,
                "derivative s": float(np.median(seconds[p.name, "derivatives"])),
            }
        )
    add_ratio(rows, "x optim ", lambda r: r["program"] == "optim", (), of="cost s")
    add_ratio(rows, "x optim", lambda r: r["program"] == "optim", (), of="derivative s")
    return rows


def fit(quick: bool) -> list[Row]:
    """One fit by every program that has one."""
    import numpy as np
    from programs import cpu
    from screen import OPTIMUM, screen

    s, rows = screen(), []
    for p in programs(s, ("Optim",) if quick else ("Optim", "Diffrax", "RoadRunner", "Scipy")):
        say(f"fit: {p.name}")
        p.cost(s.prior_mu), p.derivatives(s.prior_mu)
        used, end = [], None
        while len(used) < 5 and sum(used) < 10.0:
            spent, end = cpu(lambda p=p: p.fit(s.prior_mu))
            used.append(spent)
        assert end is not None
        rows.append(
            {
                "program": p.name,
                "fit s": float(np.median(used)),
                "steps": end.steps,
                "above optimum": end.cost - OPTIMUM,
            }
        )
    add_ratio(rows, "x optim", lambda r: r["program"] == "optim", (), of="fit s")
    return rows


def many(quick: bool) -> list[Row]:
    """Many starts by every program that can be waited for."""
    from programs import cpu
    from screen import CLOSE, OPTIMUM, screen, starts

    s, rows = screen(), []
    at = starts(s, 3 if quick else STARTS)
    for p in programs(s, ("Optim",) if quick else ("Optim", "Diffrax", "RoadRunner")):
        say(f"starts: {p.name}")
        p.fit_many(at[:2])
        p.fit_many(at) if p.name == "optim" else None  # compiles its other size of batch
        used, ends = cpu(lambda p=p: p.fit_many(at))
        found = sum(abs(end.cost - OPTIMUM) < CLOSE for end in ends)
        rows.append({"program": p.name, "starts": len(at), "found": found, "all s": used})
    add_ratio(rows, "x optim", lambda r: r["program"] == "optim", (), of="all s")
    return rows


def first(quick: bool) -> list[Row]:
    """Wall time of a fresh process until its first cost and its first fit."""
    rows: list[Row] = []
    for kind in ("Optim",) if quick else ("Optim", "Diffrax"):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("empty", "filled"):
                say(f"first: {kind}, cache {state}")
                command = [sys.executable, str(HERE / "run.py"), "--first", kind]
                env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
                lines = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.split()
                rows.append(
                    {"program": kind, "cache": state, "first cost s": float(lines[0]), "first fit s": float(lines[1])}
                )
    return rows


def _first(kind: str) -> None:
    """In the fresh process: its age when the first cost, and the first fit, are there."""
    import time

    begun = float(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")

    def age() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - begun

    from optim.runtime import prepare

    prepare()
    import screen

    s = screen.screen()
    made = age()
    (program,) = programs(s, (kind,))
    import_time = age() - made
    begin = age()
    program.cost(s.prior_mu)
    cost = age() - begin
    program.fit(s.prior_mu)
    end = age() - begin
    # making the screen is no part of what is measured; starting and importing are
    base = made - _making(s) + import_time
    print(base + cost, base + end)


def _making(s: Any) -> float:
    """Seconds that making the screen takes."""
    import time

    import screen

    screen.screen.cache_clear()
    start = time.perf_counter()
    screen.screen(s.clones)
    return time.perf_counter() - start


def scaling(clones: int) -> list[Row]:
    """One fit of a larger screen; each size in a process of its own, for its memory."""
    import resource

    from programs import cpu
    from screen import screen

    say(f"scaling: {clones} clones, making them")
    s = screen(clones)
    (p,) = programs(s, ("Optim",))
    p.fit(s.prior_mu)
    used, end = cpu(lambda: p.fit(s.prior_mu))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    size = len(s.prior_mu)
    return [{"clones": clones, "parameters": size, "fit s": used, "steps": end.steps, "cost": end.cost, "MiB": peak}]


def _part(name: str, quick: bool, clones: int, file: Path) -> None:
    """In the process of the part: measure, and leave the rows in a file."""
    pin(1)
    from optim.runtime import prepare

    prepare()
    measure = {"evaluate": evaluate, "fit": fit, "starts": many, "first": first}
    file.write_text(json.dumps(scaling(clones) if name == "scaling" else measure[name](quick)))


def _apart(name: str, quick: bool, clones: int = 24) -> list[Row]:
    """The rows of a part, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, str(HERE / "run.py"), "--part", name, "--clones", str(clones)]
        subprocess.run([*command, *(["--quick"] if quick else []), "--out", str(file)], check=True)
        rows: list[Row] = json.loads(file.read_text())
        return rows


def main() -> None:
    """Every part in turn; results are written after each, so that a run cut short is not lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few programs: does it run?")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--clones", default="100,300,1000", help="sizes of the part scaling")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--first", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [int(word) for word in options.clones.split(",")]
    if options.first:
        _first(options.first)
        return
    if options.part:
        _part(options.part, options.quick, sizes[0], options.out)
        return
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"quick": options.quick, "parts": {}}
    for name in chosen:
        rows: list[Row] = []
        for clones in (sizes[:1] if options.quick else sizes) if name == "scaling" else [24]:
            rows += _apart(name, options.quick, clones)
        if name == "scaling":
            add_ratio(rows, "x smallest", lambda r: r["clones"] == sizes[0], (), of="fit s")
        print(text(TITLES[name], rows, COLUMNS[name]), end="\n\n", flush=True)
        results["parts"][name] = rows
        (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
