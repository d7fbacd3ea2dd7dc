"""Kinetic models, one file each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from optim.errors import ConfigError, nearest

if TYPE_CHECKING:
    from optim.kinetics.base import AbstractKineticModel

# file of a modality -> its class
MODALITIES = {
    "cho_growth": "ChoGrowth",
    "cho_moller": "ChoMoller",
    "cho_perfusion": "ChoPerfusion",
    "cho_xing": "ChoXing",
    "ecoli_oxygen": "EcoliOxygen",
    "ecoli_oxygen_steady": "EcoliOxygenSteady",
    "ecoli_protein": "EcoliProtein",
    "raav_nguyen": "RaavNguyen",
}


def kinetics(name: str) -> AbstractKineticModel:
    """The model in `optim/kinetics/<name>.py`. Raises `ConfigError` for an unknown name."""
    if name not in MODALITIES:
        raise ConfigError(
            f"model.kinetics: unknown '{name}'.{nearest(name, MODALITIES)} Known: {', '.join(MODALITIES)}"
        )
    model: AbstractKineticModel = getattr(import_module(f"optim.kinetics.{name}"), MODALITIES[name])()
    return model
