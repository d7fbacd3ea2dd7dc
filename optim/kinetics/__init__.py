"""Kinetic models, one file each, found by the name of the file."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from optim.errors import ConfigError, nearest

if TYPE_CHECKING:
    from optim.kinetics.base import AbstractKineticModel

NO_MODELS = ("__init__", "base", "ratelaws")  # files of this folder that hold no model


def kinetics_names() -> tuple[str, ...]:
    """Names of all models: the files of this folder."""
    return tuple(sorted(f.stem for f in Path(__file__).parent.glob("*.py") if f.stem not in NO_MODELS))


@cache
def load_kinetics(name: str) -> AbstractKineticModel:
    """The model in `optim/kinetics/<name>.py`.

    Raises `ConfigError` for an unknown name, and for a file that does not hold exactly one model.
    """
    from optim.kinetics.base import AbstractKineticModel

    if name not in kinetics_names():
        raise ConfigError(
            f"model.kinetics: unknown '{name}'.{nearest(name, kinetics_names())} Known: {', '.join(kinetics_names())}"
        )
    module = import_module(f"optim.kinetics.{name}")
    found = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, AbstractKineticModel) and kind.__module__ == module.__name__
    ]
    if len(found) != 1:
        listed = ", ".join(kind.__name__ for kind in found) or "none"
        raise ConfigError(
            f"optim/kinetics/{name}.py: must hold exactly one class derived from AbstractKineticModel, not {listed}"
        )
    model: AbstractKineticModel = found[0]()
    return model
