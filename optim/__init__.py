"""optim: from screening data to an executable recipe with the best yield per cost.

Everything that a notebook needs is a name of this package. A name loads its module when it is first used, so that
`import optim` is quick. `optim.configure()` comes first: it sets double precision, in which everything is computed.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The face, stated once: type checkers read this block, and `__getattr__` reads it as text.
if TYPE_CHECKING:
    from optim.app.build import model_names as model_names
    from optim.app.library import fit as fit
    from optim.app.library import load as load
    from optim.app.library import make_recipe as make_recipe
    from optim.app.library import optimise as optimise
    from optim.app.library import pareto as pareto
    from optim.app.library import predict_new_clone as predict_new_clone
    from optim.app.library import rank as rank
    from optim.app.library import save as save
    from optim.app.library import sensitivity as sensitivity
    from optim.app.library import suggest as suggest
    from optim.app.model import Model as Model
    from optim.app.model import load_model as load_model
    from optim.app.process import Process as Process
    from optim.app.process import load_process as load_process
    from optim.app.running import replan as replan
    from optim.app.vessel import simulate as simulate
    from optim.data.dataset import Dataset as Dataset
    from optim.data.open import read_dataset as read_dataset
    from optim.data.writer import append_runs as append_runs
    from optim.data.writer import write_dataset as write_dataset
    from optim.errors import OptimError as OptimError
    from optim.errors import OptimWarning as OptimWarning
    from optim.estimation.result import FitResult as FitResult
    from optim.optimisation.result import Optimum as Optimum
    from optim.optimisation.result import Ranking as Ranking
    from optim.recipe.recipe import Recipe as Recipe
    from optim.runtime import configure as configure
    from optim.schedule import actions as actions
    from optim.simulation.run import SimulatedRun as SimulatedRun


@cache
def _homes() -> dict[str, tuple[str, str]]:
    """Module and name in it of every public name, from the block above."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    imports = (n for n in block.body if isinstance(n, ast.ImportFrom))
    return {a.asname or a.name: (str(n.module), a.name) for n in imports for a in n.names}


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in _homes():
        raise AttributeError(f"module 'optim' has no attribute '{name}'")
    module, attribute = _homes()[name]
    home = import_module(module)
    # a name that is no attribute is a module of that package
    return getattr(home, attribute) if hasattr(home, attribute) else import_module(f"{module}.{attribute}")


def __dir__() -> list[str]:
    return sorted({"__version__", *_homes()})
