"""Data quality: faults planted in a simulated screen are found, named and told; clean data are left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from optim.app.build import build_fit, compose
from optim.data.dataset import Dataset
from optim.errors import ConfigError
from optim.estimation.data_quality.finding import Finding
from optim.estimation.data_quality.inspect import inspect_data, inspect_dataset, without_suspects
from optim.estimation.data_quality.readings import unit_factors
from optim.estimation.data_quality.residuals import treated_alike
from optim.estimation.levenberg_marquardt import Search, minimise
from optim.estimation.posterior import Posterior


def fitted(dataset: Dataset):
    """An ordinary fit, bent by whatever is wrong with the data."""
    posterior = Posterior(build_fit(compose([]), dataset))
    return posterior, minimise(posterior, [posterior.prior_point()], Search(12, 1e-3), progress=lambda text: None)[0]


def looked_at(dataset: Dataset):
    return inspect_data(*fitted(dataset))


class Edited:
    """A dataset whose readings are changed by hand."""

    def __init__(self, dataset: Dataset):
        self.dataset, m = dataset, dataset.measurements
        self.value, self.run, self.keep = m.value.copy(), m.run.copy(), np.ones(len(m.value), bool)

    def rows(self, vessel: str, variable: str = "", since: float = 0.0, until: float = np.inf) -> np.ndarray:
        m = self.dataset.measurements
        named = np.ones(len(m.value), bool) if not variable else np.array(m.variable) == variable
        return (m.run == self.dataset.run_ids.index(vessel)) & named & (m.time_h >= since) & (m.time_h <= until)

    def swap(self, a: str, b: str) -> None:
        first, second = self.rows(a), self.rows(b)
        self.run[first], self.run[second] = self.dataset.run_ids.index(b), self.dataset.run_ids.index(a)

    def done(self) -> Dataset:
        m, k = self.dataset.measurements, np.flatnonzero(self.keep)
        changed = replace(
            m,
            run=self.run[k],
            time_h=m.time_h[k],
            variable=tuple(m.variable[i] for i in k),
            value=self.value[k],
            censored=tuple(m.censored[i] for i in k),
            replicate=tuple(m.replicate[i] for i in k),
        )
        return replace(self.dataset, measurements=changed)


@pytest.fixture(scope="module")
def clean(small_problem) -> Dataset:
    return small_problem.dataset


@pytest.fixture(scope="module")
def faulty(clean) -> Dataset:
    """Everything at once."""
    e = Edited(clean)
    e.value[e.rows("C02-1", "glucose")] *= 0.180156  # g/L taken for mmol/L
    stuck = e.rows("C01-2", "glucose", since=144.0)
    e.value[stuck] = e.value[stuck][0]
    e.keep[e.rows("C03-2", "ammonia")] = False
    e.value[e.rows("C04-1", "vcd", 120.0, 120.0)] *= 2.5
    e.value[e.rows("C03-1", "titre", 240.0, 240.0)] *= 0.5
    e.swap("C01-1", "C04-2")
    return e.done()


@pytest.fixture(scope="module")
def found(faulty):
    return looked_at(faulty)


def only(found, kind: str) -> list[Finding]:
    return [f for f in found.findings if f.kind == kind]


def test_clean_data_are_left_alone(clean):
    found = looked_at(clean)
    assert not found.of_severity("error")
    assert len(found.of_severity("warning")) <= 1
    assert not found.suspect.sum() > 1
    assert not [f for f in inspect_dataset(clean) if f.severity != "note"]


def test_swapped_vessels_are_named(found):
    (f,) = only(found, "swapped vessels")
    assert f.severity == "error"
    assert f.vessel == "C01-1, C04-2"
    assert "each one's readings fit the controls and clone of the other" in f.statement


def test_a_wrong_unit_is_named_with_the_slip(found):
    (f,) = only(found, "wrong unit")
    assert (f.vessel, f.variable, f.severity) == ("C02-1", "glucose", "error")
    assert "g/L taken for mmol/L" in f.statement


def test_a_dead_probe_is_named_with_its_time(found):
    (f,) = only(found, "dead probe")
    assert (f.vessel, f.variable, f.severity) == ("C01-2", "glucose", "error")
    assert 144.0 <= f.time_h <= 168.0
    assert "from day 6 to day 14" in f.statement


def test_a_missing_assay_is_named(found):
    (f,) = only(found, "missing assay")
    assert (f.vessel, f.variable) == ("C03-2", "ammonia")


def test_single_outliers_are_named_and_nothing_else(found):
    outliers = only(found, "outlier")
    assert {("C04-1", "vcd", 120.0), ("C03-1", "titre", 240.0)} <= {(f.vessel, f.variable, f.time_h) for f in outliers}
    assert len(outliers) <= 3
    assert len(found.of_severity("error")) == 3
    assert "0.05 single outliers are expected" in found.text_lines()[0]


def test_a_fit_without_what_was_found_is_that_of_clean_data(clean, faulty, found):
    posterior, _ = fitted(faulty)
    repaired = Posterior(without_suspects(posterior.problem, found))
    search = Search(15, 1e-4)
    ours = minimise(repaired, [repaired.prior_point()], search, progress=lambda text: None)[0]
    bent = minimise(posterior, [posterior.prior_point()], search, progress=lambda text: None)[0]
    best = fitted(clean)[1]
    away = [float(np.abs(p.shared - best.shared)[: posterior.n_shared].max()) for p in (ours, bent)]
    assert away[0] < 0.5 * away[1]


def test_a_clone_label_swapped_is_told_with_what_it_could_be_as_well(clean):
    """Of two vessels each, which one was exchanged cannot be known: the clones then hold the same pairs."""
    runs = list(clean.runs)
    a, b = clean.run_ids.index("C01-1"), clean.run_ids.index("C04-2")
    runs[a], runs[b] = replace(runs[a], clone_id="C04"), replace(runs[b], clone_id="C01")
    (f,) = only(looked_at(replace(clean, runs=tuple(runs))), "swapped vessels")
    assert "C01-1 and C04-2" in f.statement
    assert "C01-2 and C04-1" in f.statement
    assert "as well it could be" in f.statement


def test_vessels_of_two_campaigns_are_not_said_to_be_swapped(clean):
    runs = list(clean.runs)
    a, b = clean.run_ids.index("C01-1"), clean.run_ids.index("C04-2")
    runs[a] = replace(runs[a], clone_id="C04")
    runs[b] = replace(runs[b], clone_id="C01")
    for i, run in enumerate(runs):
        if run.run_id.startswith("C04") or i == b:
            runs[i] = replace(run, experiment_id="SCREEN2")
    assert not only(looked_at(replace(clean, runs=tuple(runs))), "swapped vessels")


@pytest.mark.parametrize(
    ("variable", "factor", "severity"),
    [
        ("glucose", 0.180156, "error"),
        pytest.param("titre", 1000.0, "error", marks=pytest.mark.slow),
        pytest.param("lactate", 0.09008, "warning", marks=pytest.mark.slow),
    ],
)
def test_a_slip_of_a_whole_batch_is_said_once(clean, variable, factor, severity):
    """The fit contradicts one that the medium contradicts; another it can follow, but not what is usual."""
    e = Edited(clean)
    for vessel in clean.run_ids:
        e.value[e.rows(vessel, variable)] *= factor
        e.keep[e.rows(vessel, "lactate", until=0.0)] = False  # by which the medium would tell
    found = only(looked_at(e.done()), "wrong unit")
    assert [(f.vessel, f.variable, f.severity) for f in found] == [("", variable, severity)]
    assert "batch SCREEN1" in found[0].statement


def test_calibration_is_told_apart_from_units(clean):
    e = Edited(clean)
    e.value[e.rows("C03-2", "lactate")] *= 1.6
    found = looked_at(e.done())
    (f,) = only(found, "off by a factor")
    assert (f.vessel, f.variable, f.severity) == ("C03-2", "lactate", "warning")
    assert not found.of_severity("error")


def test_raw_data_alone_say_what_they_can(faulty):
    found = {(f.kind, f.vessel, f.variable) for f in inspect_dataset(faulty, ("osmolality",))}
    assert ("dead probe", "C01-2", "glucose") in found
    assert ("wrong unit", "C02-1", "glucose") in found
    assert ("missing assay", "C03-2", "ammonia") in found
    assert ("missing assay", "", "osmolality") in found


def test_units_and_what_they_are_taken_for():
    factors = dict((words, ratio) for ratio, words in unit_factors("glucose"))
    assert factors["g/L taken for mmol/L"] == pytest.approx(0.180156)
    assert any(ratio == pytest.approx(1e6) for ratio, _ in unit_factors("vcd"))
    assert any(ratio == pytest.approx(100.0) for ratio, _ in unit_factors("viability"))
    assert not any(0.9 < ratio < 1.1 for ratio, _ in unit_factors("titre"))


def test_small_things(clean):
    assert treated_alike(clean.runs[0], replace(clean.runs[0], run_id="x", vessel_id="y"))
    assert not treated_alike(clean.runs[0], clean.runs[1])
    with pytest.raises(ConfigError, match="severity"):
        Finding("outlier", "grave", "", "", None, "")
