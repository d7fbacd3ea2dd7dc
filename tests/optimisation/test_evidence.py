"""The evidence behind a decision: refusals, marks of clones, doubts of a search, and probabilities that are shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from optim.artefact import Lineage
from optim.errors import MisfitError
from optim.estimation.fit import fit_problem
from optim.optimisation.evidence import clone_marks, require_described
from optim.optimisation.lineage import process_lineage
from optim.optimisation.optimise import _search_doubts
from optim.optimisation.result import Interval, RankedClone, Ranking, SolveReport, bounded_share, probability_text
from optim.report.ranking import ranking_view
from optim.settings.estimation import FitSettings


@pytest.fixture(scope="module")
def result(small_problem):
    options = FitSettings(starts=1, max_iterations=10, ensemble=4, noise_rounds=1, quality=False, identify=False)
    return fit_problem(small_problem, options, seed=1, model_name="cho_moller")


def predicted_wrongly(result, variable: str, clone: str = ""):
    """The fit with the predictions of an assay mirrored about their mean."""
    o = result.observations
    own = np.array([v == variable and (not clone or c == clone) for v, c in zip(o.variable, o.clone, strict=True)])
    wrong = np.where(own, 2.0 * o.predicted[own].mean() - o.predicted, o.predicted)
    return replace(result, observations=replace(o, predicted=wrong))


def without(result, variable: str):
    o = result.observations
    keep = np.flatnonzero(np.array(o.variable) != variable)
    kept = {
        name: value[keep] if isinstance(value, np.ndarray) else tuple(value[i] for i in keep)
        for name, value in vars(o).items()
    }
    return replace(result, observations=type(o)(**kept))


def test_a_decision_on_what_the_model_does_not_describe_is_refused(result, process_problem):
    require_described(result, process_problem, accepted=False)
    wrong = predicted_wrongly(result, "titre")
    with pytest.raises(MisfitError, match=r"does not describe titre: R2 -.*set accept_misfit=true"):
        require_described(wrong, process_problem, accepted=False)
    require_described(wrong, process_problem, accepted=True)


def test_a_misfit_on_which_nothing_rests_is_told_and_not_refused(result, process_problem):
    wrong = predicted_wrongly(result, "glutamine")
    assert [m.variable for m in wrong.misfit] == ["glutamine"]
    assert "glutamine" not in {c.variable for c in process_problem.constraints}
    require_described(wrong, process_problem, accepted=False)


def test_a_clone_is_marked_by_what_its_estimate_lacks(result, process_problem):
    first, second = result.groups[:2]
    rows = tuple(
        replace(p, shrinkage=0.97, at_bound=True) if (p.name, p.owner) == ("qP", first) else p
        for p in result.parameters
    )
    marked = predicted_wrongly(replace(result, parameters=rows), "vcd", first)
    assert clone_marks(marked, process_problem, first) == (
        "by the prior only: qP",
        "at a bound: qP",
        "not described: vcd",
    )
    assert clone_marks(marked, process_problem, second) == clone_marks(result, process_problem, second)
    assert "no reading of titre" in clone_marks(without(result, "titre"), process_problem, first)


def test_a_ranking_without_a_product_that_was_measured_rests_on_the_prior(result, process_problem):
    assert process_lineage(result, process_problem, seed=0, what="ranking").doubts == ()
    said = process_lineage(without(result, "titre"), process_problem, seed=0, what="ranking").doubts
    assert said == ("no titre was measured: the ranking rests on the prior",)


def test_faults_of_the_data_go_along_with_what_is_made_from_them(result, process_problem):
    from optim.estimation.data_quality.finding import Finding

    findings = tuple(Finding("wrong unit", "error", f"V{i}", "vcd", None, f"vcd of V{i} reads mL") for i in range(7))
    faulty = replace(result, findings=(*findings, Finding("noise", "warning", "", "vcd", None, "vcd scatters")))
    notes = process_lineage(faulty, process_problem, seed=0).notes
    assert sum(note.startswith("error in the data: vcd of V") for note in notes) == 5
    assert any("2 more errors" in note for note in notes)
    assert not any("vcd scatters" in note for note in notes)


def test_draws_that_agree_are_no_certainty():
    assert probability_text(1.0, 32) == "> 0.97"
    assert probability_text(0.0, 32) == "< 0.03"
    assert probability_text(0.75, 32) == "0.75"
    assert bounded_share(1.0, 4) == 0.8


def start(objective: float, success: bool, message: str = "", violation: float = 0.0) -> SolveReport:
    return SolveReport(0, objective, violation, 0.0, 5, success, message)


def test_a_search_of_which_nothing_or_not_the_best_converged_is_doubted():
    (none,) = _search_doubts([start(2.0, False), start(1.0, False)], 1.0)
    assert none.startswith("0 of 2 starts of the optimisation converged, and 1 reached the best")
    assert _search_doubts([start(2.0, True), start(1.0, False)], 1.0) == ()
    (fewer,) = _search_doubts([start(2.0, False), start(2.0001, False), start(1.0, True)], 1.0)
    assert fewer.startswith("1 of 3 starts of the optimisation converged, and 2 reached the best")
    # where less is better, and of a robust search alone
    assert _search_doubts([start(1.0, True), start(2.0, False), start(2.0001, False)], -1.0) == ()
    assert _search_doubts([start(1.0, False), start(1.0, True, "robust: converged")], 1.0) == ()


def test_a_ranking_names_what_it_leaves_out_and_what_it_doubts():
    nan, some = Interval(*[float("nan")] * 4), Interval(0.9, 1.0, 1.1, 1.0)
    rows = (
        RankedClone("A", 1, some, some, 1.0, 0.0, {"x": 1.0}, None, None, "", ("no reading of titre",)),
        RankedClone("B", 2, nan, nan, 0.0, float("nan"), {}, None, None, "no process meets all constraints"),
        RankedClone("C", 2, nan, nan, 0.0, float("nan"), {}, None, None, "makes no product that can be read"),
    )
    lineage = Lineage("m", "d", "", simulated=True, seed=0).with_doubts("the model does not describe vcd: R2 -1.00")
    view = ranking_view(Ranking(lineage, "titre_g_per_l", "g/L", rows, draws=32))
    assert list(view.doubts) == ["the model does not describe vcd: R2 -1.00"]
    text = "\n".join(view.lines)
    assert "each of 1 clones" in text
    assert "P(best) > 0.97" in text
    assert "! no reading of titre" in text
    assert "not ranked: B: no process meets all constraints" in text
    assert "not ranked: C: makes no product that can be read" in text
    table = view.tables["ranking"]
    assert table["marks"][0] == "no reading of titre"
    assert table["probability_best"][0] == pytest.approx(32 / 33)
