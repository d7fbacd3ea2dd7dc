"""The whole flow: every experiment in a small budget, equal numbers for equal seeds, tracked as promised."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FIT_ONLY, ROOT, has_public_data, needs_counts

from optim.app.build import compose
from optim.app.commands import load_command
from optim.app.session import open_session
from optim.artefact import load_artefact, save_artefact
from optim.data.contract import Checker
from optim.errors import ConfigError, IncompatibleError, MisfitError
from optim.estimation.result import FitResult
from optim.estimation.transfer.prediction import NewClonePrediction
from optim.optimisation.result import Optimum, Ranking
from optim.recipe.document import read_document
from optim.report import view
from optim.synthetic import ScreenOptions, make_screen

BUDGET = ["fit.starts=1", "fit.max_iterations=4", "fit.ensemble=4", "fit.noise_rounds=1", "fit.quality=false",
          "fit.identify=false", "optimise.starts=1", "optimise.rank_starts=1", "optimise.max_iterations=3"]  # fmt: skip
PAINT = view.picture_of
EXPERIMENTS = sorted(f.stem for f in (ROOT / "configs" / "experiment").glob("*.yaml"))


@pytest.fixture(autouse=True, scope="module")
def unpainted():
    """Figures are drawn but not painted, which is most of the time of a small run; one test paints them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "picture_of", lambda figure: b"")
        yield


def go(out: Path, *overrides: str, command: str = "run", said: list[str] | None = None):
    cfg = compose(["tracking=off", f"out={out}", *BUDGET, *overrides])
    lines = said if said is not None else []
    with open_session(cfg, command, say=lines.append) as s:
        return load_command(command)(s)


def experiments():
    """Those with a process; all but the main job are slow."""
    for name in (n for n in EXPERIMENTS if n not in FIT_ONLY):
        yield pytest.param(name, marks=() if name == compose([]).name else pytest.mark.slow)


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_runs_from_end_to_end(name, tmp_path, small_screen, monkeypatch):
    monkeypatch.setattr(view, "picture_of", PAINT)
    overrides = [f"experiment={name}"]
    if name.startswith("ecoli"):
        if not has_public_data():
            pytest.skip("set OPTIM_DATA to the folder of public datasets")
        overrides += ["fit.compare=[]", "fit.leave_one_out=false"]
    else:
        overrides.append(f"dataset.name={small_screen}")
    said: list[str] = []
    recipes = go(tmp_path / "out", *overrides, said=said)
    text = "\n".join(said)
    for case in recipes:
        folder = tmp_path / "out" / (f"recipe_{case}" if case else "recipe")
        assert json.loads((folder / "recipe.json").read_text())["recipe"]["status"] == "DRAFT"
        assert (folder / "recipe.html").exists()
    assert "R2 after time 0" in text
    assert "unverified" in text
    simulated = not name.startswith("ecoli")
    assert ("SIMULATED data" in text) == simulated
    assert (tmp_path / "out" / "config.yaml").exists()
    pictures = list((tmp_path / "out" / "plots").glob("*.png"))
    assert len(pictures) >= 9
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in pictures)


@pytest.mark.slow
def test_new_clones_are_placed_under_an_earlier_fit_which_can_be_continued(tmp_path, small_screen, screen_of_others):
    old, said = tmp_path / "old", []
    go(old, f"dataset.name={small_screen}", "fit.max_iterations=30", "fit.ensemble=8", command="fit")
    assert (old / "fit.html").exists()
    placed = go(
        tmp_path / "new", f"dataset.name={screen_of_others}", f"place.fit={old}", "place.days=[0,4]", "place.draws=20",
        command="place", said=said,
    )  # fmt: skip
    assert load_artefact(NewClonePrediction, tmp_path / "new" / "placement").clones == placed.clones
    path = placed.of_clone(placed.clones[0])
    assert [p.day for p in path] == [0.0, 4.0]
    assert path[1]["mu_max"].shrinkage < 0.7 < path[0]["mu_max"].shrinkage
    table = (tmp_path / "new" / "tables" / "placement.csv").read_text().splitlines()
    assert len(table) == 1 + 2 * len(placed.clones) * len(placed.clone_names)
    assert any("sd 100%" in line for line in said)
    assert len(list((tmp_path / "new" / "plots").glob("placement_*.png"))) == len(placed.clones)
    same = go(tmp_path / "again", f"dataset.name={small_screen}", f"fit.continue_from={old}", command="fit")
    # costs are in units of the noise, which is found anew; the clones are where they were
    assert np.allclose(same.group[0], load_artefact(FitResult, old / "fit").group[0], rtol=0.02)
    assert len(same.history) < 20
    with pytest.raises(IncompatibleError, match="not new to the fit"):
        go(tmp_path / "x", f"dataset.name={small_screen}", f"place.fit={old}", command="place")


@needs_counts
def test_data_without_a_process_are_refused_before_the_fit(tmp_path):
    with pytest.raises(ConfigError, match="needs a price book"):
        go(tmp_path / "run", "experiment=nistcho_growth")
    assert not (tmp_path / "run" / "fit").exists()


@needs_counts
def test_a_screen_of_one_clone_needs_no_ranking(tmp_path):
    folder = make_screen(tmp_path / "one", "one", ScreenOptions(clones=1, seed=7))
    go(tmp_path / "out", f"dataset.name={folder}")
    assert load_artefact(Optimum, tmp_path / "out" / "optimum").clone == "C01"
    assert not (tmp_path / "out" / "ranking").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimise.clone=C09"], r"optimise\.clone: unknown 'C09'.*Known: best, population, C01, C02, C03, C04"),
        (["dataset.group_by=experiment", "optimise.clone=C01"], "optimise.clone: unknown 'C01'"),
        (["constraints.limits.lactate.unit=furlongs"], r"constraints\.limits\.lactate\.unit: .*furlongs"),
    ],
)
def test_a_choice_that_the_data_do_not_hold_is_refused_before_the_fit(tmp_path, small_screen, overrides, words):
    with pytest.raises(ConfigError, match=words):
        go(tmp_path / "out", f"dataset.name={small_screen}", *overrides)
    assert not (tmp_path / "out" / "fit").exists()


@pytest.mark.slow
def test_data_without_a_process_are_fitted(tmp_path):
    said: list[str] = []
    overrides = ["experiment=nistcho_growth", "fit.leave_one_out=false"]
    result = go(tmp_path / "out", *overrides, command="fit", said=said)
    assert not result.lineage.simulated
    assert set(result.r2) == {"vcd", "viability"}
    assert "34 runs" in said[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_screen) -> Path:
    """A finished run, during which every table of the data was parsed once."""
    out = tmp_path_factory.mktemp("done") / "out"
    with tables_read() as read:
        go(out, f"dataset.name={small_screen}")
    assert sorted(read) == sorted(f.name for f in small_screen.glob("*.csv"))
    return out


@contextmanager
def tables_read():
    """Names of the tables that are parsed, in order."""
    read, parse = list[str](), Checker.read_table

    def counted(self, folder, table):
        read.append(table.file)
        return parse(self, folder, table)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checker, "read_table", counted)
        yield read


def test_one_seed_gives_identical_numbers_and_another_does_not(finished, tmp_path, small_screen):
    folders = [finished, tmp_path / "same", tmp_path / "other"]
    seed = compose([]).seed
    go(folders[1], f"dataset.name={small_screen}", f"seed={seed}")
    go(folders[2], f"dataset.name={small_screen}", f"seed={seed + 1}")
    body = []
    for folder in folders:
        recipe = json.loads((folder / "recipe" / "recipe.json").read_text())["recipe"]
        for key in ("created_utc", "run_id", "config", "config_hash"):
            recipe["provenance"].pop(key)
        body.append(recipe)
    assert body[0] == body[1]
    assert body[0]["process"]["metrics"] != body[2]["process"]["metrics"]
    a, b = (load_artefact(FitResult, f / "fit") for f in folders[:2])
    assert np.array_equal(a.group, b.group)
    ids = [[load_artefact(kind, f / kind.kind()).id for kind in (FitResult, Ranking, Optimum)] for f in folders]
    ids = [[*own, read_document(f / "recipe")["id"]] for own, f in zip(ids, folders, strict=True)]
    assert ids[0] == ids[1]
    assert not set(ids[0]) & set(ids[2])


@pytest.fixture
def done(finished, tmp_path) -> Path:
    """A finished run that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "done"))


def test_every_command_can_be_run_alone_on_the_artefacts_before_it(done, small_screen):
    before = [load_artefact(Ranking, done / "ranking").id, load_artefact(Optimum, done / "optimum").id]
    recipe = read_document(done / "recipe")["id"]
    with tables_read() as read:
        for command in ("rank", "optimise", "export"):
            go(done, f"dataset.name={small_screen}", command=command)
    assert not read  # a fit carries what later steps need of the data
    # alone as within the whole flow, to the last digit
    assert [load_artefact(Ranking, done / "ranking").id, load_artefact(Optimum, done / "optimum").id] == before
    assert read_document(done / "recipe")["id"] == recipe


def test_every_artefact_names_its_parents(finished):
    fit, ranking, optimum = (load_artefact(kind, finished / kind.kind()) for kind in (FitResult, Ranking, Optimum))
    assert fit.lineage.parents == {}
    assert ranking.lineage.parents == {"fit": fit.id}
    assert optimum.lineage.parents == {"fit": fit.id, "ranking": ranking.id}
    recipe = read_document(finished / "recipe")["recipe"]
    assert recipe["lineage"]["parents"] == {"fit": fit.id, "ranking": ranking.id, "optimum": optimum.id}


@pytest.mark.parametrize(
    ("command", "folder", "remedy"),
    [
        ("optimise", "ranking", "optim rank"),
        ("suggest", "ranking", "optim rank"),
        ("export", "optimum", "optim optimise"),
        ("stress", "optimum", "optim optimise"),
        ("pareto", "optimum", "optim optimise"),
        ("replan", "optimum", "optim optimise"),
    ],
)
def test_what_was_made_from_another_fit_is_refused(done, small_screen, command, folder, remedy):
    old = load_artefact(FitResult, done / "fit")
    new = replace(old, lineage=replace(old.lineage, seed=99))
    save_artefact(new, done / "fit")
    run = f"replan.run={old.vessels[0]}"
    text = rf"{folder} was made from fit {old.id[:12]}, but \S+fit holds fit {new.id[:12]}; run `{remedy}` again"
    with pytest.raises(IncompatibleError, match=text):
        go(done, f"dataset.name={small_screen}", run, command=command)


def test_a_decision_on_a_misfit_needs_a_stated_act(tmp_path, small_screen):
    """The titre of every vessel is read backwards: the fit is kept, and what would rest on it is refused."""
    data = Path(shutil.copytree(small_screen, tmp_path / "backwards"))
    with (data / "measurements.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    for run in {row["run_id"] for row in rows}:
        own = [row for row in rows if row["run_id"] == run and row["variable"] == "titre"]
        for row, value in zip(own, [row["value"] for row in own][::-1], strict=True):
            row["value"] = value
    with (data / "measurements.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    named, said = f"dataset.name={data}", list[str]()
    with pytest.raises(MisfitError, match=r"does not describe titre: R2 -.*accept_misfit=true"):
        go(tmp_path / "out", named, said=said)
    assert said[1].startswith("  warning: the model does not describe titre: R2 -")
    assert "Warning: the model does not describe titre" in (tmp_path / "out" / "fit.html").read_text()
    result = load_artefact(FitResult, tmp_path / "out" / "fit")
    assert [m.variable for m in result.misfit] == ["titre"]
    for command in ("rank", "optimise", "suggest"):
        with pytest.raises(MisfitError):
            go(tmp_path / "out", named, "optimise.clone=C01", command=command)
    found = go(tmp_path / "out", named, "optimise.clone=C01", "accept_misfit=true", command="optimise")[""]
    assert found.lineage.doubts[0] == result.lineage.doubts[0]
    recipe = go(tmp_path / "out", named, command="export")[""]
    assert recipe.lineage.doubts[0] == result.lineage.doubts[0]
    assert "Warning: the model does not describe titre" in (tmp_path / "out" / "recipe" / "recipe.html").read_text()


@pytest.mark.parametrize("command", ["rank", "optimise", "export", "stress", "pareto", "suggest", "replan", "place"])
def test_fixed_parameters_are_those_of_the_fit(done, small_screen, command):
    text = "'mu_d_max': value is 0.5 in the configuration and 0.06 in the fit.*run `optim fit`"
    with pytest.raises(IncompatibleError, match=text):
        go(done, f"dataset.name={small_screen}", "model.parameters.mu_d_max.value=0.5", command=command)


def test_a_prior_or_bound_that_was_not_fitted_is_refused(done, small_screen):
    changed = ("model.parameters.mu_max.upper=0.2", "model.parameters.mu_max.source=elsewhere")
    text = r"with other parameters: 'mu_max': upper is 0\.2 in the configuration and 0\.09 in the fit\. Take"
    with pytest.raises(IncompatibleError, match=text):
        go(done, f"dataset.name={small_screen}", *changed, command="rank")


def test_an_artefact_of_other_data_or_another_model_is_refused(done, small_screen):
    with pytest.raises(IncompatibleError, match="dataset 'small', the configuration says 'cho_clone_screen'"):
        go(done, command="rank")
    with pytest.raises(IncompatibleError, match="a fit of model"):
        go(done, f"dataset.name={small_screen}", "model.name=other", command="rank")


def test_an_optimum_of_another_design_is_refused(done, small_screen):
    with pytest.raises(IncompatibleError, match="other decisions than the configured design"):
        go(done, f"dataset.name={small_screen}", "~design.decisions.feed_volume", command="export")


def test_a_clone_can_be_named(done, small_screen):
    found = go(done, f"dataset.name={small_screen}", "optimise.clone=C03", command="optimise")
    assert found[""].clone == "C03"
    with pytest.raises(ConfigError, match="Did you mean 'C03'"):
        go(done, f"dataset.name={small_screen}", "optimise.clone=C3", command="optimise")


@pytest.mark.slow
def test_a_newcomer_has_a_wider_band_than_a_screened_clone(done, small_screen):
    named = [f"dataset.name={small_screen}", "fit.ensemble=24"]
    go(done, *named, command="fit")
    own = go(done, *named, "optimise.clone=C03", command="optimise")[""].optimum
    new = go(done, *named, "optimise.clone=population", command="optimise")[""].optimum
    key = "titre_g_per_l"
    width = [(m.metrics[key].p95 - m.metrics[key].p05) / m.metrics[key].p50 for m in (own, new)]
    assert width[1] > 2.0 * width[0]


def test_simulate_writes_a_table(tmp_path):
    found = go(tmp_path / "out", command="simulate")
    lines = (tmp_path / "out" / "simulation.csv").read_text().splitlines()
    assert lines[0].startswith("time_h,")
    assert len(lines) == 1 + len(found.trajectory.time_h)


def test_a_tracked_run_holds_config_metrics_plots_and_recipe(tmp_path, small_screen):
    import mlflow

    cfg = compose([f"out={tmp_path}/out", f"tracking.workspace={tmp_path}/ml", "tracking.child_runs=true", *BUDGET,
                   f"dataset.name={small_screen}"])  # fmt: skip
    with open_session(cfg, "run", say=lambda text: None) as s:
        load_command("run")(s)
        run_id = s.tracker.run_id
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/ml/mlflow.db")
    run = client.get_run(run_id)
    paths = {a.path for a in client.list_artifacts(run_id)}
    assert {"config.yaml", "plots", "tables", "fit", "ranking", "optimum", "recipe"} <= paths
    tables = {Path(a.path).stem for a in client.list_artifacts(run_id, "tables")}
    assert tables == {"parameters", "observations", "ranking", "decisions", "limits", "cost", "trajectories"}
    assert client.get_metric_history(run_id, "optimum/objective_per_evaluation")
    plots = {Path(a.path).stem for a in client.list_artifacts(run_id, "plots")}
    assert {"parity", "residuals", "recovery", "ranking", "processes", "feeds", "cost", "convergence"} <= plots
    assert {f"fit_{v}" for v in ("vcd", "titre", "lactate")} <= plots
    for metric in ("fit/r2_titre", "recovery/coverage", "ranking/probability_best", "optimum/yield_per_cost_g_per_eur"):
        assert metric in run.data.metrics
    assert len(client.get_metric_history(run_id, "fit/cost_per_iteration")) > 3
    assert run.inputs.dataset_inputs
    children = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert len(children) == 4
    recipe = json.loads((tmp_path / "out" / "recipe" / "recipe.json").read_text())["recipe"]
    assert recipe["provenance"]["run_id"] == run_id
