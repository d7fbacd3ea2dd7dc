"""The posterior and its search on a model of three states: every level and prior, every noise, narrow valleys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from scipy.optimize import least_squares

from optim.data.dataset import Dataset, Measurements, Run
from optim.estimation.estimate import estimate_spread, multi_start
from optim.estimation.levenberg_marquardt import Search, minimise
from optim.estimation.noise import NoiseModel
from optim.estimation.posterior import Point, Posterior
from optim.estimation.problem import FitProblem, build_problem
from optim.kinetics.base import AbstractKineticModel, Inoculum, Species
from optim.parameters import ParameterSpec, ParameterTable
from optim.schedule.actions import Bolus
from optim.settings.estimation import AssaySettings, FitSettings
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.steppers import Tsit5

TIGHT = Integrator(Tsit5(), rtol=1e-10, atol=1e-11)


class Culture(NamedTuple):
    X: Any
    D: Any
    S: Any


class Numbers(NamedTuple):
    mu_max: Any
    Ks: Any
    kd: Any
    q: Any


class Growth(AbstractKineticModel):
    """Growth on one substrate, with death."""

    State: ClassVar[Any] = Culture
    Parameters: ClassVar[Any] = Numbers
    species: ClassVar[tuple[Species, ...]] = (
        Species("X", "1e9 cells/L", 1.0),
        Species("D", "1e9 cells/L", 1.0),
        Species("S", "mmol/L", 10.0, "glucose"),
    )
    inoculum: ClassVar[Inoculum] = Inoculum("vcd", {"X": 1.0, "D": 0.02})
    initial_variables: ClassVar[tuple[str, ...]] = ()

    def rates(self, p, c, env):
        growth = p.mu_max * c.S / (p.Ks + c.S) * c.X
        return Culture(growth - p.kd * c.X, p.kd * c.X, -p.q * growth)

    def observe(self, p, c, env):
        return {"vcd": c.X, "viability": c.X / (c.X + c.D), "glucose": c.S}


def row(name: str, value: float, level: str, **change: Any) -> ParameterSpec:
    settings: dict[str, Any] = {
        "unit": "1/h", "scale": "log", "lower": value / 20.0, "upper": value * 20.0, "prior_sd": 0.5,
        "spread": 0.2 if level == "clone" else None, "source": "chosen", "verified": True,
    }  # fmt: skip
    return ParameterSpec(name=name, value=value, level=level, **settings | change)


PLAIN = (
    row("mu_max", 0.04, "clone"),
    row("Ks", 2.0, "shared"),
    row("kd", 0.002, "shared"),
    row("q", 3.0, "shared"),
)
# every level, every kind of prior, a ratio, and assays that read off the truth
EVERYTHING = (
    row("mu_max", 0.04, "clone"),
    row("Ks", 2.0, "shared", prior="half_normal", prior_sd=4.0),
    row("kd", 0.05, "shared", scale="logit", lower=0.01, upper=0.2, prior="normal", prior_sd=0.05, times="mu_max"),
    row("q", 3.0, "shared", scale="identity", prior="lognormal", prior_sd=0.3),
    row("inoculum_factor", 1.0, "vessel", prior_sd=0.1),
    row("volume_factor", 1.0, "vessel", prior_sd=0.05),
    row("scale_vcd", 1.0, "batch", prior_sd=0.1),
    row("offset_viability", 0.0, "batch", scale="identity", lower=-0.2, upper=0.2, prior_sd=0.03),
)
NOISE = NoiseModel(
    {
        "vcd": AssaySettings(0.08, 0.05, kind="lognormal", robust=4.0),
        "viability": AssaySettings(0.3, 0.0, kind="logit"),
        "glucose": AssaySettings(0.05, 0.3),
    }
)
SIMPLE = NoiseModel(
    {"vcd": AssaySettings(0.05, 0.05), "viability": AssaySettings(0.0, 0.01), "glucose": AssaySettings(0.04, 0.2)}
)


def problem_of(
    rows: tuple[ParameterSpec, ...],
    noise: NoiseModel,
    clones: int = 4,
    vessels: int = 2,
    integrator: Integrator = TIGHT,
) -> FitProblem:
    """Vessels of two batches, sampled daily for six days, with a feed; the readings are placeholders."""
    runs, m = [], []
    for c in range(clones):
        for v in range(vessels):
            dose = 0.02 * (1 + v)
            events = (Bolus(48.0, "feed", 1000.0 * dose), Bolus(96.0, "feed", 1000.0 * dose))
            name = f"C{c}-{v}"
            runs.append(Run(name, f"B{(c + v) % 2}", name, f"C{c}", 1.0, "basal", 37.0, 7.0, 0.4, 144.0, events))
            m += [(len(runs) - 1, 24.0 * d, a) for d in range(1, 7) for a in ("vcd", "viability", "glucose")]
    measured = Measurements(
        run=np.array([i for i, _, _ in m]),
        time_h=np.array([t for _, t, _ in m]),
        variable=tuple(a for _, _, a in m),
        value=np.array([0.5 for _ in m]),
        censored=("",) * len(m),
        replicate=("1",) * len(m),
    )
    media = {"basal": {"glucose": 25.0}, "feed": {"glucose": 400.0}}
    dataset = Dataset("made", "", "none", "", "", True, "0", tuple(runs), measured, media)
    return build_problem(Growth(), ParameterTable(rows), dataset, noise=noise, integrator=integrator)


def with_readings(problem: FitProblem, truth: Point, seed: int = 0, noise: float = 1.0) -> FitProblem:
    """The problem with readings of vessels that follow `truth`."""
    y, status = problem.predict(Posterior(problem).lane_parameters(truth))
    assert not status.any()
    sd = problem.vessels.sd.copy()
    for i, variable in enumerate(problem.variables):
        own = problem.vessels.variable == i
        sd[own] = problem.noise.reading_sd(variable, y[own], problem.noise.sd_on_scale(variable, y[own]))
    value = y + noise * sd * np.random.default_rng(seed).standard_normal(y.shape)
    return replace(problem, vessels=problem.vessels._replace(value=np.clip(value, 1e-3, None)))


@pytest.fixture(scope="module")
def everything() -> FitProblem:
    problem = problem_of(EVERYTHING, NOISE)
    posterior = Posterior(problem)
    return with_readings(problem, posterior.random_point(np.random.default_rng(1), 0.3))


def test_the_gradient_of_everything_matches_finite_differences(everything):
    e = Posterior(everything)
    point = e.random_point(np.random.default_rng(3), 0.2)
    e.evaluate([point])
    arrow, h = point.arrow, 1e-5
    moves = []
    for i in range(len(e.shared_part_specs)):
        moves.append((np.eye(len(e.shared_part_specs))[i], np.zeros_like(point.block), arrow.gs[i]))
    for c, k in ((0, 0), (1, e.n_per_group), (2, e.block_width - 1), (3, e.n_per_group + 1)):
        block = np.zeros_like(point.block)
        block[c, k] = 1.0
        moves.append((np.zeros(len(e.shared_part_specs)), block, arrow.gc[c, k]))
    two = [[e.move_point(point, s * h * a, s * h * b) for a, b, _ in moves] for s in (1.0, -1.0)]
    e.evaluate_cost(two[0] + two[1])
    size = max(np.abs(arrow.gs).max(), np.abs(arrow.gc).max())
    for (_, _, slope), up, down in zip(moves, *two, strict=True):
        assert slope == pytest.approx((up.cost - down.cost) / (2.0 * h), rel=2e-4, abs=1e-6 * size)


def test_the_cost_alone_is_the_cost_of_the_equations(everything):
    e = Posterior(everything)
    points = [e.random_point(np.random.default_rng(s), 0.3) for s in range(3)]
    e.evaluate(points)
    again = [replace(p) for p in points]
    e.evaluate_cost(again)
    assert [p.cost for p in again] == pytest.approx([p.cost for p in points], rel=1e-10)


def test_what_a_vessel_deviates_in_does_what_its_name_says(everything):
    e = Posterior(everything)
    point = e.prior_point()
    y, _ = everything.predict(e.lane_parameters(point))
    v = everything.vessels
    columns = {name: e.n_per_group + i for i, name in enumerate(s.name for s in everything.vessel_specs)}
    more = replace(point, block=point.block.copy())
    more.block[0, columns["volume_factor"]] = np.log(1.25)
    z, _ = everything.predict(e.lane_parameters(more))
    first = (v.variable[0] == everything.variables.index("glucose")) & (v.grid.t[0, v.node[0]] == 72.0)
    assert np.all(z[0, first] < y[0, first])  # the same feed in more broth
    assert np.allclose(z[1:], y[1:])  # and no other vessel
    scaled = replace(point, shared=point.shared.copy())
    batch = e.n_shared + e.n_per_group + [s.name for s in everything.batch_specs].index("scale_vcd")
    scaled.shared[batch] = np.log(1.1)  # of batch 0
    z, _ = everything.predict(e.lane_parameters(scaled))
    vcd = v.variable == everything.variables.index("vcd")
    own = everything.vessel_batch == 0
    assert np.allclose(z[own][vcd[own]], 1.1 * y[own][vcd[own]])
    assert np.allclose(z[~own], y[~own])


def test_the_bend_of_a_step_is_the_second_derivative_of_the_residuals(everything):
    # without robust weights, which belong to the equations and not to the residuals
    noise = replace(everything.noise, assays={k: replace(a, robust=0.0) for k, a in everything.noise.assays.items()})
    e = Posterior(replace(everything, noise=noise))
    point = e.random_point(np.random.default_rng(5), 0.2)
    rng = np.random.default_rng(6)
    step_s, step_c = 0.1 * rng.standard_normal(point.shared.shape), 0.1 * rng.standard_normal(point.block.shape)
    e.evaluate([point])
    h = 1e-2
    there = [e.move_point(point, s * h * step_s, s * h * step_c) for s in (1.0, -1.0)]
    e.evaluate_cost(there)
    found = e.acceleration_equations(point, step_s, step_c, ahead=there[0], fraction=h)
    second = (there[0].residual - 2.0 * point.residual + there[1].residual) / h**2
    gs, gc = e._gathered(np.einsum("bqm,bm->bq", point.slopes.jacobian, second))
    assert np.allclose(found.gs, gs, rtol=0.05, atol=0.02 * np.abs(gs).max())
    assert np.allclose(found.gc, gc, rtol=0.05, atol=0.02 * np.abs(gc).max())


def test_an_independent_solver_ends_at_the_same_optimum():
    problem = problem_of(PLAIN, SIMPLE)
    truth = Posterior(problem).random_point(np.random.default_rng(2), 0.3)
    e = Posterior(with_readings(problem, truth))
    ours = minimise(e, [e.prior_point()], Search(60, 1e-10), progress=lambda text: None)[0]
    n = len(e.shared_part_specs)

    def residuals(x: np.ndarray) -> np.ndarray:
        point = Point(x[:n], x[n:].reshape(e.n_groups, e.block_width), np.ones(len(problem.vessel_group)))
        e.evaluate_cost([point])
        prior = (point.shared - e.mean_shared) / 0.5
        pool = (point.block - point.shared[e.n_shared : e.n_shared + 1]) / 0.2
        return np.concatenate([point.residual.ravel(), prior, pool.ravel()])

    start = e.prior_point()
    theirs = least_squares(residuals, np.concatenate([start.shared, start.block.ravel()]), x_scale="jac", xtol=1e-12)
    assert theirs.cost == pytest.approx(ours.cost, rel=1e-8)
    assert theirs.x == pytest.approx(np.concatenate([ours.shared, ours.block.ravel()]), abs=5e-4)


def test_far_starts_end_at_the_same_optimum_with_and_without_first_order_steps():
    e = Posterior(with_readings(problem_of(PLAIN, SIMPLE), Posterior(problem_of(PLAIN, SIMPLE)).prior_point()))
    starts = [e.random_point(np.random.default_rng(s), 3.0) for s in range(6)]
    straight = minimise(e, starts, Search(80, 1e-9), progress=lambda text: None)
    helped = minimise(e, starts, Search(80, 1e-9, startup=15), progress=lambda text: None)
    best = min(p.cost for p in straight)
    assert sum(p.cost < best + 0.01 for p in straight) >= 5
    assert sum(p.cost < best + 0.01 for p in helped) >= 5
    begun = [replace(p) for p in starts]
    e.evaluate_cost(begun)
    for before, after in zip(begun, helped, strict=True):
        assert after.history[15] < before.cost  # it comes closer, step by step
        assert all(b <= a for a, b in zip(after.history, after.history[1:16], strict=False))


def test_an_outlier_pulls_less_where_the_noise_is_robust():
    plain = problem_of(PLAIN, SIMPLE)
    truth = Posterior(plain).prior_point()
    clean = with_readings(plain, truth, noise=0.05)
    value = clean.vessels.value.copy()
    value[0, 12] *= 5.0  # VCD of one vessel on one day
    assert clean.vessels.variable[0, 12] == clean.variables.index("vcd")
    heavy = replace(SIMPLE, assays={k: replace(a, robust=4.0) for k, a in SIMPLE.assays.items()})

    def off(noise: NoiseModel) -> float:
        e = Posterior(replace(clean, noise=noise, vessels=clean.vessels._replace(value=value)))
        end = minimise(e, [e.prior_point()], Search(60, 1e-9), progress=lambda text: None)[0]
        return float(np.abs(end.block[0] - truth.block[0]).max())

    assert off(heavy) < 0.2 * off(SIMPLE)


@pytest.mark.slow
def test_the_spread_between_clones_is_found():
    """Forty clones whose spread is half of what is stated: the estimate comes down, and does not collapse."""
    problem = problem_of(PLAIN, SIMPLE, clones=40, vessels=1, integrator=Integrator(Tsit5()))
    posterior = Posterior(problem)
    truth = posterior.prior_point()
    truth.block[:, 0] += 0.1 * np.random.default_rng(4).standard_normal(40)
    options = FitSettings(starts=1, noise_rounds=8)
    found, ends = multi_start(with_readings(problem, truth), options, 0, progress=lambda text: None)
    sd = float(np.std(truth.block[:, 0]))
    assert found.spread[0] == pytest.approx(sd, rel=0.2)
    # one more step of the same kind changes nothing
    assert estimate_spread(found, ends[0])[0] == pytest.approx(found.spread[0], rel=0.05)


@pytest.mark.slow
def test_few_data_leave_the_spread_as_it_was_stated():
    problem = problem_of(PLAIN, SIMPLE, clones=2, vessels=1)
    blind = replace(problem, vessels=problem.vessels._replace(weight=np.zeros_like(problem.vessels.weight)))
    found, _ = multi_start(blind, FitSettings(starts=1, noise_rounds=6), 0, progress=lambda text: None)
    assert found.spread[0] == pytest.approx(0.2, rel=0.05)
