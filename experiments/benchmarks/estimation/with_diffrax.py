"""diffrax used plainly: Tsit5 from bolus to bolus under vmap, block forward Jacobian, SciPy's least squares."""

from collections.abc import Callable
from functools import cache
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from programs import Fitted
from screen import ATOL, EPS, FEED_GLC, FEED_GLN, K_LYS, KD0, KLAC_UP, KSW, QLAC_UP, RTOL, Screen, segments


def _rates(t: Any, y: Any, p: Any) -> Any:
    Kg, Kq, KIl, KIa, Yg, Yq, mg, Ya, kdq, Kda, mum, kd, qp, Yl = p
    X, D, G, Q, L, A, _ = y
    mu = mum * G / (Kg + G) * Q / (Kq + Q) * KIl / (KIl + L) * KIa / (KIa + A)
    death = KD0 + kd * A / (Kda + A)
    qg, qq = mu / Yg + mg * G / (EPS + G), mu / Yq
    uptake = QLAC_UP * L / (KLAC_UP + L) * KSW / (KSW + G)
    return jnp.stack(
        [
            (mu - death) * X,
            death * X - K_LYS * D,
            -qg * X,
            -qq * X - kdq * Q,
            (Yl * qg - uptake) * X,
            Ya * qq * X + kdq * Q,
            qp * X,
        ]
    )


def _vessel(log_p: Any, y0: Any, dose: Any, adjoint: diffrax.AbstractAdjoint) -> Any:
    p, y, volume, rows = jnp.exp(log_p), y0[:7], y0[7], []
    for i, (a, b, days) in enumerate(segments()):
        if i:
            gained = jnp.array([0.0, 0.0, FEED_GLC, FEED_GLN, 0.0, 0.0, 0.0]) * dose
            y, volume = (y * volume + gained) / (volume + dose), volume + dose
        at = np.unique(np.append(days, b))
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(_rates),
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
        rows.append(found.ys[: len(days)])
        y = found.ys[-1]
    return jnp.concatenate(rows)


@cache
def _programs() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Predictions, their derivatives per vessel, and the gradient of the data's cost per vessel."""
    forward, reverse = diffrax.ForwardMode(), diffrax.RecursiveCheckpointAdjoint()
    predict = jax.vmap(lambda u, y0, dose: _vessel(u, y0, dose, reverse))
    blocks = jax.vmap(jax.jacfwd(lambda u, y0, dose: _vessel(u, y0, dose, forward)))

    def data_cost(u: Any, y0: Any, dose: Any, data: Any, sd: Any) -> Any:
        return 0.5 * jnp.sum(((predict(u, y0, dose) - data) / sd) ** 2)

    return jax.jit(predict), jax.jit(blocks), jax.jit(jax.grad(data_cost))


class Diffrax(Fitted):
    """All vessels under one vmap."""

    name = "diffrax Tsit5"
    derivative = "Jacobian, forward"

    def predicted(self, lanes: np.ndarray) -> np.ndarray:
        return np.asarray(_programs()[0](np.log(lanes), self.screen.y0, self.screen.vf))

    def blocks(self, theta: np.ndarray) -> np.ndarray:
        u = np.log(self.screen.lanes(theta))
        found = np.asarray(_programs()[1](u, self.screen.y0, self.screen.vf))
        return found.reshape(self.screen.clones, 105, 14)


class DiffraxReverse(Diffrax):
    """The same with the gradient by reverse derivatives, for searches that need no more."""

    name = "diffrax Tsit5, reverse"
    derivative = "gradient, reverse"

    def __init__(self, s: Screen):
        super().__init__(s)

    def derivatives(self, theta: np.ndarray) -> np.ndarray:
        s = self.screen
        own = np.asarray(_programs()[2](np.log(s.lanes(theta)), s.y0, s.vf, s.data, s.sd))
        return np.concatenate([own[:, :10].sum(axis=0), own[:, 10:].ravel()]) + (theta - s.prior_mu) / s.prior_sd**2
