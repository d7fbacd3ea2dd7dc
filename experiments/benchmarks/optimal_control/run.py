"""Published optimal-control problems: value re-simulated with SciPy, share of starts at the optimum, seconds.

    python experiments/benchmarks/optimal_control/run.py [--only NAME ...] [--intervals 20 50 100] [--casadi]

Every problem runs in a process of its own with an empty compile cache: "cold" is the first search in it, compilation
included, "warm" the same search again. Seconds are wall / CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def one(name: str, intervals: int, starts: int) -> dict:
    """Search one problem, cold and warm, and from the naive constant feed alone."""
    from optim.runtime import configure

    configure()
    sys.path.insert(0, str(HERE))
    from problems import CASES
    from resimulate import resimulated

    from optim.optimisation.control_profiles import optimise_profiles
    from optim.settings.optimisation import OptimiseSettings

    case = CASES[name]
    problem = case.problem(intervals)
    naive = problem.encode_decisions(np.tile(case.naive, (1, intervals, 1)), np.full(1, np.mean(problem.hours)))

    options = OptimiseSettings(starts, max_iterations=100, tolerance=1e-6)

    def timed(first: np.ndarray | None) -> tuple:
        wall, cpu = time.perf_counter(), time.process_time()
        found = optimise_profiles(problem, options, first=first, random=first is None)
        return found, time.perf_counter() - wall, time.process_time() - cpu

    best, cold, cold_cpu = timed(None)
    _, warm, warm_cpu = timed(None)
    alone, alone_warm, _ = timed(naive)
    value, violation = resimulated(name, best.controls, best.hours)
    naive_value, naive_violation = resimulated(name, alone.controls, alone.hours)
    ended = [s for s in best.starts if s.success]
    return {
        "problem": name, "intervals": intervals, "value": value, "violation": violation, "hours": best.hours,
        "kkt": best.kkt, "own": best.value, "naive": naive_value, "naive_violation": naive_violation,
        "success": best.success, "naive_success": alone.success, "values": [s.objective for s in ended],
        "failed": len(best.starts) - len(ended), "optima": list(best.distinct_optima), "cold": cold,
        "cold_cpu": cold_cpu,
        "warm": warm, "warm_cpu": warm_cpu, "naive_warm": alone_warm, "binding": list(best.binding),
        "iterations": [s.iterations for s in best.starts], "peer": case.peer.get(intervals),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--intervals", nargs="*", type=int, default=[20, 50, 100])
    parser.add_argument("--starts", type=int, default=32)
    parser.add_argument("--casadi", action="store_true", help="CasADi + IPOPT in the same run (pip install casadi)")
    parser.add_argument("--out", type=Path, default=None, help="write all results as JSON lines")
    parser.add_argument("--one", nargs=2, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print("RESULT " + json.dumps(one(args.one[0], int(args.one[1]), args.starts)))
        return
    sys.path.insert(0, str(HERE))
    from problems import CASES

    print("share: of all random starts, those that converge within all limits and within 0.1 % of the best known")
    print(
        "| problem | N | value | against peer | violation | from naive | share | failed | s cold | s warm |"
        + (" CasADi |" if args.casadi else "")
    )
    print("|---|---|---|---|---|---|---|---|---|---|" + ("---|" if args.casadi else ""))
    for name in args.only or CASES:
        for n in args.intervals:
            r = _apart(name, n, args.starts)
            peer = None
            if args.casadi:
                from with_casadi import solved

                peer = solved(name, n)
            known = max(v for v in (r["value"], r["peer"], r["naive"], peer and peer["value"]) if v is not None)
            share = np.mean(np.array(r["values"] + [-np.inf] * r["failed"]) >= known * (1 - 1e-3))
            against = "" if r["peer"] is None else f"{100 * (r['value'] / r['peer'] - 1):+.4f} %"
            loose = "" if r["success"] and r["naive_success"] else " (not converged)"
            row = (
                f"| {name}{loose} | {n} | {r['value']:.6g} | {against} | {max(r['violation'], 0.0):.1e} | "
                f"{100 * (r['naive'] / known - 1):+.3f} % | {share:.2f} | {r['failed']} | "
                f"{r['cold']:.1f} / {r['cold_cpu']:.1f} | {r['warm']:.1f} / {r['warm_cpu']:.1f} |"
            )
            if peer is not None:
                row += f" {peer['value']:.6g}, share {peer['share']:.2f}, {peer['cpu']:.2f} CPU s per start |"
            print(row, flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(r | {"casadi": peer}) + "\n")


def _apart(name: str, intervals: int, starts: int) -> dict:
    """The result of a process of its own, with an empty compile cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--one", name, str(intervals), "--starts", str(starts)]
        done = subprocess.run(
            command, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}, capture_output=True, text=True
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{name}, {intervals} intervals: no result\n{done.stderr}")
    return json.loads(lines[0][7:])


if __name__ == "__main__":
    main()
