"""The schema that Hydra composes against, made from the settings classes; settings from what it has composed."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from optim.settings.settings import Settings
from optim.settings.typed import inner_type, settings_of


@cache
def schema_of(cls: type) -> type:
    """A twin of a settings class that may be changed while it is composed, with MISSING where there is no default.

    OmegaConf takes a frozen dataclass for a section that no file and no override may change.
    """
    hints = get_type_hints(cls)
    rows: list[tuple[str, Any, Any]] = []
    for f in dataclasses.fields(cls):
        kind = _changeable(hints[f.name])
        default: Any = MISSING if f.default is dataclasses.MISSING else f.default
        if dataclasses.is_dataclass(kind):
            rows.append((f.name, kind, dataclasses.field(default_factory=kind)))  # type: ignore[arg-type]
        elif f.default_factory is not dataclasses.MISSING:
            rows.append((f.name, kind, dataclasses.field(default_factory=f.default_factory)))
        else:
            rows.append((f.name, kind, dataclasses.field(default=default)))
    return dataclasses.make_dataclass(cls.__name__, rows)


def _changeable(kind: Any) -> Any:
    inner = inner_type(kind)
    if inner is not kind:
        return _changeable(inner) | None
    if dataclasses.is_dataclass(kind):
        return schema_of(kind)  # type: ignore[arg-type]
    if get_origin(kind) is dict:
        return dict[str, _changeable(get_args(kind)[1])]  # type: ignore[misc]
    return kind


def typed_settings[T](cls: type[T], composed: DictConfig) -> T:
    """Settings from a composed section. Raises `ConfigError` that names the key of a value that is refused."""
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    return settings_of(cls, {str(key): value for key, value in plain.items()})


def as_yaml(settings: Settings, sort_keys: bool = False) -> str:
    """The composed configuration as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(settings)), sort_keys=sort_keys)
