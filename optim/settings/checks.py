"""Checks of settings: each raises `ConfigError` with the full name of the key, its value, and the allowed values."""

from __future__ import annotations

from collections.abc import Iterable

from optim.errors import ConfigError, nearest


def require_one_of(key: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a word that is not among those allowed."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ConfigError(f"{key}: unknown '{value}'.{nearest(value, allowed)} Known: {', '.join(allowed)}")
