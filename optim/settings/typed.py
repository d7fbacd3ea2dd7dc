"""Typed settings from plain mappings, as a configuration file or a composed configuration holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from optim.errors import ConfigError
from optim.settings.ranges import Section


def settings_of[T: Section](cls: type[T], plain: Mapping[str, Any], place: str = "") -> T:
    """An object of the settings class `cls` from a mapping of its keys, sections within it alike.

    Keys that the mapping lacks keep their default. Lists become tuples, so that settings cannot be changed. `place` is
    its full key, where that is not the one of the class. Raises `ConfigError` where the class refuses a value.
    """
    hints = get_type_hints(cls)
    place = place or cls.section_key
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    values = {
        name: _typed(hints[name], plain[name], f"{place}.{name}" if place else name) for name in names if name in plain
    }
    try:
        return cls(**values)
    except ConfigError as err:
        if place == cls.section_key:
            raise
        # a class of entries does not know their names
        raise ConfigError(str(err).replace(cls.section_key, place, 1)) from err


def inner_type(kind: Any) -> Any:
    """The type X of `X | None`; any other type as it is."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    return kind


def _typed(kind: Any, value: Any, place: str) -> Any:
    kind = inner_type(kind)
    if value is None:
        return None
    if is_dataclass(kind):
        return settings_of(kind, value, place)  # type: ignore[arg-type, type-var]
    if get_origin(kind) is dict:
        return {str(key): _typed(get_args(kind)[1], row, f"{place}.{key}") for key, row in value.items()}
    if get_origin(kind) is tuple:
        return tuple(_typed(get_args(kind)[0], row, place) for row in value)
    return tuple(value) if isinstance(value, list) else value
