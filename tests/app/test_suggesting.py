"""`optim suggest`: from a fit to files that a lab executes, and from their measurements back into a fit."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from optim.app.build import compose
from optim.app.commands import load_command
from optim.app.session import open_session
from optim.artefact import load_artefact
from optim.data.dataset import Run
from optim.data.open import read_dataset
from optim.data.writer import append_runs
from optim.doe.result import Suggestion
from optim.errors import ConfigError, DatasetError, IncompatibleError
from optim.export.lab_sheet import TO_FILL
from optim.kinetics.cho_moller import Parameters
from optim.synthetic import simulate_screen


def go(command: str, out: Path, *overrides: str, said: list[str] | None = None):
    few = ["fit.starts=1", "fit.ensemble=4", "fit.noise_rounds=1", "fit.quality=false", "fit.identify=false"]
    few += ["optimise.starts=2", "optimise.rank_starts=1", "optimise.max_iterations=12", "optimise.tolerance=1e-4"]
    few += ["suggest.processes=16", "suggest.per_clone=3", "suggest.members=4", "suggest.top=1", "suggest.optima=1"]
    few += ["suggest.scenarios=16"]
    cfg = compose(["tracking=off", f"out={out}", *few, *overrides])
    with open_session(cfg, command, say=(said if said is not None else []).append) as s:
        return load_command(command)(s)


@pytest.mark.slow
def test_suggested_runs_are_done_read_and_fitted(tmp_path, small_screen):
    """From a fit to files, from files to measurements at the truth, and back into a fit that is surer for it."""
    data, said = f"dataset.name={small_screen}", list[str]()
    old = go("fit", tmp_path / "a", data)
    plan = ("suggest.runs=3", "suggest.samples=18", "suggest.every_d=[2,4]", "suggest.safe=0.5")
    found = go("suggest", tmp_path / "a", data, *plan, said=said)
    assert load_artefact(Suggestion, tmp_path / "a" / "suggestion") == found
    assert found.samples == sum(len(run.sample_days) for run in found.runs) <= 18
    assert all(run.met >= 0.5 for run in found.runs)
    assert found.loss_after <= found.loss_before
    text = "\n".join(said)
    assert all(run.run.run_id in text and run.reason in text for run in found.runs)
    assert (tmp_path / "a" / "plots" / "suggestion.png").exists()
    assert len((tmp_path / "a" / "tables" / "suggestion.csv").read_text().splitlines()) == 4
    folder = tmp_path / "a" / "next"
    with pytest.raises(DatasetError, match=r"measurements\.csv: file is missing"):
        read_dataset(str(folder))
    with pytest.raises(DatasetError, match=r"measurements\.csv is missing; fill in what was measured"):
        append_runs(small_screen, folder, tmp_path / "both")
    _measure(folder, tuple(run.run for run in found.runs), read_dataset(str(small_screen)).truth)
    after = read_dataset(str(append_runs(small_screen, folder, tmp_path / "both")))
    assert all(_same(a, b.run) for a, b in zip(after.runs[-3:], found.runs, strict=True))
    with pytest.raises(DatasetError, match=r"runs NEXT1-1, NEXT1-2, NEXT1-3 are already in"):
        append_runs(tmp_path / "both", folder, tmp_path / "twice")
    both = f"dataset.name={tmp_path / 'both'}"
    new = go("fit", tmp_path / "b", both, f"fit.continue_from={tmp_path / 'a'}")
    tried = {run.run.clone_id for run in found.runs}

    def width(result):
        own = [p for p in result.parameters if p.name == "qP" and p.owner in tried]
        return np.log([p.upper90 / p.lower90 for p in own]).mean()

    assert width(new) < width(old)
    with pytest.raises(IncompatibleError, match="was made from dataset 'small'"):
        go("suggest", tmp_path / "a", both)
    with pytest.raises(ConfigError, match=r"suggest\.experiment: 'NEXT1' is already in 'small'"):
        go("suggest", tmp_path / "b", both, "suggest.experiment=NEXT1")


def _same(a: Run, b: Run) -> bool:
    """Equal to the last digit: a file keeps every number whole."""
    return a == b


def _measure(folder: Path, runs: tuple[Run, ...], truth: dict[str, dict[str, float]]) -> None:
    """Fill the table of readings with the truth and some noise, as a lab would, and save it."""
    with (folder / TO_FILL).open() as file:
        rows = list(csv.DictReader(file))
    times = np.unique([float(row["time_h"]) for row in rows])
    named = {c: Parameters(**{n: (truth[""] | truth[c])[n] for n in Parameters._fields}) for c in truth if c}
    values = simulate_screen(runs, named, np.ones(len(runs)), times_h=times)
    ids, rng = [run.run_id for run in runs], np.random.default_rng(1)
    for row in rows:
        true = values[row["variable"]][ids.index(row["run_id"]), int(np.searchsorted(times, float(row["time_h"])))]
        read = true * (1.0 + 0.03 * rng.standard_normal())
        row["value"] = f"{min(read, 1.0) if row['variable'] == 'viability' else read:.6g}"
    with (folder / "measurements.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_what_cannot_be_asked_is_refused(tmp_path, small_screen):
    with pytest.raises(ConfigError, match=r"suggest\.by: unknown 'desicion'\. Did you mean 'decision'"):
        go("suggest", tmp_path, f"dataset.name={small_screen}", "suggest.by=desicion")
    with pytest.raises(IncompatibleError, match="run `optim fit`"):
        go("suggest", tmp_path, f"dataset.name={small_screen}")
    with pytest.raises(ConfigError, match=r"unknown key 'suggest\.run'\. Did you mean 'runs'"):
        compose(["suggest.run=3"])


# --- the benchmark ---


def test_the_benchmark_reports_what_its_campaigns_found(tmp_path):
    """Means, medians and paired differences of made-up campaigns."""
    spec_ = importlib.util.spec_from_file_location("suggest_run", ROOT / "experiments/benchmarks/suggest/run.py")
    bench = importlib.util.module_from_spec(spec_)
    spec_.loader.exec_module(bench)
    assert bench.report(tmp_path) == "no seed is done"
    for seed, last in ((1, 0.01), (2, 0.03)):

        def rounds(*regret: float) -> dict:
            rows = [{"regret": r, "right": r < 0.02, "broken": 0.0} for r in regret]
            return {"rounds": rows, "runs": []}

        one = {"seconds": 10.0, "strategies": {"decision": rounds(0.1, 0.05, last), "random": rounds(0.1, 0.08, 0.06)}}
        (tmp_path / f"seed{seed}.json").write_text(json.dumps(one))
    text = bench.report(tmp_path)
    assert "| decision | 2 | 2.0 | 2.0 (1.0) | 2.0 | 2.0 (1.0) | 50 | 0 |" in text
    assert "| random | 1 | alone | -3.0 (0.0) | 2 / 0 / 0 | nan |" in text
    assert "| random | 2 | alone | -4.0 (1.0) | 2 / 0 / 0 | nan |" in text
    assert (tmp_path / "regret.png").exists()
