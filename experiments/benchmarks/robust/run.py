"""Does an optimum under uncertainty keep what it promises? Over simulated screens, judged on their hidden truth.

Each screen is fitted, its best clone chosen, and its process optimised at the estimate ("nominal") and under
uncertainty ("robust": CVaR of the worst fifth, all limits in nine of ten scenarios of parameters and execution).
Both, and the platform, are then carried out `DRAWS` times with the truth's parameters and the errors of a plant that no
search has seen. `python experiments/benchmarks/robust/run.py` prints the table; a seed that is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import wilcoxon

from optim.app.build import build_fit, build_process, compose
from optim.artefact import Lineage
from optim.data.open import read_dataset
from optim.estimation.fit import fit_problem
from optim.optimisation.optimise import optimise_process, parameter_sets
from optim.optimisation.rank import rank_clones
from optim.optimisation.robust import FEASIBLE, risk_measure
from optim.optimisation.study import Study
from optim.process.disturbance import sample_execution_errors
from optim.process.lanes import Lanes
from optim.runtime import configure
from optim.settings.objective import RiskSettings
from optim.settings.optimisation import OptimiseSettings
from optim.synthetic import ScreenOptions, make_screen

DRAWS = 200
TAIL = 0.2
CLONES = 6


def one_screen(seed: int, folder: Path) -> dict[str, object]:
    """Fit, choose, optimise twice, and carry out on the truth."""
    began = time.perf_counter()
    data = folder / f"screen_{seed}"
    if not (data / "dataset.yaml").exists():
        make_screen(data, f"screen_{seed}", ScreenOptions(clones=CLONES, seed=100 + seed))
    cfg = compose(["objective=robust", f"dataset.name={data}"])
    dataset = read_dataset(str(data))
    options = replace(cfg.fit, starts=2, ensemble=64, quality=False, identify=False)
    result = fit_problem(build_fit(cfg, dataset), options, seed=seed, model_name=cfg.model.name)
    problem = build_process(cfg, result.screen)
    lineage = Lineage.from_parents(result, seed=seed)
    search = OptimiseSettings(8, 2, cfg.optimise.max_iterations, cfg.optimise.tolerance)
    ensembles = {c: parameter_sets(result, problem.model, c) for c in result.clones}
    study = Study(problem, search, lineage)
    clone = rank_clones(study, ensembles).best
    risk = cfg.objective.risk
    found = optimise_process(replace(study, risk=risk), clone, ensembles[clone])
    assert found.robustness is not None
    assert dataset.truth is not None
    known = dataset.truth[""] | dataset.truth[clone]
    truth = np.array([known[n] for n in problem.model.Parameters._fields])
    plant = sample_execution_errors(risk.execution, DRAWS, 10_000 + seed)
    place = list(problem.metrics).index(problem.metric)
    rows: dict[str, object] = {"seed": seed, "clone": clone, "promised": {}}
    for name, process in (
        ("platform", found.baseline), ("nominal", found.robustness.nominal), ("robust", found.optimum)
    ):  # fmt: skip
        x = np.array([d.value for d in process.decisions])
        t = problem.evaluate(np.tile(x, (DRAWS, 1)), Lanes(np.tile(truth, (DRAWS, 1)), drift=plant))
        kept = (t.status == 0) & (t.margins >= -FEASIBLE).all(axis=1)
        rows[name] = {"value": t.metrics[:, place].tolist(), "kept": kept.tolist(), "decisions": x.tolist()}
    rows["promised"] = {j.process: [j.met_seen, j.met_held_out] for j in found.robustness.rows}
    rows["seconds"] = time.perf_counter() - began
    return rows


def cvar(values: np.ndarray) -> float:
    """Mean of the worst share."""
    return float(risk_measure(RiskSettings("cvar", TAIL), np.asarray(values, float)))


def table(rows: list[dict]) -> str:
    """What came of all screens."""
    n, names = len(rows), ("platform", "nominal", "robust")
    lines = [f"{n} screens of {CLONES} clones; each process carried out {DRAWS} times on the hidden truth", ""]
    lines.append(
        "| process | limits kept, median (range) | CVaR, g/EUR | so, lost if out of limits | mean, lost likewise |"
    )
    lines.append("|---|---|---|---|---|")
    values = {k: np.array([r[k]["value"] for r in rows]) for k in names}
    kept = {k: np.array([r[k]["kept"] for r in rows]) for k in names}
    good = {k: np.where(kept[k], values[k], 0.0) for k in names}  # a batch out of limits is lost
    tails = {k: np.array([cvar(v) for v in values[k]]) for k in names}
    lost = {k: np.array([cvar(v) for v in good[k]]) for k in names}
    for k in names:
        share = kept[k].mean(axis=1)
        lines.append(
            f"| {k} | {np.median(share):.0%} ({share.min():.0%} to {share.max():.0%}) | {tails[k].mean():.5f} | "
            f"{lost[k].mean():.5f} | {good[k].mean():.5f} |"
        )
    gain = 100.0 * np.median(tails["robust"] / tails["nominal"] - 1.0)
    better = lost["robust"] > lost["nominal"]
    mean = {k: good[k].mean(axis=1) for k in names}
    p = wilcoxon(mean["robust"], mean["nominal"]).pvalue
    lines += ["", f"robust against nominal, per screen: CVaR {gain:+.2f} % (median) where no batch is ever lost;"]
    lines.append(f"  where those out of limits are: better CVaR in {better.sum()} of {n},")
    lines.append(f"  better mean in {np.sum(mean['robust'] > mean['nominal'])} of {n} (Wilcoxon p = {p:.1e})")
    pooled = ", ".join(f"{k} {cvar(good[k].ravel()):.5f}" for k in names)
    lines.append(f"  CVaR over all screens and draws, those out of limits lost: {pooled}")
    promised = np.mean([r["promised"]["robust optimum"] for r in rows], axis=0)
    lines.append(
        f"  limits kept by the robust optimum: {promised[0]:.0%} of the scenarios searched, {promised[1]:.0%} of those "
        f"held out, {kept['robust'].mean():.0%} on the truth"
    )
    lines.append(f"  {np.median([r['seconds'] for r in rows]):.0f} s per screen (median)")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seeds", type=int, default=20)
    p.add_argument("--out", type=Path, default=Path("outputs/benchmarks/robust"))
    a = p.parse_args(argv)
    a.out.mkdir(parents=True, exist_ok=True)
    configure()
    rows = []
    for seed in range(a.seeds):
        file = a.out / f"{seed}.json"
        if not file.exists():
            draft = file.with_suffix(".part")
            draft.write_text(json.dumps(one_screen(seed, a.out)))
            draft.replace(file)
        rows.append(json.loads(file.read_text()))
        print(f"  {len(rows)} of {a.seeds} screens", file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
