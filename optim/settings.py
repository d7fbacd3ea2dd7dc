"""The schema of the configuration: what keys there are, of which type, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import MISSING

# Hydra reads these annotations at run time, and knows Optional but not the `|` of this file's other annotations
# ruff: noqa: UP045


@dataclass
class ParameterConfig:
    value: float = MISSING
    unit: str = MISSING
    level: str = MISSING
    scale: str = "log"
    lower: float = 0.0
    upper: float = 0.0
    prior_sd: Optional[float] = None
    spread: Optional[float] = None
    source: str = MISSING
    verified: bool = MISSING
    prior: str = "auto"  # auto | normal | lognormal | uniform | half_normal
    times: str = ""  # another parameter that this one multiplies: a tie, or a ratio


@dataclass
class ModelConfig:
    name: str = MISSING
    kinetics: str = MISSING
    title: str = MISSING
    citation: str = MISSING
    verified: bool = MISSING
    parameters: dict[str, ParameterConfig] = field(default_factory=dict)


@dataclass
class DatasetConfig:
    name: str = MISSING  # shipped or registered name, or the path of a dataset folder
    group_by: str = "clone"  # what clone parameters belong to: clone | experiment


@dataclass
class AssayConfig:
    relative: float = MISSING
    floor: float = MISSING
    kind: str = "normal"  # normal | lognormal | logit
    counted: float = 0.0  # cells counted per reading
    robust: float = 0.0  # degrees of freedom of Student's t
    estimate: bool = True


@dataclass
class NoiseConfig:
    estimate_scale: bool = True
    assays: dict[str, AssayConfig] = field(default_factory=dict)


@dataclass
class FitConfig:
    starts: int = 4
    max_iterations: int = 60
    tolerance: float = 1e-6
    ensemble: int = 32
    start_spread: float = 0.5
    noise_rounds: int = 2  # how often, at most, noise and spread between clones are found anew
    estimate_spread: bool = True  # between clones; false keeps what the model states
    startup: int = 0  # first-order steps before the search proper
    quality: bool = True  # look for faults of the data
    identify: bool = True  # say what the data cannot tell
    profiles: list[str] = field(default_factory=list)  # parameters to walk along; shared: all that are not a clone's
    ensemble_by: str = "laplace"  # laplace | bootstrap | nuts
    draws: int = 300  # of the bootstrap, or of each chain of the sampler
    continue_from: Optional[str] = None  # folder of an earlier run, whose fit is continued with these data
    leave_one_out: bool = False
    compare: list[str] = field(default_factory=list)


@dataclass
class PlaceConfig:
    fit: Optional[str] = None  # output folder of the run whose fit is used; default: that of this run
    days: list[float] = field(default_factory=lambda: [0.0, 3.0, 5.0, 7.0])
    draws: int = 200


@dataclass
class ReplanConfig:
    run: Optional[str] = None  # which run of the dataset is under way
    now_h: Optional[float] = None  # default: the time of its last reading or event
    fit: Optional[str] = None  # output folder of the run whose fit is used; default: that of this run
    plan: Optional[str] = None  # the optimum, recipe or earlier replan that it follows; default: the fit's optimum
    draws: int = 63  # of the plausible parameter sets that a plan is judged by
    least_gain: float = 0.001  # of the objective, below which the plan is left as it is


@dataclass
class SuggestConfig:
    runs: int = 8  # vessels
    samples: Optional[int] = None  # of all runs together, harvest included; default: as many as it takes
    by: str = "decision"  # decision | d_optimal | space_filling | random
    every_d: list[int] = field(default_factory=list)  # plans of sampling to choose among; default: the design's
    days: list[float] = field(default_factory=list)  # one more plan, of given days
    safe: float = 0.8  # least probability to meet all limits
    new_clones: int = 0  # so many clones of the population may be taken in
    experiment: str = ""  # of the new runs; default: NEXT1, NEXT2, ...
    processes: int = 64  # tried, besides the best ones
    per_clone: int = 12  # processes weighed
    members: int = 16  # draws that safety is judged by
    top: int = 4  # clones that processes are optimised for, for several draws
    optima: int = 4  # such draws
    scenarios: int = 64  # draws that values are simulated for
    draws: int = 1024  # that worth is averaged over


@dataclass
class DecisionConfig:
    kind: str = MISSING
    lower: float = MISSING
    upper: float = MISSING
    platform: Any = MISSING  # a number, or one per time
    resolution: float = 0.0
    times_h: list[float] = field(default_factory=list)  # one decision per time
    feed: str = ""  # which feed or stock; '' = that of the design
    component: str = ""  # of a medium or feed, where that is what is chosen


@dataclass
class DesignConfig:
    title: str = MISSING
    feed_id: str = MISSING
    medium_id: str = MISSING
    inoculum_vcd_1e6_per_ml: Optional[float] = None
    initial: dict[str, float] = field(default_factory=dict)  # first sample of a microbial process, by variable
    feed_composition: dict[str, float] = field(default_factory=dict)  # canonical units; empty: the dataset's feed
    further_feeds: dict[str, dict[str, float]] = field(default_factory=dict)  # compositions; empty: the dataset's
    second_feed_id: str = ""  # a further feed, or a medium of the dataset, that flows with the first feed
    second_feed_ratio: float = 0.0  # L of it with every L of the first
    temperature_c: float = MISSING
    ph: float = 7.0
    do_percent: Optional[float] = None
    kla_per_h: Optional[float] = None
    end_h: float = MISSING
    node_step_h: float = 24.0
    sample_every_h: Optional[float] = None
    sample_until_h: float = 0.0
    decisions: dict[str, DecisionConfig] = field(default_factory=dict)


@dataclass
class PriceConfig:
    category: str = MISSING
    driver: str = MISSING
    price: float = MISSING
    unit: str = MISSING
    low: float = MISSING
    high: float = MISSING
    year: int = MISSING
    source: str = MISSING
    grade: str = MISSING
    verified: bool = MISSING
    scale_exponent: float = 0.0
    scale_reference_l: float = 1.0
    titre_exponent: float = 0.0
    titre_reference: float = 1.0


@dataclass
class CostConfig:
    name: str = MISSING
    title: str = MISSING
    currency: str = MISSING
    production_volume_l: float = MISSING
    turnaround_h: float = MISSING
    success: float = MISSING
    stage_yields: dict[str, float] = field(default_factory=dict)
    assumptions: dict[str, str] = field(default_factory=dict)
    items: dict[str, PriceConfig] = field(default_factory=dict)


@dataclass
class ConstraintConfig:
    variable: str = MISSING
    kind: str = MISSING
    limit: float = MISSING
    unit: str = MISSING
    where: str = "path"
    source: str = MISSING
    verified: bool = MISSING


@dataclass
class ConstraintsConfig:
    limits: dict[str, ConstraintConfig] = field(default_factory=dict)


@dataclass
class CaseConfig:
    maximise: str = MISSING
    hold: dict[str, float] = field(default_factory=dict)  # decisions kept at a value in this case


@dataclass
class MarketConfig:
    price_eur_per_g: float = MISSING
    demand_g_per_year: float = MISSING
    suite_days_per_year: float = MISSING
    source: str = MISSING
    verified: bool = MISSING


@dataclass
class ExecutionConfig:
    feed: float = 0.0  # standard deviation of the factor on all that goes in
    strength: float = 0.0
    inoculum: float = 0.0
    temperature_c: float = 0.0
    ph: float = 0.0
    delay_h: float = 0.0


@dataclass
class RiskConfig:
    measure: str = "nominal"  # nominal | expectation | cvar | quantile, over the parameter ensemble
    tail: float = 0.2  # share of the worst parameter sets
    chance: float = 0.0  # share of the parameter sets in which all limits are met at once; 0: at the estimate
    members: int = 16  # scenarios used for the search (parameter sets, with errors of execution); others judge it
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)  # how exactly the plant does what is planned


@dataclass
class ObjectiveConfig:
    maximise: str = "yield_per_cost"
    mix: dict[str, float] = field(default_factory=dict)  # further objectives by weight; that of `maximise` is 1
    market: Optional[MarketConfig] = None  # what profit needs
    risk: RiskConfig = field(default_factory=RiskConfig)
    also: dict[str, CaseConfig] = field(default_factory=dict)


@dataclass
class VesselConfig:
    name: str = MISSING
    start_volume_ml: float = MISSING
    sample_volume_ml: float = 0.0


@dataclass
class IntegratorConfig:
    stepper: str = "auto"  # auto (what the model says of itself) | explicit | stiff
    rtol: float = 1e-6
    atol: float = 1e-7
    max_steps: int = 20_000
    first_step_h: float = 0.05


@dataclass
class OptimiseConfig:
    clone: str = "best"  # best | population | a clone's id
    starts: int = 12
    rank_starts: int = 3
    max_iterations: int = 80
    tolerance: float = 1e-6
    choices: dict[str, dict[str, float]] = field(default_factory=dict)  # name -> decisions held at values


@dataclass
class CalendarConfig:
    start_days: list[str] = MISSING  # weekdays on which a run may begin; the best is chosen
    start_hour: float = 9.0
    working_days: list[str] = field(default_factory=lambda: ["monday", "tuesday", "wednesday", "thursday", "friday"])
    first_hour: float = 6.0
    last_hour: float = 18.0
    by_hand: list[str] = field(default_factory=lambda: ["bolus", "addition_time", "harvest"])


@dataclass
class ParetoConfig:
    against: str = "culture_time"  # the objective that is traded against the one that is maximised
    points: int = 9


@dataclass
class DriftConfig:
    feed: float = 1.0  # factor on all that goes in
    strength: float = 1.0  # factor on what feeds hold
    inoculum: float = 1.0
    temperature_c: float = 0.0  # added to every setpoint
    ph: float = 0.0
    delay_h: float = 0.0  # of everything done after time 0, harvest excepted
    harvest_h: float = 0.0  # added
    missed: str = ""  # a decision that is left out, or 'largest bolus'


@dataclass
class StressConfig:
    drifts: dict[str, DriftConfig] = field(default_factory=dict)


@dataclass
class TrackingConfig:
    enabled: bool = True
    uri: Optional[str] = None  # default: MLFLOW_TRACKING_URI, else an SQLite store in the folder `workspace`
    experiment: str = "optim"
    workspace: str = "outputs/mlflow"
    child_runs: bool = False


@dataclass
class Config:
    """The whole configuration. `out` is the folder that holds every artefact of a run."""

    name: str = MISSING
    title: str = MISSING
    seed: int = 0
    out: str = "outputs/${name}"
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    place: PlaceConfig = field(default_factory=PlaceConfig)
    replan: ReplanConfig = field(default_factory=ReplanConfig)
    design: DesignConfig = field(default_factory=DesignConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    constraints: ConstraintsConfig = field(default_factory=ConstraintsConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    vessel: VesselConfig = field(default_factory=VesselConfig)
    integrator: IntegratorConfig = field(default_factory=IntegratorConfig)
    optimise: OptimiseConfig = field(default_factory=OptimiseConfig)
    calendar: Optional[CalendarConfig] = None  # when people are there; none: always
    pareto: ParetoConfig = field(default_factory=ParetoConfig)
    stress: StressConfig = field(default_factory=StressConfig)
    suggest: SuggestConfig = field(default_factory=SuggestConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
