"""Rate laws shared by models. All are smooth, and zero where their substrate is zero."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from optim.types import Scalar


def monod(s: Scalar, k: Scalar) -> Scalar:
    """Saturation s/(k+s); s and k in the same unit."""
    return s / (k + s)


def inhibition(i: Scalar, k: Scalar) -> Scalar:
    """Hyperbolic inhibition k/(k+i)."""
    return k / (k + i)


def hill_inhibition(i: Scalar, k: Scalar, n: float) -> Scalar:
    """Steep inhibition 1/(1+(i/k)^n): the smooth form of a switch at i = k."""
    # the power of a slightly negative i (round-off of the integrator) would be NaN
    return 1.0 / (1.0 + jnp.power(jnp.maximum(i, 0.0) / k, n))


def gate(s: Scalar, eps: float) -> Scalar:
    """s/(s+eps): 1 while substrate lasts, 0 without, so that consumption cannot push s below zero."""
    return s / (s + eps)


def below(s: Scalar, threshold: float, width: float) -> Scalar:
    """Sigmoid that is 1 well below the threshold and 0 well above it."""
    return jax.nn.sigmoid((threshold - s) / width)


def bell(x: Scalar, optimum: Scalar, width: Scalar) -> Scalar:
    """exp(-((x-optimum)/width)^2)."""
    return jnp.exp(-(((x - optimum) / width) ** 2))


def capped(share: Scalar, n: float = 8.0) -> Scalar:
    """The smooth form of min(share, 1): share / (1 + share^n)^(1/n), for a share that is not negative."""
    return share / (1.0 + share**n) ** (1.0 / n)
