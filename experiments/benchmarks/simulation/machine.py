"""What the seconds depend on, and how many cores they may use."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def pin(threads: int) -> int:
    """Keep this process, and what it starts, on as many of its cores; how many those are.

    Call it before NumPy and JAX are imported: they count the cores once, and threads that share one spin as they wait.
    """
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    return len(cores)


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """The processor, the cores that may be used, and versions; None: not installed."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
