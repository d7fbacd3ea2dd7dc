"""The commands of `optim`, one file each: a file here is a command, its docstring the line that `optim --help` shows.

The file `rank.py` holds the function `rank_command`, and so on. It takes the session; that of `doctor` takes nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# the order of the workflow, as the help lists it; commands that are not named here follow by name
FLOW = (
    "run",
    "fit",
    "place",
    "rank",
    "optimise",
    "stress",
    "pareto",
    "export",
    "suggest",
    "replan",
    "simulate",
    "doctor",
)


def command_summaries() -> dict[str, str]:
    """First line of every command's docstring, by name, read without importing anything."""
    files = {f.stem: f for f in Path(__file__).parent.glob("*.py") if f.stem != "__init__"}
    order = [name for name in FLOW if name in files] + sorted(files.keys() - set(FLOW))
    found = {}
    for name in order:
        text = ast.get_docstring(ast.parse(files[name].read_text(encoding="utf-8"))) or ""
        found[name] = text.split("\n")[0].rstrip(".")
    return found


def load_command(name: str) -> Callable[..., Any]:
    """The function of a command: `NAME_command` of the file `NAME.py`."""
    function: Callable[..., Any] = getattr(import_module(f"{__name__}.{name}"), f"{name}_command")
    return function
