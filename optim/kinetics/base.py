"""What a kinetic model is: species, parameters, and reaction rates in one litre."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
from equinox import AbstractClassVar

from optim.types import Scalar


@dataclass(frozen=True)
class Species:
    """One state of a model.

    `component` names the entry of a medium's composition that supplies it ('' = media hold none of it).
    `scale` is a typical size in `unit`; the integrator's absolute tolerance is relative to it.
    `dilutes` is False for a property of the cells (age, generations) that feeding does not dilute.
    `saturation` is its concentration in equilibrium with the gas supplied, in `unit`: the vessel then adds the transfer
    kLa (saturation - c), and `rates` holds only what the cells take up. None: not exchanged with gas.
    `collected`: the vessel keeps account of how much of it leaves with the harvest line (product in perfusion).
    `signed`: may be below zero; else a step that takes it there is refused, and a vessel that must go there fails.
    """

    name: str
    unit: str
    scale: float
    component: str = ""
    dilutes: bool = True
    saturation: float | None = None
    collected: bool = False
    signed: bool = False


class Environment(NamedTuple):
    """What the vessel imposes on the cells. None: not controlled, and no model that needs it may be used."""

    temperature: Scalar  # degC
    ph: Scalar
    do: Scalar | None = None  # % of saturation held by the controller, for models that take oxygen as given
    kla: Scalar | None = None  # 1/h, transfer of gas, for models with dissolved oxygen as a species


class AbstractKineticModel(eqx.Module):
    """Reaction rates per litre of broth. Knows no volume, no feed and no solver.

    `State` and `Parameters` are NamedTuples of scalars; `species` describes `State` field by field.
    Subclasses are final and have no fields of their own, so an instance is a static argument.
    """

    State: AbstractClassVar[Any]
    Parameters: AbstractClassVar[Any]
    species: AbstractClassVar[tuple[Species, ...]]
    stiff: ClassVar[bool] = False
    """Whether its rates differ so much that an explicit stepper is held back by stability: what `auto` goes by."""
    product: ClassVar[str] = ""
    """The observed variable that is the product. Empty: a model without one cannot be used in a process."""
    initial_variables: AbstractClassVar[tuple[str, ...]]
    """Variables whose sample at time 0 sets the initial state, and so says nothing about the parameters."""

    @abstractmethod
    def rates(self, p: Any, c: Any, env: Environment) -> Any:
        """Change of each species by reaction alone, per hour, in the unit of the species (a `State`)."""

    @abstractmethod
    def observe(self, p: Any, c: Any, env: Environment) -> dict[str, Scalar]:
        """What assays read, in canonical units, from concentrations `c`."""

    @abstractmethod
    def initial(
        self, medium: Mapping[str, float], inoculum_vcd: float | None, first_sample: Mapping[str, float]
    ) -> dict[str, float]:
        """Concentrations just after inoculation, by species name.

        `first_sample` holds the measurements at time 0, by variable. Raises `DatasetError` when what the model
        needs is missing.
        """

    @property
    @abstractmethod
    def inoculum_species(self) -> tuple[str, ...]:
        """Species that scale with the number of cells put into the vessel."""

    def feed(self, medium: Mapping[str, float]) -> tuple[float, ...]:
        """Concentration of each species in a medium or feed, in species order."""
        return tuple(float(medium.get(s.component, 0.0)) if s.component else 0.0 for s in self.species)

    def names(self) -> tuple[str, ...]:
        """Species names in order."""
        return tuple(s.name for s in self.species)
