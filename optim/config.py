"""Structured configuration, and `build`: the only place where text becomes objects.

Hydra composes `configs/`; the dataclasses below are its schema, so that a wrong key, type or group option is an error.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from optim.errors import ConfigError, nearest
from optim.paths import configs_dir

if TYPE_CHECKING:
    from optim.data.dataset import Dataset
    from optim.fit.problem import FitProblem
    from optim.params import ParameterTable
    from optim.process.problem import ProcessProblem

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
class DecisionConfig:
    kind: str = MISSING
    lower: float = MISSING
    upper: float = MISSING
    platform: Any = MISSING  # a number, or one per time
    resolution: float = 0.0
    times_h: list[float] = field(default_factory=list)  # one decision per time


@dataclass
class DesignConfig:
    title: str = MISSING
    feed_id: str = MISSING
    medium_id: str = MISSING
    inoculum_vcd_1e6_per_ml: Optional[float] = None
    initial: dict[str, float] = field(default_factory=dict)  # first sample of a microbial process, by variable
    feed_composition: dict[str, float] = field(default_factory=dict)  # canonical units; empty: the dataset's feed
    second_feed_ratio: float = 0.0
    temperature_c: float = MISSING
    ph: float = 7.0
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
class ObjectiveConfig:
    maximise: str = "yield_per_cost"
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
    design: DesignConfig = field(default_factory=DesignConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    constraints: ConstraintsConfig = field(default_factory=ConstraintsConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    vessel: VesselConfig = field(default_factory=VesselConfig)
    integrator: IntegratorConfig = field(default_factory=IntegratorConfig)
    optimise: OptimiseConfig = field(default_factory=OptimiseConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def register() -> None:
    """Tell Hydra the schema; `configs/config.yaml` names it first among its defaults."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=Config)


def compose(overrides: list[str], config_dir: Path | None = None) -> DictConfig:
    """Compose the configuration. `config_dir` is searched before the shipped one (a site's own experiments).

    Raises `ConfigError` that names the key, what is allowed, and the nearest match.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    register()
    GlobalHydra.instance().clear()
    extra = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
    try:
        with initialize_config_dir(str(configs_dir()), version_base="1.3"):
            cfg = hydra_compose("config", [*extra, *overrides])
            missing = sorted(OmegaConf.missing_keys(cfg))
            if missing:
                raise ConfigError(f"no value for {', '.join(missing)}; set it, e.g. {missing[0]}=...")
            OmegaConf.resolve(cfg)
            return cfg
    except (HydraException, OmegaConfBaseException) as err:
        raise ConfigError(explain(err, overrides)) from err


def explain(err: Exception, overrides: list[str]) -> str:
    """One clear message from what Hydra or OmegaConf say."""
    chain: list[BaseException] = []
    link: BaseException | None = err
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    texts = [str(e).strip() for e in chain]
    for text in texts:
        unknown = re.search(r"Key '([^']+)' (?:is )?not in '?(\w+)'?|Key '([^']+)' is not in struct", text)
        if unknown:
            key = unknown.group(1) or unknown.group(3)
            full = re.search(r"full_key: (\S+)", text)
            path = full.group(1) if full else key
            allowed = _allowed(path)
            hint = nearest(key, allowed) if allowed else ""
            listed = f" Allowed here: {', '.join(allowed)}." if allowed else ""
            return f"unknown key '{path}'.{hint}{listed}"
    option = re.search(r"Could not find '([^']+)'", " ".join(texts))
    if option:
        group, _, name = option.group(1).rpartition("/")
        folder = configs_dir() / group
        known = sorted(p.stem for p in folder.glob("*.yaml")) if group else []
        if known:
            return f"unknown option '{name}' for {group}.{nearest(name, known)} Available: {', '.join(known)}"
        groups = sorted(p.name for p in configs_dir().iterdir() if p.is_dir())
        return f"unknown config group '{option.group(1)}'.{nearest(group or name, groups)} Groups: {', '.join(groups)}"
    text = next((t for t in reversed(texts) if "full_key" in t), texts[0])
    full = re.search(r"full_key: (\S+)", text)
    lines = [
        line for line in text.splitlines() if line.strip() and not line.strip().startswith(("full_key", "object_type"))
    ]
    first = " ".join(lines)
    where = f"{full.group(1)}: " if full else ""
    given = f" (overrides: {' '.join(overrides)})" if overrides and not full else ""
    return f"{where}{first}{given}"


def _allowed(path: str) -> list[str]:
    """Keys that the schema has beside the last part of a dotted path."""
    node: Any = OmegaConf.structured(Config)
    for part in path.split(".")[:-1]:
        element = node._metadata.element_type if isinstance(node, DictConfig) else None
        try:
            known = isinstance(node, DictConfig) and part in node
            # the schema of a mapping knows the kind of its entries, not their names
            node = node[part] if known else OmegaConf.structured(element)
        except (OmegaConfBaseException, TypeError, KeyError, ValueError):
            return []
    return [str(k) for k in node] if isinstance(node, DictConfig) else []


def config_hash(cfg: DictConfig) -> str:
    """SHA-256 of the composed configuration without the output folder and tracking: what decides the numbers."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    kept = {k: v for k, v in plain.items() if k not in ("out", "tracking")}
    return hashlib.sha256(OmegaConf.to_yaml(OmegaConf.create(kept), sort_keys=True).encode()).hexdigest()


def model_config(name: str) -> DictConfig:
    """One model of `configs/model`, checked against the schema. Raises `ConfigError`."""
    file = configs_dir() / "model" / f"{name}.yaml"
    known = sorted(p.stem for p in file.parent.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"fit.compare: unknown model '{name}'.{nearest(name, known)} Available: {', '.join(known)}")
    try:
        return OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(file))  # type: ignore[return-value]
    except OmegaConfBaseException as err:
        raise ConfigError(f"{file.name}: {explain(err, [])}") from err


def configured(name: str) -> tuple[Any, Any]:
    """The kinetic model of `configs/model/<name>.yaml` and its Parameters at their configured values."""
    from optim.kinetics import kinetics

    chosen = model_config(name)
    model = kinetics(chosen.kinetics)
    values = build_table(chosen, model).values()
    return model, model.Parameters(*(values[key] for key in model.Parameters._fields))


def _plain(node: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def build_table(model: DictConfig, equations: Any) -> ParameterTable:
    """The parameter table of a configured model. Raises `ConfigError` that names the parameter."""
    from optim.params import table_from_mapping

    return table_from_mapping(_plain(model)["parameters"], equations.Parameters._fields)


def build_fit(cfg: DictConfig, dataset: Dataset, model: DictConfig | None = None) -> FitProblem:
    """The fit problem of a configuration; `model` replaces the configured one (to compare models)."""
    from optim.fit.noise import AssayNoise, NoiseModel
    from optim.fit.problem import build_problem
    from optim.kinetics import kinetics

    chosen = cfg.model if model is None else model
    equations = kinetics(chosen.kinetics)
    table = build_table(chosen, equations)
    assays = {name: AssayNoise(**row) for name, row in _plain(cfg.noise)["assays"].items()}
    noise = NoiseModel(assays, cfg.noise.estimate_scale)
    if cfg.dataset.group_by not in ("clone", "experiment"):
        raise ConfigError(f"dataset.group_by: '{cfg.dataset.group_by}' is not one of clone, experiment")
    return build_problem(equations, table, dataset, noise, _integrator(cfg, equations), cfg.dataset.group_by)


def _integrator(cfg: DictConfig, model: Any) -> Any:
    from optim.simulate.integrators import Tsit5
    from optim.simulate.march import Integrator
    from optim.simulate.rosenbrock import Rodas5P
    from optim.simulate.stiffness import stepper_for

    i = cfg.integrator
    steppers = {"auto": stepper_for(model), "explicit": Tsit5(), "stiff": Rodas5P()}
    if i.stepper not in steppers:
        raise ConfigError(
            f"integrator.stepper: unknown '{i.stepper}'.{nearest(i.stepper, steppers)} Known: {', '.join(steppers)}"
        )
    if i.rtol <= 0.0 or i.atol <= 0.0:
        raise ConfigError("integrator: rtol and atol must be positive")
    return Integrator(steppers[i.stepper], rtol=i.rtol, atol=i.atol, max_steps=i.max_steps, first_step_h=i.first_step_h)


def build_process(
    cfg: DictConfig, dataset: Dataset, maximise: str | None = None, hold: dict[str, float] | None = None
) -> ProcessProblem:
    """The process problem of a configuration."""
    import numpy as np

    from optim.fit.problem import observable_names
    from optim.kinetics import kinetics
    from optim.process.cost import book_from_mapping
    from optim.process.design import Design
    from optim.process.problem import Constraint, ProcessProblem

    d = cfg.design
    equations = kinetics(cfg.model.kinetics)
    observed = observable_names(equations, build_table(cfg.model, equations))
    composition = dict(d.feed_composition) or dataset.media.get(d.feed_id)
    if composition is None:
        raise ConfigError(
            f"design.feed_id: dataset '{dataset.name}' has no medium '{d.feed_id}'."
            f"{nearest(d.feed_id, dataset.media)} Known: {', '.join(dataset.media)}"
        )
    if d.medium_id not in dataset.media:
        raise ConfigError(
            f"design.medium_id: dataset '{dataset.name}' has no medium '{d.medium_id}'."
            f"{nearest(d.medium_id, dataset.media)} Known: {', '.join(dataset.media)}"
        )
    feeds = [equations.feed(composition)]
    if d.second_feed_ratio > 0.0:
        feeds.append(equations.feed({}))
    start = equations.initial(dataset.media[d.medium_id], d.inoculum_vcd_1e6_per_ml, dict(d.initial))
    samples: list[float] = []
    if d.sample_every_h:
        samples = list(np.arange(0.0, d.sample_until_h + 1e-9, d.sample_every_h))
    design = Design(
        decisions=_decisions(d, hold or {}),
        start_volume_l=cfg.vessel.start_volume_ml / 1000.0,
        temperature_c=d.temperature_c,
        ph=d.ph,
        end_h=d.end_h,
        node_step_h=d.node_step_h,
        sample_times_h=tuple(float(t) for t in samples),
        sample_volume_l=cfg.vessel.sample_volume_ml / 1000.0,
        n_feeds=len(feeds),
        second_feed_ratio=d.second_feed_ratio,
    )
    return ProcessProblem(
        model=equations,
        design=design,
        book=book_from_mapping(_plain(cfg.cost)),
        constraints=tuple(Constraint(name=n, **row) for n, row in _plain(cfg.constraints)["limits"].items()),
        objective=maximise or cfg.objective.maximise,
        product="titre" if "titre" in observed else "product",
        observed=observed,
        initial=np.array([start[name] for name in equations.names()]),
        feeds=np.array(feeds),
        integrator=_integrator(cfg, equations),
    )


def _decisions(d: DictConfig, hold: dict[str, float]) -> tuple[Any, ...]:
    from optim.process.design import Decision

    rows = []
    for name, row in _plain(d)["decisions"].items():
        times = row.pop("times_h")
        if name in hold:
            row["lower"], row["upper"] = hold[name] - 1e-9, hold[name] + 1e-9
            row["platform"] = hold[name]
        platform = _numbers(f"design.decisions.{name}.platform", row.pop("platform"), len(times) or 1)
        if times:
            rows += [
                Decision(name=f"{name}_{_when(t)}", time_h=float(t), platform=v, **row)
                for t, v in zip(times, platform, strict=True)
            ]
        else:
            rows.append(Decision(name=name, platform=platform[0], **row))
    unknown = set(hold) - set(_plain(d)["decisions"])
    if unknown:
        allowed = list(_plain(d)["decisions"])
        key = sorted(unknown)[0]
        raise ConfigError(
            f"objective.also: hold: no decision '{key}'.{nearest(key, allowed)} Known: {', '.join(allowed)}"
        )
    return tuple(rows)


def _numbers(key: str, value: Any, n: int) -> list[float]:
    """One number for all of n, or a list of n."""
    values = value if isinstance(value, list) else [value] * n
    if len(values) != n or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        raise ConfigError(f"{key}: {value!r} is neither a number nor a list of {n} numbers")
    return [float(v) for v in values]


def _when(t: float) -> str:
    return f"day_{t / 24.0:g}" if t >= 24.0 and t % 24.0 == 0.0 else f"{t:g}h"
