"""The vessel: material balances in amounts, written once for all models.

dn/dt = V r(c) + sum_j F_j c_feed_j,  dV/dt = sum_j F_j,  n = c V; and the instant actions at the left edge of an
interval: first what is withdrawn, then what is added.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from optim.kinetics.base import AbstractKineticModel, Environment
from optim.simulate.integrators import StateTuple
from optim.types import Array, Scalar


class Controls(NamedTuple):
    """What is done to one vessel in one interval (J feeds)."""

    length: Scalar  # h
    withdraw: Scalar  # L of broth, at the left edge
    bolus: Array  # [J] L, at the left edge
    rate_start: Array  # [J] L/h
    rate_end: Array  # [J] L/h; the rate is linear in between
    temperature: Scalar  # degC
    ph: Scalar


def environment(u: Controls) -> Environment:
    """The environment of an interval."""
    return Environment(u.temperature, u.ph)


def left_edge(model: AbstractKineticModel, y: StateTuple, u: Controls, feeds: Array) -> StateTuple:
    """Withdraw a sample, then add boluses. y: amounts and, last, the volume in L; feeds: [J, N]."""
    volume = y[-1]
    kept = (volume - u.withdraw) / volume
    new_volume = volume - u.withdraw + _total(u.bolus)
    amounts = tuple(
        n * kept + _fed(u.bolus, feeds, i) if species.dilutes else n
        for i, (n, species) in enumerate(zip(y[:-1], model.species, strict=True))
    )
    return (*amounts, new_volume)


def derivative(model: AbstractKineticModel, p: Any, s: Scalar, y: StateTuple, u: Controls, feeds: Array) -> StateTuple:
    """dy/ds over the rescaled interval s in [0, 1]: the interval's length is a factor, so it can be differentiated."""
    volume = y[-1]
    rate = u.rate_start + s * (u.rate_end - u.rate_start)
    r = model.rates(p, concentrations(model, y), environment(u))
    amounts = tuple(
        u.length * (volume * r[i] + _fed(rate, feeds, i)) if species.dilutes else u.length * r[i]
        for i, species in enumerate(model.species)
    )
    return (*amounts, u.length * _total(rate))


def concentrations(model: AbstractKineticModel, y: StateTuple) -> Any:
    """The model's State from amounts and volume."""
    volume = y[-1]
    return model.State(*(n / volume if s.dilutes else n for n, s in zip(y[:-1], model.species, strict=True)))


def amounts(model: AbstractKineticModel, c: Any, volume: Scalar) -> StateTuple:
    """Amounts and volume from concentrations."""
    return (*(x * volume if s.dilutes else x + 0.0 * volume for x, s in zip(c, model.species, strict=True)), volume)


def _total(flows: Array) -> Scalar:
    return sum((flows[j] for j in range(flows.shape[0])), jnp.zeros((), flows.dtype))


def _fed(flows: Array, feeds: Array, i: int) -> Scalar:
    # written out over the few feeds: a dot product would break the fusion of the step
    return sum((flows[j] * feeds[j, i] for j in range(flows.shape[0])), jnp.zeros((), feeds.dtype))
