"""Do suggested experiments lead to better decisions? `python run.py [--seeds N] [--first N] [--out FOLDER]`.

Simulated campaigns with hidden truth: a short first screen, then rounds of runs chosen in several ways, each done at
the truth with noise, added to the data and fitted again. After every round the decision (a clone, and its process) is
judged by the truth. One JSON per seed in OUT; seeds that are there are not run again, so a run cut short goes on.
`--report` makes tables and figure of the seeds that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from optim.app.build import build_fit, build_process, compose
from optim.data.dataset import Dataset, Run
from optim.data.open import read_dataset
from optim.data.screened import Screen
from optim.data.writer import append_runs, write_dataset
from optim.doe.alternatives import best_processes
from optim.doe.candidates import Setting, sampled_h
from optim.doe.posterior_normal import gaussian_posterior
from optim.doe.selection import Knowledge
from optim.doe.suggest import ExperimentProblem, WeighedCandidates, runs_to_do, select_runs, weigh_candidates
from optim.doe.uncertain_process import UncertainProcess
from optim.estimation.fit import fit_problem
from optim.estimation.posterior import Point, Posterior
from optim.estimation.transfer.continued_fit import revive_posterior, update_fit
from optim.kinetics.cho_moller import Parameters
from optim.optimisation.process_program import ProcessProgram
from optim.optimisation.solve import best_solution, solve
from optim.process.lanes import Lanes
from optim.process.problem import ProcessProblem
from optim.runtime import configure
from optim.settings.doe import SuggestSettings
from optim.settings.estimation import FitSettings
from optim.settings.optimisation import OptimiseSettings
from optim.synthetic import (
    INOCULUM_SD,
    SCREEN_ASSAYS,
    ScreenOptions,
    assay_runs,
    clone_truth,
    screen_runs,
    screen_tables,
    simulate_screen,
)

HERE = Path(__file__).parent
STRATEGIES = ("decision", "d_optimal", "space_filling", "random")
FIRST_SEED, ROUNDS = 4001, 2
# the first screen: one vessel of each clone, six days, read every second day with noise a few times the generator's
CLONES, UNTIL_H, READ_H, NOISE = 16, 144.0, (48.0, 96.0, 144.0), 2.5
FIT = FitSettings(starts=1, tolerance=1e-5, ensemble=8, quality=False, identify=False)
SOLVING = OptimiseSettings(starts=6, rank_starts=2, max_iterations=60, tolerance=1e-6)
SUGGEST = SuggestSettings(runs=8, every_d=(2,), safe=0.7, per_clone=8, members=12, processes=48, top=4, optima=3)
TRUTH_STARTS = 3

Row = dict[str, Any]


class Campaign:
    """One truth, its screen, and everything that is done to it."""

    def __init__(self, seed: int, folder: Path):
        self.seed, self.folder = seed, folder
        self.cfg = compose(["tracking=off"])
        options = ScreenOptions(clones=CLONES, vessels_per_clone=1, seed=seed)
        self.truth: dict[str, Parameters] = clone_truth(options)
        self.first = tuple(run.until(UNTIL_H) for run in screen_runs(options))
        self.do(self.first, "round0", [READ_H] * len(self.first))
        data = self.data("round0")
        self.process: ProcessProblem = build_process(self.cfg, Screen.from_dataset(data))
        d = self.cfg.design
        self.setting = Setting(d.medium_id, d.inoculum_vcd_1e6_per_ml, "", data.media)
        self.best = 0.0

    def data(self, name: str) -> Dataset:
        return read_dataset(str(self.folder / name))

    def do(self, runs: tuple[Run, ...], name: str, read_h: list[tuple[float, ...]]) -> None:
        """Run vessels at the truth, read them, and leave a dataset; equal runs scatter anew in every campaign."""
        rng = np.random.default_rng((self.seed, zlib.crc32(name.encode())))
        factors = np.exp(INOCULUM_SD * rng.standard_normal(len(runs)))
        times = np.unique(np.concatenate([np.arange(15) * 24.0, *read_h]))
        values = simulate_screen(runs, self.truth, factors, times_h=times)
        when = [dict.fromkeys(SCREEN_ASSAYS, own) for own in read_h]
        rows = assay_runs(runs, values, times, when=when, rng=rng, noise=NOISE)
        header = {
            "name": name,
            "description": f"SIMULATED campaign {self.seed}",
            "organism": "CHO (simulated)",
            "citation": "made by optim's own generator",
            "licence": "Apache-2.0",
            "simulated": True,
        }
        write_dataset(self.folder / name, header, screen_tables(runs, rows, self.truth))

    def true_parameters(self, clones: list[str]) -> np.ndarray:
        return np.array([[float(v) for v in self.truth[c]] for c in clones])

    def judged(self, clone: str, x: np.ndarray) -> tuple[float, float]:
        """True yield per cost of a decision, and by how much of a limit it breaks the worst one."""
        e = self.process.evaluate(x[None], self.true_parameters([clone]))
        return float(np.exp(e.objective[0])), float(max(0.0, -e.margins[0].min()))

    def find_best(self, starts: np.ndarray) -> str:
        """The true best clone at its true optimum."""
        clones = list(self.truth)
        owner = np.repeat(np.arange(len(clones)), len(starts))
        program = ProcessProgram(self.process, Lanes(self.true_parameters(clones)[owner]))
        found = solve(program, np.tile(starts, (len(clones), 1)), SOLVING)
        tops = [best_solution([s for s, o in zip(found, owner, strict=True) if o == c]) for c in range(len(clones))]
        values = [-np.inf if s is None else s.objective for s in tops]
        self.best = float(np.exp(max(values)))
        return clones[int(np.argmax(values))]


def decide(
    c: Campaign, posterior: Posterior, point: Point, known: Mapping[str, np.ndarray] | None
) -> tuple[str, dict[str, np.ndarray]]:
    """The clone with the best value at the estimate, and the best process of each."""
    belief = gaussian_posterior(posterior, point)
    own = best_processes(UncertainProcess(c.process, posterior.problem, belief), SOLVING, seed=c.seed, known=known)
    lead = max(own, key=lambda i: own[i].objective)
    return belief.clones[lead], {belief.clones[i]: s.x for i, s in own.items()}


def decided(w: WeighedCandidates) -> tuple[str, dict[str, np.ndarray]]:
    """The same from what runs are chosen for: the first alternative of each clone is its best at the estimate."""
    a, own = w.alternatives.values, dict[str, int]()
    for i, c in enumerate(a.group):
        own.setdefault(w.belief.clones[c], i)
    lead = max(own, key=lambda name: w.alternatives.at_estimate[own[name]])
    return lead, {name: w.alternatives.x[i] for name, i in own.items()}


def _row(c: Campaign, true_best: str, round_: int, clone: str, x: np.ndarray) -> Row:
    value, broken = c.judged(clone, x)
    return {
        "round": round_,
        "clone": clone,
        "right": clone == true_best,
        "regret": 1.0 - value / c.best,
        "broken": broken,
    }


def campaign(seed: int, strategies: tuple[str, ...]) -> Row:
    """All strategies from one first screen."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        c = Campaign(seed, Path(folder))
        problem = build_fit(c.cfg, c.data("round0"))
        first = fit_problem(problem, FIT, seed=seed, model_name=c.cfg.model.name)
        posterior, point = revive_posterior(first, problem)
        w = weigh_candidates(
            ExperimentProblem(posterior, point, c.process, c.setting), SUGGEST, solving=SOLVING, seed=seed
        )
        clone, processes = decided(w)
        starts = np.unique(np.array([processes[clone], *list(processes.values())[: TRUTH_STARTS - 1]]), axis=0)
        true_best = c.find_best(starts)
        start = _row(c, true_best, 0, clone, processes[clone])
        before = Knowledge(w.belief.covariance, w.alternatives.values, draws=SUGGEST.draws, seed=seed)
        start["expected_loss"] = before.expected_loss_and_probability()[0]
        found: Row = {"seed": seed, "best": c.best, "best_clone": true_best, "first": start, "strategies": {}}
        for by in strategies:
            rows, chosen_runs, now, at = [start], [], first, "round0"
            own, here = processes, w
            for k in range(1, ROUNDS + 1):
                setting = replace(c.setting, experiment_id=f"{by}{k}")
                batch = select_runs(here, replace(SUGGEST, by=by), seed + k)
                runs = runs_to_do(c.process, here, batch, setting=setting)
                chosen_runs.append([[r.clone_id, len(sampled_h(r))] for r in runs])
                c.do(runs, f"{by}{k}", [sampled_h(r) for r in runs])
                after = f"{by}-after{k}"
                append_runs(c.folder / at, c.folder / f"{by}{k}", c.folder / after)
                problem = build_fit(c.cfg, c.data(after))
                now, at = update_fit(now, problem, FIT, seed=seed, model_name=c.cfg.model.name), after
                posterior, point = revive_posterior(now, problem)
                if k < ROUNDS:
                    # what the others choose by does not need the alternatives between which the first one decides
                    options = SUGGEST if by == "decision" else replace(SUGGEST, optima=0)
                    now_known = ExperimentProblem(posterior, point, c.process, c.setting)
                    here = weigh_candidates(now_known, options, solving=SOLVING, seed=seed, known=own)
                    clone, own = decided(here)
                else:
                    clone, own = decide(c, posterior, point, own)
                rows.append(_row(c, true_best, k, clone, own[clone]) | {"expected_loss": batch[-1].loss})
            found["strategies"][by] = {"rounds": rows, "runs": chosen_runs}
        found["seconds"] = time.perf_counter() - began
        return found


# --- tables ---

# differences of regret by less are none, in %; limits broken by less are met, as a share of the limit
EQUAL, BROKEN = 0.05, 0.01


def _error(values: np.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def report(out: Path) -> str:
    """Regret by strategy and round, and paired differences; writes the figure."""
    from scipy.stats import wilcoxon

    results = [json.loads(f.read_text()) for f in sorted(out.glob("seed*.json"))]
    if not results:
        return "no seed is done"
    strategies = list(results[0]["strategies"])

    def regret(by: str) -> np.ndarray:
        return 100.0 * np.array([[r["regret"] for r in one["strategies"][by]["rounds"]] for one in results])

    def paid(by: str) -> np.ndarray:
        """The same where a limit broken by 1 % costs 1 %, as runs are weighed."""
        broken = np.array([[r["broken"] for r in one["strategies"][by]["rounds"]] for one in results])
        return 100.0 * (1.0 - (1.0 - regret(by) / 100.0) * np.exp(-broken))

    def share(by: str, k: int, key: str, above: float = 0.0) -> float:
        return 100.0 * float(np.mean([one["strategies"][by]["rounds"][k][key] > above for one in results]))

    lines = [f"{len(results)} campaigns; regret in % of the yield per cost of the true best clone at its optimum.", ""]
    heads = ("regret with limits: median", "mean (standard error)", "regret alone: median", "mean (standard error)")
    lines.append(f"| runs chosen by | round | {' | '.join(heads)} | right clone, % | limit broken, % |")
    lines.append("|---|---|---|---|---|---|---|---|")
    for by in strategies:
        for k in range(ROUNDS + 1):
            r, with_limits = regret(by)[:, k], paid(by)[:, k]
            if k == 0 and by != strategies[0]:
                continue
            name = "(first screen)" if k == 0 else by
            lines.append(
                f"| {name} | {k} | {np.median(with_limits):.1f} | "
                f"{with_limits.mean():.1f} ({_error(with_limits):.1f}) | "
                f"{np.median(r):.1f} | {r.mean():.1f} ({_error(r):.1f}) | {share(by, k, 'right'):.0f} | "
                f"{share(by, k, 'broken', BROKEN):.0f} |"
            )
    lines += ["", f"with limits: a limit broken by 1 % costs 1 %; limit broken: by more than {100 * BROKEN:.0f} %", ""]
    lines += ["| decision less | round | regret | mean (standard error) | lower / equal / higher | Wilcoxon p |"]
    lines += ["|---|---|---|---|---|---|"]
    for by in strategies[1:]:
        for k in range(1, ROUNDS + 1):
            for name, of in (("with limits", paid), ("alone", regret)):
                d = of(strategies[0])[:, k] - of(by)[:, k]
                moved = d[np.abs(d) > 1e-9]
                p = float(wilcoxon(moved).pvalue) if len(moved) > 5 else float("nan")
                counts = f"{np.sum(d < -EQUAL)} / {np.sum(np.abs(d) <= EQUAL)} / {np.sum(d > EQUAL)}"
                lines.append(f"| {by} | {k} | {name} | {d.mean():.1f} ({_error(d):.1f}) | {counts} | {p:.2g} |")
    seconds = [one["seconds"] for one in results]
    lines += ["", f"{np.median(seconds):.0f} s a campaign (median, two cores shared)"]
    figure(results, strategies, out / "regret.png")
    return "\n".join(lines)


def figure(results: list[Row], strategies: list[str], file: Path) -> None:
    """Mean regret by round with its standard error, and every campaign after the last round."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(zip(strategies, ("#0072B2", "#009E73", "#D55E00", "#8a8f98"), strict=False))
    drawn, (a, b) = plt.subplots(1, 2, figsize=(9.0, 3.2), layout="constrained")
    for i, by in enumerate(strategies):
        rows = [[(row["regret"], row["broken"]) for row in one["strategies"][by]["rounds"]] for one in results]
        alone, broken = np.moveaxis(np.array(rows), -1, 0)
        r = 100.0 * (1.0 - (1.0 - alone) * np.exp(-broken))
        error = r.std(axis=0, ddof=1) / np.sqrt(len(r)) if len(r) > 1 else np.zeros(r.shape[1])
        rounds = np.arange(r.shape[1]) + 0.03 * (i - 1.5)
        a.errorbar(
            rounds,
            r.mean(axis=0),
            error,
            color=colours[by],
            marker="o",
            markersize=4,
            capsize=2,
            label=by.replace("_", " "),
        )
        last = r[:, -1]
        b.plot(last, i + np.linspace(-0.25, 0.25, len(last)), "o", color=colours[by], markersize=4, alpha=0.7)
        b.plot([last.mean()] * 2, [i - 0.35, i + 0.35], color=colours[by], linewidth=2)
    a.set_xticks(range(ROUNDS + 1), ["first screen", *(f"round {k}" for k in range(1, ROUNDS + 1))])
    a.set_ylabel("regret with limits, % of yield per cost")
    a.set_ylim(bottom=0.0)
    a.legend(frameon=False, fontsize=8)
    a.set_title("mean and standard error", fontsize=9, loc="left")
    b.set_yticks(range(len(strategies)), [by.replace("_", " ") for by in strategies])
    b.invert_yaxis()
    b.set_xlabel(f"regret with limits after round {ROUNDS}, %")
    b.set_title("every campaign; bar: mean", fontsize=9, loc="left")
    for axes in (a, b):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, color="#e6e8eb", linewidth=0.6)
        axes.set_axisbelow(True)
    drawn.suptitle(f"SIMULATED campaigns ({len(results)})", fontsize=10, x=0.01, ha="left")
    drawn.savefig(file, dpi=130)
    plt.close(drawn)


def main() -> None:
    """Every seed in turn; each is written when done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=FIRST_SEED)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--report", action="store_true", help="tables and figure of what is there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    configure()
    for seed in range(args.first, args.first + (0 if args.report else args.seeds)):
        file = args.out / f"seed{seed}.json"
        if file.exists():
            continue
        found = campaign(seed, tuple(args.strategies.split(",")))
        draft = file.with_suffix(".part")
        draft.write_text(json.dumps(found, indent=1) + "\n")
        draft.replace(file)
        ends = {by: [round(100.0 * r["regret"], 2) for r in s["rounds"]] for by, s in found["strategies"].items()}
        print(f"seed {seed}: {found['seconds']:.0f} s, regret % {ends}", file=sys.stderr, flush=True)
    print(report(args.out))


if __name__ == "__main__":
    main()
