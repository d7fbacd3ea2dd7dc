"""Profiles, structure, bootstrap, sampler, and whether they agree: on problems whose answers are known."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import truncnorm
from support.models import Exponential, Monod, Product
from support.toys import optimum, spec, toy

from optim.errors import ApproximationWarning, FitError
from optim.estimation.fit import parameter_estimates
from optim.estimation.identifiability.structural import structural_identifiability
from optim.estimation.levenberg_marquardt import Search, minimise
from optim.estimation.parameter_index import all_parameters, select_parameters
from optim.estimation.posterior import Z90, Point, Posterior, Readings
from optim.estimation.uncertainty.agreement import compare_intervals
from optim.estimation.uncertainty.bootstrap import BootstrapOptions, bootstrap
from optim.estimation.uncertainty.nuts import (
    SampleOptions,
    log_density,
    parameters_at,
    prior_arrays,
    prior_cost,
    run_chains,
    sample_posterior,
    whitened_target,
)
from optim.estimation.uncertainty.profile import INTERVAL_RISE, ProfileOptions, profile_likelihoods
from optim.parameters import ParameterSpec

FIXED_KS = spec("Ks", 0.5, "fixed")


def linear(seed: int = 0, vessels: int = 2, **change):
    """Two clones, each with its own growth rate; all residuals are linear in all parameters."""
    rows = (spec("k", 0.3, "clone"), FIXED_KS, spec("inoculum_factor", 1.0, "vessel", **INOCULUM))
    truth = {"k/A": 0.25, "k/B": 0.4}
    return toy(Exponential(), rows, truth, ("A", "B") * vessels, seed=seed, **change)


INOCULUM = {"unit": "1", "scale": "log", "lower": 0.2, "upper": 5.0, "prior_sd": 0.2}
LOG = {"scale": "log", "lower": 0.001, "upper": 100.0, "prior_sd": 1.0}


@pytest.fixture(scope="module")
def gaussian():
    return optimum(linear())


def monod(times, sd=0.02, prior_sd=1.0):
    """Growth on S, of which there is 1 g/L at the start, as 2 g are taken up per gram of biomass."""
    rows = (spec("k", 0.3, **LOG | {"prior_sd": prior_sd}), spec("Ks", 0.1, **LOG | {"prior_sd": prior_sd}))
    truth = {"k": np.log(0.3), "Ks": np.log(0.1)}
    return toy(Monod(), rows, truth, ("A", "A"), times, sd)


# --- points that hold parameters, leave out priors, carry readings ---


def test_a_fixed_parameter_does_not_move_and_the_others_find_their_best(gaussian):
    posterior, best = gaussian
    place = select_parameters(posterior, ["k"], "A")[0]
    held = replace(best, block=best.block + 0.1, fixed=place.mask_of(best), reason="", iterations=0)
    target = float(place.value_in(held.shared, held.block))
    found = minimise(posterior, [held], Search(50, 1e-12), progress=lambda text: None)[0]
    assert float(place.value_in(found.shared, found.block)) == target
    variance = place.value_in(*best.arrow.variances())
    assert found.cost - best.cost == pytest.approx(0.5 * 0.1**2 / variance, rel=1e-4)


def test_readings_of_a_point_stand_in_for_those_of_the_dataset(gaussian):
    posterior, best = gaussian
    v = posterior.problem.vessels
    same, other = Readings(v.value, v.censored), Readings(v.value * 1.1, v.censored)
    points = [replace(best, readings=r) for r in (None, same, other)]
    posterior.evaluate(points)
    assert points[0].cost == points[1].cost < points[2].cost
    own = Posterior(replace(posterior.problem, vessels=v._replace(value=v.value * 1.1)), posterior.noise)
    there = replace(best)
    own.evaluate([there])
    assert points[2].cost == pytest.approx(there.cost, rel=1e-12)


def test_a_prior_left_out_leaves_cost_and_equations(gaussian):
    posterior, best = gaussian
    for place in all_parameters(posterior):
        belief = np.ones_like(best.shared), np.ones_like(best.block)
        place.set_in(*belief, 0.0)
        point = replace(best, shared=best.shared + 0.1, block=best.block + 0.2)
        without = replace(point, prior_weight=belief)
        posterior.evaluate([point, without])
        assert without.cost < point.cost
        step = 1e-4 * np.ones_like(best.shared), 1e-4 * np.ones_like(best.block)
        ahead = posterior.move_point(without, *step)
        posterior.evaluate_cost([ahead])
        promised = -without.arrow.predicted_decrease(*step)
        assert ahead.cost - without.cost == pytest.approx(promised, rel=1e-3)


# --- profiles ---


@pytest.mark.parametrize("priors", [True, False])
def test_the_profile_of_a_parabola_is_its_interval(gaussian, priors):
    posterior, best = gaussian
    every = all_parameters(posterior)
    found = profile_likelihoods(posterior, best, every, options=ProfileOptions(priors=priors))
    for place, profile in zip(every, found, strict=True):
        assert profile.verdict == "identifiable"
        assert profile.ends == ("reached", "reached")
        assert profile.ratio == pytest.approx((1.0, 1.0), rel=0.01)
        assert not profile.laplace_disagrees
        assert np.all(np.diff(profile.value) > 0.0)
        assert profile.rise[[0, -1]].min() > INTERVAL_RISE
        if priors:
            sd = np.sqrt(place.value_in(*best.arrow.variances()))
            u = place.value_in(best.shared, best.block)
            ends = place.spec.to_natural(np.array([u - Z90 * sd, u + Z90 * sd]))
            assert (profile.lower90, profile.upper90) == pytest.approx(tuple(ends), rel=0.005)
    if not priors:
        wider = [p for p in found if p.level == "vessel"]
        assert all(p.upper90 / p.lower90 > np.exp(2 * Z90 * 0.02) for p in wider)


def test_without_its_prior_a_parameter_that_nothing_depends_on_is_not_identifiable():
    rows = (spec("k", 0.3), spec("Ks", 0.5, **LOG | {"prior_sd": 0.3}))
    posterior, best = optimum(toy(Exponential(), rows, {}))
    place = select_parameters(posterior, ["Ks"])
    believed = profile_likelihoods(posterior, best, place)[0]
    assert believed.verdict == "identifiable"
    assert np.log(believed.upper90 / believed.lower90) == pytest.approx(2 * Z90 * 0.3, rel=0.01)
    seen = profile_likelihoods(posterior, best, place, options=ProfileOptions(priors=False))[0]
    assert seen.verdict == "not identifiable"
    assert seen.ends == ("bound", "bound")
    assert (seen.lower90, seen.upper90) == pytest.approx((0.001, 100.0))
    assert seen.laplace_disagrees


def test_data_that_never_see_low_substrate_bound_its_affinity_from_above_only():
    posterior, best = optimum(monod((0.5, 1.0, 1.5, 2.0)))
    k, ks = profile_likelihoods(
        posterior, best, select_parameters(posterior, ["k", "Ks"]), options=ProfileOptions(priors=False)
    )
    assert ks.verdict == "bounded above only"
    assert ks.lower90 == pytest.approx(0.001)
    assert k.verdict in ("identifiable", "bounded below only")
    assert ks.laplace_disagrees


class Flaky(Posterior):
    """Simulations fail, by chance or beyond a value of k."""

    def __init__(self, *args, most=np.inf, times=0):
        super().__init__(*args)
        self.most, self.times = most, times

    def evaluate(self, points: list[Point]) -> None:
        super().evaluate(points)
        for point in points:
            place = select_parameters(self, ["k"], "A")[0]
            away = point.fixed is not None and point.fixed[1][place.group, place.column]
            if away and self.times > 0:
                self.times -= 1
                point.cost = np.inf
            if place.value_in(point.shared, point.block) > self.most:
                point.cost = np.inf


def test_a_lane_that_fails_does_not_end_a_profile(gaussian):
    posterior, best = gaussian
    k = [*select_parameters(posterior, ["k"], "A"), *select_parameters(posterior, ["k"], "B")]
    good = profile_likelihoods(posterior, best, k)
    now_and_then = profile_likelihoods(Flaky(posterior.problem, posterior.noise, times=3), best, k)
    for a, b in zip(good, now_and_then, strict=True):
        assert b.ends == ("reached", "reached")
        assert (b.lower90, b.upper90) == pytest.approx((a.lower90, a.upper90), rel=1e-3)
    sd = 0.5 * (good[0].upper90 - good[0].lower90) / Z90
    wall = Flaky(posterior.problem, posterior.noise, most=good[0].estimate + sd)
    one, other = profile_likelihoods(wall, best, k)
    assert one.ends == ("reached", "failed")
    assert one.verdict == "bounded below only"
    assert other.ends == ("reached", "reached")


def test_places_are_those_of_the_parameter_table(gaussian):
    posterior, best = gaussian
    rows = [r for r in parameter_estimates(posterior, best) if r.level != "fixed"]
    assert [(x.spec.name, x.level, x.owner) for x in all_parameters(posterior)] == [
        (r.name, r.level, r.owner) for r in rows
    ]
    values = [float(x.spec.to_natural(x.value_in(best.shared, best.block))) for x in all_parameters(posterior)]
    assert values == pytest.approx([r.estimate for r in rows])
    with pytest.raises(FitError, match="no estimated parameter 'kk'"):
        select_parameters(posterior, ["kk"])
    with pytest.raises(FitError, match="owners: "):
        select_parameters(posterior, ["k"], "Z")


# --- structure ---


def test_what_no_data_can_tell_is_named():
    log = LOG | {"prior_sd": 0.3}
    idle = optimum(toy(Exponential(), (spec("k", 0.3), spec("Ks", 0.5, **log)), {}))
    assert [c.sentence for c in structural_identifiability(*idle)] == ["nothing that is measured depends on Ks"]
    product = optimum(toy(Product(), (spec("k", 0.6, **log), spec("Ks", 0.5, **log)), {}))
    (found,) = structural_identifiability(*product)
    assert set(found.names) == {"k", "Ks"}
    assert found.direction == pytest.approx([1.0, -1.0], abs=1e-4)
    assert "cannot be told apart" in found.sentence


def test_what_holds_for_each_clone_is_said_once():
    log = LOG | {"prior_sd": 0.3}
    own = (spec("k", 0.6, "clone", **log), spec("Ks", 0.5, "clone", **log))
    (found,) = structural_identifiability(*optimum(toy(Product(), own, {}, ("A", "B", "B"))))
    assert found.owners == ("A", "B")
    assert set(found.names) == {"k", "Ks"}
    mixed = (spec("k", 0.6, "clone", **log), spec("Ks", 0.5, **log))
    (found,) = structural_identifiability(*optimum(toy(Product(), mixed, {}, ("A", "B", "B"))))
    assert found.names == ("Ks", "k of each")
    assert found.direction == pytest.approx([1.0, -1.0], abs=1e-4)


def test_a_model_that_perfect_data_determine_has_nothing_to_name(gaussian):
    assert structural_identifiability(*gaussian) == ()
    # poor data, but not for want of structure
    assert structural_identifiability(*optimum(monod((0.5, 1.0, 1.5, 2.0)))) == ()


# --- bootstrap ---


@pytest.mark.parametrize("kind", ["vessels", "parametric"])
@pytest.mark.slow
def test_the_bootstrap_scatters_as_the_estimate_does(kind):
    problem = linear(vessels=8)
    posterior, best = optimum(problem)
    found = bootstrap(posterior, best, BootstrapOptions(150, kind), seed=1)
    assert found.kind == kind
    assert found.failed == 0
    assert np.array_equal(found.draws.block[0], best.block)
    k = found.draws.block[1:, :, 0]
    sd = np.sqrt(best.arrow.variances()[1][:, 0])
    # 8 vessels of a clone tell their scatter to a quarter
    assert k.std(axis=0) == pytest.approx(sd, rel=0.45 if kind == "vessels" else 0.25)
    assert np.all(np.abs(k.mean(axis=0) - best.block[:, 0]) < 0.4 * sd)
    again = bootstrap(posterior, best, BootstrapOptions(150, kind), seed=1)
    assert np.array_equal(again.draws.block, found.draws.block)


@pytest.mark.slow
def test_with_one_vessel_per_clone_readings_are_drawn_and_nothing_else():
    posterior, best = optimum(linear(vessels=1))
    assert bootstrap(posterior, best, BootstrapOptions(10)).kind == "parametric"
    with pytest.raises(FitError, match="only one"):
        bootstrap(posterior, best, BootstrapOptions(10, "vessels"))


@pytest.mark.slow
def test_intervals_of_the_bootstrap_hold_the_truth():
    hits = []
    for seed in range(30):
        posterior, best = optimum(linear(seed=seed, vessels=4))
        k = bootstrap(posterior, best, BootstrapOptions(100, "parametric"), seed=seed).draws.block[1:, :, 0]
        low, high = np.quantile(k, (0.05, 0.95), axis=0)
        hits += list((low <= [0.25, 0.4]) & (high >= [0.25, 0.4]))
    assert 0.78 < np.mean(hits) <= 1.0


# --- sampler ---


@pytest.mark.parametrize("scale", ["log", "logit", "identity"])
@pytest.mark.parametrize("prior", ["auto", "normal", "lognormal", "half_normal", "uniform", "flat"])
def test_the_sampler_has_the_priors_of_the_fit(scale, prior):
    none = prior in ("uniform", "flat")
    change = {"scale": scale, "prior": "auto" if prior == "flat" else prior, "prior_sd": None if none else 0.6}
    row = ParameterSpec(
        name="k", value=1.5, unit="1", level="shared", lower=0.1, upper=4.0, source="x", verified=True, **change
    )
    u = np.array([row.to_fitted(x) for x in np.linspace(0.3, 3.5, 7)])
    p = jax.tree.map(jnp.asarray, prior_arrays((row,)))
    cost, slope = jax.vmap(jax.value_and_grad(lambda x: prior_cost(p, x[None])[0]))(jnp.asarray(u))
    expected = row.prior_score(u)
    assert np.allclose(cost - cost[0], expected[0] - expected[0][0], atol=1e-12)
    assert np.allclose(slope, expected[1], atol=1e-12)


@pytest.mark.slow
def test_the_density_of_the_sampler_is_the_cost_of_the_fit():
    rows = (
        spec("k", 0.3, "clone", scale="log", lower=0.01, upper=2.0, prior="normal", prior_sd=0.2, spread=0.3),
        spec("Ks", 0.5, **LOG | {"prior": "half_normal"}),
        spec("inoculum_factor", 1.0, "vessel", **INOCULUM),
        spec("scale_biomass", 1.0, "batch", **INOCULUM),
    )
    posterior, best = optimum(toy(Monod(), rows, {}, ("A", "B", "B")))
    target = whitened_target(posterior, best)
    z = 1.0 * np.random.default_rng(0).standard_normal((3, best.shared.size + best.block.size))
    density = jax.jit(jax.value_and_grad(lambda z: log_density(posterior.problem.layout, target, z)))
    many = jax.jit(jax.vmap(jax.value_and_grad(lambda z: log_density(posterior.problem.layout, target, z))))
    values, slopes = (np.asarray(x) for x in many(z))
    for i in range(len(z)):
        one, slope = (np.asarray(x) for x in density(z[i]))
        assert one == pytest.approx(float(values[i]), rel=1e-10)
        assert np.allclose(slope, slopes[i], atol=1e-8)
        shared, block = (np.asarray(x) for x in parameters_at(target, z[i]))
        point = replace(best, shared=shared, block=block)
        posterior.evaluate_cost([point])
        assert -one == pytest.approx(point.cost, rel=1e-9)
        step = 1e-5 * np.eye(z.shape[1])[i]
        numeric = (float(density(z[i] + step)[0]) - float(density(z[i] - step)[0])) / 2e-5
        assert slope[i] == pytest.approx(numeric, rel=1e-4)


blackjax = pytest.mark.skipif(find_spec("blackjax") is None, reason="needs the extra 'bayes'")


@blackjax
@pytest.mark.slow
def test_the_sampler_finds_mean_and_covariance_of_a_normal_distribution(gaussian):
    posterior, best = gaussian
    found = sample_posterior(posterior, best, SampleOptions(500, 150), seed=3)
    assert found.divergences == 0
    assert max(part.max() for part in found.r_hat) < 1.02
    assert min(part.min() for part in found.ess) > 400
    var_s, var_c = best.arrow.variances()
    shared, block = found.draws.shared, found.draws.block
    assert np.all(np.abs(shared.mean(axis=0) - best.shared) < 0.1 * np.sqrt(var_s))
    assert np.all(np.abs(block.mean(axis=0) - best.block) < 0.1 * np.sqrt(var_c))
    assert shared.std(axis=0) == pytest.approx(np.sqrt(var_s), rel=0.1)
    assert block.std(axis=0).ravel() == pytest.approx(np.sqrt(var_c).ravel(), rel=0.1)
    _, _, across = best.arrow.covariance()
    both = np.mean((block - best.block)[..., None] * (shared - best.shared)[:, None, None], axis=0)
    unit = np.sqrt(var_c)[..., None] * np.sqrt(var_s)
    assert np.max(np.abs(both - across) / unit) < 0.1


@blackjax
@pytest.mark.slow
def test_the_same_seed_gives_the_same_draws(gaussian):
    posterior, best = gaussian
    few = SampleOptions(20, 20, 2)
    a, b, c = (sample_posterior(posterior, best, few, seed=s) for s in (1, 1, 2))
    assert np.array_equal(a.draws.block, b.draws.block)
    assert not np.array_equal(a.draws.block, c.draws.block)


@blackjax
@pytest.mark.slow
def test_a_parameter_piles_up_at_its_bound_as_its_distribution_says():
    rows = (spec("k", 0.25, lower=0.25, upper=0.9, prior_sd=None), FIXED_KS)
    posterior, best = optimum(toy(Exponential(), rows, {"k": 0.24}))
    sd = float(np.sqrt(best.arrow.variances()[0][0]))
    centre = float(best.shared[0] - best.arrow.gs[0] * sd**2)
    exact = truncnorm((0.25 - centre) / sd, (0.9 - centre) / sd, centre, sd)
    k = sample_posterior(posterior, best, SampleOptions(600, 200), seed=0).draws.shared[:, 0]
    assert k.min() >= 0.25
    assert k.mean() == pytest.approx(exact.mean(), abs=0.1 * exact.std())
    assert np.quantile(k, (0.05, 0.5, 0.95)) == pytest.approx(exact.ppf((0.05, 0.5, 0.95)), abs=0.15 * exact.std())


@blackjax
def test_where_nothing_can_be_simulated_no_chain_goes():
    def density(target, z):
        return jnp.where(z[0] > 0.5, -jnp.inf, -0.5 * jnp.sum(z**2))

    z, info = run_chains(density, None, 2, options=SampleOptions(400, 200), seed=0, progress=lambda text: None)
    assert z[..., 0].max() <= 0.5
    assert z[..., 1].std() == pytest.approx(1.0, abs=0.15)
    assert info["divergences"] > 0


def test_without_its_library_the_sampler_says_what_to_install(gaussian, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "blackjax"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "blackjax", None)
    with pytest.raises(FitError, match="extra 'bayes'"):
        sample_posterior(*gaussian)


# --- agreement ---


def compared(posterior, best, names, options=None):
    found = profile_likelihoods(posterior, best, select_parameters(posterior, names, None))
    drawn = sample_posterior(posterior, best, options or SampleOptions(500, 200), seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = compare_intervals(posterior, parameter_estimates(posterior, best), profiles=found, sampled=drawn)
    said = [str(w.message) for w in caught if issubclass(w.category, ApproximationWarning)]
    return {(r.name, r.owner): r for r in rows}, said


@blackjax
@pytest.mark.slow
def test_on_a_well_determined_problem_all_three_agree():
    # growth, and the end of it, read often and well
    rows, said = compared(*optimum(monod(np.linspace(0.1, 2.5, 15), sd=0.003)), ["k", "Ks"])
    assert not said
    assert set(rows) == {("k", ""), ("Ks", "")}
    for row in rows.values():
        assert [i.method for i in row.intervals] == ["laplace", "profile", "nuts"]
        assert row.agrees
        assert row.factor < 1.2


@blackjax
@pytest.mark.slow
def test_where_the_posterior_is_one_sided_they_do_not_and_the_parameter_is_named():
    rows, said = compared(*optimum(monod((0.5, 1.0, 1.5, 2.0), prior_sd=3.0)), ["k", "Ks"])
    assert not rows["Ks", ""].agrees
    assert any(text.startswith("Ks: 90 % intervals of laplace") for text in said)


@blackjax
@pytest.mark.slow
def test_on_a_screen_they_agree_but_for_one_that_is_one_sided_and_what_hangs_on_it(small_problem):
    posterior, best = optimum(small_problem)
    rows, said = compared(posterior, best, ["KI_amm", "qP", "Y_amm", "s_T", "q_glc_max"], SampleOptions(200, 150))
    assert not [text for text in said if "R-hat" in text]
    # inhibition by ammonia cannot be strong, but may be as weak as one likes: profile and sampler go further up
    laplace, profile, nuts = rows["KI_amm", ""].intervals
    assert nuts.upper90 > profile.upper90 > laplace.upper90
    assert not rows["KI_amm", ""].agrees
    assert {name for (name, _), row in rows.items() if not row.agrees} <= {"KI_amm", "kappa_T", "mu_max"}
    assert np.median([row.factor for row in rows.values()]) < 1.2
