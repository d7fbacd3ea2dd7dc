"""optim: from screening data to an executable recipe with the best yield per cost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optim.runtime import configure as configure

__version__ = "0.1.0"

# where public names live; each is imported when it is first used, so that `import optim` stays light
_HOMES = {"configure": "optim.runtime"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'optim' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
