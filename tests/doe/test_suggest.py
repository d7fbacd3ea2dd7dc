"""The next experiments: worth against closed forms, information against a posterior with the runs, limits kept."""

from __future__ import annotations

import types
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from support.decisions import design_with
from support.models import Exponential
from support.toys import optimum, spec, toy

from optim.app.build import build_fit, compose
from optim.data.dataset import Measurements, Run
from optim.data.open import read_dataset
from optim.data.schedules import schedule_of
from optim.doe.alternatives import _filling, _line
from optim.doe.candidates import (
    Safety,
    Setting,
    check_written,
    information_matrices,
    planned_media,
    runs_of,
    safe_candidates,
    sampled_h,
    space_filling_processes,
)
from optim.doe.posterior_normal import GaussianPosterior, fit_lanes, gaussian_posterior, model_parameters
from optim.doe.selection import Candidates, Knowledge, LinearValues, select_batch
from optim.doe.suggest import ExperimentProblem, runs_to_do, select_runs, weigh_candidates
from optim.doe.uncertain_process import UncertainProcess
from optim.errors import ConfigError, InfeasibleError, SimulationError
from optim.estimation.levenberg_marquardt import Search, minimise
from optim.estimation.posterior import Point, Posterior
from optim.estimation.problem import build_problem
from optim.optimisation.evaluate import process_actions
from optim.process.decision import DECISION_KINDS, Decision
from optim.process.design import Design
from optim.schedule.actions import Bolus, Sample, Setpoint, start_time
from optim.schedule.schedule import FLOWS, to_grid
from optim.settings.doe import CRITERIA, SuggestSettings
from optim.settings.optimisation import OptimiseSettings
from optim.synthetic import BASAL_MEDIUM, FEED

DRAWS = 8192


def problem(
    mean: list[float], sd: list[float], noise: list[float], samples: list[int] | None = None
) -> tuple[np.ndarray, LinearValues, Candidates]:
    """One parameter per alternative, which is its value; candidate r reads parameter r with noise[r]."""
    n = len(mean)
    a = LinearValues(np.array(mean), np.eye(n), np.arange(n))
    root = np.array([[[1.0 / s]] for s in noise])
    c = Candidates(
        root, np.arange(n)[:, None], np.array(samples or [1] * n), np.arange(n), np.linspace(0.0, 1.0, n)[:, None]
    )
    return np.diag(np.array(sd) ** 2), a, c


def knowledge_gradient(step: float, distance: float) -> float:
    """Frazier et al. 2009 for one alternative among independent ones: step f(-distance / step)."""
    z = -abs(distance) / step
    return float(step * (z * norm.cdf(z) + norm.pdf(z)))


@pytest.mark.parametrize(
    ("mean", "sd", "noise"), [([1.0, 0.8], [0.5, 0.3], [0.2, 0.4]), ([0.0, 0.0], [1.0, 0.1], [1.0, 0.1])]
)
def test_the_worth_of_a_reading_is_the_knowledge_gradient(mean, sd, noise):
    covariance, a, c = problem(mean, sd, noise)
    state = Knowledge(covariance, a, draws=DRAWS, seed=0)
    gains = state.expected_gain(c, np.arange(2)).mean(axis=1)
    for r in range(2):
        step = sd[r] ** 2 / np.hypot(sd[r], noise[r])
        assert gains[r] == pytest.approx(knowledge_gradient(step, mean[0] - mean[1]), rel=0.03)
    best = int(
        np.argmax([knowledge_gradient(sd[r] ** 2 / np.hypot(sd[r], noise[r]), mean[0] - mean[1]) for r in range(2)])
    )
    assert select_batch(covariance, a, c, options=SuggestSettings(runs=1, draws=DRAWS))[0].run == best


def test_the_worth_of_two_readings_of_correlated_values_is_that_of_their_difference():
    """Only the difference of two values decides: its variance before and after gives the worth in closed form."""
    covariance = np.array([[0.5, 0.3], [0.3, 0.4]])
    a = LinearValues(np.array([0.1, 0.0]), np.eye(2), np.arange(2))
    c = Candidates(np.array([np.diag([2.0, 1.5])]), np.array([[0, 1]]), np.array([1]), np.array([0]), np.zeros((1, 1)))
    (found,) = select_batch(covariance, a, c, options=SuggestSettings(runs=1, draws=DRAWS))
    after = np.linalg.inv(np.linalg.inv(covariance) + np.diag([2.0, 1.5]) ** 2)
    assert np.allclose(found.covariance, after, rtol=1e-10)
    d = np.array([1.0, -1.0])
    step = np.sqrt(d @ (covariance - after) @ d)
    assert found.gain == pytest.approx(knowledge_gradient(step, 0.1), rel=0.03)
    half = 0.5 * (np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(after)[1])
    assert found.information == pytest.approx(half, rel=1e-10)
    # what is lost for not knowing the best is what the remaining difference is worth
    left = knowledge_gradient(np.sqrt(d @ covariance @ d), 0.1) - found.gain
    assert found.loss == pytest.approx(left, rel=0.1)


def test_what_is_known_already_is_worth_less_the_second_time():
    covariance, a, c = problem([0.0, 0.0, -9.0], [1.0, 0.7, 0.1], [0.3, 0.3, 0.3])
    batch = select_batch(covariance, a, c, options=SuggestSettings(runs=3, draws=DRAWS))
    assert {x.run for x in batch[:2]} == {0, 1}
    assert batch[0].gain > batch[1].gain > batch[2].gain
    assert [x.loss for x in batch] == sorted((x.loss for x in batch), reverse=True)
    state = Knowledge(covariance, a, draws=DRAWS, seed=0)
    once, twice = state.add_run(c, 0), state.add_run(c, 0)
    assert twice.gain < 0.3 * once.gain
    assert twice.information < 0.3 * once.information


def test_where_no_single_run_changes_the_decision_what_tells_alternatives_apart_goes_first():
    # ten standard deviations of the difference apart: no draw changes the order
    covariance, a, c = problem([1.0, 0.0, -99.0], [0.01, 0.1, 1.0], [5.0, 5.0, 5.0])
    batch = select_batch(covariance, a, c, options=SuggestSettings(runs=1))
    assert batch[0].gain == pytest.approx(0.0, abs=1e-12)
    assert batch[0].run == 1


@pytest.mark.parametrize("by", CRITERIA)
def test_samples_stay_within_their_number(by):
    covariance, a, c = problem([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.1, 0.5, 2.0], [9, 4, 2])
    for samples in (8, 15, 36):
        batch = select_batch(covariance, a, c, options=SuggestSettings(by=by, runs=4, samples=samples))
        assert len(batch) == 4
        assert c.samples[[x.run for x in batch]].sum() <= samples


def test_scarce_samples_go_where_they_tell_most():
    """Two cheap readings tell more than one dear one that is a little better."""
    covariance, a, c = problem([0.0, 0.0], [1.0, 1.0], [0.3, 0.3], [3, 3])
    root, places = np.concatenate([c.root, 1.1 * c.root]), np.tile(c.places, (2, 1))
    dear = Candidates(root, places, np.array([3, 3, 9, 9]), np.array([0, 1, 0, 1]), np.zeros((4, 1)))
    batch = select_batch(covariance, a, dear, options=SuggestSettings(runs=3, samples=12, draws=DRAWS))
    assert sum(x.gain for x in batch) >= 0.99 * sum(
        x.gain for x in select_batch(covariance, a, c, options=SuggestSettings(runs=3, draws=DRAWS))
    )


def test_space_is_filled_before_a_clone_comes_twice():
    covariance, a, c = problem([0.0] * 4, [1.0] * 4, [1.0] * 4)
    both = Candidates(np.tile(c.root, (2, 1, 1)), np.tile(c.places, (2, 1)), np.ones(8, int), np.tile(c.group, 2),
                      np.repeat([0.0, 1.0], 4)[:, None])  # fmt: skip
    batch = select_batch(covariance, a, both, options=SuggestSettings(by="space_filling", runs=8))
    clones = [int(both.group[x.run]) for x in batch]
    assert set(clones[:4]) == set(range(4))
    assert len({x.run for x in batch}) == 8


def test_the_most_informative_run_is_that_of_a_d_optimal_design():
    covariance, a, c = problem([5.0, 0.0], [0.1, 1.0], [0.1, 0.5])
    first = select_batch(covariance, a, c, options=SuggestSettings(by="d_optimal", runs=1))[0]
    assert first.run == 1
    assert first.information == pytest.approx(0.5 * np.log(1.0 + 4.0))


def test_what_cannot_be_done_is_refused():
    covariance, a, c = problem([0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [3, 5])
    with pytest.raises(ConfigError, match=r"suggest\.by: unknown 'decison'\. Did you mean 'decision'\?"):
        select_batch(covariance, a, c, options=SuggestSettings(by="decison", runs=1))
    with pytest.raises(ConfigError, match=r"5 samples pay for 1 of 2 runs, of at least 3 samples each; raise it to 6"):
        select_batch(covariance, a, c, options=SuggestSettings(runs=2, samples=5))
    with pytest.raises(ConfigError, match=r"suggest\.runs: 0"):
        select_batch(covariance, a, c, options=SuggestSettings(runs=0))
    none = replace(c, root=c.root[:0], places=c.places[:0], samples=c.samples[:0], group=c.group[:0], where=c.where[:0])
    with pytest.raises(ConfigError, match="no run to choose from"):
        select_batch(covariance, a, none, options=SuggestSettings(runs=1))


# --- what readings would say ---


@pytest.fixture(scope="module")
def fitted():
    """Three clones that grow at their own rate, from an inoculum that errs; one rate of a batch-wise drifting assay."""
    rows = [
        spec("k", 0.3, "clone", prior_sd=1.0, spread=0.2),
        spec("Ks", 1.0, "fixed"),
        spec("inoculum_factor", 1.0, "vessel", scale="log", lower=0.3, upper=3.0, prior_sd=0.15),
        spec("scale_biomass", 1.0, "batch", scale="log", lower=0.3, upper=3.0, prior_sd=0.1),
    ]
    truth = {"k/A": 0.25, "k/B": 0.35, "k/C": 0.4}
    return optimum(toy(Exponential(), rows, truth, ("C", "A", "B", "A"), times=(1.0, 2.0, 3.0)))


def planned(*clones: str) -> tuple[Run, ...]:
    """Runs of 8 h, sampled twice before their end."""
    events = tuple(Sample(t, 1e-6) for t in (2.0, 5.0))
    return tuple(
        Run(f"N{i}", "NEXT", f"N{i}", c, 1.0, "medium", 37.0, 7.0, None, 8.0, events) for i, c in enumerate(clones)
    )


def with_runs(posterior: Posterior, point: Point, belief: GaussianPosterior, runs: tuple[Run, ...]) -> np.ndarray:
    """Covariance of the belief's parameters from a posterior that has the runs in it: inverse of the whole matrix."""
    old = posterior.problem
    m, values = old.dataset.measurements, []
    for run in runs:
        k = belief.mean[belief.own[belief.clones.index(run.clone_id), 0]]
        values += [np.exp(k * t) for t in sampled_h(run)]
    n = len(values)
    readings = replace(
        m,
        run=np.concatenate([m.run, len(old.dataset.runs) + np.repeat(np.arange(len(runs)), n // len(runs))]),
        time_h=np.concatenate([m.time_h, *(np.array(sampled_h(run)) for run in runs)]),
        variable=(*m.variable, *("biomass",) * n),
        value=np.concatenate([m.value, values]),
        censored=(*m.censored, *("",) * n),
        replicate=(*m.replicate, *("1",) * n),
    )
    dataset = replace(old.dataset, runs=(*old.dataset.runs, *runs), measurements=readings)
    problem = build_problem(old.model, old.table, dataset, noise=old.noise, integrator=old.integrator)
    e = Posterior(problem, spread=posterior.spread)
    there = e.prior_point()
    there.shared[: posterior.n_shared + posterior.n_per_group] = point.shared[
        : posterior.n_shared + posterior.n_per_group
    ]
    there.shared[e.n_shared + e.n_per_group : e.n_shared + e.n_per_group + posterior.n_batches * e.n_per_batch] = (
        point.shared[posterior.n_shared + posterior.n_per_group :]
    )
    for c, name in enumerate(problem.groups):
        there.block[c, : e.n_per_group] = point.block[old.groups.index(name), : e.n_per_group]
        there.block[c, e.n_per_group : posterior.block_width] = point.block[old.groups.index(name), e.n_per_group :]
    e.evaluate([there])
    a = there.arrow
    assert a is not None
    count, width, size = a.cc.shape[0], a.cc.shape[1], len(a.ss)
    whole = np.zeros((size + count * width,) * 2)
    whole[:size, :size] = a.ss
    for c in range(count):
        at = slice(size + c * width, size + (c + 1) * width)
        whole[at, at], whole[at, :size], whole[:size, at] = a.cc[c], a.cs[c], a.cs[c].T
    # a slot of a clone that has fewer vessels is known by its prior alone
    inverse = np.linalg.inv(whole)
    keep = [
        *range(e.n_shared + e.n_per_group),
        *(size + problem.groups.index(c) * width for c in belief.clones),
        size - 1,
    ]
    found: np.ndarray = inverse[np.ix_(keep, keep)]
    return found


def test_the_belief_is_the_posterior_with_clones_in_order_of_their_names(fitted):
    posterior, point = fitted
    belief = gaussian_posterior(posterior, point)
    assert belief.clones == ("A", "B", "C")
    shared, own, _ = point.arrow.covariance()
    for c, name in enumerate(belief.clones):
        place = posterior.problem.groups.index(name)
        assert belief.mean[belief.own[c, 0]] == point.block[place, 0]
        assert belief.covariance[belief.own[c, 0], belief.own[c, 0]] == pytest.approx(own[place, 0, 0], rel=1e-9)
    assert belief.covariance[0, 0] == pytest.approx(shared[0, 0], rel=1e-9)


def test_a_clone_not_seen_is_the_population_and_its_spread(fitted):
    posterior, point = fitted
    belief = gaussian_posterior(posterior, point, ("NEW1",))
    at = belief.own[3, 0]
    assert belief.mean[at] == point.shared[0]
    assert belief.covariance[at, at] == pytest.approx(belief.covariance[0, 0] + 0.2**2)
    assert belief.covariance[at, belief.own[0, 0]] == pytest.approx(belief.covariance[0, belief.own[0, 0]])


def test_the_covariance_after_runs_is_that_of_a_posterior_with_the_runs(fitted):
    """Nuisance of new vessels averaged out, the coming batch's assay shared by all its runs."""
    posterior, point = fitted
    belief = gaussian_posterior(posterior, point)
    runs, clones = planned("B", "B", "A"), np.array([1, 1, 0])
    info = information_matrices(
        posterior, belief, runs[:1], clone=clones, run=np.zeros(3, int), media=posterior.problem.dataset.media
    )
    precision = np.linalg.inv(belief.covariance)
    for k in range(3):
        at = belief.clone_columns(int(clones[k]))
        precision[np.ix_(at, at)] += info[k]
    expected = with_runs(posterior, point, belief, runs)
    assert np.allclose(np.linalg.inv(precision), expected, rtol=1e-6, atol=1e-12)
    # and the same one run after another, as they are chosen
    size, vectors = np.linalg.eigh(info)
    root = np.sqrt(np.maximum(size, 0.0))[:, :, None] * np.swapaxes(vectors, 1, 2)
    c = Candidates(root, belief.clone_columns(clones), np.ones(3, int), clones, np.zeros((3, 1)))
    flat = LinearValues(np.zeros(1), np.zeros((1, len(belief.mean))), np.zeros(1, int))
    state = Knowledge(belief.covariance, flat, draws=4, seed=0)
    for k in range(3):
        state.add_run(c, k)
    assert np.allclose(state.covariance, expected, rtol=1e-6, atol=1e-12)


# --- runs ---

SMALL = SuggestSettings(
    runs=3, every_d=(3,), safe=0.6, processes=8, per_clone=2, members=3, top=1, optima=1, scenarios=16, draws=256
)  # fmt: skip
QUICK = OptimiseSettings(starts=2, rank_starts=1, max_iterations=12, tolerance=1e-4)
SETTING = Setting("basal_a", 0.5, "NEXT1", {"basal_a": BASAL_MEDIUM, "feed_a": FEED})


@pytest.fixture(scope="module")
def short(small_screen):
    """Four clones of which six days are known, and their posterior at its mode."""
    dataset = read_dataset(str(small_screen)).select_runs(np.arange(0, 8, 2), 144.0)
    return fitted_quickly(build_fit(compose([]), dataset))


def fitted_quickly(problem):
    posterior = Posterior(problem)
    return posterior, minimise(posterior, [posterior.prior_point()], Search(30, 1e-8), progress=lambda text: None)[0]


@pytest.fixture(scope="module")
def plan(short, process_problem):
    return weigh_candidates(ExperimentProblem(*short, process_problem, SETTING), SMALL, solving=QUICK, seed=0)


def test_runs_do_what_the_design_says(process_problem):
    """Events against the actions of the very process that is simulated, and decisions at what pumps can do."""
    design = process_problem.design
    x = space_filling_processes(design, 6, 0)
    assert (x >= design.lower - 1e-9).all()
    assert (x <= design.upper + 1e-9).all()
    steps = x / np.array([d.resolution for d in design.decisions])
    assert np.allclose(steps, np.round(steps), atol=1e-6)
    for run, own in zip(
        runs_of(process_problem, x, SETTING, plan=np.zeros(6, int), plans=[design.sample_times_h]), x, strict=True
    ):
        pairs = list(zip(run.plan(), process_actions(process_problem, own), strict=True))
        assert all(type(a) is type(b) for a, b in pairs)
        assert all(start_time(a) == pytest.approx(start_time(b)) for a, b in pairs)
        chosen = dict(zip([d.name for d in design.decisions], own, strict=True))
        doses = {a.time_h: a.volume_ml for a in run.actions if isinstance(a, Bolus)}
        wanted = {d.time_h: v for d, v in zip(design.decisions, own, strict=True) if d.kind == "bolus" and v > 0.0}
        whole = {t: v for t, v in wanted.items() if t + 24.0 <= chosen["harvest"]}
        assert {t: doses[t] for t in whole} == pytest.approx(whole)
        assert [a.time_h for a in run.actions if isinstance(a, Sample)] == [
            t for t in design.sample_times_h if t < chosen["harvest"]
        ]
        (shift,) = [a for a in run.actions if isinstance(a, Setpoint)]
        assert (shift.time_h, shift.temperature_c) == (chosen["shift_time"], chosen["shift_temperature"])
        assert run.end_time_h == chosen["harvest"]


MANY = (
    Decision("feed", "feed_rate", 0.0, 9.0, 1.0, 0.1, time_h=0.0),
    Decision("stop", "feed_rate", 0.0, 9.0, 0.0, 0.1, time_h=48.0),
    Decision("ramp_a", "feed_node", 0.0, 9.0, 0.0, 0.1, time_h=0.0, feed="sugar"),
    Decision("ramp_b", "feed_node", 0.0, 9.0, 4.0, 0.1, time_h=96.0, feed="sugar"),
    Decision("dose", "bolus", 0.0, 9.0, 2.0, 0.1, time_h=24.0, feed="salt"),
    Decision("when", "addition_time", 0.0, 90.0, 30.0, 1.0, feed="inducer"),
    Decision("much", "addition_volume", 0.0, 9.0, 3.0, 0.1, feed="inducer"),
    Decision("cells", "inoculum", 0.1, 2.0, 0.5, 0.1),
    Decision("shift", "shift_time", 10.0, 90.0, 50.0, 1.0),
    Decision("cold", "shift_temperature", 30.0, 37.0, 33.0, 0.5),
    Decision("sour", "shift_ph", 6.5, 7.5, 6.8, 0.05),
    Decision("harvest", "harvest", 40.0, 120.0, 72.0, 1.0),
)
NAMES = ("feed_a", "sugar", "salt", "inducer", "soda")


def many(*more: Decision, **change: object) -> Design:
    """A design with five feeds, of which the last flows with the first."""
    fixed = dict(feeds=NAMES, second_feed="soda", second_feed_ratio=0.25, inoculum_vcd=0.5)
    return Design((*MANY, *more), 1.0, 37.0, 7.0, 120.0, 24.0, (24.0, 48.0), 0.01, **fixed | change)


MORE = (
    Decision("flow", "perfusion", 0.0, 3.0, 1.0, 0.1, time_h=24.0, feed="medium"),
    Decision("less", "perfusion", 0.0, 3.0, 1.0, 0.1, time_h=48.0, feed="medium"),
    Decision("bleed", "bleed", 0.0, 9.0, 2.0, 0.1, time_h=30.0),
    Decision("held", "bleed_above", 5.0, 50.0, 20.0, 1.0, time_h=40.0),
    Decision("air", "do", 10.0, 60.0, 40.0, 1.0, time_h=0.0),
    Decision("less_air", "do", 10.0, 60.0, 40.0, 1.0, time_h=36.0),
    Decision("shift", "shift_time", 10.0, 90.0, 50.0, 1.0),
    Decision("ramp", "shift_ramp", 1.0, 12.0, 6.0, 1.0),
    Decision("cold", "shift_temperature", 30.0, 37.0, 33.0, 0.5),
    Decision("sugar", "medium_component", 10.0, 60.0, 35.0, 1.0, component="glucose"),
    Decision("strong", "feed_component", 100.0, 900.0, 400.0, 1.0, feed="medium", component="glucose"),
)
CASES = {
    "fed": (
        many(),
        [3.0, 0.0, 0.0, 4.0, 2.0, 31.0, 3.0, 0.8, 50.0, 32.0, 6.7, 70.0],
        NAMES,
    ),
    "perfused": (
        Design(MORE, 1.0, 37.0, 7.0, 100.0, 24.0, (24.0, 48.0), 0.01, feeds=("feed_a", "medium"), kla_per_h=12.0),
        [2.0, 1.0, 3.0, 25.0, 40.0, 30.0, 50.0, 6.0, 33.0, 44.0, 500.0],
        ("feed_a", "medium, 500 mmol/L glucose"),
    ),
}


def case_of(kind: str):
    design, x, _ = design_with(kind)
    names = {"feed_component": ("feed_a", "stock, 30 mmol/L glucose")}
    return design, list(x), names.get(kind, design.feeds)


@pytest.mark.parametrize("case", [*CASES, *DECISION_KINDS])
def test_every_decision_of_a_run_is_in_its_sheet(case):
    """Against the schedule that is simulated: what flows, is given, drawn and set, in every interval."""
    design, values, names = CASES[case] if case in CASES else case_of(case)
    process = types.SimpleNamespace(design=design)
    setting = Setting("basal_a", 0.5, "NEXT1", {name: {} for name in ("basal_a", *design.feeds)})
    x = np.array([values])
    (run,) = runs_of(process, x, setting, plan=np.zeros(1, int), plans=[design.sample_times_h])
    s = jax.tree.map(np.asarray, design.schedule(jnp.asarray(x[0])))
    end = float(s.end)
    mine = schedule_of(run, s.times[s.times < end], names)
    ours, theirs = (to_grid(jax.tree.map(jnp.asarray, each), 32)[0] for each in (mine, s))
    t = np.unique(np.round(np.concatenate([ours.t, theirs.t]), 9))
    for name in ("withdraw", "bolus"):
        assert np.sum(getattr(ours.actions, name), axis=0) == pytest.approx(
            np.sum(getattr(theirs.actions, name), axis=0)
        )
    for a, b in zip(_read_at(ours, t), _read_at(theirs, t), strict=True):
        assert np.allclose(a, b, rtol=1e-12, atol=1e-15)


def test_a_sheet_has_names_media_and_cells_of_its_own():
    design, values, _ = CASES["fed"]
    media = {name: {"glucose": 1.0} for name in ("basal_a", *NAMES, "medium")}
    setting = Setting("basal_a", 0.5, "NEXT1", media)
    process, plans = types.SimpleNamespace(design=design), [design.sample_times_h]
    (run,) = runs_of(process, np.array([values]), setting, plan=np.zeros(1, int), plans=plans)
    assert run.inoculum_vcd == 0.8
    assert {a.feed for a in run.actions if isinstance(a, Bolus)} == {"salt", "inducer"}
    assert [a for a in run.actions if isinstance(a, Setpoint)] == [Setpoint(50.0, temperature_c=32.0, ph=6.7)]
    design, values, names = CASES["perfused"]
    process, plans = types.SimpleNamespace(design=design), [design.sample_times_h]
    (run,) = runs_of(process, np.array([values]), setting, plan=np.zeros(1, int), plans=plans)
    made = planned_media(design, np.array([values]), setting)
    assert run.medium_id == "basal_a, 44 mmol/L glucose"
    assert made[run.medium_id] == {"glucose": 44.0}
    assert made[names[1]] == {"glucose": 500.0}
    assert run.actions[0] == Setpoint(0.0, do_percent=40.0, kla_per_h=12.0)


def _read_at(grid, t: np.ndarray):
    """Rates, flows and setpoints in the middle of every interval between times t."""
    at = 0.5 * (t[1:] + t[:-1])
    i = np.searchsorted(np.asarray(grid.t), at, side="right") - 1
    left, right = np.asarray(grid.t)[i], np.asarray(grid.t)[i + 1]
    share = (at - left) / (right - left)
    a = grid.actions
    yield np.asarray(a.rate_start)[i] * (1.0 - share[:, None]) + np.asarray(a.rate_end)[i] * share[:, None]
    for first, last in zip(a.start, a.start if a.end is None else a.end, strict=True):
        if first is not None:
            yield np.asarray(first)[i] * (1.0 - share) + np.asarray(last)[i] * share
    for name in FLOWS:
        if getattr(a, name) is not None:
            yield np.asarray(getattr(a, name))[i]


@pytest.mark.parametrize(
    ("row", "change", "words"),
    [
        (dict(kind="medium_component", lower=0.0, upper=90.0, component="Glc"), {}, "'Glc', which no medium of a file"),
        (None, dict(feeds=(*NAMES, "suger")), r"'suger' has no composition\. Did you mean 'sugar'"),
    ],
)
def test_what_a_sheet_cannot_state_is_refused(row, change, words):
    more = (Decision(**dict(name="d", platform=1.0, resolution=0.0) | row),) if row else ()
    setting = Setting("basal_a", 0.5, "NEXT1", {name: {} for name in ("basal_a", *NAMES)})
    with pytest.raises(ConfigError, match=words):
        check_written(many(*more, **change), setting)


@pytest.mark.slow
def test_a_run_is_simulated_as_its_process(short, process_problem):
    """What a planned run reads at harvest is what the process problem predicts there."""
    posterior, point = short
    belief = gaussian_posterior(posterior, point)
    x = process_problem.design.platform[None]
    plans = [process_problem.design.sample_times_h]
    (run,) = runs_of(process_problem, x, SETTING, plan=np.zeros(1, int), plans=plans)
    u = fit_lanes(posterior.problem, belief, belief.mean[None], clone=np.array([0]))
    dataset = replace(
        posterior.problem.dataset,
        runs=(replace(run, run_id="R", clone_id="any"),),
        measurements=Measurements(np.zeros(1, int), np.array([run.end_time_h]), ("titre",), np.ones(1), ("",), ("1",)),
    )
    future = build_problem(
        posterior.problem.model,
        posterior.problem.table,
        dataset,
        noise=posterior.problem.noise,
        integrator=posterior.problem.integrator,
    )
    p = model_parameters(posterior.problem, belief, belief.mean[None], clone=np.array([0]))
    metrics = dict(zip(process_problem.metrics, process_problem.evaluate(x, p).metrics[0], strict=True))
    assert future.predict(u)[0][0, 0] == pytest.approx(metrics["titre_g_per_l"], rel=1e-5)


@pytest.mark.slow
def test_no_run_is_weighed_that_is_not_safe(short, plan, process_problem):
    posterior, _ = short
    t = plan.candidates
    assert t.refused > 0
    assert (t.met >= SMALL.safe).all()
    # all of them meet every limit at the estimate, by the process problem itself
    there = replace(process_problem, design=replace(process_problem.design, sample_times_h=t.plans[0]))
    theta = np.tile(plan.belief.mean, (len(t.clone), 1))
    e = there.evaluate(t.x, model_parameters(posterior.problem, plan.belief, theta, clone=t.clone))
    assert e.margins.min() >= -1e-6
    none = Safety(per_clone=2, least=1.0, members=4)
    full = np.tile(process_problem.design.upper, (2, 1))
    uncertain = UncertainProcess(process_problem, posterior.problem, plan.belief)
    with pytest.raises(InfeasibleError, match="no process to try meets all limits"):
        safe_candidates(uncertain, full, none, plans=t.plans, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("by", CRITERIA)
def test_every_way_chooses_runs_by_name_and_within_samples(plan, process_problem, by):
    options = replace(SMALL, by=by, samples=3 * int(plan.candidates.readings.samples.max()))
    batch = select_runs(plan, options, 0)
    runs = runs_to_do(process_problem, plan, batch, setting=SETTING)
    assert [run.run_id for run in runs] == ["NEXT1-1", "NEXT1-2", "NEXT1-3"]
    assert sum(len(sampled_h(run)) for run in runs) <= options.samples
    assert all(run.clone_id in plan.belief.clones for run in runs)
    before = Knowledge(plan.belief.covariance, plan.alternatives.values, draws=256, seed=0)
    assert batch[-1].loss < before.expected_loss_and_probability()[0] + 1e-3


@pytest.mark.slow
def test_the_line_through_values_is_their_mean_and_slope(plan):
    """A value that is linear in a clone's parameters comes back, and curvature does not pass for slope."""
    belief, clone = plan.belief, np.array([1])
    theta = _filling(belief, 64, 0)
    at, sd = belief.clone_columns(1), np.sqrt(np.diag(belief.covariance))
    z = (theta[:, at] - belief.mean[at]) / sd[at]
    weight = np.linspace(-0.2, 0.3, len(at))
    line, curve = (1.0 + z @ weight)[None], (z[:, 0] ** 2)[None]
    mean, slope = _line(belief, clone, theta, line)
    assert mean[0] == pytest.approx(1.0, abs=1e-9)
    spread, off = ((theta - belief.mean) @ v for v in (slope[0], slope[0] - _on(weight / sd[at], at, len(sd))))
    assert off.std() < 0.1 * spread.std()
    mean, slope = _line(belief, clone, theta, curve)
    assert mean[0] == pytest.approx(1.0, rel=0.25)
    assert np.abs(slope[0] * sd).max() < 1e-6
    with pytest.raises(SimulationError, match="only 0 of 64 draws"):
        _line(belief, clone, theta, np.full((1, 64), np.nan))


def _on(values: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
    found = np.zeros(size)
    found[at] = values
    return found


@pytest.mark.slow
def test_expected_values_are_means_of_the_simulated_process(short, plan, process_problem):
    """Against other draws of the belief, simulated by themselves."""
    posterior, _ = short
    d, lead = plan.alternatives, plan.alternatives.leading
    theta = plan.belief.draws(200, np.random.default_rng(11))
    clone = np.full(200, d.values.group[lead])
    p = model_parameters(posterior.problem, plan.belief, theta, clone=clone)
    e = process_problem.evaluate(np.tile(d.x[lead], (200, 1)), p)
    value = np.exp(e.objective + np.minimum(e.margins.min(axis=1), 0.0)) / d.scale
    assert (e.status == 0).all()
    assert d.values.mean[lead] == pytest.approx(value.mean(), abs=4.0 * value.std() / np.sqrt(SMALL.scenarios))
    assert d.at_estimate.max() == pytest.approx(1.0, rel=1e-6)
    assert (d.values.mean <= d.values.mean[lead]).all()


@pytest.mark.slow
def test_the_order_of_clones_changes_nothing(short, plan, process_problem):
    posterior, point = short
    problem = posterior.problem
    turned = np.array([2, 0, 3, 1])
    other = problem.select_vessels(turned)
    again = Posterior(other)
    moved = again.prior_point()
    moved.shared, moved.block = point.shared.copy(), point.block[turned].copy()
    again.evaluate([moved])
    assert moved.cost == pytest.approx(point.cost, rel=1e-9)
    problem = ExperimentProblem(again, moved, process_problem, SETTING)
    w = weigh_candidates(problem, SMALL, solving=QUICK, seed=0)
    ours, theirs = (runs_to_do(process_problem, x, select_runs(x, SMALL, 0), setting=SETTING) for x in (plan, w))
    assert [r.clone_id for r in ours] == [r.clone_id for r in theirs]
    assert [r.actions for r in ours] == [r.actions for r in theirs]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by": "randon"}, "Did you mean 'random'"),
        ({"runs": 0}, r"suggest\.runs: 0"),
        ({"safe": 1.2}, r"suggest\.safe: 1\.2 is out of range"),
        ({"every_d": (0,)}, r"suggest\.every_d: 0"),
        ({"days": (-1.0,)}, r"suggest\.days: -1"),
        ({"new_clones": -1}, r"suggest\.new_clones: -1"),
    ],
)
def test_bad_options_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        SuggestSettings(**change)
