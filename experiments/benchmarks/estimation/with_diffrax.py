"""diffrax used plainly: Tsit5 from bolus to bolus under vmap, block forward Jacobian, SciPy's least squares."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from programs import Fitted
from screen import ATOL, FEED_GLC, FEED_GLN, RTOL, rates, segments


def _vessel(log_p: Any, y0: Any, dose: Any, adjoint: diffrax.AbstractAdjoint, by_species: bool) -> Any:
    """Readings [15, 7] of one vessel."""
    join = tuple if by_species else jnp.stack
    term = diffrax.ODETerm(lambda t, y, p: join(rates(t, y, p)))
    p, y, volume, rows = tuple(jnp.exp(log_p)), join(list(y0[:7])), y0[7], []
    for i, (a, b, days) in enumerate(segments()):
        if i:
            gained = [0.0, 0.0, FEED_GLC * dose, FEED_GLN * dose, 0.0, 0.0, 0.0]
            y = join([(x * volume + g) / (volume + dose) for x, g in zip(y, gained, strict=True)])
            volume = volume + dose
        at = np.unique(np.append(days, b))
        found = diffrax.diffeqsolve(
            term,
            diffrax.Tsit5(),
            t0=a,
            t1=b,
            dt0=0.05,
            y0=y,
            args=p,
            saveat=diffrax.SaveAt(ts=jnp.asarray(at)),
            stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
            adjoint=adjoint,
        )
        y = jax.tree.map(lambda x: x[-1], found.ys)
        rows.append((jnp.stack(found.ys, axis=-1) if by_species else found.ys)[: len(days)])
    return jnp.concatenate(rows)


class _Programs(NamedTuple):
    """Of all vessels."""

    predict: Callable[..., Any]  # -> [C, 15, 7]
    blocks: Callable[..., Any]  # its derivatives by each vessel's log parameters, [C, 15, 7, 14]
    gradient: Callable[..., Any]  # of the data's cost by each vessel's log parameters, [C, 14]


@cache
def _programs(by_species: bool) -> _Programs:
    forward, reverse = diffrax.ForwardMode(), diffrax.RecursiveCheckpointAdjoint()
    predict = jax.vmap(lambda u, y0, dose: _vessel(u, y0, dose, reverse, by_species))
    blocks = jax.vmap(jax.jacfwd(lambda u, y0, dose: _vessel(u, y0, dose, forward, by_species)))

    def data_cost(u: Any, y0: Any, dose: Any, data: Any, sd: Any) -> Any:
        return 0.5 * jnp.sum(((predict(u, y0, dose) - data) / sd) ** 2)

    return _Programs(jax.jit(predict), jax.jit(blocks), jax.jit(jax.grad(data_cost)))


class Diffrax(Fitted):
    """All vessels under one vmap; the state is one array, as most people write it."""

    name = "diffrax Tsit5"
    derivative = "Jacobian, forward"
    by_species = False

    def predicted(self, lanes: np.ndarray) -> np.ndarray:
        return np.asarray(_programs(self.by_species).predict(np.log(lanes), self.screen.y0, self.screen.vf))

    def blocks(self, theta: np.ndarray) -> np.ndarray:
        u = np.log(self.screen.lanes(theta))
        found = np.asarray(_programs(self.by_species).blocks(u, self.screen.y0, self.screen.vf))
        return found.reshape(self.screen.clones, 105, 14)


class DiffraxBySpecies(Diffrax):
    """The state is a tuple of numbers: each species is an array along the vessels. Faster, and longer to compile."""

    name = "diffrax Tsit5 by species"
    by_species = True


class DiffraxReverse(Diffrax):
    """With the gradient alone, by reverse derivatives, for searches that need no more."""

    name = "diffrax Tsit5, reverse"
    derivative = "gradient, reverse"

    def derivatives(self, theta: np.ndarray) -> np.ndarray:
        s = self.screen
        own = np.asarray(_programs(self.by_species).gradient(np.log(s.lanes(theta)), s.y0, s.vf, s.data, s.sd))
        return np.concatenate([own[:, :10].sum(axis=0), own[:, 10:].ravel()]) + (theta - s.prior_mu) / s.prior_sd**2
