"""The vessel: material balances in amounts, written once for all models.

dn/dt = V r(c) + sum_j F_j c_feed,j + kLa (c* - c) V - F_bleed c - (1 - R) F_harvest c,
dV/dt = sum_j F_j + F_titrant - F_bleed - F_harvest - evaporation,  n = c V,
where R is the fraction of a species that the retention device retains. The instant actions of a schedule (samples,
boluses, exchanges, top-ups) happen at the left edge of an interval.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import ConfigError
from optim.kinetics.base import AbstractKineticModel, Environment, Species
from optim.schedule.grid import IntervalActions
from optim.types import Array, Scalar, StateTuple

# how fast broth is bled when the VCD is far above its limit, 1/h per relative excess: the loop of a real controller
# settles within minutes, which is fast against growth (0.04 1/h) and still smooth
BLEED_GAIN = 5.0
BLEED_WIDTH = 0.01  # relative excess over which the bleed opens


class Vessel(NamedTuple):
    """The vessel: its feed media and devices, which do not change during a cultivation (J feeds, N species).

    A field that is None means that the vessel has no such device.
    """

    feeds: Array  # [J, N] concentration of every species in every feed, in the unit of the species
    retention: Array | None = None  # [N] fraction that the retention device retains; 1 for cells and their properties
    titrant: Array | None = None  # [N] L of base or acid added per unit of a species formed, to control the pH
    topup: Array | None = None  # [J, N] 1 (or a unit conversion) for the species that feed j tops up, else 0


class Controls(NamedTuple):
    """The controls of one interval: one row of a grid."""

    length: Scalar  # h
    actions: IntervalActions


class _VolumeFlows(NamedTuple):
    """Volume flows at one moment, L/h. None: the vessel has no such flow."""

    feeds: list[Scalar]
    titrant: Scalar | None
    harvest: Scalar | None
    bleed: Scalar | None
    net: Scalar  # change of volume


def _environment_at(u: IntervalActions, s: Scalar) -> Environment:
    """The environment at position s in [0, 1] of an interval."""
    if u.end is None:
        return u.start
    return jax.tree.map(lambda a, b: a + s * (b - a), u.start, u.end)


def apply_left_edge(model: AbstractKineticModel, y: StateTuple, controls: Controls, *, vessel: Vessel) -> StateTuple:
    """Apply the instant actions at the left edge of an interval.

    Args:
        model: kinetic model with N species.
        y: amounts of the N species, the volume in L, and the amounts collected so far.
        controls: the interval, whose actions are applied.
        vessel: feed media and devices.

    Returns:
        The state after the actions, in the form of `y`.
    """
    a, n = controls.actions, len(model.species)
    volume = y[n]
    left = volume - a.withdraw
    remaining = left / volume
    amounts = [x * remaining if species.dilutes else x for x, species in zip(y[:n], model.species, strict=True)]
    collected = list(y[n + 1 :])
    if a.remove is not None:
        # an emptied vessel is refused by the march; the floor only keeps the masked lane finite
        share = a.remove / jnp.maximum(left, 1e-30)
        gone = [
            x * share * (1.0 - _retained(vessel, i, species))
            for i, (x, species) in enumerate(zip(amounts, model.species, strict=True))
        ]
        amounts = [x - g for x, g in zip(amounts, gone, strict=True)]
        collected = [x + gone[i] for x, i in zip(collected, collected_species(model), strict=True)]
        left = left - a.remove
    new_volume = left + _total(a.bolus)
    amounts = _add_feeds(model, amounts, [a.bolus[j] for j in range(a.bolus.shape[0])], vessel)
    for j, dose in enumerate(_topups(amounts, new_volume, a, vessel)):
        amounts = _add_feeds(model, amounts, [dose], vessel._replace(feeds=vessel.feeds[j : j + 1]))
        new_volume = new_volume + dose
    return (*amounts, new_volume, *collected)


def _topups(amounts: list[Scalar], volume: Scalar, a: IntervalActions, vessel: Vessel) -> list[Scalar]:
    if a.topup_to is None or a.topup_below is None or vessel.topup is None:
        return []
    doses = []
    for j in range(a.topup_to.shape[0]):
        amount = sum(vessel.topup[j, i] * x for i, x in enumerate(amounts))
        strength = sum(vessel.topup[j, i] * vessel.feeds[j, i] for i in range(len(amounts)))
        lacking = amount < a.topup_below[j] * volume
        # no dose lifts the vessel above the concentration of the feed itself: such a feed is not added
        can = strength > a.topup_to[j]
        dose = (a.topup_to[j] * volume - amount) / jnp.where(can, strength - a.topup_to[j], 1.0)
        doses.append(jnp.where(lacking & can, jnp.maximum(dose, 0.0), 0.0))
        amounts = [x + doses[j] * vessel.feeds[j, i] for i, x in enumerate(amounts)]
        volume = volume + doses[j]
    return doses


def _volume_flows(
    model: AbstractKineticModel, s: Scalar, c: Any, r: Any, volume: Scalar, u: Controls, vessel: Vessel
) -> _VolumeFlows:
    """Every volume flow at position s of an interval, from concentrations c and reaction rates r."""
    a = u.actions
    feeds = []
    for j in range(len(a.rate_start)):
        rate = a.rate_start[j] + s * (a.rate_end[j] - a.rate_start[j])
        feeds.append(rate if a.growth is None else rate * jnp.exp(a.growth[j] * u.length * s))
    net = sum(feeds, jnp.zeros_like(volume))
    titrant = harvest = bleed = None
    if vessel.titrant is not None:
        needed = sum((vessel.titrant[i] * x for i, x in enumerate(r)), jnp.zeros_like(volume)) * volume
        titrant = jnp.maximum(needed, 0.0)
        net = net + titrant
    if a.evaporation is not None:
        net = net - a.evaporation
    if a.bleed is not None or a.bleed_above is not None:
        bleed = jnp.zeros_like(volume) if a.bleed is None else a.bleed
        if a.bleed_above is not None:
            excess = c[_viable_species(model)] / a.bleed_above - 1.0
            bleed = bleed + volume * BLEED_GAIN * BLEED_WIDTH * jax.nn.softplus(excess / BLEED_WIDTH)
        net = net - bleed
    if a.harvest is not None or a.level is not None:
        harvest = jnp.zeros_like(volume) if a.harvest is None else a.harvest
        if a.level is not None:
            harvest = harvest + a.level * jnp.maximum(net - harvest, 0.0)
        net = net - harvest
    return _VolumeFlows(feeds, titrant, harvest, bleed, net)


def state_derivative(
    model: AbstractKineticModel, p: Any, y: StateTuple, *, s: Scalar, controls: Controls, vessel: Vessel
) -> StateTuple:
    """The material balances dy/ds, over the interval rescaled to s in [0, 1].

    The length of the interval enters as a factor, so the result can be differentiated with respect to event times.

    Args:
        model: kinetic model with N species.
        p: the model's Parameters.
        y: amounts of the N species, the volume in L, and the amounts collected so far.
        s: position within the interval, 0 to 1.
        controls: length and actions of the interval.
        vessel: feed media and devices.

    Returns:
        dy/ds in the form of `y`.

    Raises:
        ConfigError: a species is exchanged with gas and the schedule sets no kLa.
    """
    n = len(model.species)
    volume, env, a = y[n], _environment_at(controls.actions, s), controls.actions
    c = to_concentrations(model, y)
    r = model.rates(p, c, env)
    f = _volume_flows(model, s, c, r, volume, controls, vessel)
    change = []
    for i, species in enumerate(model.species):
        total = volume * r[i] if species.dilutes else r[i]
        if species.dilutes or species.component:
            for j, feed in enumerate(f.feeds):
                total = total + _added_amount(model, y, feed * vessel.feeds[j][i], i)
        if not species.dilutes:
            change.append(total)
            continue
        if species.saturation is not None:
            if env.kla is None:
                raise ConfigError(f"{species.name} is exchanged with gas: the schedule must set kLa (kla_per_h)")
            total = total + volume * env.kla * (species.saturation - c[i])
        if f.bleed is not None:
            total = total - f.bleed * c[i]
        if f.harvest is not None:
            total = total - f.harvest * (1.0 - _retained(vessel, i, model.species[i])) * c[i]
        change.append(total)
    collected: list[Scalar] = []
    if collects_harvest(a):
        none = jnp.zeros_like(volume)
        out = none if f.harvest is None else f.harvest
        collected = [out * (1.0 - _retained(vessel, i, model.species[i])) * c[i] for i in collected_species(model)]
    return tuple(controls.length * x for x in (*change, f.net, *collected))


def collects_harvest(a: IntervalActions) -> bool:
    """Whether anything leaves through the retention device, so that collected amounts are states of the vessel."""
    return a.harvest is not None or a.level is not None or a.remove is not None


def collected_species(model: AbstractKineticModel) -> tuple[int, ...]:
    """Indices of the species whose collected amount is a state of the vessel."""
    return tuple(i for i, s in enumerate(model.species) if s.collected)


def _viable_species(model: AbstractKineticModel) -> int:
    """Index of the viable cells: the first species of the inoculum."""
    return model.names().index(model.inoculum_species[0])


def to_concentrations(model: AbstractKineticModel, y: StateTuple) -> Any:
    """Concentrations (the model's State) from the state of a vessel: amounts, volume in L, collected amounts."""
    n = len(model.species)
    inverse = 1.0 / y[n]
    return model.State(*(x * inverse if s.dilutes else x for x, s in zip(y[:n], model.species, strict=True)))


def to_amounts(model: AbstractKineticModel, c: Any, volume: Scalar, *, actions: IntervalActions) -> StateTuple:
    """The state of a vessel at the start: amounts, volume in L, and collected amounts of zero where `actions` collect.

    Args:
        model: kinetic model.
        c: concentrations, the model's State.
        volume: L.
        actions: the schedule, which decides whether collected amounts are states.
    """
    first = tuple(x * volume if s.dilutes else x + 0.0 * volume for x, s in zip(c, model.species, strict=True))
    none = jnp.zeros_like(volume)
    return (*first, volume, *(none for _ in collected_species(model) if collects_harvest(actions)))


def state_names(model: AbstractKineticModel, actions: IntervalActions) -> tuple[str, ...]:
    """Names of the states of a vessel in order: species, volume, collected amounts."""
    more = [f"collected {model.species[i].name}" for i in collected_species(model)] if collects_harvest(actions) else []
    return (*model.names(), "volume", *more)


def state_scales(model: AbstractKineticModel, y: Array) -> Array:
    """The typical size of every state [N', L], in amounts, by which tolerances are scaled."""
    n = len(model.species)
    rows = [*range(n), n, *(collected_species(model) if y.shape[0] > n + 1 else ())]
    scale = np.array([1.0 if i == n else model.species[i].scale for i in rows])[:, None]
    dilutes = np.array([i == n or model.species[i].dilutes for i in rows])[:, None]
    return scale * jnp.where(dilutes, jnp.maximum(y[n], 1e-12), 1.0)


def _retained(vessel: Vessel, i: int, species: Species) -> Scalar | float:
    """Retained fraction of a species. Without a retention device only properties of cells are retained."""
    return (0.0 if species.dilutes else 1.0) if vessel.retention is None else vessel.retention[i]


def _total(flow: Array) -> Scalar:
    return sum((flow[j] for j in range(flow.shape[0])), jnp.zeros((), flow.dtype))


def _add_feeds(model: AbstractKineticModel, amounts: list[Scalar], doses: list[Scalar], vessel: Vessel) -> list[Scalar]:
    # written out over the few feeds: a dot product would break the fusion of the step
    for j, dose in enumerate(doses):
        amounts = [x + _added_amount(model, amounts, dose * vessel.feeds[j][i], i) for i, x in enumerate(amounts)]
    return amounts


def _added_amount(model: AbstractKineticModel, amounts: Any, added: Scalar, i: int) -> Scalar:
    """Change of state i by an addition: the amount added or, for a property of the cells, that amount per cell."""
    if model.species[i].dilutes:
        return added
    if not model.species[i].component:
        return jnp.zeros_like(added)
    return added / jnp.maximum(amounts[_viable_species(model)], 1e-30)
