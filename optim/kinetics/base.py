"""What a kinetic model is: species, parameters, and reaction rates in one litre."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
from equinox import AbstractClassVar

from optim.errors import DatasetError
from optim.types import Scalar
from optim.units import VARIABLES, conversion_factor


@dataclass(frozen=True)
class Species:
    """One state variable of a model.

    Attributes:
        name: field of the model's `State`.
        unit: of its concentration in the rate laws.
        scale: a typical concentration in `unit`; the integrator's absolute tolerance is relative to it.
        component: entry of a medium's composition that supplies it; empty: media hold none of it. Media, feeds and
            assays state a component in the canonical unit of `optim.units.VARIABLES` and are converted to `unit` here.
        dilutes: False for a property of the cells (age, generations) that feeding does not dilute.
        saturation: concentration in equilibrium with the gas supplied, in `unit`. The vessel then adds the transfer
            kLa (saturation - c), and `rates` holds the uptake by the cells only. None: not exchanged with gas.
        collected: the vessel records how much of it leaves with the harvest line (product in perfusion).
        signed: may become negative. Otherwise a step to a negative value is rejected and repeated shorter; if none
            succeeds the vessel ends with `OUT_OF_RANGE`.
        starts_as: component or variable that states its concentration at the start only; empty: `component`.
        start: concentration at the start, in `unit`, where neither the medium nor a sample at time 0 states it.
        required: a start that neither the medium nor a sample at time 0 states is an error.
        washed_out: a property of the cells that an exchange of medium takes away, such as plasmid outside them.
    """

    name: str
    unit: str
    scale: float
    component: str = ""
    dilutes: bool = True
    saturation: float | None = None
    collected: bool = False
    signed: bool = False
    starts_as: str = ""
    start: float = 0.0
    required: bool = False
    washed_out: bool = False

    @property
    def canonical_per_unit(self) -> float:
        """Canonical units of the component in one unit of the species, e.g. 5.55 mmol in 1 g of glucose."""
        name = self.component or self.starts_as
        return conversion_factor(self.unit, VARIABLES[name])[0] if name in VARIABLES else 1.0


@dataclass(frozen=True)
class Inoculum:
    """Cells at the start: the variable that counts them, and the amount of each cell species per unit of it.

    `Inoculum("vcd", {"Xv": 1.0, "Xd": 0.02})` is an inoculum whose viable cells are counted, with 2 % dead ones beside.
    Without a variable the amounts are the same in every run.
    """

    variable: str = ""
    species: Mapping[str, float] = field(default_factory=dict)


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
    inoculum: AbstractClassVar[Inoculum]
    """Cells at the start. The first species is that of the viable cells."""
    initial_variables: AbstractClassVar[tuple[str, ...]]
    """Variables whose sample at time 0 sets the initial state, and so carries no information on the parameters."""

    @abstractmethod
    def rates(self, p: Any, c: Any, env: Environment) -> Any:
        """Change of each species by reaction alone, per hour, in the unit of the species (a `State`)."""

    @abstractmethod
    def observe(self, p: Any, c: Any, env: Environment) -> dict[str, Scalar]:
        """What assays read, in canonical units, from concentrations `c`."""

    @property
    def inoculum_species(self) -> tuple[str, ...]:
        """Species that scale with the number of cells put into the vessel."""
        return tuple(self.inoculum.species)

    def initial(
        self, medium: Mapping[str, float], inoculum_vcd: float | None, first_sample: Mapping[str, float]
    ) -> dict[str, float]:
        """Concentrations just after inoculation, by species name, each in the unit of the species.

        Args:
            medium: composition of the basal medium, by component, in canonical units.
            inoculum_vcd: viable cells at the start, 1e9 cells/L, where they are counted.
            first_sample: measurements at time 0, by variable, in canonical units. They set the cells where the inoculum
                is not stated, and the concentration of each of `initial_variables`.

        Raises:
            DatasetError: the inoculum, or a required component, is not stated.
        """
        known = dict(medium) | {v: first_sample[v] for v in self.initial_variables if v in first_sample}
        state, missing = {}, []
        for s in self.species:
            name = s.starts_as or s.component
            if name in known:
                state[s.name] = float(known[name]) / s.canonical_per_unit
            else:
                state[s.name] = s.start if s.saturation is None else s.saturation
                missing += [f"{name} ({s.unit})"] if s.required else []
        if missing:
            raise DatasetError(
                f"no {', '.join(missing)} at the start: state it as a component of the medium or as a sample at time 0"
            )
        cells = self._inoculated(inoculum_vcd, first_sample)
        return state | {name: cells * ratio for name, ratio in self.inoculum.species.items()}

    def _inoculated(self, inoculum_vcd: float | None, first_sample: Mapping[str, float]) -> float:
        variable = self.inoculum.variable
        if not variable:
            return 1.0
        if variable == "vcd" and inoculum_vcd is not None:
            return inoculum_vcd
        if variable in first_sample:
            return first_sample[variable]
        ways = "inoculum_vcd_1e6_per_ml or a vcd sample" if variable == "vcd" else f"a {variable} sample"
        raise DatasetError(f"the inoculum is not stated: a run of this model needs {ways} at time 0")

    def feed(self, medium: Mapping[str, float]) -> tuple[float, ...]:
        """Concentration of each species in a medium or feed, in species order, each in the unit of the species.

        A seed culture is a medium that states its cells by the variable that counts the inoculum.
        """
        cells = float(medium.get(self.inoculum.variable, 0.0))
        return tuple(
            float(medium[s.component]) / s.canonical_per_unit
            if s.component in medium
            else cells * self.inoculum.species.get(s.name, 0.0)
            for s in self.species
        )

    def measured(self, c: Any) -> dict[str, Scalar]:
        """Concentrations of all components of media, by name, in canonical units: what assays of them read."""
        found = {}
        for s in self.species:
            if s.component:
                value, per = getattr(c, s.name), s.canonical_per_unit
                found[s.component] = value if per == 1.0 else value * per
        return found

    def names(self) -> tuple[str, ...]:
        """Species names in order."""
        return tuple(s.name for s in self.species)
