"""Sampling of the posterior by the no-U-turn sampler (Hoffman & Gelman 2014, J Mach Learn Res 15:1593) of blackjax.

The chains move in coordinates z in which the Laplace approximation is a standard normal: theta = mode + L^-T z, with L
the Cholesky factor of the information, so that no mass matrix has to be learnt. Bounds reflect: theta is folded back
at them. Folding keeps volumes, so the density needs no correction, and a parameter may pile up at its bound, where a
smooth bijection would have to go to infinity.

One evaluation of density and gradient is one run of `likelihood.vessel_equations` over the vessels of all chains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import FitError
from optim.estimation import likelihood
from optim.estimation.ensemble import Draws
from optim.estimation.levenberg_marquardt import Progress
from optim.estimation.likelihood import Layout, Vessels
from optim.estimation.noise import Scatter
from optim.estimation.normal_equations import Arrow
from optim.estimation.posterior import Point, Posterior
from optim.parameters import ParameterSpec
from optim.runtime import require_float64
from optim.settings.estimation import FitSettings
from optim.simulation.engine.march import Integrator
from optim.types import Array

FAMILY_CODES = {"uniform": 0, "gaussian": 1, "normal": 2, "lognormal": 3, "half_normal": 4}
SCALE_CODES = {"identity": 0, "log": 1, "logit": 2}


@dataclass(frozen=True)
class SampleOptions:
    """Settings of the sampler. `accept` is the acceptance rate that the step size is tuned to."""

    draws: int = FitSettings.draws  # kept of each chain
    warmup: int = 200  # iterations to reach the typical set and to tune the step size
    chains: int = 4
    accept: float = 0.8
    doublings: int = 8  # a trajectory has at most 2^doublings steps
    step: float = 0.5  # first step size; a standard normal wants about one


@dataclass(frozen=True)
class PosteriorSample:
    """Posterior draws of all chains, one chain after the other, with diagnostics.

    `r_hat` and `ess` belong to the entries of the draws, as (shared part [n], blocks [C, m]): split R-hat and effective
    sample size of the ranks (Vehtari et al. 2021, Bayesian Anal 16:667).
    """

    draws: Draws
    r_hat: tuple[np.ndarray, np.ndarray]
    ess: tuple[np.ndarray, np.ndarray]
    divergences: int  # after warm-up
    saturated: int  # trajectories of the largest allowed length
    acceptance: float
    step: tuple[float, ...]  # of each chain
    evaluations: int  # of the density, summed over chains, after warm-up


class Priors(NamedTuple):
    """Priors of several parameters as arrays, one entry per parameter."""

    family: Array
    scale: Array
    stated: Array  # whether the family was stated, rather than derived from the scale
    centre: Array  # on the natural scale
    centre_fitted: Array
    sd: Array
    lower: Array
    upper: Array


class Target(NamedTuple):
    """All numbers of the posterior density, so that one compiled program serves every problem of one shape."""

    mode_s: Array  # [n]
    mode_c: Array  # [C, m]
    root_s: Array  # [n, n]
    root_c: Array  # [C, m, m]
    gain: Array  # [C, m, n]
    lower_shared: Array
    upper_shared: Array
    lower_block: Array
    upper_block: Array
    outer: Array  # [B, n_shared + n_per_batch] columns of a vessel's parameters in the shared part
    columns: Array  # [B, n_per_group + n_per_vessel] in the block of its group
    group: Array  # [B]
    weight: Array  # [B]
    population: Array  # [n_per_group] entries of the population means in the shared part
    pooling: Array  # [n_per_group] precision about the population mean
    priors_s: Priors
    priors_v: Priors
    fixed: Array
    vessels: Vessels
    scatter: Scatter
    integrator: Integrator


def sample_posterior(
    posterior: Posterior,
    point: Point,
    options: SampleOptions | None = None,
    *,
    seed: int = 0,
    progress: Progress = lambda text: None,
) -> PosteriorSample:
    """Sample the posterior with chains that start around its evaluated mode `point`.

    Raises `FitError` where blackjax is not installed, or the information at the mode is singular.
    """
    require_float64("sample_posterior")
    options = options or SampleOptions()
    target = whitened_target(posterior, point)
    n, groups, width = len(posterior.shared_part_specs), posterior.n_groups, posterior.block_width
    z, info = run_chains(
        Density(posterior.problem.layout), target, n + groups * width, options=options, seed=seed, progress=progress
    )
    shared, block = (np.asarray(part) for part in jax.vmap(partial(parameters_at, target))(z.reshape(-1, z.shape[-1])))
    both = np.concatenate([shared, block.reshape(len(block), groups * width)], axis=1).reshape(z.shape)
    r_hat, ess = chain_diagnostics(both)

    def _parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x[:n], x[n:].reshape(groups, width)

    return PosteriorSample(Draws(shared, block), _parts(r_hat), _parts(ess), **info)


@dataclass(frozen=True)
class Density:
    """Log-density of a posterior as a hashable function: equal layouts share compiled programs."""

    layout: Layout

    def __call__(self, target: Target, z: Array) -> Array:
        return log_density(self.layout, target, z)


def run_chains(
    density: Callable[[Any, Array], Array],
    target: Any,
    size: int,
    *,
    options: SampleOptions,
    seed: int,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Run NUTS chains on the log-density `density(target, z)`, which should be near a standard normal.

    Returns draws z [chains, draws, size], and diagnostics by the names of `PosteriorSample`. Programs are cached per
    `density`, so one that is equal to an earlier one is not compiled again.
    """
    _library()
    key = jax.random.key(seed)
    static = replace(options, draws=0, warmup=0)
    state, adapting = _start(density, static, size, target, jax.random.fold_in(key, 0))
    draws, diagnostics, step = [], [], jnp.zeros(options.chains)
    total = options.warmup + options.draws
    for i in range(total):
        warming = i < options.warmup
        state, adapting, own, step = _draw(
            density, static, target, jax.random.fold_in(key, i + 1), state, adapting, np.asarray(warming)
        )
        if not warming:
            draws.append(np.asarray(state.position))
            diagnostics.append(np.asarray(own))
        if (i + 1) % 25 == 0:
            progress(f"sampler: {i + 1} of {total} draws of {options.chains} chains")
    per_draw = np.stack(diagnostics)  # [draws, chains, 3]
    return np.stack(draws, axis=1), {
        "divergences": int(per_draw[..., 0].sum()),
        "saturated": int((per_draw[..., 1] >= 2**options.doublings - 1).sum()),
        "acceptance": float(per_draw[..., 2].mean()),
        "step": tuple(float(s) for s in step),
        "evaluations": int(per_draw[..., 1].sum()),
    }


@partial(jax.jit, static_argnums=(0, 1, 2))
def _start(density: Any, options: SampleOptions, size: int, target: Any, key: Array) -> Any:
    """Initial states of the chains near the mode, and of their step size adaptation."""
    nuts, adaptation = _library()
    first, _, _ = adaptation.dual_averaging_adaptation(options.accept)
    z = 0.5 * jax.random.normal(key, (options.chains, size))
    state = jax.vmap(lambda z: nuts.init(z, partial(density, target)))(z)
    return _plain((state, jax.vmap(first)(jnp.full(options.chains, options.step))))


@partial(jax.jit, static_argnums=(0, 1))
def _draw(
    density: Any, options: SampleOptions, target: Any, key: Array, state: Any, adapting: Any, warming: Array
) -> Any:
    """One draw of every chain, with [chains, 3] divergence, steps and acceptance, and the step size of each."""
    nuts, adaptation = _library()
    _, update, final = adaptation.dual_averaging_adaptation(options.accept)
    kernel = nuts.build_kernel()

    def _one(key: Array, state: Any, adapting: Any) -> tuple[Any, Any, Array, Array]:
        step = jnp.where(warming, jnp.exp(adapting.log_step_size), final(adapting))
        mass = jnp.ones_like(state.position)
        state, info = kernel(key, state, partial(density, target), step, mass, options.doublings)
        # a trajectory into a region that cannot be simulated has acceptance 0
        rate = jnp.nan_to_num(info.acceptance_rate)
        tuned = update(adapting, rate)
        adapting = jax.tree.map(lambda new, old: jnp.where(warming, new, old), tuned, adapting)
        return state, adapting, jnp.stack([info.is_divergent, info.num_integration_steps, rate]), step

    return _plain(jax.vmap(_one)(jax.random.split(key, options.chains), state, adapting))


def _plain(tree: Any) -> Any:
    """The tree with strong types: weak types of Python numbers would make the program compile again."""
    return jax.tree.map(lambda x: jnp.asarray(x, x.dtype), tree)


def _library() -> tuple[Any, Any]:
    """Import the sampler and its step size adaptation. Raises `FitError` when blackjax is not installed."""
    try:
        from blackjax.adaptation import step_size
        from blackjax.mcmc import nuts
    except ImportError as err:
        raise FitError("sampling the posterior needs blackjax: install optim with the extra 'bayes'") from err
    return nuts, step_size


def chain_diagnostics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank-normalised split R-hat and effective sample size, [parameters] each.

    `x` [chains, draws, parameters]; Vehtari et al. 2021, Bayesian Anal 16:667.
    """
    _library()
    from blackjax.diagnostics import effective_sample_size, potential_scale_reduction
    from scipy.stats import norm, rankdata

    half = x.shape[1] // 2
    split = np.concatenate([x[:, :half], x[:, half : 2 * half]])
    ranks = rankdata(split.reshape(-1, split.shape[-1]), axis=0).reshape(split.shape)
    scores = norm.ppf((ranks - 0.375) / (ranks[..., 0].size + 0.25))
    # the library drops axes of length one
    r_hat = np.atleast_1d(potential_scale_reduction(scores, chain_axis=0, sample_axis=1))
    return r_hat, np.atleast_1d(effective_sample_size(scores, chain_axis=0, sample_axis=1))


def whitened_target(posterior: Posterior, point: Point) -> Target:
    """The density of a posterior as arrays, whitened by its curvature at `point`. Raises `FitError` when singular."""
    assert point.arrow is not None
    problem = posterior.problem
    root_s, root_c, gain = _roots(point.arrow)
    return jax.tree.map(
        jnp.asarray,
        Target(
            mode_s=point.shared,
            mode_c=point.block,
            root_s=root_s,
            root_c=root_c,
            gain=gain,
            lower_shared=posterior.lower_shared,
            upper_shared=posterior.upper_shared,
            lower_block=posterior.lower_block,
            upper_block=posterior.upper_block,
            outer=posterior.shared_columns,
            columns=posterior.block_columns,
            group=problem.vessel_group,
            weight=point.weight,
            population=posterior.n_shared + np.arange(posterior.n_per_group),
            pooling=posterior.pooling,
            priors_s=prior_arrays(posterior.shared_part_specs),
            priors_v=prior_arrays(posterior.vessel_part_specs),
            fixed=problem.fixed_values,
            vessels=problem.vessels._replace(sd=posterior.noise.sd),
            scatter=problem.scatter,
            integrator=problem.integrator,
        ),
    )


def _roots(arrow: Arrow) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """L^-T of the information on the shared part and of each block, and the gain that couples them."""
    schur, gain = arrow.schur_complement()
    try:
        shared, own = (np.linalg.cholesky(0.5 * (m + np.swapaxes(m, -1, -2))) for m in (schur, arrow.cc))
    except np.linalg.LinAlgError as err:
        raise FitError(
            "the data and priors do not determine the parameters (singular information); "
            "fix some of them, or give them a prior_sd"
        ) from err
    return np.linalg.inv(np.swapaxes(shared, -1, -2)), np.linalg.inv(np.swapaxes(own, -1, -2)), gain


def parameters_at(t: Target, z: Array) -> tuple[Array, Array]:
    """Shared part [n] and blocks [C, m] on the fitted scale at whitened coordinates z."""
    n = t.mode_s.shape[0]
    step_s = t.root_s @ z[:n]
    own = jnp.einsum("cij,cj->ci", t.root_c, z[n:].reshape(t.mode_c.shape))
    step_c = own - jnp.einsum("cmn,n->cm", t.gain, step_s)
    return _folded(t.mode_s + step_s, t.lower_shared, t.upper_shared), _folded(
        t.mode_c + step_c, t.lower_block, t.upper_block
    )


def _folded(x: Array, lower: Array, upper: Array) -> Array:
    """Fold x into the bounds by reflections."""
    width = upper - lower
    return lower + width - jnp.abs(jnp.mod(x - lower, 2.0 * width) - width)


def log_density(layout: Layout, t: Target, z: Array) -> Array:
    """Log-density of the posterior at z without constants: minus the cost of `Posterior`."""
    shared, block = parameters_at(t, z)
    own = jnp.take_along_axis(block[t.group], t.columns, axis=1)
    u = jnp.concatenate([shared[t.outer], own], axis=1)
    cost = _vessel_cost(layout, u, t.fixed, t.vessels, t.scatter, t.integrator)
    # a vessel with weight 0 may fail
    data = jnp.sum(jnp.where(t.weight > 0.0, cost, 0.0) * t.weight)
    nc = t.pooling.shape[0]
    away = block[:, :nc] - shared[t.population]
    prior = 0.5 * jnp.sum(t.pooling * away**2) + jnp.sum(prior_cost(t.priors_s, shared))
    return -(data + prior + jnp.sum(prior_cost(t.priors_v, block[:, nc:])))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _vessel_cost(layout: Layout, u: Array, fixed: Array, v: Vessels, scatter: Scatter, integrator: Integrator) -> Array:
    return _cost_and_gradient(layout, u, fixed, v, scatter, integrator)[0]


def _forward(
    layout: Layout, u: Array, fixed: Array, v: Vessels, scatter: Scatter, integrator: Integrator
) -> tuple[Array, Array]:
    return _cost_and_gradient(layout, u, fixed, v, scatter, integrator)


def _backward(layout: Layout, gradient: Array, by_cost: Array) -> tuple[Any, ...]:
    return by_cost[:, None] * gradient, None, None, None, None


_vessel_cost.defvjp(_forward, _backward)


def _cost_and_gradient(
    layout: Layout, u: Array, fixed: Array, v: Vessels, scatter: Scatter, integrator: Integrator
) -> tuple[Array, Array]:
    """Cost [B] and its gradient [B, Q]; under `vmap` the vessels of all chains share the lanes of one call."""

    @jax.custom_batching.custom_vmap
    def _of_lanes(u: Array, fixed: Array, v: Vessels, scatter: Scatter, integrator: Integrator) -> tuple[Array, Array]:
        equations = likelihood.vessel_equations(layout, u, v, fixed=fixed, scatter=scatter, integrator=integrator)
        return equations.cost, equations.gradient

    @_of_lanes.def_vmap
    def _of_chains(size: int, batched: Any, u: Array, fixed: Array, v: Vessels, *rest: Any) -> Any:
        # chains differ only in their parameters
        several = jax.tree.map(lambda a: jnp.tile(a, (size, *([1] * (a.ndim - 1)))), v)
        cost, gradient = _of_lanes(u.reshape(-1, u.shape[-1]), fixed, several, *rest)
        return (cost.reshape(size, -1), gradient.reshape(u.shape)), (True, True)

    # all arrays are arguments: closed-over ones are lost in the loops of the sampler
    cost, gradient = _of_lanes(u, fixed, v, scatter, integrator)
    return cost, gradient


def prior_arrays(rows: tuple[ParameterSpec, ...]) -> Priors:
    """Priors of several parameters as arrays."""
    sd = [row.prior_sd or 1.0 for row in rows]
    return Priors(
        np.array([FAMILY_CODES["gaussian" if row.has_gaussian_prior() else row.prior_family] for row in rows], int),
        np.array([SCALE_CODES[row.scale] for row in rows], int),
        np.array([row.prior != "auto" for row in rows], bool),
        np.array([0.0 if row.prior_family == "half_normal" else row.value for row in rows]),
        np.array([row.to_fitted(row.value) for row in rows]),
        np.array(sd, float),
        np.array([row.lower for row in rows], float),
        np.array([row.upper for row in rows], float),
    )


def prior_cost(p: Priors, u: Array) -> Array:
    """Negative log prior densities over the fitted scale u [..., rows]; equals `ParameterSpec.prior_score`."""
    logit, log = p.scale == SCALE_CODES["logit"], p.scale == SCALE_CODES["log"]
    width = p.upper - p.lower
    # other branches get 0, or their overflow would reach the gradient
    exp = jnp.exp(jnp.where(log, u, 0.0))
    odds = jnp.where(logit, u, 0.0)
    fraction = jax.nn.sigmoid(odds)
    x = jnp.where(log, exp, jnp.where(logit, p.lower + width * fraction, u))
    log_odds_slope = jax.nn.log_sigmoid(odds) + jax.nn.log_sigmoid(-odds)
    log_slope = jnp.where(log, u, jnp.where(logit, jnp.log(width) + log_odds_slope, 0.0))
    log_slope = jnp.where(p.stated, log_slope, 0.0)
    skewed = p.family == FAMILY_CODES["lognormal"]
    log_x = jnp.log(jnp.where(skewed, x, 1.0))
    log_centre = jnp.log(jnp.where(skewed, p.centre, 1.0))
    gaussian = 0.5 * ((u - p.centre_fitted) / p.sd) ** 2
    plain = 0.5 * ((x - p.centre) / p.sd) ** 2 - log_slope
    lognormal = 0.5 * ((log_x - log_centre) / p.sd) ** 2 + log_x - log_slope
    cost = jnp.where(skewed, lognormal, plain)
    cost = jnp.where(p.family == FAMILY_CODES["gaussian"], gaussian, cost)
    return jnp.where(p.family == FAMILY_CODES["uniform"], -log_slope, cost)
