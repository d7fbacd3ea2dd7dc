"""Typed settings from plain mappings, as a configuration file or a composed configuration holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def settings_of[T](cls: type[T], plain: Mapping[str, Any]) -> T:
    """An object of the settings class `cls` from a mapping of its keys, sections within it alike.

    Keys that the mapping lacks keep their default. Lists become tuples, so that settings cannot be changed. Raises
    `ConfigError` where the class refuses a value.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: _typed(hints[name], plain[name]) for name in names if name in plain})


def inner_type(kind: Any) -> Any:
    """The type X of `X | None`; any other type as it is."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    return kind


def _typed(kind: Any, value: Any) -> Any:
    kind = inner_type(kind)
    if value is None:
        return None
    if is_dataclass(kind):
        return settings_of(kind, value)  # type: ignore[arg-type]
    if get_origin(kind) is dict:
        return {str(key): _typed(get_args(kind)[1], row) for key, row in value.items()}
    if get_origin(kind) is tuple:
        return tuple(_typed(get_args(kind)[0], row) for row in value)
    return tuple(value) if isinstance(value, list) else value
