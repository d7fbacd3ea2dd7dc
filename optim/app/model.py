"""A model as a library user holds it: equations, table of parameters, and noise of the assays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from optim.app.build import build_table, compose
from optim.settings.settings import Settings

if TYPE_CHECKING:
    from optim.kinetics.base import AbstractKineticModel
    from optim.parameters import ParameterTable


@dataclass(frozen=True, repr=False)
class Model:
    """A kinetic model, its table of parameters, and the noise of the assays that it is fitted to."""

    settings: Settings

    @property
    def name(self) -> str:
        """Name of the file in `configs/model`."""
        return self.settings.model.name

    @cached_property
    def kinetics(self) -> AbstractKineticModel:
        """The equations: species, rates, and what assays read."""
        from optim.kinetics import load_kinetics

        return load_kinetics(self.settings.model.kinetics)

    @cached_property
    def parameters(self) -> ParameterTable:
        """Every parameter with value, unit, level, bounds, prior and source."""
        return build_table(self.settings.model, self.kinetics)

    def __repr__(self) -> str:
        rows = self.parameters.rows
        free = sum(row.level != "fixed" for row in rows)
        return (
            f"Model {self.name}: {self.settings.model.title}\n"
            f"  states: {', '.join(s.name for s in self.kinetics.species)}\n"
            f"  {len(rows)} parameters, {free} estimated; assays: {', '.join(self.settings.noise.assays)}"
        )


def load_model(name: str, *overrides: str) -> Model:
    """Load a kinetic model with its parameters and the noise of its assays.

    Args:
        name: a file of `configs/model`; `model_names()` lists them.
        overrides: settings as on the command line, such as `model.parameters.mu_max.level=shared`.

    Raises:
        ConfigError: an unknown model or key; names the closest one.
    """
    return Model(compose([f"model={name}", *overrides]))
