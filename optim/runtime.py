"""Precision, compile cache and logs of JAX: set once per process, before anything is computed."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings

from optim.errors import CacheWarning, OptimError
from optim.paths import cache_dir


def configure() -> None:
    """Set double precision, the persistent compile cache, and one CPU device per core.

    Call it once, before anything is computed; the command line does so itself. Programs compiled earlier in another
    precision stay as they are.
    """
    os.environ.setdefault("JAX_PLATFORMS", "" if _has_gpu_plugin() else "cpu")
    if not os.environ["JAX_PLATFORMS"]:
        del os.environ["JAX_PLATFORMS"]
    import jax

    jax.config.update("jax_enable_x64", True)
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # one device per core: a batch is then shared among cores as it would be among GPUs
        jax.config.update("jax_num_cpu_devices", _cores())
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is None:
        folder = cache_dir() / "xla"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as err:
            message = f"no compile cache: {folder} cannot be written ({err.strerror}); set OPTIM_CACHE to one that can"
            warnings.warn(message, CacheWarning, stacklevel=2)
        else:
            jax.config.update("jax_compilation_cache_dir", str(folder))
    # small programs are cached as well: there are many, and each takes seconds to compile
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    logging.getLogger("jax").setLevel(logging.WARNING)


def require_device() -> None:
    """Start JAX on its devices.

    Raises:
        OptimError: it does not start, as where JAX_PLATFORMS names a device whose plugin is not installed.
    """
    import jax

    try:
        jax.devices()
    except Exception as err:  # JAX raises RuntimeError, AssertionError without a word, and others, by the platform
        chosen = os.environ.get("JAX_PLATFORMS")
        said = str(err).strip().splitlines()
        raise OptimError(
            f"JAX does not start on JAX_PLATFORMS={chosen or '(not set)'}"
            f"{f' ({said[0]})' if said else ''}; unset JAX_PLATFORMS or set it to cpu, "
            "or install what the device needs (for a GPU the extra 'cuda')"
        ) from err


def require_float64(name: str) -> None:
    """Refuse single precision, at every public function that computes.

    Steps of the integrator, posteriors and constraint margins are computed to tolerances that float32 does not resolve:
    the numbers would be wrong and look right.

    Args:
        name: the function that was called, for the message.

    Raises:
        OptimError: JAX is set to single precision.
    """
    import jax

    if not jax.config.jax_enable_x64:
        raise OptimError(
            f"{name} computes in double precision, and JAX is set to single precision; call `optim.configure()` first"
        )


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_gpu_plugin() -> bool:
    from importlib.metadata import distributions

    return any((d.metadata["Name"] or "").startswith("jax-cuda") for d in distributions())
