"""Does the model-based optimum beat what a team would use instead? `python run.py [--only NAME,...] [--seeds 1-10]`.

Every method has 48 vessels of one simulated screen; the noise-free truth judges what it would make. Each seed of the
generator is other clones and other noise. Finished parts are kept in the folder `--work`, a file per seed, and are not
run again; tables go to the terminal, `results.json` and the figure to `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

# a matrix of 48 points is factorised faster by one thread than by many that wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import bayesian  # noqa: E402
import compare  # noqa: E402
import ecoli  # noqa: E402
import numpy as np  # noqa: E402
import response_surface  # noqa: E402
from laboratory import (  # noqa: E402
    Laboratory,
    Recommendation,
    Space,
    chosen_by_platform,
    full,
    laboratory,
    reduced,
)

Row = dict[str, Any]
Method = Callable[[Laboratory, str, int], Iterable[Recommendation]]

VESSELS, CLONES = 48, 24
PHASES = (3, 4, 4)  # days of equal feed, in the space of six factors
SEEDS = tuple(range(1, 11))
WORK = Path("outputs/benchmarks/process")


def spaces(lab: Laboratory) -> dict[str, Space]:
    """What opponents vary, by number of factors."""
    return {"4": reduced(lab.problem), "6": reduced(lab.problem, PHASES), "14": full(lab.problem)}


def _bo(factors: str, batch: int, chooses: bool = False) -> Method:
    def method(lab: Laboratory, clone: str, seed: int) -> Iterable[Recommendation]:
        mine, left = (chosen_by_platform(lab, 1), VESSELS - CLONES) if chooses else (clone, VESSELS)
        return bayesian.optimise(lab, mine, spaces(lab)[factors], left, batch, seed)

    return method


def methods() -> dict[str, Method]:
    """Opponents by name. Each is told the truly best clone, but those that end with 'clone chosen' begin with one
    vessel of each clone at the platform process."""
    found: dict[str, Method] = {
        "RSM composite, 4 factors": lambda lab, clone, seed: response_surface.composite(
            lab, clone, spaces(lab)["4"], VESSELS, seed
        ),
        "RSM composite, 6 factors": lambda lab, clone, seed: response_surface.composite(
            lab, clone, spaces(lab)["6"], VESSELS, seed
        ),
        "RSM screening, 14 factors": lambda lab, clone, seed: response_surface.screening(
            lab, clone, spaces(lab)["14"], VESSELS, seed
        ),
        "RSM composite, 4 factors, clone chosen": lambda lab, clone, seed: response_surface.composite(
            lab, chosen_by_platform(lab, 1), spaces(lab)["4"], VESSELS - CLONES, seed
        ),
    }
    for n in ("4", "6", "14"):
        for batch in (8, 24):
            found[f"BO, {n} factors, batches of {batch}"] = _bo(n, batch)
        found[f"BO, {n} factors, batches of 8, clone chosen"] = _bo(n, 8, chooses=True)
    return found


# --- one seed ---


def _made(lab: Laboratory, r: Recommendation) -> Row:
    judged = lab.judge(r.clone, r.x)
    row: Row = {"runs": r.runs, "clone": r.clone, "x": r.x.tolist(), "value": judged.value, "room": judged.room}
    if r.tried is not None:
        best = lab.judge(r.clone, r.tried)
        row["tried"] = {"x": r.tried.tolist(), "value": best.value, "room": best.room}
    return row


def _all(lab: Laboratory, method: Method, clone: str, seed: int) -> list[Row]:
    return [_made(lab, r) for r in method(lab, clone, seed)]


def truth_of(lab: Laboratory) -> Row:
    """Platform and true optimum of every clone."""
    from with_optim import attainable

    best = attainable(lab)
    x = lab.problem.design.platform
    platform = {c: lab.judge(c, x) for c in lab.clones}
    chosen = chosen_by_platform(lab.again(1), VESSELS // CLONES)
    return {
        "optimum": {c: {"value": v, "x": x.tolist()} for c, (v, x) in best.items()},
        "platform": {c: {"value": j.value, "room": j.room} for c, j in platform.items()},
        "best_clone": max(best, key=lambda c: best[c][0]),
        "platform_choice": chosen,
    }


def best_in(lab: Laboratory, clone: str, space: Space) -> Row:
    """The true optimum of a clone within a space of few factors, by search: what its parametrisation costs."""
    truth = lab.truth()[clone]

    def score(u: np.ndarray) -> np.ndarray:
        if not len(u):
            return np.empty(0)
        e = lab.problem.evaluate(space.decisions(u), np.tile(truth, (len(u), 1)))
        room = np.min(e.margins, axis=1)
        return np.where(e.status != 0, -np.inf, np.where(room >= -1e-6, e.objective, -10.0 + np.minimum(room, 0.0)))

    rng, u = np.random.default_rng(0), space.platform
    for _ in range(2):
        u = bayesian.search(score, space, u[None], rng)
    return {"value": float(np.exp(score(u[None])[0])), "x": space.decisions(u[None])[0].tolist()}


def learnt(lab: Laboratory, seed: int, careful: bool) -> Row:
    """optim's recommendation, judged, and what it said of it."""
    from with_optim import learn

    found = learn(seed, lab.mismatch)[1 if careful else 0]
    return {
        **_made(lab, found.recommended),
        "predicted": found.predicted,
        "met": found.met,
        "ranked": found.ranked,
        "converged": [found.converged, found.starts],
        "seconds": found.seconds,
    }


class Kept:
    """What is known of one seed, in one file; `get` computes what is not there yet."""

    def __init__(self, file: Path):
        self.file = file
        self.parts: Row = json.loads(file.read_text()) if file.exists() else {}

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        if name not in self.parts:
            start = time.perf_counter()
            self.parts[name] = compute()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            draft = self.file.with_suffix(".part")
            draft.write_text(json.dumps(self.parts) + "\n")
            draft.replace(self.file)
            print(f"{self.file.stem} {name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        return self.parts[name]


def study(seed: int, work: Path, parts: tuple[str, ...], names: str, mismatch: bool) -> None:
    """Every part of a seed that is asked for and not there; of opponents, those that the expression `names` finds."""
    lab = laboratory(seed, mismatch)
    kept = Kept(work / f"seed_{seed:02d}.json")
    truth = kept.get("truth", lambda: truth_of(lab))
    for n in ("4", "6"):
        kept.get(f"true optimum in {n} factors", partial(best_in, lab, truth["best_clone"], spaces(lab)[n]))
    if "optim" in parts:
        kept.get(compare.OPTIM, partial(learnt, lab, seed, False))
    if "careful" in parts:
        kept.get(compare.CAREFUL, partial(learnt, lab, seed, True))
    for name, method in methods().items():
        if name[: name.index(" ")].strip(",") in parts and re.search(names, name):
            own = lab.again(seed)
            kept.get(name, partial(_all, own, method, truth["best_clone"], seed))


# --- all seeds ---


def results(seeds: tuple[int, ...], work: Path) -> list[Row]:
    """What is kept of all seeds."""
    return [{"seed": s, **json.loads((work / f"seed_{s:02d}.json").read_text())} for s in seeds]


def _rounded(value: Any) -> Any:
    """Every number to six figures, which is more than any of them is good for."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _seeds(said: str) -> tuple[int, ...]:
    first, _, last = said.partition("-")
    return tuple(range(int(first), int(last or first) + 1))


PARTS, MORE = ("optim", "RSM", "BO", "ecoli"), ("careful",)


def main() -> None:
    """Every seed in turn, then the tables, the results and the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS + MORE)}")
    parser.add_argument("--seeds", default=f"{SEEDS[0]}-{SEEDS[-1]}", help="first-last, of the generator")
    parser.add_argument("--methods", default="", help="of RSM and BO, those that this regular expression finds")
    parser.add_argument("--quick", action="store_true", help="two seeds, few methods: does it run?")
    parser.add_argument("--mismatch", action="store_true", help="the truth has a mechanism that optim's model lacks")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of finished parts")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results and figure")
    options = parser.parse_args()
    if options.quick:
        options.work /= "quick"
    chosen = tuple(options.only.split(","))
    if unknown := set(chosen) - set(PARTS + MORE):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")

    from optim.runtime import configure

    configure()
    seeds = SEEDS[:2] if options.quick else _seeds(options.seeds)
    work = options.work / "mismatch" if options.mismatch else options.work
    for seed in seeds:
        study(seed, work, chosen, "24|RSM" if options.quick else options.methods, options.mismatch)
    found = results(seeds, work)
    table = compare.rows(found)
    print(compare.text(table, found))
    options.out.mkdir(parents=True, exist_ok=True)
    real: Row = {}
    if "ecoli" in chosen and not options.mismatch and "OPTIM_DATA" in os.environ:
        overrides = ("fit=quick", "optimise.starts=2") if options.quick else ()
        kept = Kept(options.work / "ecoli.json")
        real = kept.get("optima", lambda: ecoli.optima(options.work / "ecoli", overrides))
        print("\n" + ecoli.text(real))
    answer = _rounded({"seeds": found, "table": table, "ecoli": real})
    name = "mismatch" if options.mismatch else "results"
    (options.out / f"{name}.json").write_text(json.dumps(answer) + "\n")
    if {"RSM", "BO", "optim"} <= set(chosen) and not options.quick:
        compare.figure(table, found, options.out / ("mismatch.png" if options.mismatch else "gain.png"))


if __name__ == "__main__":
    main()
