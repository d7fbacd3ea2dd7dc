"""A thousand random processes of a model: none ends with an impossible number that calls itself good."""

from __future__ import annotations

import numpy as np
import pytest
from support.cases import VESSELS, random_cases, simulated

from optim.errors import Status
from optim.kinetics import load_kinetics

MODELS = [
    ("cho_moller", "stiff"),
    ("cho_perfusion", "stiff"),
    ("cho_perfusion", "explicit"),
    ("ecoli_oxygen", "stiff"),
    ("ecoli_oxygen_steady", "explicit"),
]
SLOW = [("cho_xing", "explicit"), ("cho_xing", "stiff"), ("cho_moller", "explicit")]


@pytest.mark.parametrize(
    ("name", "stepper"), [*MODELS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)]
)
def test_random_processes_end_well_and_no_species_is_negative(name, stepper):
    model = load_kinetics(name)
    case = random_cases(name, VESSELS, seed=1)
    found = simulated(model, stepper, case, 1e-6)
    good = found.status == Status.OK
    assert good.mean() >= 0.99, np.bincount(found.status)
    for values, species in zip(found.concentrations, model.species, strict=True):
        assert np.isfinite(values[good]).all(), species.name
        assert values[good].min() > -1e-5 * species.scale, species.name
        assert np.isnan(values[~good, -1]).all(), species.name
    assert found.volume[good].min() > 0.0
    assert np.isnan(found.volume[~good, -1]).all()
    assert case.grid.intervals.min() > 10
    assert np.ptp(case.grid.t[:, -1]) > 0.3 * case.grid.t.max()  # they differ
