"""The likelihood of vessels as compiled programs: predictions, cost, and normal equations over a vessel's parameters.

Every vessel depends on its own parameters only: the shared ones, those of its batch and clone, and its own. Their
Jacobian columns are computed per vessel, and only small normal matrices leave the device.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optim.estimation.noise import MEASURED, Scatter, on_scale, robust_loss, whitened_residual
from optim.kinetics.base import AbstractKineticModel
from optim.parameters import OFFSET, SCALE
from optim.schedule.grid import IntervalGrid
from optim.simulation.balance import Vessel
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.simulate import Trajectory, observe_nodes, simulate
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


class VesselEquations(NamedTuple):
    """Normal equations of each vessel over its own Q parameters."""

    cost: Array  # [L] negative log-likelihood, constants left out; inf where the simulation failed
    residual: Array  # [L, M] whitened; 0 for padding and failures
    weight: Array  # [L, M] of the residuals in the equations: below 1 for outliers, where the noise is robust
    jacobian: Array  # [L, Q, M]
    gradient: Array  # [L, Q]
    hessian: Array  # [L, Q, Q] Gauss-Newton


class Layout(NamedTuple):
    """Static description of a problem: names and scales, no numbers that change between calls."""

    model: AbstractKineticModel
    variables: tuple[str, ...]
    fixed: tuple[str, ...]
    free: tuple[tuple[str, str, float, float], ...]  # name, scale, bounds; in the order of a lane's parameters
    times: tuple[tuple[str, str], ...]  # (name, the parameter that it multiplies)

    def natural_parameters(self, u: Array, fixed: Array) -> dict[str, Array]:
        """Named parameters on the natural scale from fitted ones u [Q]."""
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
        """The model's Parameters, and initial State and volume after the vessel's own deviations."""
        model = self.model
        p = model.Parameters(**{name: named[name] for name in model.Parameters._fields})
        cells = named.get("inoculum_factor", 1.0)
        state = model.State(
            *(initial[i] * (cells if name in model.inoculum_species else 1.0) for i, name in enumerate(model.names()))
        )
        return p, state, volume * named.get("volume_factor", 1.0)

    def assay_reading(self, named: dict[str, Array], name: str, true: Array) -> Array:
        """What an assay reads of the truth in this vessel."""
        return true * named.get(SCALE + name, 1.0) + named.get(OFFSET + name, 0.0)


@partial(jax.jit, static_argnums=0)
def predict_readings(
    layout: Layout, u: Array, fixed: Array, v: Vessels, integrator: Integrator
) -> tuple[Array, Any, Trajectory]:
    """Readings [L, M] of vessels on lanes, their parameters, and their trajectories."""

    def begin(u: Array, initial: Array, volume: Array) -> tuple[Any, Any, Array]:
        return layout.initial_conditions(layout.natural_parameters(u, fixed), initial, volume)

    def seen_by_assays(u: Array, p: Any, trajectory: Trajectory, v: Vessels) -> Array:
        named = layout.natural_parameters(u, fixed)
        seen = observe_nodes(layout.model, p, trajectory, grid=v.grid)
        return jnp.stack([layout.assay_reading(named, n, seen[n]) for n in layout.variables])[v.variable, v.node]

    p, start, volume = jax.vmap(begin)(u, v.initial, v.volume)
    cultivation = Cultivation(start, volume, v.grid, Vessel(v.feeds))
    trajectory = simulate(layout.model, p, cultivation, integrator=integrator)
    return jax.vmap(seen_by_assays)(u, p, trajectory, v), p, trajectory


def _whitened(
    layout: Layout, u: Array, fixed: Array, v: Vessels, scatter: Scatter, integrator: Integrator
) -> tuple[Array, Array]:
    """Residuals [L, M] and status [L]."""
    y, _, trajectory = predict_readings(layout, u, fixed, v, integrator)
    good = (trajectory.status == 0)[:, None] & (v.weight > 0.0)
    # a failed lane is masked before the residual: it must reach neither the sums nor their derivative
    y = jnp.where(good, y, v.value)
    scale, floor = scatter.scale[v.variable], scatter.floor[v.variable]
    r = whitened_residual(on_scale(y, scale, floor), on_scale(v.value, scale, floor), v.sd, v.censored)
    return jnp.where(good, r * v.weight, 0.0), trajectory.status


def _freedom(v: Vessels, scatter: Scatter) -> Array:
    """A limit is not a reading: only readings have outliers."""
    return jnp.where(v.censored == MEASURED, scatter.robust[v.variable], 0.0)


@partial(jax.jit, static_argnums=0)
def vessel_costs(
    layout: Layout, u: Array, fixed: Array, v: Vessels, scatter: Scatter, integrator: Integrator
) -> tuple[Array, Array]:
    """Negative log-likelihood of each lane [L], constants left out, inf where the simulation failed; and residuals."""
    r, status = _whitened(layout, u, fixed, v, scatter, integrator)
    loss, _ = robust_loss(r**2, _freedom(v, scatter))
    return jnp.where(status == 0, jnp.sum(loss, axis=1), jnp.inf), r


@partial(jax.jit, static_argnums=0)
def vessel_equations(
    layout: Layout, u: Array, fixed: Array, v: Vessels, scatter: Scatter, integrator: Integrator
) -> VesselEquations:
    """Cost and normal equations of each lane."""

    def along(direction: Array) -> tuple[Array, Array, Array]:
        moved = (jnp.broadcast_to(direction, u.shape),)
        r, slope, status = jax.jvp(
            lambda u: _whitened(layout, u, fixed, v, scatter, integrator), (u,), moved, has_aux=True
        )
        return r, status, slope

    # directions outside, lanes inside: lanes stay the fastest axis of every array in the loop
    r, status, jacobian = jax.vmap(along, out_axes=(None, None, 0))(jnp.eye(u.shape[1], dtype=u.dtype))
    loss, weight = robust_loss(r**2, _freedom(v, scatter))
    return VesselEquations(
        cost=jnp.where(status == 0, jnp.sum(loss, axis=1), jnp.inf),
        residual=r,
        weight=weight,
        jacobian=jnp.swapaxes(jacobian, 0, 1),
        gradient=jnp.einsum("qlm,lm->lq", jacobian, weight * r),
        hessian=jnp.einsum("qlm,plm->lqp", jacobian, weight * jacobian),
    )
