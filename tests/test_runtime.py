"""Precision: a public entry refuses to compute in single precision, and `optim.configure()` is the remedy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from optim.runtime import require_float64

ENTRIES = {
    "simulation.simulate": ["simulate_cultivations", "simulate_one"],
    "simulation.batch": ["simulate_batch"],
    "simulation.until": ["simulate_until"],
    "estimation.fit": ["fit_problem"],
    "estimation.transfer.continued_fit": ["revive_posterior", "update_fit"],
    "estimation.transfer.new_clone": ["predict_clones"],
    "estimation.transfer.running_vessel": ["follow_vessel"],
    "estimation.uncertainty.profile": ["profile_likelihoods"],
    "estimation.uncertainty.bootstrap": ["bootstrap"],
    "estimation.uncertainty.nuts": ["sample_posterior"],
    "estimation.identifiability.practical": ["assess_identifiability"],
    "estimation.identifiability.structural": ["structural_identifiability"],
    "estimation.data_quality.inspect": ["inspect_data"],
    "optimisation.optimise": ["optimise_process"],
    "optimisation.rank": ["rank_clones"],
    "optimisation.pareto": ["pareto_front"],
    "optimisation.sensitivity": ["analyse_sensitivity"],
    "optimisation.evaluate": ["evaluate_process"],
    "doe.suggest": ["weigh_candidates", "suggest_runs"],
    "replanning.replan": ["replan_batch"],
    "optimisation.control_profiles": ["optimise_profiles"],
    "synthetic": ["simulate_screen"],
}

# calls every entry with None for all that it needs: whatever it did first with that would be another error
CALLS = """
import importlib, inspect, json, sys
import optim
assert "jax" not in sys.modules, "import optim imports jax"
from optim.errors import OptimError

def answers():
    found = {}
    for module, names in json.loads(sys.argv[1]).items():
        for name in names:
            entry = getattr(importlib.import_module(f"optim.{module}"), name)
            rows = inspect.signature(entry).parameters.values()
            needed = [None for p in rows if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]
            named = {p.name: None for p in rows if p.default is p.empty and p.kind is p.KEYWORD_ONLY}
            try:
                entry(*needed, **named)
                found[name] = "computed"
            except OptimError as err:
                found[name] = str(err)
            except Exception as err:
                found[name] = type(err).__name__
    return found

before = answers()
optim.configure()
print(json.dumps([before, answers()]))
"""


@pytest.fixture(scope="module")
def answers():
    """What every entry says, without and with double precision: {entry: message}."""
    command = [sys.executable, "-c", CALLS, json.dumps(ENTRIES)]
    r = subprocess.run(command, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


@pytest.mark.parametrize("name", [n for names in ENTRIES.values() for n in names])
def test_an_entry_refuses_single_precision_by_name_and_nothing_else(answers, name):
    single, double = answers
    assert single[name].startswith(f"{name} computes in double precision")
    assert "call `optim.configure()` first" in single[name]
    assert "precision" not in double[name]


def test_double_precision_is_not_refused():
    require_float64("a test")


def test_the_package_has_no_name_that_it_does_not_know():
    import optim

    assert "configure" in dir(optim)
    with pytest.raises(AttributeError, match="no attribute 'configuer'"):
        optim.configuer  # noqa: B018
