"""Gaussian posterior of all parameters before the next runs, from the posterior of a fit (Laplace approximation).

Clones stand in the order of their names, so that nothing found from a belief depends on the order of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from optim.errors import FitError
from optim.estimation.posterior import Point, Posterior
from optim.estimation.problem import FitProblem
from optim.parameters import ParameterSpec


@dataclass(frozen=True)
class GaussianPosterior:
    """Gaussian posterior of D parameters on the fitted scale.

    `common` [Ns + Nb] are the places of what all runs to come share: the shared parameters, then those of their batch.
    `own` [C, Nc] are the places of every clone's. Vessels that were run are averaged out.
    """

    rows: tuple[ParameterSpec, ...]
    owners: tuple[str, ...]  # clone of each parameter, '' for what is common
    mean: np.ndarray  # [D]
    covariance: np.ndarray  # [D, D]
    clones: tuple[str, ...]
    common: np.ndarray
    own: np.ndarray

    def clone_columns(self, clone: int | np.ndarray) -> np.ndarray:
        """Columns [..., Q] of the parameters that a run of a clone depends on: the common ones first."""
        own = self.own[clone]
        return np.concatenate([np.broadcast_to(self.common, (*own.shape[:-1], len(self.common))), own], axis=-1)

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.array([row.fitted_bounds() for row in self.rows]).T
        return low, high

    @cached_property
    def root(self) -> np.ndarray:
        """L [D, D] with L L^T the covariance."""
        return np.linalg.cholesky(self.covariance)

    def draws(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Parameters [n, D] within their bounds."""
        return np.clip(self.mean + rng.standard_normal((n, len(self.mean))) @ self.root.T, *self.bounds)


def gaussian_posterior(
    posterior: Posterior, point: Point, newcomers: Sequence[str] = (), *, left_out: Sequence[str] = ()
) -> GaussianPosterior:
    """The Laplace approximation at `point`, without the clones `left_out`.

    `newcomers` are clones of the population that no run has seen.

    Raises `FitError` when data and priors do not determine the parameters.
    """
    assert point.arrow is not None
    e, nc, kept = posterior, posterior.n_per_group, posterior.n_shared + posterior.n_per_group
    try:
        schur, gain = point.arrow.schur_complement()
        shared = np.linalg.inv(0.5 * (schur + schur.T))
        alone = np.linalg.inv(point.arrow.cc)[:, :nc, :nc]
    except np.linalg.LinAlgError as err:
        raise FitError("the data and priors do not determine the parameters (singular information)") from err
    names = e.problem.groups
    order = sorted((c for c, name in enumerate(names) if name not in left_out), key=lambda c: names[c])
    known = len(order)
    # every clone's parameters: -gain x (shared part) + a part of its own; batches that were run are left out
    mix = np.concatenate([np.eye(len(shared))[:kept], *(-gain[c, :nc] for c in order)])
    covariance = mix @ shared @ mix.T
    for i, c in enumerate(order):
        at = slice(kept + i * nc, kept + (i + 1) * nc)
        covariance[at, at] += alone[c]
    mean = np.concatenate([point.shared[:kept], *(point.block[c, :nc] for c in order)])
    # newcomers are the population's mean and a distance of their own; the coming batch is known by its prior
    follow = np.concatenate([np.eye(len(mean)), *(np.eye(len(mean))[e.n_shared : kept] for _ in newcomers)])
    covariance, mean = follow @ covariance @ follow.T, follow @ mean
    for i in range(len(newcomers)):
        diagonal = kept + (known + i) * nc + np.arange(nc)
        covariance[diagonal, diagonal] += e.spread**2
    sd = np.array([row.prior_sd_fitted() or 0.0 for row in e.problem.batch_specs])
    full = np.zeros((len(mean) + e.n_per_batch, len(mean) + e.n_per_batch))
    full[: len(mean), : len(mean)] = covariance
    full[len(mean) :, len(mean) :] = np.diag(sd**2)
    clones = (*(names[c] for c in order), *newcomers)
    return GaussianPosterior(
        rows=(
            *e.problem.shared_specs,
            *e.problem.group_specs,
            *(e.problem.group_specs * len(clones)),
            *e.problem.batch_specs,
        ),
        owners=("",) * kept + tuple(c for c in clones for _ in range(nc)) + ("",) * e.n_per_batch,
        mean=np.concatenate([mean, [row.to_fitted(row.value) for row in e.problem.batch_specs]]),
        covariance=_without_noise(full),
        clones=clones,
        common=np.concatenate([np.arange(e.n_shared), len(mean) + np.arange(e.n_per_batch)]).astype(int),
        own=kept + np.arange(len(clones) * nc).reshape(len(clones), nc),
    )


def _without_noise(covariance: np.ndarray) -> np.ndarray:
    """The covariance to ten digits: sums in another order differ in the last ones, and searches would magnify that."""
    sd = np.array([float(f"{v:.10g}") for v in np.sqrt(np.diag(covariance))])
    both = np.maximum(np.outer(sd, sd), 1e-300)
    found: np.ndarray = np.round(0.5 * (covariance + covariance.T) / both, 10) * both
    return found


def model_parameters(
    problem: FitProblem, belief: GaussianPosterior, theta: np.ndarray, *, clone: np.ndarray
) -> np.ndarray:
    """Parameters [L, P] in the order of the model's, of clones [L] at theta [L, D], in a vessel as planned."""
    u = fit_lanes(problem, belief, theta, clone=clone)
    named = problem.layout.natural_parameters(u.T, problem.fixed_values)
    columns = [np.broadcast_to(np.asarray(named[name]), len(u)) for name in problem.model.Parameters._fields]
    return np.stack(columns, axis=1)


def fit_lanes(problem: FitProblem, belief: GaussianPosterior, theta: np.ndarray, *, clone: np.ndarray) -> np.ndarray:
    """Parameters [L, Q] of a fit's lanes: those of clones [L] at theta [L, D], then of a vessel as planned."""
    u = np.take_along_axis(theta, belief.clone_columns(clone), axis=1)
    vessel = np.array([row.to_fitted(row.value) for row in problem.vessel_specs])
    return np.concatenate([u, np.tile(vessel, (len(u), 1))], axis=1)
