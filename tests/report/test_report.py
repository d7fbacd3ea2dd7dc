"""Recipes, views and the files that are made of them."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import optim
from optim.artefact import Artefact, Lineage
from optim.data.csv_table import csv_text
from optim.errors import ConfigError, IncompatibleError, OptimError
from optim.estimation.data_quality.finding import Finding
from optim.estimation.result import StartReport
from optim.export.folder import EXPORTERS, export_view
from optim.optimisation.evaluate import evaluate_process
from optim.optimisation.optimise import optimise_process
from optim.optimisation.result import DecisionValue
from optim.optimisation.study import Study
from optim.recipe.document import read_document, recipe_document
from optim.recipe.recipe import Provenance, Recipe, recipe_from_outcome
from optim.recipe.rounding import broken_limits, kept_best, rounded_decisions, rounding_choices
from optim.recipe.steps import feed_schedule
from optim.report.fit_page import fit_page, search_text
from optim.report.html import number_text
from optim.report.recipe import recipe_view
from optim.report.view import View, view_of
from optim.schedule.actions import Bolus, Feed, Harvest, Sample
from optim.settings.optimisation import OptimiseSettings
from optim.storage import MANIFEST

WHERE = Provenance("2026-01-01 00:00", "0.1.0", "", "3.13", "0.12", "abc", "seed: 1", "run")


@pytest.fixture(scope="module")
def fitted(small_problem):
    from optim.estimation.fit import fit_problem
    from optim.settings.estimation import FitSettings

    return fit_problem(small_problem, FitSettings(1, 10, 1e-4, 6, 0.3, 1), seed=1, model_name="cho_moller")


@pytest.fixture(scope="module")
def optimum(process_problem, published, fitted):
    rng = np.random.default_rng(0)
    ensemble = published * np.exp(0.02 * rng.standard_normal((8, published.shape[1])))
    ensemble[0] = published[0]
    lineage = Lineage.from_parents(fitted, seed=1, notes=("SIMULATED data: nothing here was measured",))
    problem = replace(process_problem, screened={"bolus": (0.0, 0.4)})
    return optimise_process(Study(problem, OptimiseSettings(2, 1, 15, 1e-5), lineage), "C01", ensemble), ensemble


@pytest.fixture(scope="module")
def recipe(process_problem, optimum) -> Recipe:
    o, ensemble = optimum
    x = np.array(rounded_decisions(o.optimum.decisions))
    rounded = evaluate_process(
        replace(process_problem, screened={"bolus": (0.0, 0.4)}), "optimum", x, ensemble=ensemble
    )
    return recipe_from_outcome("A title", o, rounded, provenance=WHERE)


def decision(value: float, resolution: float = 0.1, unit: str = "mL", lower: float = 0.0, upper: float = 1.0):
    return DecisionValue("d", "bolus", unit, value, lower, upper, False, None, None, False, resolution)


def test_a_recipe_has_an_id_of_its_content_and_refuses_what_was_edited(tmp_path, recipe, optimum):
    when = replace(recipe.provenance, created_utc="2027-01-01 00:00", run_id="another", config="out: elsewhere")
    assert recipe_document(replace(recipe, provenance=when))["id"] == recipe_document(recipe)["id"]
    assert recipe_document(replace(recipe, sample_volume_ml=9.0))["id"] != recipe_document(recipe)["id"]
    file = export_view(recipe_view(recipe), tmp_path / "recipe") / "recipe.json"
    document = json.loads(file.read_text())
    document["recipe"]["decisions"][0]["value"] += 0.1
    file.write_text(json.dumps(document))
    with pytest.raises(IncompatibleError, match=r"recipe\.json was changed after it was written.*`optim export` again"):
        read_document(file.parent)
    file.write_text(json.dumps(document | {"schema": "optim.recipe/1"}))
    with pytest.raises(IncompatibleError, match=r"has schema 'optim\.recipe/1'.*`optim export` again"):
        read_document(file.parent)


def test_rounding_goes_to_the_nearest_step_within_bounds():
    rounded = rounded_decisions((decision(0.26), decision(0.24), decision(0.97, 0.3), decision(0.123, 0.0)))
    assert rounded == (0.3, 0.2, 0.9, 0.123)
    assert rounded_decisions((decision(0.95, 0.1, lower=0.91, upper=0.99),)) == (0.95,)  # no step lies between


def test_feeds_are_rounded_by_their_running_total_too():
    rng = np.random.default_rng(4)
    values = (0.0, *rng.uniform(0.21, 0.29, 9))
    rows = tuple(replace(decision(v), name=f"feed_day_{i}") for i, v in enumerate(values))
    other = replace(decision(33.26, unit="degC", upper=40.0), name="temperature")
    ways = rounding_choices((*rows, other))
    assert tuple(ways[0]) == rounded_decisions((*rows, other))
    assert len(ways) == len({tuple(w) for w in ways}) == 6
    assert np.allclose(ways[:, -1], 33.3)
    assert np.all(ways[:, 0] == 0.0)  # no dose where there was none
    assert np.allclose(np.round(ways * 10.0), ways * 10.0)
    off = np.cumsum(ways[:, :-1] - np.array(values), axis=1)
    assert np.abs(off[1]).max() <= 0.05 + 1e-9
    assert off[2].min() > -1e-9
    assert off[2].max() < 0.1 + 1e-9
    assert off[3].max() < 1e-9
    assert off[3].min() > -0.1 - 1e-9
    assert np.all(ways[4, :-1] >= np.array(values) - 1e-9)
    assert np.all(ways[5, :-1] <= np.array(values) + 1e-9)
    # the first that keeps limits as well as before; where none does, the least broken
    assert kept_best(np.array([-0.02, 0.0, 0.1]), 0.0) == 1
    assert kept_best(np.array([-0.02, -0.01, -np.inf]), 0.0) == 1
    assert kept_best(np.array([-0.02, 0.0]), -0.03) == 0


def test_the_feed_schedule_keeps_the_books():
    actions = (
        Sample(24.0, 0.5),
        Bolus(24.0, "a", 1.0),
        Feed("b", 36.0, 0.1, 0.3),
        Bolus(48.0, "a", 2.0),
        Harvest(60.0),
    )
    rows = feed_schedule(actions, 10.0, 2000.0)
    assert [(r.day, r.clock_h, r.feed_id, r.mode) for r in rows] == [
        (1, 0.0, "a", "bolus"),
        (1, 12.0, "b", "continuous"),
        (2, 0.0, "a", "bolus"),
    ]
    assert rows[0].vessel_volume_after_ml == pytest.approx(10.5)
    assert rows[1].volume_ml == pytest.approx(0.2 * 24.0)
    assert rows[2].vessel_volume_after_ml == pytest.approx(12.5)
    assert rows[1].vessel_volume_after_ml == pytest.approx(17.3)
    assert rows[2].cumulative_ml == pytest.approx(3.0)
    assert rows[0].production_volume_l == pytest.approx(200.0)
    assert rows[0].percent_of_start_volume == pytest.approx(10.0)


def test_the_books_agree_with_the_simulation(recipe):
    last = recipe.feeds[-1]
    volume = recipe.process.trajectory
    i = volume.names.index("volume")
    drawn = sum(recipe.sample_volume_ml for t in recipe.sampling_h if t > 24.0 * last.day + last.clock_h)
    assert volume.p50[i, -1] == pytest.approx(last.vessel_volume_after_ml - drawn, abs=1e-6)


def test_the_recipe_is_what_was_simulated_after_rounding(recipe, optimum):
    o, _ = optimum
    for d in recipe.decisions:
        if d.resolution > 0.0:
            assert d.value / d.resolution == pytest.approx(round(d.value / d.resolution), abs=1e-6)
    before, after = (p.metrics[o.objective].p50 for p in (o.optimum, recipe.process))
    assert recipe.rounding_loss_percent == pytest.approx(100.0 * (1.0 - after / before))
    assert abs(recipe.rounding_loss_percent) < 1.0
    assert recipe.status == "DRAFT"
    assert recipe.volume_basis == "starting working volume"
    boluses = [f for f in recipe.feeds if f.mode == "bolus"]
    given = {a.time_h: a.volume_ml for a in recipe.process.actions if isinstance(a, Bolus)}
    assert {24.0 * f.day + f.clock_h: f.volume_ml for f in boluses} == pytest.approx(given)


def test_a_limit_that_rounding_breaks_is_said(recipe):
    constraint = replace(recipe.process.constraints[0], margin=-1.0, limit=10.0, name="lactate")
    spoiled = replace(recipe.process, constraints=(constraint,))
    assert broken_limits(spoiled) == ("lactate",)


def test_other_decisions_are_refused(recipe, optimum):
    o, _ = optimum
    with pytest.raises(IncompatibleError):
        recipe_from_outcome("t", o, replace(o.optimum, decisions=o.optimum.decisions[1:]), provenance=WHERE)


def test_exports_hold_the_recipe_and_can_be_read_back(tmp_path, recipe, optimum, fitted):
    folder = export_view(recipe_view(recipe), tmp_path / "recipe")
    body = json.loads((folder / "recipe.json").read_text())
    assert body["schema"] == "optim.recipe/3"
    assert read_document(folder) == body
    assert body["recipe"]["status"] == "DRAFT"
    made_from = optimum[0]
    assert body["recipe"]["lineage"]["parents"] == {"fit": fitted.id, "optimum": made_from.id}
    assert body["recipe"]["lineage"]["dataset_hash"] == fitted.lineage.dataset_hash
    metric = body["recipe"]["process"]["metrics"]["yield_per_cost_g_per_eur"]
    assert metric["p05"] <= metric["p50"] <= metric["p95"]
    feeds = pd.read_csv(folder / "feed_schedule.csv")
    assert {"volume_ml", "percent_of_start_volume", "production_volume_l", "vessel_volume_after_ml"} <= set(feeds)
    assert feeds.volume_ml.sum() == pytest.approx(sum(f.volume_ml for f in recipe.feeds))
    cost = pd.read_csv(folder / "cost.csv")
    assert cost.cost.sum() == pytest.approx(recipe.process.metrics["cost_eur"].p50, rel=0.05)
    trajectories = pd.read_csv(folder / "trajectories.csv")
    assert trajectories["time_h"].is_monotonic_increasing
    assert np.isfinite(trajectories.to_numpy()).all()
    assert len(pd.read_csv(folder / "setpoints.csv")) == len(recipe.setpoints)
    for file in ("limits.csv", "decisions.csv"):
        assert len(pd.read_csv(folder / file))


def test_the_page_stands_alone_and_says_what_matters(tmp_path, recipe, optimum):
    text = (export_view(recipe_view(recipe), tmp_path / "r") / "recipe.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "http" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert "<script" not in text
    for words in ("DRAFT", "SIMULATED DATA", "must not be executed", "no proven acceptable range", "unverified"):
        assert words in text
    assert not re.search(r"\bnan\b", re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text).lower())


def test_the_page_gives_the_rates_of_a_continuous_feed(tmp_path, recipe, optimum):
    actions = (Feed("feed", 0.0, 12.34, 56.78), Harvest(12.0))
    fed = replace(recipe, feeds=feed_schedule(actions, 1300.0, 1000.0))
    text = (export_view(recipe_view(fed), tmp_path / "r") / "recipe.html").read_text()
    for words in ("from mL/h", "to mL/h", "12.34", "56.78"):
        assert words in text


def test_text_of_the_user_cannot_break_the_page(tmp_path, recipe, optimum):
    nasty = replace(recipe, title='<script>alert("x")</script>')
    text = (export_view(recipe_view(nasty), tmp_path / "r") / "recipe.html").read_text()
    assert "<script>" not in text


def test_an_export_is_whole_or_not_there(tmp_path, recipe, optimum, monkeypatch):
    target = tmp_path / "recipe"
    export_view(recipe_view(recipe), target)
    before = (target / "recipe.json").read_bytes()
    monkeypatch.setattr("pathlib.Path.write_text", _fails_at(3))
    with pytest.raises(OptimError, match="cannot write"):
        export_view(recipe_view(replace(recipe, title="other")), target)
    monkeypatch.undo()
    assert (target / "recipe.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["recipe"]


def _fails_at(n: int):
    calls = []

    def write(self, text, **kwargs):
        calls.append(1)
        if len(calls) == n:
            raise OSError(28, "No space left on device")
        self.write_bytes(text.encode())

    return write


def test_equal_recipes_are_equal_files(tmp_path, recipe, optimum):
    a = export_view(recipe_view(recipe), tmp_path / "a")
    b = export_view(recipe_view(recipe), tmp_path / "b")
    for file in a.iterdir():
        assert file.read_bytes() == (b / file.name).read_bytes(), file.name


def test_every_plot_draws(fitted, optimum):
    o, _ = optimum
    drawn = {**view_of(fitted).figures, **view_of(o).figures}
    assert {f"fit_{v}" for v in fitted.observations.variable} <= set(drawn)
    others = {"parity", "residuals", "recovery", "starts", "search", "processes", "feeds", "cost", "convergence"}
    assert others <= set(drawn)
    for f in (draw() for draw in drawn.values()):
        assert isinstance(f, Figure)
        assert "SIMULATED" in f.get_suptitle()
        assert all(a.has_data() for a in f.axes)


def artefact_classes() -> list[type[Artefact]]:
    for module in pkgutil.walk_packages(optim.__path__, "optim."):
        if module.name.endswith((".result", ".prediction", ".pareto", ".sensitivity")):
            importlib.import_module(module.name)
    return [cls for cls in Artefact.__subclasses__() if cls.__module__.startswith("optim.")]


@pytest.mark.parametrize("cls", artefact_classes(), ids=lambda cls: cls.kind())
def test_every_artefact_has_a_view(cls):
    assert callable(getattr(importlib.import_module(f"optim.report.{cls.kind()}"), f"{cls.kind()}_view"))


def test_a_view_holds_what_it_shows(fitted, optimum):
    fit, best = view_of(fitted), view_of(optimum[0])
    parameters = fit.tables["parameters"]
    assert list(parameters.name) == [p.name for p in fitted.parameters]
    assert list(parameters.estimate) == [p.estimate for p in fitted.parameters]
    assert len(fit.tables["observations"]) == len(fitted.observations.value)
    assert fit.metrics["fit/r2_titre"] == fitted.r2["titre"]
    assert fit.notes == fitted.lineage.notes
    found = optimum[0].optimum
    assert list(best.tables["decisions"].value) == [d.value for d in found.decisions]
    assert best.metrics["optimum/titre_g_per_l"] == found.metrics["titre_g_per_l"].p50
    assert set(best.tables) == {"decisions", "limits", "cost", "trajectories"}


def test_figures_are_drawn_when_asked_for_and_once():
    calls = []

    def draw() -> Figure:
        calls.append(1)
        return Figure(figsize=(1, 1))

    view = View("toy", "A toy", figures={"one": draw})
    assert not calls
    assert view.pictures["one"].startswith(b"\x89PNG")
    assert view.pictures is view.pictures
    assert len(calls) == 1


def test_an_exporter_is_one_function_and_one_line(tmp_path, monkeypatch):
    table = pd.DataFrame({"time_h": [0.0, 1.0 / 3.0], "titre [g/L]": [1.0, np.nan]})
    view = View("toy", "A toy", tables={"course": table})
    monkeypatch.setitem(
        EXPORTERS, "names", lambda view, folder: (folder / "names.txt").write_text(" ".join(view.tables))
    )
    folder = export_view(view, tmp_path / "toy", ("csv", "names", "html", "json"))
    assert {f.name: f.read_text() for f in folder.iterdir() if f.name != MANIFEST} == {
        "course.csv": csv_text(table),
        "names.txt": "course",
    }
    assert csv_text(table) == "time_h,titre [g/L]\n0.0,1.0\n0.3333333333333333,\n"
    with pytest.raises(ConfigError, match=r"unknown format 'cvs'\. Did you mean 'csv'"):
        export_view(view, tmp_path / "other", ("cvs",))
    assert not (tmp_path / "other").exists()


def test_the_page_of_a_fit_says_what_it_must(fitted):
    rows = (Finding("wrong unit", "error", "C01-1", "glucose", None, "glucose in vessel C01-1 reads <1/5.6>"),)
    result = replace(fitted, findings=rows, identifiability=("k_lys and mu_d_min cannot be told apart",))
    view = view_of(result)
    images, text = view.pictures, view.html("A screen")
    assert text.count("data:image/png") == len(images)
    plain = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert "http" not in plain
    assert "<script" not in plain
    assert "SIMULATED DATA" in plain
    assert "reads &lt;1/5.6&gt;" in plain
    assert "cannot be told apart" in plain
    for p in fitted.parameters:
        assert p.name in plain
    for variable in dict.fromkeys(fitted.observations.variable):
        assert f'alt="{variable}: readings, fit and 90 % band"' in plain
    assert "1 of 1 starts reached the best optimum" in plain
    assert "nan" not in re.sub(r"<[^>]*>", " ", plain).split()
    # a page for a result without any of it says so
    bare = fit_page(replace(fitted, findings=(), identifiability=(), recovery=()), "A screen", images)
    assert "Nothing stands out" in bare
    assert "Every shared parameter is determined" in bare


def test_starts_are_grouped_by_where_they_end(fitted):
    ends = tuple(StartReport(i, c, 5, "converged", o) for i, (c, o) in enumerate(((10.0, 0), (10.05, 0), (55.0, 1))))
    failed = StartReport(3, float("inf"), 0, "failed: the simulation of the start did not end well", -1)
    text = search_text(replace(fitted, starts=(*ends, failed)))
    assert text == "2 of 4 starts reached the best optimum; 2 distinct ends in all; 1 starts failed."


def test_the_terminal_tells_the_gain_and_the_decisions(optimum):
    lines = view_of(optimum[0]).lines
    assert "platform" in lines[0]
    assert any(line.strip().startswith("feed_volume, mL, from day 3 on:") for line in lines)
    assert all(len(line) < 160 for line in lines[1:])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.012345, "0.01235"), (12345.6, "12346"), (1234567.0, "1,234,567"), (1e-6, "1.00e-06")],
)
def test_numbers_read_well(value, text):
    assert number_text(value) == text
    assert number_text(float("nan")) == "–"


def test_results_show_themselves_in_few_lines_and_draw_their_figures(fitted, optimum, recipe, screen, tmp_path):
    for result in (fitted, optimum[0], recipe):
        text = repr(result)
        assert len(text.splitlines()) < 40
        assert result.id[:12] in text
        assert type(result).__name__ in text
        for name, table in result.tables.items():
            assert name in text
            assert name in result._repr_html_()
            assert len(table.columns)
    assert len(repr(screen).splitlines()) < 40
    assert "SIMULATED" in repr(screen)
    assert "48 runs of 24 clones" in repr(screen)
    assert isinstance(optimum[0].figure("feeds"), Figure)
    with pytest.raises(OptimError, match="no figure 'fedes'"):
        optimum[0].figure("fedes")
    assert {f.name for f in recipe.write(tmp_path / "r", formats=("json",)).iterdir()} == {"recipe.json", MANIFEST}
