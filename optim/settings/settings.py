"""The whole configuration: every section, under the key by which it is set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from optim.settings.checks import require_name
from optim.settings.doe import SuggestSettings
from optim.settings.estimation import DatasetSettings, FitSettings, NoiseSettings, PlaceSettings
from optim.settings.model import ModelSettings
from optim.settings.objective import ObjectiveSettings
from optim.settings.optimisation import OptimiseSettings, ParetoSettings, StressSettings
from optim.settings.process import CalendarSettings, ConstraintsSettings, CostSettings, DesignSettings, VesselSettings
from optim.settings.ranges import FolderPath, Section, Within
from optim.settings.replanning import ReplanSettings
from optim.settings.simulation import IntegratorSettings
from optim.settings.tracking import TrackingSettings


@dataclass(frozen=True)
class Settings(Section):
    """The whole configuration of a command."""

    name: str  # of the experiment, and of its output folder
    title: str  # for people
    model: ModelSettings  # equations and parameter table
    design: DesignSettings  # the family of processes
    vessel: VesselSettings  # that the process is designed for
    dataset: DatasetSettings = field(default_factory=DatasetSettings)  # the data
    noise: NoiseSettings = field(default_factory=NoiseSettings)  # of every assay
    constraints: ConstraintsSettings = field(default_factory=ConstraintsSettings)  # limits of the process
    cost: CostSettings | None = None  # price book and downstream train; none: nothing is priced
    accept_misfit: bool = False  # go on from a fit that does not describe an assay on which the decision rests
    seed: Annotated[int, Within(0, 2**32 - 1)] = 0  # of everything that is drawn
    out: FolderPath = "outputs/${name}"  # folder that holds every artefact of a run
    fit: FitSettings = field(default_factory=FitSettings)  # estimation
    place: PlaceSettings = field(default_factory=PlaceSettings)  # prediction of new clones
    replan: ReplanSettings = field(default_factory=ReplanSettings)  # re-planning of a running batch
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)  # what is maximised, under which risk
    integrator: IntegratorSettings = field(default_factory=IntegratorSettings)  # of every simulation
    optimise: OptimiseSettings = field(default_factory=OptimiseSettings)  # search for the best process
    calendar: CalendarSettings | None = None  # when people are there; none: always
    pareto: ParetoSettings = field(default_factory=ParetoSettings)  # trade-off between two objectives
    stress: StressSettings = field(default_factory=StressSettings)  # disturbances of the optimum
    suggest: SuggestSettings = field(default_factory=SuggestSettings)  # the next experiments
    tracking: TrackingSettings = field(default_factory=TrackingSettings)  # MLflow

    def __post_init__(self) -> None:
        super().__post_init__()
        require_name("name", self.name)
