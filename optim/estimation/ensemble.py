"""An ensemble of plausible parameter sets: draws from the posterior, on the fitted and on the natural scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optim.errors import FitError
from optim.estimation.posterior import Point, Posterior
from optim.parameters import ParameterSpec, to_natural


@dataclass(frozen=True)
class Draws:
    """Ensemble on the fitted scale: shared part [E, n] and blocks [E, C, m]; member 0 is the estimate."""

    shared: np.ndarray
    block: np.ndarray

    def to_points(self, weight: np.ndarray) -> list[Point]:
        """Every member as a point; `weight` [B] is that of the vessels."""
        return [Point(s, b, weight) for s, b in zip(self.shared, self.block, strict=True)]


def draw_laplace(posterior: Posterior, point: Point, members: int, *, rng: np.random.Generator) -> Draws:
    """Draws from the Laplace approximation: normal with the mode and the curvature of the posterior, within bounds.

    `point` is the evaluated mode; `members` counts it as member 0. Raises `FitError` when the information is singular.
    """
    assert point.arrow is not None
    try:
        shared, block = point.arrow.draw_normal(rng, members - 1)
    except np.linalg.LinAlgError as err:
        raise FitError(
            "the data and priors do not determine the parameters (singular information); "
            "fix some of them, or give them a prior_sd"
        ) from err
    shared = np.clip(point.shared + shared, posterior.lower_shared, posterior.upper_shared)
    block = np.clip(point.block + block, posterior.lower_block, posterior.upper_block)
    return Draws(np.concatenate([point.shared[None], shared]), np.concatenate([point.block[None], block]))


@dataclass(frozen=True)
class NaturalDraws:
    """Ensemble on the natural scale, with predictions for groups and runs without data."""

    shared: np.ndarray  # [E, n_shared]
    group: np.ndarray  # [E, C, n_per_group]
    batch: np.ndarray  # [E, batches, n_per_batch]
    vessel: np.ndarray  # [E, B, n_per_vessel]
    new_group: np.ndarray  # [E, n_per_group] parameters of a group without data
    new_run: np.ndarray  # [E, n_per_batch + n_per_vessel] parameters of a batch and a vessel without data


def natural_draws(posterior: Posterior, draws: Draws, rng: np.random.Generator) -> NaturalDraws:
    """Transform an ensemble to the natural scale, and draw the parameters of a new group, batch and vessel.

    Member 0 has the expected values of the new ones: the population mean, and the centres of the priors.
    """
    problem, ns, nc = posterior.problem, posterior.n_shared, posterior.n_per_group
    shared = to_natural(posterior.shared_part_specs, draws.shared)
    rows = (*problem.group_specs, *posterior.vessel_part_specs)
    block = to_natural(rows, draws.block)  # [E, C, m]
    vessel = np.stack(
        [block[:, c, posterior.block_columns[b][nc:]] for b, c in enumerate(problem.vessel_group)],
        axis=1,
    )
    members = len(draws.shared)
    away = rng.standard_normal((members, nc)) * posterior.spread
    away[0] = 0.0
    lower, upper = posterior.lower_block[:nc], posterior.upper_block[:nc]
    new_group = to_natural(problem.group_specs, np.clip(draws.shared[:, ns : ns + nc] + away, lower, upper))
    return NaturalDraws(
        shared=shared[:, :ns],
        group=block[:, :, :nc],
        batch=shared[:, ns + nc :].reshape(members, posterior.n_batches, posterior.n_per_batch),
        vessel=vessel,
        new_group=new_group,
        new_run=_from_prior((*problem.batch_specs, *problem.vessel_specs), members, rng),
    )


def _from_prior(rows: tuple[ParameterSpec, ...], members: int, rng: np.random.Generator) -> np.ndarray:
    columns = []
    for row in rows:
        sd = row.prior_sd_fitted() or 0.0
        z = rng.standard_normal(members)
        z[0] = 0.0
        columns.append(row.to_natural(np.clip(row.to_fitted(row.value) + sd * z, *row.fitted_bounds())))
    return np.stack(columns, axis=1) if columns else np.zeros((members, 0))
