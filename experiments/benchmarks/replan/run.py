"""Is it worth re-planning a batch while it runs? Simulated batches, judged by their hidden truth.

`python experiments/benchmarks/replan/run.py [--seeds 20] [--clone new|known] [--out FOLDER]` runs what is missing (one
JSON per seed and kind of clone), and `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from batch import Batch, Truth, hidden, judged

from optim.app.build import build_process, compose
from optim.app.commands import load_command
from optim.app.commands.replan import problem_until_now, running_batch_problem
from optim.app.session import open_session
from optim.artefact import Lineage, load_artefact
from optim.data.open import read_dataset
from optim.data.screened import Screen
from optim.estimation.result import FitResult
from optim.optimisation.optimise import NEWCOMER
from optim.optimisation.process_program import ProcessProgram, start_points
from optim.optimisation.result import Optimum, Series
from optim.optimisation.solve import best_solution, solve
from optim.process.problem import ProcessProblem
from optim.recipe.rounding import rounded_decisions
from optim.replanning.replan import ReplanOptions, replan_batch
from optim.replanning.running_batch import FollowedPlan, RunningBatch
from optim.runtime import configure
from optim.settings.optimisation import OptimiseSettings
from optim.settings.replanning import ReplanSettings

EVERY = {"planned anew every 2 days": (3, 5, 7, 9, 11, 13)}
OPTIONS = ReplanOptions(OptimiseSettings(starts=3, max_iterations=50, tolerance=1e-6), ReplanSettings(draws=31))
EMPTY = Series(np.zeros(0), (), (), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0)))
BROKEN = -0.01  # relative margin below which a limit counts as broken


class Bench:
    """One fit of the shipped screen, and the plans made by it."""

    def __init__(self, out: Path):
        self.out = out
        self.cfg = compose(["tracking=off", f"out={out / 'screen'}"])
        self.screen = read_dataset(self.cfg.dataset.name)
        if not (out / "screen" / "fit" / "artefact.json").exists():
            with open_session(self.cfg, "fit") as s:
                load_command("fit")(s)
        self.fit = load_artefact(FitResult, out / "screen" / "fit")
        self.problem = build_process(self.cfg, Screen.from_dataset(self.screen))
        self.times = {d.name: d.time_h for d in self.problem.design.decisions if d.kind == "bolus"}

    def plan(self, clone: str) -> dict[str, float]:
        """The recipe's decisions for a clone: its optimum by the fit, at what pumps can do."""
        folder = self.out / "screen" / "plans" / clone
        if not (folder / "optimum" / "artefact.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "fit").exists():
                (folder / "fit").symlink_to(self.out / "screen" / "fit")
            cfg = compose(["tracking=off", f"out={folder}", f"optimise.clone={clone}"])
            with open_session(cfg, "optimise") as s:
                load_command("optimise")(s)
        rows = load_artefact(Optimum, folder / "optimum").optimum.decisions
        return dict(zip((d.name for d in rows), rounded_decisions(rows), strict=True))

    def clairvoyant(self, truth: Truth) -> dict[str, float]:
        """The optimum for one who knows everything; what the pump withholds is asked for in addition."""
        starts = start_points(self.problem, 6, 0)
        program = ProcessProgram(self.problem, truth.lane().tiled(len(starts)))
        found = best_solution(solve(program, starts, OptimiseSettings(tolerance=1e-7)))
        assert found is not None
        names = [d.name for d in self.problem.design.decisions]
        plan = dict(zip(names, (float(v) for v in found.x), strict=True))
        return carried_out(
            self.problem, Batch(Truth(truth.clone, truth.parameters, truth.inoculum, {}, truth.seed)), plan, self.times
        )

    def replanned(self, truth: Truth, plan: dict[str, float], days: tuple[int, ...]) -> dict[str, object]:
        """A batch planned anew on some days, from what was read until then."""
        batch, changes, seconds, off = Batch(truth), list[int](), list[float](), list[str]()
        for day in days:
            if 24.0 * day >= plan["harvest"] - 1.0:
                break
            batch = batch.until(24.0 * day, plan, self.times)
            data = batch.dataset()
            begin = time.perf_counter()
            problem, under_way = running_batch_problem(self.problem, data, 0, now_h=batch.now_h)
            fitting, following = problem_until_now(self.cfg, data, 0, now_h=batch.now_h), FollowedPlan(plan, EMPTY)
            running = RunningBatch(under_way, following, fitting, self.fit)
            found = replan_batch(problem, running, OPTIONS, lineage=Lineage.from_parents(self.fit, seed=1))
            seconds.append(time.perf_counter() - begin)
            plan = plan | {d.name: d.now for d in found.decisions if d.open}
            changes.append(0 if found.kept else day)
            off += [f"day {day}: {a.variable}" for a in found.agreement if a.off]
        result = carried_out(self.problem, batch, plan, self.times)
        return result | {"changed": changes, "seconds": seconds, "off": off, "plan": plan}


def carried_out(
    problem: ProcessProblem, batch: Batch, plan: dict[str, float], times: dict[str, float]
) -> dict[str, float]:
    """The end of a batch under a plan."""
    return judged(problem, batch.until(min(plan["harvest"], 336.0) - 0.02, plan, times), plan)


def one(bench: Bench, seed: int, kind: str) -> dict[str, object]:
    """All ways to run the batch of one seed."""
    truth = hidden(seed, bench.screen if kind == "known" else None)
    plan = bench.plan(truth.clone if kind == "known" else NEWCOMER)
    found: dict[str, object] = {
        "seed": seed,
        "clone": truth.clone,
        "inoculum": truth.inoculum,
        "pump": {str(k): v for k, v in truth.pump.items()},
        "open loop": carried_out(bench.problem, Batch(truth), plan, bench.times),
        "clairvoyant": bench.clairvoyant(truth),
    }
    return found | {name: bench.replanned(truth, plan, days) for name, days in EVERY.items()}


def table(out: Path, kind: str) -> list[str]:
    """Yield per cost under the truth, paired with the open loop, and limits broken."""
    rows = [json.loads(f.read_text()) for f in sorted(out.glob(f"{kind}_*.json"))]
    if not rows:
        return [f"{kind} clone: nothing yet"]
    ways = ("open loop", *EVERY, "clairvoyant")
    limits = [k for k in rows[0]["open loop"] if k != "objective"]
    y = {w: np.array([r[w]["objective"] for r in rows]) for w in ways}
    worst = {w: np.array([min(r[w][k] for k in limits) for r in rows]) for w in ways}
    lines = [
        f"{kind} clone, {len(rows)} batches",
        "| plan | yield per cost, g/EUR: median (5 to 95 %) | against open loop, paired: median (5 to 95 %) "
        "| better in | share of what the clairvoyant gains | batches that break a limit by > 1 % | worst, median |",
        "|---|---|---|---|---|---|---|",
    ]
    room = y["clairvoyant"] - y["open loop"]
    for w in ways:
        low, middle, high = np.quantile(y[w], (0.05, 0.5, 0.95))
        gain = 100.0 * (y[w] / y["open loop"] - 1.0)
        a, b, c = np.quantile(gain, (0.05, 0.5, 0.95))
        share = "" if w == "open loop" else f"{np.sum(y[w] - y['open loop']) / np.sum(room):.0%}"
        paired = "" if w == "open loop" else f"{b:+.1f} % ({a:+.1f} to {c:+.1f})"
        won = "" if w == "open loop" else f"{np.mean(gain > 0.0):.0%}"
        lines.append(
            f"| {w} | {middle:.5f} ({low:.5f} to {high:.5f}) | {paired} | {won} | {share} "
            f"| {np.sum(worst[w] < BROKEN)} of {len(rows)} | {100.0 * min(0.0, float(np.median(worst[w]))):.1f} % |"
        )
    lines.append("")
    lines.append("limits broken by more than 1 %, batches (largest):")
    for k in limits:
        cells = []
        for w in ways:
            m = np.array([r[w][k] for r in rows])
            cells.append(f"{w} {np.sum(m < BROKEN)} ({100.0 * min(0.0, float(m.min())):.0f} %)")
        lines.append(f"  {k}: " + ", ".join(cells))
    seconds = np.concatenate([r[w]["seconds"] for r in rows for w in EVERY])
    lines.append(f"  seconds of one re-planning: median {np.median(seconds):.1f}, longest {seconds.max():.1f}")
    said = sum(bool(r[w]["off"]) for r in rows for w in EVERY)
    lines.append(f"  batches in which an assay was said to agree with nothing: {said} of {len(rows) * len(EVERY)}")
    return lines


def _file(out: Path, kind: str, seed: int) -> Path:
    return out / f"{kind}_{seed:02d}.json"


def batch(out: Path, kind: str, seed: int) -> float:
    """Run one batch in all ways, and write it down; returns the seconds it took."""
    configure()
    begin, file = time.perf_counter(), _file(out, kind, seed)
    draft = file.with_suffix(".part")
    draft.write_text(json.dumps(one(Bench(out), seed, kind), indent=1) + "\n")
    draft.replace(file)
    return time.perf_counter() - begin


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seeds", type=int, default=20)
    p.add_argument("--clone", choices=("new", "known"), action="append")
    p.add_argument("--out", type=Path, default=Path("outputs/benchmarks/replan"))
    p.add_argument("--table", action="store_true", help="print what is there, and run nothing")
    args = p.parse_args()
    kinds = args.clone or ["new", "known"]
    if not args.table:
        args.out.mkdir(parents=True, exist_ok=True)
        missing = [
            (kind, seed) for kind in kinds for seed in range(args.seeds) if not _file(args.out, kind, seed).exists()
        ]
        # each day and number of doses is a program of its own: one process cannot hold those of many batches
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            for kind, seed in missing:
                print(f"{kind} {seed}: {pool.submit(batch, args.out.resolve(), kind, seed).result():.0f} s", flush=True)
    for kind in kinds:
        print("\n".join(table(args.out, kind)))


if __name__ == "__main__":
    main()
