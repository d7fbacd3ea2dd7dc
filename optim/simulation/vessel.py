"""The vessel of a plan: composition of its feeds, retention of its device, components that it tops up."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from optim.errors import ConfigError, nearest
from optim.kinetics.base import AbstractKineticModel
from optim.schedule.plan import Plan
from optim.simulation.balance import Vessel
from optim.units import VARIABLES


def make_vessel(
    model: AbstractKineticModel,
    plan: Plan,
    stocks: Mapping[str, Mapping[str, float]],
    *,
    retention: Mapping[str, float] | None = None,
    titrant: Mapping[str, float] | None = None,
) -> Vessel:
    """Make the vessel of a plan.

    Args:
        model: kinetic model.
        plan: the plan, which names the feeds and the components to top up.
        stocks: composition of every feed, by component of media (canonical unit) or by species (its unit). A stock may
            hold cells. A component that is not named is zero, also dissolved gas. A known component that the model does
            not have is ignored.
        retention: fraction of a species, by name, that the retention device retains. By default, if the plan harvests
            or exchanges medium, cells and properties of cells are retained, unless they are `washed_out`, and all else
            passes.
        titrant: L of base or acid per unit of a species formed, by name of the species.

    Returns:
        The vessel, with the feeds in the order of the plan.

    Raises:
        ConfigError: lists every fault: an unknown stock, component or species, a value out of range, or a top-up that
            its feed cannot reach.
    """
    faults: list[str] = []
    s = plan.schedule
    feeds = np.zeros((len(plan.feeds), len(model.species)))
    for j, feed in enumerate(plan.feeds):
        if feed in stocks:
            feeds[j] = _stock_concentrations(model, feed, stocks[feed], faults)
        elif feed:
            faults.append(f"feed '{feed}' has no stock.{nearest(feed, stocks)} Stocks: {', '.join(stocks) or 'none'}")
    topup = np.zeros_like(feeds)
    for feed, component in plan.topups.items():
        j = plan.feeds.index(feed)
        topup[j] = _topup_weights(model, feed, component, faults)
        highest = float(np.max(np.asarray(s.topup_to)[:, j]))
        strength = float(topup[j] @ feeds[j])
        if feed in stocks and topup[j].any() and strength <= highest:
            faults.append(f"feed '{feed}' holds {strength:g} of {component} and cannot top up to {highest:g}")
    retained = None
    if retention is not None or s.remove is not None or s.level is not None or s.harvest is not None:
        cells = [(x.name in model.inoculum_species or not x.dilutes) and not x.washed_out for x in model.species]
        retained = _by_species(model, "retention", retention or {}, np.array(cells, float), faults)
        if not np.all((retained >= 0.0) & (retained <= 1.0)):
            faults.append("retention: a fraction lies outside 0 to 1")
    base = None
    if titrant is not None:
        base = _by_species(model, "titrant", titrant, np.zeros(len(model.species)), faults)
    if faults:
        raise ConfigError("\n  ".join(["this vessel cannot be built", *faults]))
    return Vessel(feeds, retained, base, topup if plan.topups else None)


def _stock_concentrations(
    model: AbstractKineticModel, stock: str, holds: Mapping[str, float], faults: list[str]
) -> np.ndarray:
    """Concentration [N] of every species in a stock, from its composition by component or species."""
    species = model.names()
    known = dict.fromkeys((*species, *(s.component for s in model.species if s.component), *VARIABLES))
    for name, value in holds.items():
        if name not in known:
            faults.append(f"stock '{stock}': unknown '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
        elif not math.isfinite(value) or value < 0.0:
            faults.append(f"stock '{stock}': {name} is {value:g}; give a concentration")
    values = np.array(model.feed({k: v for k, v in holds.items() if k not in species}))
    for i, s in enumerate(model.species):
        if s.name in holds:
            if s.component in holds and s.component != s.name:
                faults.append(f"stock '{stock}': {s.component} and {s.name} are the same; keep one")
            if not s.dilutes and not s.component:
                faults.append(
                    f"stock '{stock}': {s.name} is a property of cells, which no addition changes; leave it out"
                )
            values[i] = holds[s.name]
    return values


def _topup_weights(model: AbstractKineticModel, feed: str, component: str, faults: list[str]) -> np.ndarray:
    """Factor [N] from each species to the component that is topped up: 1, or its unit per unit of the species."""
    weights = np.zeros(len(model.species))
    names = [s.name if component in model.names() else s.component for s in model.species]
    places = [i for i, name in enumerate(names) if name == component and model.species[i].dilutes]
    if len(places) != 1:
        known = [n for s in model.species if s.dilutes for n in (s.component, s.name) if n]
        faults.append(
            f"top-up with '{feed}': the model has no '{component}' to top up.{nearest(component, known)} "
            f"Known: {', '.join(dict.fromkeys(known))}"
        )
        return weights
    (i,) = places
    by_species = component in model.names()
    weights[i] = 1.0 if by_species else 1.0 / (model.feed({component: 1.0})[i] - model.feed({})[i])
    return weights


def _by_species(
    model: AbstractKineticModel, what: str, values: Mapping[str, float], defaults: np.ndarray, faults: list[str]
) -> np.ndarray:
    """Values [N] in the order of the species; species that are not named have their default."""
    for name in values:
        if name not in model.names():
            faults.append(
                f"{what}: unknown species '{name}'.{nearest(name, model.names())} Known: {', '.join(model.names())}"
            )
    return np.array([values.get(name, other) for name, other in zip(model.names(), defaults, strict=True)], float)
