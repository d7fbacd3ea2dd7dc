"""Composes the configuration into settings, and builds the problems that they describe.

Hydra composes `configs/` against `optim.settings`, so that a wrong key, type or group option is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf.errors import OmegaConfBaseException

from optim.app.overrides import completed_overrides, explain_error, require_effect
from optim.app.schema import as_yaml, composed_settings, schema_of
from optim.errors import ConfigError, nearest
from optim.paths import configs_dir
from optim.settings.model import ModelSettings
from optim.settings.process import DesignSettings
from optim.settings.settings import Settings
from optim.settings.tracking import TrackingSettings, without_secret

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

    from optim.data.dataset import Dataset
    from optim.data.screened import Screen
    from optim.estimation.problem import FitProblem
    from optim.parameters import ParameterTable
    from optim.process.problem import ProcessProblem


def register_schema() -> None:
    """Tell Hydra the schema; `configs/config.yaml` names it first among its defaults."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=schema_of(Settings, open_entries=True))


def compose(overrides: list[str], config_dir: Path | None = None) -> Settings:
    """Compose the configuration. `config_dir` is searched before the shipped one (a site's own experiments).

    Raises `ConfigError` that names the key, what is allowed, and the nearest match.
    """
    require_config_dir(config_dir)
    # what was composed once is composed again only when a file has changed: it takes a third of a second
    return _composed(tuple(overrides), config_dir, _stamps(configs_dir()) + (_stamps(config_dir) if config_dir else ()))


def require_config_dir(config_dir: Path | None) -> None:
    """Refuse a folder of configuration that is not there. Raises `ConfigError`."""
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir: {config_dir} is not a folder; name one that holds e.g. experiment/mine.yaml")


def _stamps(folder: Path) -> tuple[tuple[str, int], ...]:
    """Every file of configurations with the time of its last change."""
    return tuple((str(f), f.stat().st_mtime_ns) for f in sorted(folder.rglob("*.yaml")))


@lru_cache(maxsize=256)
def _composed(overrides: tuple[str, ...], config_dir: Path | None, stamps: tuple[tuple[str, int], ...]) -> Settings:
    from hydra import compose as hydra_compose

    with explained_errors(overrides), initialised_hydra(config_dir):
        composed = hydra_compose("config", completed_overrides(list(overrides)))
        require_effect(list(overrides), composed)
        return composed_settings(composed)


@contextmanager
def initialised_hydra(config_dir: Path | None) -> Iterator[Hydra]:
    """Context with Hydra over the shipped configuration, and before it over a folder of the user's."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    register_schema()
    version.setbase("1.3")
    path = create_config_search_path(str(configs_dir()))
    if config_dir is not None:
        path.prepend("command-line", f"file://{config_dir.resolve()}")
    running = GlobalHydra.instance()
    outer = running.hydra  # of a sweep, within which models are composed to be compared
    running.clear()
    try:
        yield Hydra.create_main_hydra2(task_name="optim", config_search_path=path)
    finally:
        running.hydra = outer


@contextmanager
def explained_errors(overrides: Sequence[str]) -> Iterator[None]:
    """Context that turns what Hydra and OmegaConf raise into one `ConfigError`."""
    from hydra.errors import HydraException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as err:
        raise ConfigError(_without_secrets(explain_error(err, list(overrides)), overrides)) from err
    except (AttributeError, AssertionError) as err:  # Hydra's own, where an override reaches into what is not there
        message = (
            f"an override reaches into a section that is not configured ({' '.join(overrides)}); choose an option "
            "of its group first (e.g. objective=profit, calendar=weekdays), then change its keys"
        )
        raise ConfigError(_without_secrets(message, overrides)) from err


def _without_secrets(message: str, overrides: Sequence[str]) -> str:
    """A message without the password of a tracking server that an override names."""
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key == "tracking.uri":
            message = without_secret(message, value.strip("'\""))
    return message


def config_hash(cfg: Settings) -> str:
    """SHA-256 of the composed configuration without the output folder and tracking: what decides the numbers."""
    kept = replace(cfg, out="", tracking=TrackingSettings())
    return hashlib.sha256(as_yaml(kept, sort_keys=True).encode()).hexdigest()


def model_names() -> tuple[str, ...]:
    """Names of the models that `load_model` and `model=...` know."""
    return tuple(sorted(p.stem for p in (configs_dir() / "model").glob("*.yaml")))


@cache
def model_config(name: str) -> ModelSettings:
    """One model of `configs/model`, checked against the schema. Raises `ConfigError`."""
    known = model_names()
    if name not in known:
        raise ConfigError(f"fit.compare: unknown model '{name}'.{nearest(name, known)} Available: {', '.join(known)}")
    return compose([f"model={name}"]).model


def configured_kinetics(name: str) -> tuple[Any, Any]:
    """The kinetic model of `configs/model/<name>.yaml` and its Parameters at their configured values."""
    from optim.kinetics import load_kinetics

    chosen = model_config(name)
    model = load_kinetics(chosen.kinetics)
    values = build_table(chosen, model).natural_values()
    return model, model.Parameters(*(values[key] for key in model.Parameters._fields))


def build_table(model: ModelSettings, equations: Any) -> ParameterTable:
    """The parameter table of a configured model. Raises `ConfigError` that names the parameter."""
    from optim.parameters import parameter_table

    return parameter_table(model.parameters, equations.Parameters._fields)


def build_fit(cfg: Settings, dataset: Dataset, model: ModelSettings | None = None) -> FitProblem:
    """The fit problem of a configuration; `model` replaces the configured one (to compare models)."""
    from optim.estimation.noise import NoiseModel
    from optim.estimation.problem import build_problem
    from optim.kinetics import load_kinetics
    from optim.simulation.engine.stiffness import integrator_for

    chosen = cfg.model if model is None else model
    equations = load_kinetics(chosen.kinetics)
    table = build_table(chosen, equations)
    noise = NoiseModel(**vars(cfg.noise))
    return build_problem(
        equations,
        table,
        dataset,
        noise=noise,
        integrator=integrator_for(equations, cfg.integrator),
        group_by=cfg.dataset.group_by,
    )


def build_process(
    cfg: Settings, screen: Screen, *, maximise: str | None = None, hold: dict[str, float] | None = None
) -> ProcessProblem:
    """The process problem of a configuration, with the media and the screened ranges of the data behind the model."""
    import numpy as np

    from optim.estimation.problem import observable_names
    from optim.kinetics import load_kinetics
    from optim.process.cost import CostBook
    from optim.process.design import Design
    from optim.process.metrics import find_product
    from optim.process.problem import Constraint, ProcessProblem
    from optim.simulation.engine.stiffness import integrator_for

    d = cfg.design
    equations = load_kinetics(cfg.model.kinetics)
    observed = observable_names(equations, build_table(cfg.model, equations))
    feeds = {name: equations.feed(holds) for name, holds in feed_media(d, screen).items()}
    start = equations.initial(basal_medium(d, screen), d.inoculum_vcd_1e6_per_ml, dict(d.initial))
    samples: list[float] = []
    if d.sample_every_h:
        samples = list(np.arange(0.0, d.sample_until_h + 1e-9, d.sample_every_h))
    components = _components(d, equations)
    design = Design(
        decisions=_decisions(d, hold or {}),
        start_volume_l=cfg.vessel.start_volume_ml / 1000.0,
        temperature_c=d.temperature_c,
        ph=d.ph,
        end_h=d.end_h,
        node_step_h=d.node_step_h,
        sample_times_h=tuple(float(t) for t in samples),
        sample_volume_l=cfg.vessel.sample_volume_ml / 1000.0,
        feeds=tuple(feeds),
        second_feed=d.second_feed_id,
        second_feed_ratio=d.second_feed_ratio,
        do_percent=d.do_percent,
        kla_per_h=d.kla_per_h,
        inoculum_vcd=d.inoculum_vcd_1e6_per_ml,
        inoculum_species=tuple(equations.names().index(name) for name in equations.inoculum_species),
        components=components,
    )
    book = CostBook(**vars(cfg.cost)) if cfg.cost else CostBook.unpriced(design.start_volume_l)
    return ProcessProblem(
        model=equations,
        design=design,
        book=book,
        constraints=tuple(
            Constraint(name=n, **vars(row)).in_canonical_unit(find_product(equations.product))
            for n, row in cfg.constraints.limits.items()
        ),
        objective=_objective(cfg, equations, book, maximise),
        observed=observed,
        initial=np.array([start[name] for name in equations.names()]),
        feeds=np.array(list(feeds.values())).reshape(len(feeds), len(start)),
        integrator=integrator_for(equations, cfg.integrator),
        screened=screen.ranges,
    )


def _objective(cfg: Settings, model: Any, book: Any, maximise: str | None) -> Any:
    from optim.process.metrics import find_product
    from optim.process.objective import Market, Objective

    o = cfg.objective
    market = None if o.market is None else Market(**vars(o.market), turnaround_h=book.turnaround_h)
    mix = () if maximise else tuple(o.mix.items())
    return Objective(maximise or o.maximise, mix, market, find_product(model.product))


def feed_media(design: DesignSettings, screen: Screen) -> dict[str, dict[str, float]]:
    """Composition of every feed of a design, in the order of its columns: as configured, or as in the screen.

    Raises `ConfigError` for a feed that neither knows, and for a component that no medium can hold.
    """
    wanted = {"feed_id": {design.feed_id: dict(design.feed_composition)}, "further_feeds": dict(design.further_feeds)}
    if not design.feed_id:
        del wanted["feed_id"]
    if design.second_feed_id not in ("", *wanted["further_feeds"]):
        wanted["second_feed_id"] = {design.second_feed_id: {}}
    found: dict[str, dict[str, float]] = {}
    for key, feeds in wanted.items():
        for name, holds in feeds.items():
            if name in found:
                raise ConfigError(f"design.{key}: '{name}' is the name of another feed of the design already")
            found[name] = _composition(f"design.{key}", name, holds, design, screen)
    return found


def basal_medium(design: DesignSettings, screen: Screen) -> dict[str, float]:
    """Composition of the basal medium of a design. Raises `ConfigError` as `feed_media` does."""
    holds = dict(design.medium_composition)
    return _composition("design.medium_id", design.medium_id, holds, design, screen) if design.medium_id else holds


def _composition(
    key: str, name: str, holds: Mapping[str, float], design: DesignSettings, screen: Screen
) -> dict[str, float]:
    from optim.units import VARIABLES

    known = design.media | screen.media
    if not holds and name not in known:
        where = f"dataset '{screen.name}' has" if screen.name else "without a dataset there is"
        raise ConfigError(
            f"{key}: {where} no medium '{name}'.{nearest(name, known)} Known: {', '.join(known) or 'none'}. "
            "A medium or feed of your own needs its composition in the design"
        )
    chosen = {str(k): float(v) for k, v in (holds or known[name]).items()}
    for component in chosen:
        if component not in VARIABLES:
            raise ConfigError(
                f"{key}: '{name}' cannot hold '{component}'.{nearest(component, VARIABLES)} "
                f"Known: {', '.join(VARIABLES)}"
            )
    return chosen


def _components(d: DesignSettings, equations: Any) -> tuple[Any, ...]:
    """The components of media that are decisions, as species of the model."""
    from optim.process.design import Component

    found = {}
    known = dict.fromkeys(n for s in equations.species if s.dilutes for n in (s.component, s.name) if n)
    for name, row in d.decisions.items():
        if not row.component:
            continue
        places = [i for i, s in enumerate(equations.species) if row.component in (s.component, s.name)]
        if len(places) != 1:
            raise ConfigError(
                f"design.decisions.{name}.component: the model has no '{row.component}'."
                f"{nearest(row.component, known)} Known: {', '.join(known)}"
            )
        (i,) = places
        base, per = 0.0, 1.0
        if equations.species[i].component == row.component:  # media may count in another unit than the model
            base = equations.feed({})[i]
            per = equations.feed({row.component: 1.0})[i] - base
        found[row.component] = Component(row.component, i, base, per)
    return tuple(found.values())


def _decisions(d: DesignSettings, hold: dict[str, float]) -> tuple[Any, ...]:
    from optim.process.decision import Decision, require_allowed
    from optim.units import VARIABLES

    rows = []
    for name, setting in d.decisions.items():
        require_allowed(setting, f"design.decisions.{name}")
        row = dict(vars(setting))
        times = row.pop("times_h")
        if row["component"] in VARIABLES:
            row["component_unit"] = VARIABLES[row["component"]].unit
        if name in hold:
            row["lower"], row["upper"] = hold[name] - 1e-9, hold[name] + 1e-9
            row["platform"] = hold[name]
        stated = row.pop("platform")
        platform = [float(v) for v in (stated if isinstance(stated, tuple) else [stated] * (len(times) or 1))]
        if times:
            rows += [
                Decision(name=f"{name}_{_when(t)}", time_h=float(t), platform=v, **row)
                for t, v in zip(times, platform, strict=True)
            ]
        else:
            rows.append(Decision(name=name, platform=platform[0], **row))
    unknown = set(hold) - set(d.decisions)
    if unknown:
        allowed = list(d.decisions)
        key = sorted(unknown)[0]
        raise ConfigError(
            f"objective.also: hold: no decision '{key}'.{nearest(key, allowed)} Known: {', '.join(allowed)}"
        )
    return tuple(rows)


def _when(t: float) -> str:
    return f"day_{t / 24.0:g}" if t >= 24.0 and t % 24.0 == 0.0 else f"{t:g}h"
