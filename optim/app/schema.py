"""The schemas of the configuration, made from the settings classes; settings from what Hydra has composed.

Hydra composes against a schema in which entries of a mapping (a parameter, a decision, a limit) are open, so that an
override can add one whole: `+design.decisions.x={kind: ..., lower: ...}`. What it has composed is then checked against
the full schema.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from optim.errors import ConfigError
from optim.settings.ranges import Section
from optim.settings.settings import Settings
from optim.settings.tracking import shown_address
from optim.settings.typed import inner_type, settings_of


@cache
def schema_of(cls: type, *, open_entries: bool = False) -> type:
    """A twin of a settings class that may be changed while it is composed, with MISSING where there is no default.

    OmegaConf takes a frozen dataclass for a section that no file and no override may change. With `open_entries` any
    entry may be added to a mapping.
    """
    hints = get_type_hints(cls)
    rows: list[tuple[str, Any, Any]] = []
    for f in dataclasses.fields(cls):
        kind = _changeable(hints[f.name], open_entries)
        default: Any = MISSING if f.default is dataclasses.MISSING else f.default
        if dataclasses.is_dataclass(kind):
            rows.append((f.name, kind, dataclasses.field(default_factory=kind)))  # type: ignore[arg-type]
        elif f.default_factory is not dataclasses.MISSING:
            rows.append((f.name, kind, dataclasses.field(default_factory=f.default_factory)))
        else:
            rows.append((f.name, kind, dataclasses.field(default=default)))
    return dataclasses.make_dataclass(cls.__name__, rows)


def _changeable(kind: Any, open_entries: bool) -> Any:
    inner = inner_type(kind)
    if inner is not kind:
        return _changeable(inner, open_entries) | None
    if dataclasses.is_dataclass(kind):
        return schema_of(kind, open_entries=open_entries)  # type: ignore[arg-type]
    if get_origin(kind) is dict:
        entry = get_args(kind)[1]
        return dict[str, Any if open_entries else _changeable(entry, False)]  # type: ignore[misc]
    return kind


def composed_settings(composed: DictConfig) -> Settings:
    """Settings from what Hydra has composed.

    Raises `ConfigError` that names a key without a value or with one that is refused, `OmegaConfBaseException` for a
    key or a type that the schema does not have.
    """
    plain = OmegaConf.to_container(composed, resolve=True)
    checked = OmegaConf.merge(OmegaConf.structured(schema_of(Settings)), _with_floats(Settings, plain))
    missing = sorted(OmegaConf.missing_keys(checked))
    if missing:
        raise ConfigError(f"no value for {', '.join(missing)}; set it, e.g. {missing[0]}=...")
    return typed_settings(Settings, checked)  # type: ignore[arg-type]


def _with_floats(kind: Any, value: Any) -> Any:
    """A plain section with floats for whole numbers: OmegaConf takes no `int` for a `float` in a nested mapping."""
    kind = inner_type(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        return {key: _with_floats(hints.get(str(key)), row) for key, row in value.items()}
    if get_origin(kind) is dict and isinstance(value, dict):
        return {key: _with_floats(get_args(kind)[1], row) for key, row in value.items()}
    return float(value) if kind is float and type(value) is int else value


def typed_settings[T: Section](cls: type[T], section: DictConfig) -> T:
    """Settings from a section of the full schema. Raises `ConfigError` that names the key of a refused value."""
    rows = OmegaConf.to_container(section, resolve=True)
    assert isinstance(rows, dict)
    return settings_of(cls, {str(key): value for key, value in rows.items()})


def as_yaml(settings: Settings, sort_keys: bool = False) -> str:
    """The composed configuration as YAML text; a password in the address of the tracking server is left out."""
    if settings.tracking.uri:
        tracking = dataclasses.replace(settings.tracking, uri=shown_address(settings.tracking.uri))
        settings = dataclasses.replace(settings, tracking=tracking)
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(settings)), sort_keys=sort_keys)
