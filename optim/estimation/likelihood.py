"""The likelihood of vessels as compiled programs: predictions, cost, and normal equations over a vessel's parameters.

Every vessel depends on its own parameters only: the shared ones, those of its batch and of its group, and its own. The
Jacobian has these columns per vessel, and only small normal matrices leave the device.

Axes: B vessels, L lanes (vessels, repeated for every parameter set), M readings, Q parameters of a lane, N species,
J feeds.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim.estimation.noise import MEASURED, Scatter, on_scale, robust_loss, whitened_residual
from optim.kinetics.base import AbstractKineticModel
from optim.parameters import OFFSET_PREFIX, SCALE_PREFIX
from optim.schedule.grid import IntervalGrid
from optim.simulation.balance import Vessel
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.simulate import Trajectory, observe_nodes, simulate_cultivations
from optim.types import Array


class Vessels(NamedTuple):
    """All vessels of a dataset as padded arrays, axis B first."""

    grid: IntervalGrid
    feeds: Array  # [B, J, N]
    initial: Array  # [B, N]
    volume: Array  # [B] L
    node: Array  # [B, M] node of each observation
    variable: Array  # [B, M] index into `FitProblem.variables`
    value: Array  # [B, M] reading, in the unit of the assay
    sd: Array  # [B, M] on the scale on which the assay scatters
    censored: Array  # [B, M]
    weight: Array  # [B, M] 1, or 0 for padding
    retention: Array | None = None  # [B, N] fraction of each species that the retention device retains
    topup: Array | None = None  # [B, J, N] factor from each species to what a feed tops up


class VesselEquations(NamedTuple):
    """Negative log-likelihood and normal equations of each lane over its own Q parameters."""

    cost: Array  # [L] negative log-likelihood, constants left out; inf where the simulation failed
    residual: Array  # [L, M] whitened; 0 for padding and failures
    weight: Array  # [L, M] of each residual in the equations: below 1 for outliers, where the noise is robust
    jacobian: Array  # [L, Q, M]
    gradient: Array  # [L, Q]
    hessian: Array  # [L, Q, Q] Gauss-Newton


class Layout(NamedTuple):
    """Static description of a problem, part of the compiled program: names, scales and bounds of the parameters."""

    model: AbstractKineticModel
    variables: tuple[str, ...]
    fixed: tuple[str, ...]
    free: tuple[tuple[str, str, float, float], ...]  # name, scale, bounds; in the order of a lane's parameters
    times: tuple[tuple[str, str], ...]  # (parameter, the one that it multiplies)

    def natural_parameters(self, u: Array, fixed: Array) -> dict[str, Array]:
        """All parameters by name on the natural scale, from fitted ones u [Q] and the values of fixed ones."""
        values: dict[str, Array] = {name: fixed[i] for i, name in enumerate(self.fixed)}
        for i, (name, scale, lower, upper) in enumerate(self.free):
            if scale == "log":
                values[name] = jnp.exp(u[i])
            elif scale == "logit":
                values[name] = lower + (upper - lower) * jax.nn.sigmoid(u[i])
            else:
                values[name] = u[i]
        return values | {name: values[name] * values[other] for name, other in self.times}

    def initial_conditions(self, named: dict[str, Array], initial: Array, volume: Array) -> tuple[Any, Any, Array]:
        """The model's Parameters, and State and volume (L) at the start, with the vessel's own deviations applied."""
        model = self.model
        p = model.Parameters(**{name: named[name] for name in model.Parameters._fields})
        cells = named.get("inoculum_factor", 1.0)
        state = model.State(
            *(initial[i] * (cells if name in model.inoculum_species else 1.0) for i, name in enumerate(model.names()))
        )
        return p, state, volume * named.get("volume_factor", 1.0)

    def assay_reading(self, named: dict[str, Array], name: str, true: Array) -> Array:
        """Reading of an assay in this vessel: the true value with the vessel's scale and offset of that assay."""
        return true * named.get(SCALE_PREFIX + name, 1.0) + named.get(OFFSET_PREFIX + name, 0.0)


@partial(jax.jit, static_argnums=0)
def predict_readings(
    layout: Layout, u: Array, v: Vessels, *, fixed: Array, integrator: Integrator
) -> tuple[Array, Any, Trajectory]:
    """Simulate the vessels of all lanes.

    `u` [L, Q] parameters on the fitted scale, `v` the vessel of each lane, `fixed` the fixed values in the order of
    `Layout.fixed`. Returns predicted readings [L, M], the model's Parameters, and trajectories with their status.
    """

    def _start(u: Array, initial: Array, volume: Array) -> tuple[Any, Any, Array]:
        return layout.initial_conditions(layout.natural_parameters(u, fixed), initial, volume)

    def _read_by_assays(u: Array, p: Any, trajectory: Trajectory, v: Vessels) -> Array:
        named = layout.natural_parameters(u, fixed)
        true = observe_nodes(layout.model, p, trajectory, grid=v.grid)
        return jnp.stack([layout.assay_reading(named, n, true[n]) for n in layout.variables])[v.variable, v.node]

    p, start, volume = jax.vmap(_start)(u, v.initial, v.volume)
    cultivation = Cultivation(start, volume, v.grid, Vessel(v.feeds, v.retention, None, v.topup))
    trajectory = simulate_cultivations(layout.model, p, cultivation, integrator=integrator)
    return jax.vmap(_read_by_assays)(u, p, trajectory, v), p, trajectory


def _whitened(
    layout: Layout, u: Array, v: Vessels, *, fixed: Array, scatter: Scatter, integrator: Integrator
) -> tuple[Array, Array]:
    """Whitened residuals [L, M], 0 where the simulation failed, and status [L]."""
    y, _, trajectory = predict_readings(layout, u, v, fixed=fixed, integrator=integrator)
    good = (trajectory.status == 0)[:, None] & (v.weight > 0.0)
    # a failed lane is masked before the residual: it must reach neither the sums nor their derivative
    y = jnp.where(good, y, v.value)
    scale, floor = scatter.scale[v.variable], scatter.floor[v.variable]
    r = whitened_residual(on_scale(y, scale, floor), on_scale(v.value, scale, floor), v.sd, censored=v.censored)
    return jnp.where(good, r * v.weight, 0.0), trajectory.status


def _freedom(v: Vessels, scatter: Scatter) -> Array:
    """Degrees of freedom of each reading [L, M], 0 for a censored one: a limit is not a reading, so no outlier."""
    return jnp.where(v.censored == MEASURED, scatter.robust[v.variable], 0.0)


@partial(jax.jit, static_argnums=0)
def vessel_costs(
    layout: Layout, u: Array, v: Vessels, *, fixed: Array, scatter: Scatter, integrator: Integrator
) -> tuple[Array, Array]:
    """Negative log-likelihood of each lane [L] without constants, and whitened residuals [L, M].

    Arguments as for `predict_readings`; the cost is inf where the simulation failed.
    """
    r, status = _whitened(layout, u, v, fixed=fixed, scatter=scatter, integrator=integrator)
    loss, _ = robust_loss(r**2, _freedom(v, scatter))
    return jnp.where(status == 0, jnp.sum(loss, axis=1), jnp.inf), r


@partial(jax.jit, static_argnums=0)
def vessel_equations(
    layout: Layout, u: Array, v: Vessels, *, fixed: Array, scatter: Scatter, integrator: Integrator
) -> VesselEquations:
    """Cost and normal equations of each lane, by forward sensitivities. Arguments as for `predict_readings`."""

    def _residuals(u: Array) -> tuple[Array, Array]:
        return _whitened(layout, u, v, fixed=fixed, scatter=scatter, integrator=integrator)

    def _derivative_along(direction: Array) -> tuple[Array, Array, Array]:
        r, slope, status = jax.jvp(_residuals, (u,), (jnp.broadcast_to(direction, u.shape),), has_aux=True)
        return r, status, slope

    # directions outside, lanes inside: lanes stay the fastest axis of every array in the loop
    r, status, jacobian = jax.vmap(_derivative_along, out_axes=(None, None, 0))(jnp.eye(u.shape[1], dtype=u.dtype))
    loss, weight = robust_loss(r**2, _freedom(v, scatter))
    return VesselEquations(
        cost=jnp.where(status == 0, jnp.sum(loss, axis=1), jnp.inf),
        residual=r,
        weight=weight,
        jacobian=jnp.swapaxes(jacobian, 0, 1),
        gradient=jnp.einsum("qlm,lm->lq", jacobian, weight * r),
        hessian=jnp.einsum("qlm,plm->lqp", jacobian, weight * jacobian),
    )
