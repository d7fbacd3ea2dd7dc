"""The start of the vessels: what media state, against what the first samples read and what the model needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from optim.data.dataset import Dataset
from optim.errors import DatasetError
from optim.estimation.noise import NoiseModel
from optim.kinetics.base import AbstractKineticModel, Environment
from optim.parameters import ParameterTable
from optim.units import VARIABLES, display_unit

# a first sample contradicts its medium when both differ by more than this, in units of the noise and as a fraction
CLEAR_NOISE, CLEAR_FRACTION = 5.0, 0.3
# in which growth is tried: some models refuse a setpoint that they lack
USUAL = (37.0, 7.0, 40.0, 100.0)


@dataclass(frozen=True)
class _Component:
    """A component at the start of the vessels with one medium: as stated (None: not), and as read (None: never)."""

    medium: str
    name: str
    stated: float | None
    read: float | None
    samples: int

    @property
    def amount(self) -> str:
        return f"{self.read:.3g} {display_unit(VARIABLES[self.name].unit)}"


def needed_components(model: AbstractKineticModel, table: ParameterTable) -> tuple[str, ...]:
    """Components of a medium without which the cells of the model do not grow, at usual levels of all others."""
    values = table.natural_values()
    p = model.Parameters(**{name: jnp.asarray(values[name]) for name in model.Parameters._fields})
    env = Environment(*(jnp.asarray(x) for x in USUAL))
    usual = model.State(*(jnp.asarray(s.scale) for s in model.species))
    if not _growth(model, p, usual, env) > 0.0:
        return ()
    return tuple(
        s.component
        for s in model.species
        if s.component and not _growth(model, p, usual._replace(**{s.name: jnp.asarray(0.0)}), env) > 0.0
    )


def _growth(model: AbstractKineticModel, p: object, c: object, env: Environment) -> float:
    """Change of the viable cells by reaction."""
    return float(model.rates(p, c, env)[0])


def require_stated(model: AbstractKineticModel, table: ParameterTable, dataset: Dataset) -> None:
    """Refuse a medium that does not state what the model needs and the first samples read.

    Raises `DatasetError` that names medium, component and reading. A medium that states 0 is taken at its word.
    """
    lacking = [c for c in _components(model, dataset) if c.stated is None and c.read is not None and c.read > 0.0]
    needed = needed_components(model, table) if lacking else ()
    told = [
        f"medium {c.medium} has no {c.name}, which the model needs; measured {c.amount} at time 0"
        for c in lacking
        if c.name in needed
    ]
    if told:
        raise DatasetError(
            f"dataset '{dataset.name}': {'; '.join(told)}. State it in media.csv (a row with 0 where there is none)"
        )


def start_notes(
    model: AbstractKineticModel, table: ParameterTable, dataset: Dataset, *, noise: NoiseModel
) -> tuple[str, ...]:
    """Notes on media that lack what the model needs, or that the first samples contradict."""
    components = _components(model, dataset)
    unknown = any(c.stated is None and c.read is None for c in components)
    needed = needed_components(model, table) if unknown else ()
    notes = []
    for c in components:
        made = f"medium {c.medium} states " + (
            f"no {c.name}" if c.stated is None else f"{c.stated:.3g} {display_unit(VARIABLES[c.name].unit)} {c.name}"
        )
        if c.read is None:
            if c.stated is None and c.name in needed:
                notes.append(f"{made}, which the model needs: it starts at 0")
        elif c.name in noise.assays and _differ(noise, c):
            notes.append(
                f"{made}, and the vessels start from that; measured {c.amount} at time 0 (median of {c.samples})"
            )
    return tuple(notes)


def _differ(noise: NoiseModel, c: _Component) -> bool:
    assert c.read is not None
    stated = np.asarray(c.stated or 0.0)
    sd = float(noise.reading_sd(c.name, stated, noise.sd_on_scale(c.name, stated)))
    return bool(abs(c.read - stated) > max(CLEAR_NOISE * sd, CLEAR_FRACTION * float(stated)))


def _components(model: AbstractKineticModel, dataset: Dataset) -> list[_Component]:
    """Components at the start of the vessels, by medium; those that only a sample sets are left out."""
    from_sample = {*model.initial_variables, *(s.component for s in model.species if s.name in model.inoculum_species)}
    names = [
        s.component
        for s in model.species
        if s.component in VARIABLES and s.component not in from_sample and not s.starts_as
        if not s.required and s.saturation is None and s.start == 0.0
    ]
    first: dict[str, list[Mapping[str, float]]] = {}
    for b, run in enumerate(dataset.runs):
        first.setdefault(run.medium_id, []).append(dataset.initial_sample(b))
    found = []
    for medium, samples in first.items():
        made = dataset.medium(medium)
        for name in names:
            read = [s[name] for s in samples if name in s]
            found.append(_Component(medium, name, made.get(name), float(np.median(read)) if read else None, len(read)))
    return found
