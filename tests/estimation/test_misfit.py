"""What a fit says of itself: misfits, clones without product, media that lack what is needed, the truth of others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from optim.app.build import build_fit, compose
from optim.data.dataset import Dataset
from optim.errors import DatasetError
from optim.estimation.data_quality.accusations import withhold_accusations
from optim.estimation.data_quality.finding import Finding
from optim.estimation.data_quality.robust_fit import fit_robustly
from optim.estimation.estimate import multi_start
from optim.estimation.fit import fit_problem
from optim.estimation.misfit import find_misfits, misfit_sentence, noise_sentences
from optim.estimation.nonproducer import groups_far_below
from optim.estimation.result import Observations
from optim.estimation.start import needed_components
from optim.settings.estimation import FitSettings

OPTIONS = FitSettings(
    starts=1, max_iterations=12, tolerance=1e-5, ensemble=4, noise_rounds=1, quality=False, identify=False
)


def observations(value, predicted, sd=1.0, censored=None, variable="vcd") -> Observations:
    n = len(value)
    value, predicted = np.asarray(value, float), np.asarray(predicted, float)
    return Observations(
        vessel=("V",) * n,
        clone=("C",) * n,
        variable=(variable,) * n,
        time_h=24.0 * np.arange(n),
        value=value,
        sd=np.full(n, sd),
        predicted=predicted,
        lower90=predicted,
        upper90=predicted,
        censored=tuple(censored or ("",) * n),
    )


def edited(dataset: Dataset, change) -> Dataset:
    """The dataset with every reading (clone, variable, time, value, mark) replaced by (value, mark), or left out."""
    m, kept = dataset.measurements, []
    for i in range(len(m.value)):
        clone = dataset.runs[int(m.run[i])].clone_id
        new = change(clone, m.variable[i], float(m.time_h[i]), float(m.value[i]), m.censored[i])
        if new is not None:
            kept.append((i, *new))
    rows = [k[0] for k in kept]
    changed = replace(
        m,
        run=m.run[rows],
        time_h=m.time_h[rows],
        variable=tuple(m.variable[i] for i in rows),
        value=np.array([k[1] for k in kept]),
        censored=tuple(k[2] for k in kept),
        replicate=tuple(m.replicate[i] for i in rows),
    )
    return replace(dataset, measurements=changed)


# --- the rule ---


def test_what_is_worse_than_the_mean_of_the_readings_is_a_misfit():
    o = observations([9, 1, 2, 3, 4], [9, 4, 3, 2, 1], sd=0.4)  # the reading at time 0 would flatter it
    (found,) = find_misfits(o, {"vcd": 2.0})
    assert found.r2 == pytest.approx(1.0 - 20.0 / 5.0)
    assert found.noise == pytest.approx(2.0 * np.sqrt(5.0) / 0.4)  # against the stated noise, not the estimated one
    assert found.sentence == "the model does not describe vcd: R2 -3.00, 11 times the stated noise"


def test_readings_that_hardly_vary_are_described_within_their_noise():
    flat = observations([1, 1.0, 1.1, 0.9, 1.05], [1, 1.2, 1.2, 1.2, 1.2], sd=0.2)
    assert not find_misfits(flat, {"vcd": 1.0})
    assert find_misfits(flat, {"vcd": 2.0})


def test_an_assay_that_is_censored_throughout_is_a_misfit_and_one_read_at_the_start_alone_is_none():
    (found,) = find_misfits(observations([1, 1, 1], [1, 2, 3], censored=("", "<", "<")), {"vcd": 1.0})
    assert "all 2 readings after time 0 are beyond a limit of quantification" in found.sentence
    assert not find_misfits(observations([1], [7]), {"vcd": 1.0})


def test_a_poor_r2_of_a_described_assay_is_no_misfit_however_small_the_stated_noise():
    assert not find_misfits(observations([9, 1, 2, 3, 4], [9, 1.5, 2, 3, 4], sd=0.001), {"vcd": 5.0})


def test_all_misfits_make_one_sentence_and_noise_at_its_cap_another():
    many = find_misfits(observations([0, 1, 2], [0, 2, 1], 0.1), {}) + find_misfits(
        observations([0, 1, 2], [0, 3, -2], 0.1, variable="titre"), {}
    )
    assert misfit_sentence(many).count("the model does not describe") == 1
    assert "; titre: R2" in misfit_sentence(many)
    assert misfit_sentence(()) == ""
    (told,) = noise_sentences({"vcd": 5.0, "titre": 4.9})
    assert "readings of vcd scatter at least 5 times" in told


# --- a clone without product ---


@pytest.fixture(scope="module")
def unread(small_problem):
    """The fit of the screen without the titre of C02: what the others should be, whatever C02 reads."""
    dataset = edited(small_problem.dataset, lambda c, v, t, y, k: None if (c, v) == ("C02", "titre") else (y, k))
    return fit_problem(build_fit(compose([]), dataset), OPTIONS, seed=1, model_name="cho_moller")


@pytest.mark.parametrize(
    ("value", "mark"),
    [(0.05, "<"), (0.0, ""), (0.06, "")],
    ids=["below quantification", "written as zero", "next to none"],
)
def test_a_clone_without_product_bends_no_other(small_problem, unread, value, mark):
    dataset = edited(
        small_problem.dataset, lambda c, v, t, y, k: (value, mark) if (c, v) == ("C02", "titre") else (y, k)
    )
    found = fit_problem(build_fit(compose([]), dataset), OPTIONS, seed=1, model_name="cho_moller")
    assert found.without_product == ("C02",)
    assert any("C02 makes no product that can be read" in note for note in found.lineage.notes)
    assert np.allclose(found.shared[0], unread.shared[0], rtol=1e-4)
    assert np.allclose(found.group[0], unread.group[0], rtol=1e-4)


def test_censored_readings_that_the_population_explains_are_used(small_problem):
    """Only the first titre of C02 was read, when no clone has made much."""
    first = min(
        float(t)
        for t, v in zip(
            small_problem.dataset.measurements.time_h, small_problem.dataset.measurements.variable, strict=True
        )
        if v == "titre" and t > 0.0
    )

    def change(c, v, t, y, k):
        if (c, v) != ("C02", "titre"):
            return y, k
        return (0.3, "<") if t == first else None

    problem = build_fit(compose([]), edited(small_problem.dataset, change))
    assert groups_far_below(problem) == ("C02",)
    found = fit_problem(problem, OPTIONS, seed=1, model_name="cho_moller")
    assert found.without_product == ()
    assert any(
        c == "C02" and v == "titre" for c, v in zip(found.observations.clone, found.observations.variable, strict=True)
    )


# --- the start ---


def test_a_medium_that_lacks_what_the_model_needs_is_refused(small_problem):
    dataset = small_problem.dataset
    lacking = {name: {c: x for c, x in made.items() if c != "glutamine"} for name, made in dataset.media.items()}
    with pytest.raises(DatasetError, match=r"medium basal_a has no glutamine, which the model needs; measured \d"):
        build_fit(compose([]), replace(dataset, media=lacking))
    said = {name: made | {"glutamine": 0.0} for name, made in lacking.items()}
    build_fit(compose([]), replace(dataset, media=said))  # taken at its word
    unread = edited(dataset, lambda c, v, t, y, k: None if v == "glutamine" else (y, k))
    build_fit(compose([]), replace(unread, media=lacking))  # nothing says how much there was


def test_what_a_model_needs_is_what_its_cells_do_not_grow_without(small_problem):
    assert needed_components(small_problem.model, small_problem.table) == ("glucose", "glutamine")


# --- truth and notes ---


def test_the_truth_of_another_model_is_never_compared(small_problem, unread):
    assert unread.recovery
    assert unread.screen.truth is not None
    truth = {owner: {"unheard_of": 1.0, **own} for owner, own in small_problem.dataset.truth.items()}
    other = replace(small_problem, dataset=replace(small_problem.dataset, truth=truth))
    found = fit_problem(other, replace(OPTIONS, max_iterations=1, noise_rounds=0), seed=1, model_name="cho_moller")
    assert found.recovery == ()
    assert found.screen.truth is None
    assert any("simulated with another model" in note for note in found.lineage.notes)


# --- accusations ---


def test_accusations_that_most_vessels_share_or_a_wrong_model_makes_are_one_sentence(small_problem):
    posterior, points = multi_start(small_problem, OPTIONS, 1, progress=lambda text: None)
    r = fit_robustly(posterior, [points[0]])
    none = np.zeros(small_problem.vessels.value.shape, bool)
    vessels = small_problem.dataset.run_ids
    each = [Finding("one-sided", "warning", v, "vcd", 0.0, f"vcd in vessel {v} reads low") for v in vessels]
    alone = Finding("dead probe", "error", vessels[0], "titre", 0.0, "titre stands still")
    absent = Finding("missing assay", "warning", vessels[0], "titre", None, "titre is missing")
    assert withhold_accusations([*each[:2], alone, absent], r, none) == [*each[:2], alone, absent]
    *kept, one = withhold_accusations([*each, alone, absent], r, none)
    assert kept == [alone, absent]
    assert (one.vessel, one.variable, one.severity) == ("", "vcd", "warning")
    assert "in 8 of 8 vessels" in one.statement
    far = replace(r, predicted=r.predicted[:, ::-1] * 3.0)
    *kept, one = withhold_accusations([*each, alone, absent], far, none)
    assert kept == [absent]
    assert (one.kind, one.severity) == ("model is wrong", "error")
    assert "9 findings about them are withheld" in one.statement
