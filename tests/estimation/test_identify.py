"""Identifiability: what is told of parameters that data cannot separate, and whether what is proposed helps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest

from optim.data.dataset import Dataset, Measurements, Run
from optim.estimation.identifiability.practical import PRIOR, WELL, assess_identifiability
from optim.estimation.levenberg_marquardt import Search, minimise
from optim.estimation.noise import NoiseModel
from optim.estimation.posterior import Posterior
from optim.estimation.problem import build_problem
from optim.kinetics.base import AbstractKineticModel, Inoculum, Species
from optim.parameters import ParameterSpec, ParameterTable
from optim.settings.estimation import AssaySettings
from optim.simulation.engine.march import Integrator

# samples of a batch that ends, without substrate, at about 13 h: all taken while there is plenty
EARLY = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
LATE = [9.0, 11.0, 12.0, 12.5, 13.0, 13.5]
END_H = 20.0


class Broth(NamedTuple):
    X: Any
    S: Any


class Growth(NamedTuple):
    mu_max: Any
    Ks: Any


class Batch(AbstractKineticModel):
    """Growth by Monod's law at constant yield."""

    State: ClassVar[Any] = Broth
    Parameters: ClassVar[Any] = Growth
    species: ClassVar[tuple[Species, ...]] = (Species("X", "g/L", 1.0), Species("S", "mmol/L", 1.0, "glucose"))
    inoculum: ClassVar[Inoculum] = Inoculum("", {"X": 0.5})
    initial_variables: ClassVar[tuple[str, ...]] = ()

    def rates(self, p, c, env):
        growth = p.mu_max * c.S / (p.Ks + c.S) * c.X
        return Broth(growth, -5.0 * growth)

    def observe(self, p, c, env):
        return {"biomass": c.X, "glucose": c.S}


def spec(name: str, value: float, prior_sd: float) -> ParameterSpec:
    return ParameterSpec(
        name=name,
        value=value,
        unit="1",
        level="shared",
        lower=value / 50.0,
        upper=value * 50.0,
        prior_sd=prior_sd,
        source="chosen for this test",
        verified=True,
    )


TABLE = ParameterTable((spec("mu_max", 0.2, 0.5), spec("Ks", 1.0, 1.0)))
NOISE = NoiseModel({"biomass": AssaySettings(0.01, 0.01), "glucose": AssaySettings(0.02, 0.1)}, estimate_scale=False)


def batch(late: bool = False, extra: tuple[float, str] | None = None):
    """A batch sampled early, perhaps late, perhaps once more, without noise; its posterior and optimum.

    What is not used has no weight, so that all of them run through one compiled program.
    """
    samples = [(t, v) for t in (*EARLY, *LATE) for v in ("biomass", "glucose")]
    use = [True] * 2 * len(EARLY) + [late] * 2 * len(LATE) + [extra is not None]
    samples.append(extra or (6.5, "biomass"))
    run = Run("R1", "E1", "V1", "", 1.0, "broth", 37.0, 7.0, None, END_H, ())

    def problem(value: np.ndarray):
        m = Measurements(
            run=np.zeros(len(samples), int),
            time_h=np.array([t for t, _ in samples]),
            variable=tuple(v for _, v in samples),
            value=value,
            censored=("",) * len(samples),
            replicate=("1",) * len(samples),
        )
        d = Dataset("toy", "", "", "", "", True, "", (run,), m, {"broth": {"glucose": 30.0}})
        made = build_problem(Batch(), TABLE, d, noise=NOISE, integrator=Integrator(rtol=1e-9, atol=1e-10))
        return replace(
            made,
            vessels=made.vessels._replace(
                weight=np.pad(np.array([use], float), ((0, 0), (0, made.vessels.weight.shape[1] - len(samples))))
            ),
        )

    blank = problem(np.ones(len(samples)))
    y, _ = blank.predict(Posterior(blank).lane_parameters(Posterior(blank).prior_point()))
    posterior = Posterior(problem(y[0, : len(samples)]))
    best = minimise(posterior, [posterior.prior_point()], Search(20, 1e-9), progress=lambda text: None)[0]
    return posterior, best


@pytest.fixture(scope="module")
def excess():
    return assess_identifiability(*batch())


def test_what_the_data_do_not_see_is_named(excess):
    assert excess.verdict_of("Ks") == PRIOR or "poorly" in excess.verdict("Ks")
    first = excess.combinations[0]
    assert set(first.names) == {"Ks", "mu_max"}
    assert first.change < 0.5 < first.alone
    assert "cannot be told apart by these data" in first.sentence
    assert ("mu_max", "Ks") in [p[:2] for p in excess.pairs] or ("Ks", "mu_max") in [p[:2] for p in excess.pairs]


def test_a_sample_at_low_substrate_is_proposed_and_helps(excess):
    readings = [p for p in excess.combinations[0].proposals if p.kind == "reading"]
    assert readings[0].time_h > max(EARLY)
    assert readings[0].gain > 0.5
    assert "one more reading of" in readings[0].sentence
    # with one more reading there, as proposed
    again = assess_identifiability(*batch(extra=(readings[0].time_h, readings[0].variable)), proposals=0)
    before = next(k for k in excess.parameters if k.name == "Ks")
    after = next(k for k in again.parameters if k.name == "Ks")
    assert after.sd**2 < (1.0 - 0.7 * readings[0].gain) * before.sd**2
    # while one more early reading does not
    early = assess_identifiability(*batch(extra=(6.5, readings[0].variable)), proposals=0)
    assert next(k for k in early.parameters if k.name == "Ks").sd > 0.8 * before.sd


def test_a_vessel_with_less_medium_is_proposed(excess):
    vessels = [p for p in excess.combinations[0].proposals if p.kind == "vessel"]
    assert "diluted" in vessels[0].design
    assert not any("feeds" in p.design for p in vessels)  # there are none to change


def test_what_is_well_determined_is_not_flagged():
    found = assess_identifiability(*batch(late=True), proposals=0)
    assert found.verdict_of("mu_max") == found.verdict_of("Ks") == WELL
    assert not found.combinations
    assert not found.sentences


@pytest.mark.slow
def test_a_screen_with_clones_is_judged(small_problem):
    posterior = Posterior(small_problem)
    found = assess_identifiability(posterior, replace(posterior.prior_point()), proposals=0)
    assert found.verdict_of("Y_amm") == WELL
    assert {k.level for k in found.parameters} == {"shared", "population", "clone"}
    # without glutamine and ammonia nothing is left to say how they go together
    v = small_problem.vessels
    blind = np.isin(v.variable, [small_problem.variables.index(n) for n in ("glutamine", "ammonia")])
    posterior = Posterior(replace(small_problem, vessels=v._replace(weight=np.where(blind, 0.0, v.weight))))
    found = assess_identifiability(posterior, posterior.prior_point(), proposals=2)
    named = {name for c in found.combinations for name in c.names}
    assert named & {"Y_amm", "q_gln_max", "k_gln", "KI_amm"}
    proposed = [p.variable for c in found.combinations for p in c.proposals if p.kind == "reading"]
    assert set(proposed) & {"glutamine", "ammonia"}
    assert all(p.gain <= 1.0 for c in found.combinations for p in c.proposals)
