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


def require_at_least(key: str, value: float, least: float) -> None:
    """Refuse a number below `least`."""
    if not value >= least:
        raise ConfigError(f"{key}: {value:g} is not at least {least:g}")


def require_above(key: str, value: float, limit: float) -> None:
    """Refuse a number that is not above `limit`."""
    if not value > limit:
        raise ConfigError(f"{key}: must be above {limit:g}, not {value:g}")


def require_probability(key: str, value: float) -> None:
    """Refuse a number outside 0 to 1."""
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{key}: {value:g} is not a probability, between 0 and 1")
