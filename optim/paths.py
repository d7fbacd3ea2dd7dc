"""Folders of the shipped configuration and datasets (beside the package, or inside it in a wheel), and the cache."""

from __future__ import annotations

import os
from pathlib import Path

from optim.errors import OptimError


def _find(folder: str, variable: str) -> Path:
    chosen = os.environ.get(variable)
    if chosen:
        path = Path(chosen).expanduser().resolve()
        if not path.is_dir():
            raise OptimError(f"{variable}={chosen} is not a folder; set it to a folder like the project's {folder}/")
        return path
    package = Path(__file__).resolve().parent
    for path in (package / folder, package.parent / folder):
        if path.is_dir():
            return path
    raise OptimError(
        f"the folder {folder}/ was not found beside or inside {package}; reinstall optim or set {variable}"
    )


def configs_dir() -> Path:
    """Folder of the Hydra configuration; the environment variable `OPTIM_CONFIGS` overrides it.

    Raises:
        OptimError: there is no such folder.
    """
    return _find("configs", "OPTIM_CONFIGS")


def datasets_dir() -> Path:
    """Folder of the shipped datasets; the environment variable `OPTIM_DATASETS` overrides it.

    Raises:
        OptimError: there is no such folder.
    """
    return _find("datasets", "OPTIM_DATASETS")


def cache_dir() -> Path:
    """Folder of downloads and compiled programs; the environment variable `OPTIM_CACHE` overrides it."""
    chosen = os.environ.get("OPTIM_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    import platformdirs

    return Path(platformdirs.user_cache_dir("optim", appauthor=False))
