"""Checks the installation: versions, devices, precision, cache, tracking address."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from optim import __version__
from optim.errors import OptimError
from optim.settings.tracking import shown_address, without_secret

PACKAGES = ("jax", "jaxlib", "equinox", "numpy", "scipy", "pandas", "optax", "mlflow", "hydra-core", "omegaconf")


def doctor_command() -> int:
    """Print the state of the installation; 0 when all is well, 2 when something must be mended."""
    wrong: list[str] = []
    print(f"optim {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    if not (3, 12) <= sys.version_info[:2] < (3, 14):
        wrong.append(f"Python {platform.python_version()} is outside the tested range 3.12 to 3.13")
    for name in PACKAGES:
        try:
            print(f"  {name:<12} {version(name)}")
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed; install optim again")
    try:
        from optim.runtime import configure

        configure()
        import jax
        import jax.numpy as jnp

        print(f"  devices      {', '.join(str(d) for d in jax.devices())}")
        precision = jnp.ones(()).dtype
        print(f"  precision    {precision}")
        if precision != jnp.float64:
            wrong.append("JAX does not compute in float64; unset JAX_ENABLE_X64")
    except Exception as err:
        wrong.append(f"JAX does not start ({err}); check JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}")
    _folders(wrong)
    _tracking(wrong)
    for line in wrong:
        print(f"WRONG: {line}")
    print("all is well" if not wrong else f"{len(wrong)} thing{'s' if len(wrong) > 1 else ''} to mend")
    return 2 if wrong else 0


def _folders(wrong: list[str]) -> None:
    from optim.paths import cache_dir, configs_dir, datasets_dir

    for label, find in (("configs", configs_dir), ("datasets", datasets_dir)):
        try:
            print(f"  {label:<12} {find()}")
        except OptimError as err:
            wrong.append(str(err))
    cache = cache_dir()
    place = cache
    while not place.exists():
        place = place.parent
    print(f"  cache        {cache}")
    if not os.access(place, os.W_OK):
        wrong.append(f"the cache folder {cache} cannot be written; set OPTIM_CACHE to one that can")
    data = os.environ.get("OPTIM_DATA")
    print(f"  OPTIM_DATA   {data or 'not set: public data are fetched when first used'}")
    if data and not Path(data).is_dir():
        wrong.append(f"OPTIM_DATA={data} is not a folder")


def _tracking(wrong: list[str]) -> None:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        print("  tracking     SQLite store in ./outputs/mlflow (tracking.workspace)")
        return
    shown = shown_address(uri)
    print(f"  tracking     {shown}")
    if uri.startswith("http"):
        import http.client
        import urllib.error
        import urllib.request

        scheme, _, place = uri.partition("://")
        health = f"{scheme}://{place.rpartition('@')[2].rstrip('/')}/health"  # answers without a user

        try:
            with urllib.request.urlopen(health, timeout=5):
                pass
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as err:
            reason = without_secret(str(getattr(err, "reason", err)), uri)
            wrong.append(f"MLFLOW_TRACKING_URI={shown} does not answer ({reason}); runs go on without it")
