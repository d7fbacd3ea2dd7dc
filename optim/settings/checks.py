"""Checks of settings: each raises `ConfigError` with the full name of the key, its value, and the allowed values."""

from __future__ import annotations

from collections.abc import Iterable

from optim.errors import ConfigError, nearest
from optim.storage import name_fault


def require_one_of(key: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a word that is not among those allowed."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ConfigError(f"{key}: unknown '{value}'.{nearest(value, allowed)} Known: {', '.join(allowed)}")


def require_name(key: str, name: str) -> None:
    """Refuse a text that can be no part of the name of a file."""
    if fault := name_fault(name):
        raise ConfigError(f"{key}: {name[:60]!r} {fault}")
