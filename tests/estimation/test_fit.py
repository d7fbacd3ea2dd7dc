"""Estimation: the arrow against dense algebra, residuals against SciPy, gradients, recovery, left-out runs."""

from __future__ import annotations

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import needs_public_data
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from optim.app.build import build_fit, compose
from optim.artefact import load_artefact, save_artefact
from optim.data.open import read_dataset
from optim.errors import ConfigError, DatasetError, FitError, IncompatibleError
from optim.estimation.estimate import multi_start
from optim.estimation.fit import fit_problem
from optim.estimation.levenberg_marquardt import Search, minimise
from optim.estimation.noise import ABOVE, BELOW, MEASURED, NoiseModel, whitened_residual
from optim.estimation.normal_equations import Arrow
from optim.estimation.posterior import Posterior
from optim.estimation.problem import build_problem
from optim.estimation.result import FitResult
from optim.estimation.score import r_squared
from optim.parameters import ParameterSpec, ParameterTable
from optim.schedule.actions import Bolus
from optim.settings.estimation import AssaySettings, FitSettings
from optim.simulation.engine.march import Integrator

QUICK = FitSettings(
    starts=2, max_iterations=25, tolerance=1e-5, ensemble=24, start_spread=0.3, quality=False, identify=False
)


def quiet(text: str) -> None:
    pass


# --- the arrow ---


def random_arrow(n: int = 4, clones: int = 3, m: int = 2) -> tuple[Arrow, np.ndarray, np.ndarray]:
    """An arrow with its dense matrix and gradient."""
    rng = np.random.default_rng(0)
    size = n + clones * m
    jacobian = rng.standard_normal((60, size))
    # a residual of one clone does not touch another clone's parameters
    owner = np.arange(60) % clones
    for c in range(clones):
        for k in range(clones):
            if k != c:
                jacobian[owner == c, n + k * m : n + (k + 1) * m] = 0.0
    h, g = jacobian.T @ jacobian, rng.standard_normal(size)
    blocks = [slice(n + c * m, n + (c + 1) * m) for c in range(clones)]
    arrow = Arrow(
        h[:n, :n],
        np.stack([h[b, :n] for b in blocks]),
        np.stack([h[b, b] for b in blocks]),
        g[:n],
        np.stack([g[b] for b in blocks]),
    )
    return arrow, h, g


def test_the_arrow_solves_as_the_dense_matrix_does():
    arrow, h, g = random_arrow()
    shared, own = arrow.newton_step()
    assert np.allclose(np.concatenate([shared, own.ravel()]), -np.linalg.solve(h, g), rtol=1e-10)


def test_the_arrow_has_the_variances_of_the_dense_inverse():
    arrow, h, _ = random_arrow()
    shared, own = arrow.variances()
    assert np.allclose(np.concatenate([shared, own.ravel()]), np.diag(np.linalg.inv(h)), rtol=1e-10)


def test_draws_have_the_covariance_of_the_dense_inverse():
    arrow, h, _ = random_arrow()
    shared, own = arrow.draw_normal(np.random.default_rng(1), 40_000)
    draws = np.concatenate([shared, own.reshape(len(own), -1)], axis=1)
    covariance = np.linalg.inv(h)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.max(np.abs(np.cov(draws.T) - covariance) / scale) < 0.04


# --- noise and censoring ---


def test_residuals_are_the_likelihood():
    y, value, sd = 1.3, 1.0, 0.2
    assert 0.5 * float(whitened_residual(y, value, sd, censored=jnp.asarray(MEASURED))) ** 2 == pytest.approx(
        -norm.logpdf(value, y, sd) - np.log(sd * np.sqrt(2.0 * np.pi))
    )
    below = float(whitened_residual(y, value, sd, censored=jnp.asarray(BELOW)))
    assert 0.5 * below**2 == pytest.approx(-norm.logcdf((value - y) / sd), rel=1e-9)
    above = float(whitened_residual(y, value, sd, censored=jnp.asarray(ABOVE)))
    assert 0.5 * above**2 == pytest.approx(-norm.logsf((value - y) / sd), rel=1e-9)
    assert float(whitened_residual(0.1, 1.0, 0.2, censored=jnp.asarray(BELOW))) == pytest.approx(0.0, abs=1e-2)


def test_noise_refuses_what_it_cannot_mean():
    with pytest.raises(ConfigError, match="Did you mean 'glucose'"):
        NoiseModel({"glucos": AssaySettings(0.1, 0.1)})
    with pytest.raises(ConfigError, match=r"glucose\.floor: must be above 0"):
        NoiseModel({"glucose": AssaySettings(0.1, 0.0)})
    with pytest.raises(ConfigError, match="no entry for 'lactate'"):
        NoiseModel({"glucose": AssaySettings(0.1, 0.1)}).sd_on_scale("lactate", np.ones(1))


# --- cost, gradient, optimum ---


def test_the_gradient_of_the_posterior_matches_finite_differences(small_problem):
    # adaptive steps make the cost noisy at the size of its tolerance: differences need a tight one
    e = Posterior(replace(small_problem, integrator=Integrator(rtol=1e-10, atol=1e-11)))
    point = e.random_point(np.random.default_rng(3), 0.2)
    e.evaluate([point])
    g_s, g_c = point.arrow.gs, point.arrow.gc

    def cost(shared, block):
        moved = replace(point, shared=shared, block=block)
        e.evaluate([moved])
        return moved.cost

    h = 1e-4
    for i in (0, e.n_shared - 1, e.n_shared, e.n_shared + e.n_per_group - 1):
        step = np.zeros_like(point.shared)
        step[i] = h
        slope = (cost(point.shared + step, point.block) - cost(point.shared - step, point.block)) / (2 * h)
        assert g_s[i] == pytest.approx(slope, rel=1e-4, abs=1e-6 * np.abs(g_s).max())
    for c, i in ((0, 0), (2, e.n_per_group), (3, e.block_width - 1)):
        step = np.zeros_like(point.block)
        step[c, i] = h
        slope = (cost(point.shared, point.block + step) - cost(point.shared, point.block - step)) / (2 * h)
        assert g_c[c, i] == pytest.approx(slope, rel=1e-4, abs=1e-6 * np.abs(g_c).max())


def test_no_direction_lowers_the_cost_at_the_optimum(small_problem):
    e = Posterior(small_problem)
    best = minimise(e, [e.prior_point()], Search(80, 1e-9), progress=quiet)[0]
    assert best.reason == "converged"
    rng = np.random.default_rng(0)
    around = [
        replace(
            best,
            shared=np.clip(best.shared + 1e-2 * rng.standard_normal(best.shared.shape), e.lower_shared, e.upper_shared),
            block=best.block + 1e-2 * rng.standard_normal(best.block.shape),
        )
        for _ in range(20)
    ]
    e.evaluate(around)
    assert min(p.cost for p in around) > best.cost


@pytest.mark.slow
def test_scipy_lands_at_the_same_place(small_problem):
    """An independent solver on one vessel with one free parameter."""
    p = small_problem
    rows = [
        replace(r, level="shared", prior_sd=1.0) if r.name == "mu_max" else replace(r, level="fixed")
        for r in p.table.rows
    ]
    d = replace(p.dataset, runs=p.dataset.runs[:1], measurements=_only(p.dataset.measurements, 1), truth=None)
    one = build_problem(p.model, ParameterTable(tuple(rows)), d, noise=p.noise, integrator=p.integrator)
    e = Posterior(one)
    ours = minimise(e, [e.prior_point()], Search(60, 1e-12), progress=quiet)[0]

    def cost(u):
        point = replace(e.prior_point(), shared=np.array([u]))
        e.evaluate([point])
        return point.cost

    theirs = minimize_scalar(cost, bracket=(ours.shared[0] - 0.1, ours.shared[0] + 0.1), tol=1e-10)
    assert ours.shared[0] == pytest.approx(theirs.x, abs=1e-5)


def _only(m, runs: int):
    keep = np.flatnonzero(m.run < runs)
    return replace(
        m,
        run=m.run[keep],
        time_h=m.time_h[keep],
        variable=tuple(m.variable[i] for i in keep),
        value=m.value[keep],
        censored=tuple(m.censored[i] for i in keep),
        replicate=tuple(m.replicate[i] for i in keep),
    )


# --- a fit from start to end ---


@pytest.fixture(scope="module")
def fitted(small_problem) -> FitResult:
    return fit_problem(small_problem, QUICK, seed=1, model_name="cho_moller")


def test_known_parameters_are_recovered_within_their_intervals(fitted):
    assert len(fitted.recovery) > 20
    hit = [r.lower90 <= r.truth <= r.upper90 for r in fitted.recovery]
    assert np.mean(hit) > 0.7  # 90 % intervals, of about 27 values
    growth = [r for r in fitted.recovery if r.name in ("mu_max", "qP") and r.owner]
    assert np.median([abs(np.log(r.estimate / r.truth)) for r in growth]) < 0.05
    assert all(x > 0.9 for x in fitted.r2.values())


def test_intervals_are_neither_points_nor_the_prior(fitted):
    own = [p for p in fitted.parameters if p.name == "qP" and p.level == "clone"]
    for p in own:
        assert 0.01 < np.log(p.upper90 / p.lower90) < 0.5


def test_the_same_seed_gives_the_same_numbers(small_problem, fitted):
    again = fit_problem(small_problem, QUICK, seed=1, model_name="cho_moller")
    assert np.array_equal(again.shared, fitted.shared)
    assert np.array_equal(again.group, fitted.group)
    other = fit_problem(small_problem, QUICK, seed=2, model_name="cho_moller")
    assert not np.array_equal(other.group, fitted.group)


def test_the_order_of_vessels_does_not_matter(small_problem, fitted):
    d = small_problem.dataset
    m = d.measurements
    turned = replace(d, runs=d.runs[::-1], measurements=replace(m, run=len(d.runs) - 1 - m.run))
    problem = build_fit(compose([]), turned)
    e, f = Posterior(small_problem), Posterior(problem)
    a, b = e.prior_point(), f.prior_point()
    e.evaluate([a])
    f.evaluate([b])
    assert a.cost == pytest.approx(b.cost, rel=1e-12)
    assert np.allclose(a.arrow.gs, b.arrow.gs, rtol=1e-9)


def test_a_fit_survives_its_folder(tmp_path, fitted):
    save_artefact(fitted, tmp_path / "fit")
    back = load_artefact(FitResult, tmp_path / "fit")
    assert np.array_equal(back.group, fitted.group)
    assert repr(back.parameters) == repr(fitted.parameters)  # by text: a fixed parameter's shrinkage is NaN
    assert back.r2 == fitted.r2
    assert {f.suffix for f in (tmp_path / "fit").iterdir()} <= {".json", ".npz"}


def test_another_schema_is_refused(tmp_path, fitted):
    folder = save_artefact(fitted, tmp_path / "fit")
    file = folder / "artefact.json"
    file.write_text(file.read_text().replace(FitResult.schema, "optim.fit/99", 1))
    with pytest.raises(IncompatibleError, match=r"optim\.fit/99"):
        load_artefact(FitResult, folder)
    file.write_text("{ half")
    with pytest.raises(IncompatibleError):
        load_artefact(FitResult, folder)
    with pytest.raises(IncompatibleError):
        load_artefact(FitResult, tmp_path / "nothing")


def test_an_artefact_that_lacks_something_says_what_and_what_to_do(tmp_path, fitted):
    folder = save_artefact(fitted, tmp_path / "fit")
    file, arrays = folder / "artefact.json", folder / "arrays.npz"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps(whole | {"body": {k: v for k, v in whole["body"].items() if k != "groups"}}))
    with pytest.raises(IncompatibleError, match=r"lacks 'groups'; run `optim fit` again"):
        load_artefact(FitResult, folder)
    file.write_text(json.dumps(whole | {"body": whole["body"] | {"more": 1}}))
    with pytest.raises(IncompatibleError, match=r"unknown fields \['more'\]; run `optim fit` again"):
        load_artefact(FitResult, folder)
    file.write_text(json.dumps(whole))
    for content in (b"", arrays.read_bytes()[:100]):
        arrays.write_bytes(content)
        with pytest.raises(IncompatibleError, match="run `optim fit` again"):
            load_artefact(FitResult, folder)


def test_predictions_are_wider_for_a_run_left_out(small_problem):
    result = fit_problem(small_problem, replace(QUICK, starts=1, leave_one_out=True), seed=1, model_name="cho_moller")
    width = np.mean(result.observations.upper90 - result.observations.lower90)
    left = np.mean(result.left_out.upper90 - result.left_out.lower90)
    assert left > width
    assert len(result.left_out.value) == len(result.observations.value)
    scores = r_squared(result.left_out)
    assert all(scores[v] < result.r2[v] + 0.01 for v in scores)


def test_when_every_start_fails_it_says_so(small_problem):
    broken = replace(small_problem, integrator=Integrator(max_steps=3))
    with pytest.raises(FitError, match="every start of the fit failed"):
        multi_start(broken, replace(QUICK, starts=2), 0, progress=quiet)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(medium_id="basal_b"), r"run 'C01-1': dataset 'small' has no medium or feed 'basal_b'\. Did you mean"),
        (
            dict(actions=(Bolus(24.0, "fed_a", 0.1),)),
            r"no medium or feed 'fed_a'\. Did you mean 'feed_a'",
        ),
    ],
)
def test_an_unknown_feed_or_medium_is_no_water(small_problem, change, words):
    p, data = small_problem, small_problem.dataset
    broken = replace(data, runs=(replace(data.runs[0], **change), *data.runs[1:]))
    with pytest.raises(DatasetError, match=words):
        build_problem(p.model, p.table, broken, noise=p.noise, integrator=p.integrator)


def test_data_that_the_model_cannot_predict_are_refused():
    screen = read_dataset("cho_clone_screen")
    strange = replace(
        screen, measurements=replace(screen.measurements, variable=("biomass",) * len(screen.measurements.variable))
    )
    with pytest.raises(DatasetError, match="measures biomass, but the model predicts"):
        build_fit(compose([]), strange)


GOOD = {
    "name": "k", "value": 1.0, "unit": "1/h", "level": "shared", "scale": "log", "lower": 0.1, "upper": 10.0,
    "prior_sd": 1.0, "spread": None, "source": "somewhere", "verified": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": 20.0}, "outside its bounds"),
        ({"lower": 0.0}, "positive on a log scale"),
        ({"lower": 20.0}, "not in increasing order"),
        ({"source": ""}, "source: missing"),
        ({"level": "sharde"}, "Did you mean 'shared'"),
        ({"scale": "ln"}, "is not one of"),
        ({"prior_sd": 0.0}, "must be positive"),
        ({"level": "clone"}, "needs the standard deviation between clones"),
        ({"level": "vessel", "prior_sd": None}, "needs a prior"),
        ({"value": float("nan")}, "not a finite number"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(change, words):
    ParameterSpec(**GOOD)
    with pytest.raises(ConfigError, match=words):
        ParameterSpec(**GOOD | change)


def test_scales_are_bijections():
    for scale in ("log", "logit", "identity"):
        spec = ParameterSpec(**GOOD | {"scale": scale})
        for x in (0.11, 1.0, 9.9):
            assert float(spec.to_natural(np.array(spec.to_fitted(x)))) == pytest.approx(x, rel=1e-9)


@needs_public_data
@pytest.mark.slow
def test_the_public_ecoli_runs_are_fitted_better_than_by_their_authors():
    """Schlögel et al. 2024: R2 of X, P, P/X 0.834, 0.822, 0.734; each run left out 0.632, 0.753, 0.559."""
    cfg = compose(["experiment=ecoli_protein_l"])
    result = fit_problem(
        build_fit(cfg, read_dataset(cfg.dataset.name)),
        replace(cfg.fit, ensemble=8),
        seed=cfg.seed,
        model_name="ecoli_protein_l",
    )
    left = r_squared(result.left_out)
    for name, paper, paper_left in (
        ("biomass", 0.834, 0.632),
        ("product", 0.822, 0.753),
        ("product_per_biomass", 0.734, 0.559),
    ):
        assert result.r2[name] > paper
        assert left[name] > paper_left
