"""Ranges of numbers: stated with the type of a setting, and checked whenever settings are made."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from optim.errors import ConfigError

LONGEST_H = 10_000.0  # h that anything in a run may last: more than a year


@dataclass(frozen=True)
class Within:
    """The numbers that a setting may have, from `lower` to `upper`, and their unit; all are finite.

    `open` leaves out the lower end itself.
    """

    lower: float = -math.inf
    upper: float = math.inf
    unit: str = ""
    open: bool = False

    def __contains__(self, value: Any) -> bool:
        above = value > self.lower if self.open else value >= self.lower
        return bool(above and value <= self.upper and abs(value) < math.inf)  # nan fails the first comparison

    def __str__(self) -> str:
        ends = []
        if self.lower > -math.inf:
            ends.append(f"{'above' if self.open else 'at least'} {self.lower:,.10g}")
        if self.upper < math.inf:
            ends.append(f"at most {self.upper:,.10g}")
        return " ".join(part for part in (" and ".join(ends) or "finite", self.unit) if part)

    def require(self, key: str, value: Any, *, whole: bool = False) -> None:
        """Refuse what is no number, or one outside the range. Raises `ConfigError` that names key, value and range."""
        noun = "whole number" if whole else "number"
        if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
            raise ConfigError(f"{key}: {value!r} is no {noun}. Set a {noun} that is {self}")
        if value not in self:
            raise ConfigError(f"{key}: {shown(value)} is out of range. Set a {noun} that is {self}")


@dataclass(frozen=True)
class Folder:
    """Marks a text that is the path of a folder, in which `~` stands for the home directory."""


FolderPath = Annotated[str, Folder()]
# ranges that many settings have; one of its own is written with the setting
Count = Annotated[int, Within(0, 1_000_000)]
AtLeastOne = Annotated[int, Within(1, 1_000_000)]
AtLeastTwo = Annotated[int, Within(2, 1_000_000)]
Probability = Annotated[float, Within(0.0, 1.0)]
Share = Annotated[float, Within(0.0, 1.0, open=True)]
Tolerance = Annotated[float, Within(0.0, 0.1, open=True)]
NotNegative = Annotated[float, Within(0.0, 1e12)]
Positive = Annotated[float, Within(0.0, 1e12, open=True)]
Number = Annotated[float, Within(-1e30, 1e30)]
Factor = Annotated[float, Within(0.0, 100.0)]
Hours = Annotated[float, Within(0.0, LONGEST_H, "h")]
Interval = Annotated[float, Within(0.0, LONGEST_H, "h", open=True)]
HourOfDay = Annotated[float, Within(0.0, 24.0, "h")]
Days = Annotated[float, Within(0.0, 365.0, "d")]
Millilitres = Annotated[float, Within(0.0, 1e9, "mL")]
Composition = dict[str, NotNegative]  # in the canonical unit of each component


class Section:
    """A section of the configuration. Its numbers are checked when it is made, from Hydra as from Python.

    `section_key` is its key in the configuration, in which `*` stands for the name of an entry. What a class checks
    beyond ranges is a `__post_init__` that calls this one first.
    """

    section_key = ""

    def __init_subclass__(cls, key: str = "") -> None:
        cls.section_key = key or cls.section_key

    def __post_init__(self) -> None:
        cls: Any = type(self)
        place = self.entry_key
        for name, hint in hints_of(cls).items():
            value = vars(self)[name]
            if any(isinstance(mark, Folder) for mark in _marks(hint)) and isinstance(value, str | os.PathLike):
                value = os.path.expanduser(os.fspath(value))
                object.__setattr__(self, name, value)
            check_value(f"{place}.{name}" if place else name, value, hint)

    @property
    def entry_key(self) -> str:
        """`section_key` with the name of the entry, where the object knows it."""
        return self.section_key.replace("*", str(vars(self).get("name", "*")))


@cache
def hints_of(cls: Any) -> dict[str, Any]:
    """The type of every field of a settings class, with its range."""
    return get_type_hints(cls, include_extras=True)


def check_value(key: str, value: Any, hint: Any) -> None:
    """Refuse a value that is not of its type, or outside its range; entries of mappings and lists alike.

    Raises `ConfigError` that names the key.
    """
    if value is None and NoneType in get_args(hint):
        return
    kind, allowed = type_and_range(hint)
    if kind is Any and allowed is not None:  # a number, or a list of them
        for row in value if isinstance(value, list | tuple) else (value,):
            allowed.require(key, row)
    elif kind in (int, float):
        (allowed or Within()).require(key, value, whole=kind is int)
    elif kind in (str, bool):
        if not isinstance(value, kind):
            wanted = "text; write it in quotes" if kind is str else "true or false"
            raise ConfigError(f"{key}: {value!r} is not {wanted}")
    elif get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: {value!r} is no mapping of names to values")
        for name, row in value.items():
            check_value(f"{key}.{name}", row, get_args(kind)[1])
    elif get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{key}: {value!r} is no list; write [..., ...]")
        for row in value:
            check_value(key, row, get_args(kind)[0])


def type_and_range(hint: Any) -> tuple[Any, Within | None]:
    """The type X of `X | None` without its marks, and the range among them."""
    kind = _present(hint)
    allowed = next((mark for mark in _marks(hint) if isinstance(mark, Within)), None)
    return (get_args(kind)[0] if get_origin(kind) is Annotated else kind), allowed


def _present(hint: Any) -> Any:
    parts = [part for part in get_args(hint) if part is not NoneType]
    return parts[0] if NoneType in get_args(hint) else hint


def _marks(hint: Any) -> tuple[Any, ...]:
    kind = _present(hint)
    return get_args(kind)[1:] if get_origin(kind) is Annotated else ()


def shown(value: Any) -> str:
    """A number as a message shows it: whole numbers that are not too long in full."""
    return str(value) if isinstance(value, int) and abs(value) < 10**12 else f"{float(min(value, 1e308)):.10g}"
