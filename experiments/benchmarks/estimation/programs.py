"""What all programs share: what a fit returns, and SciPy's least squares for those that bring only residuals."""

import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module, util
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.optimize import least_squares
from scipy.sparse import csr_matrix
from screen import Screen


class Fit(NamedTuple):
    """Where a search ended, and how many steps (of SciPy: Jacobians) it took."""

    theta: np.ndarray
    cost: float
    steps: int


class Program(Protocol):
    """A program that computes cost, derivatives and fits of one screen."""

    name: str
    derivative: str  # what `derivatives` computes

    def cost(self, theta: np.ndarray) -> float: ...

    def derivatives(self, theta: np.ndarray) -> np.ndarray | csr_matrix: ...

    def fit(self, theta: np.ndarray) -> Fit: ...

    def fit_many(self, thetas: list[np.ndarray]) -> list[Fit]: ...


class Place(NamedTuple):
    """Where a program is, and what it takes."""

    module: str
    needs: tuple[str, ...] = ()  # packages
    compiles: str = ""  # "JAX", which has to be set up first, or "C++"


# name of a class -> its place; in the order of the tables
PROGRAMS = {
    "Optim": Place("with_optim", (), "JAX"),
    "Diffrax": Place("with_diffrax", ("diffrax",), "JAX"),
    "DiffraxBySpecies": Place("with_diffrax", ("diffrax",), "JAX"),
    "DiffraxReverse": Place("with_diffrax", ("diffrax",), "JAX"),
    "Amici": Place("with_amici", ("amici", "antimony"), "C++"),
    "RoadRunner": Place("with_roadrunner", ("roadrunner", "antimony")),
    "Scipy": Place("with_scipy"),
}
# those with a search
SEARCHING = tuple(kind for kind in PROGRAMS if kind != "DiffraxReverse")


def load(kinds: Iterable[str], s: Screen) -> list[Program]:
    """Those of the programs that are installed, on a screen; nothing is compiled yet."""
    found = []
    for kind in kinds:
        place = PROGRAMS[kind]
        if missing := [package for package in place.needs if util.find_spec(package) is None]:
            print(f"  {kind}: left out, {', '.join(missing)} not installed", file=sys.stderr, flush=True)
            continue
        found.append(getattr(import_module(place.module), kind)(s))
    return found


class Fitted:
    """A program that has predictions, and derivatives of them, but no search: SciPy's `least_squares` (trf)."""

    def __init__(self, s: Screen):
        self.screen = s

    def predicted(self, lanes: np.ndarray) -> np.ndarray:
        """Readings [C, 15, 7] from parameters on the natural scale [C, 14]."""
        raise NotImplementedError

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        return self.screen.whitened(theta, self.predicted(self.screen.lanes(theta)))

    def cost(self, theta: np.ndarray) -> float:
        return 0.5 * float(np.sum(self.residuals(theta) ** 2))

    def blocks(self, theta: np.ndarray) -> np.ndarray:
        """Derivatives of every vessel's predictions by its own log parameters [C, 105, 14]: finite differences.

        All vessels move at once, since none depends on another's parameters: 14 runs of the screen, not 106.
        """
        lanes = self.screen.lanes(theta)
        here = self.predicted(lanes).reshape(len(lanes), -1)
        found, step = np.empty((*here.shape, 14)), 1e-4
        for i in range(14):
            moved = lanes.copy()
            moved[:, i] *= np.exp(step)
            found[..., i] = (self.predicted(moved).reshape(here.shape) - here) / step
        return found

    def derivatives(self, theta: np.ndarray) -> np.ndarray | csr_matrix:
        return self.screen.jacobian(self.blocks(theta))

    def fit(self, theta: np.ndarray) -> Fit:
        """Ends, as optim's search does, when the cost falls by less than 1e-6 of itself."""
        # steps by lsmr, since dense algebra takes half of a fit of 100 clones
        end = least_squares(
            self.residuals,
            theta,
            self.derivatives,
            bounds=self.screen.bounds(),
            x_scale="jac",
            ftol=1e-6,
            xtol=1e-8,
            tr_solver="lsmr",
        )
        return Fit(end.x, float(end.cost), int(end.njev))

    def fit_many(self, thetas: list[np.ndarray]) -> list[Fit]:
        return [self.fit(theta) for theta in thetas]


def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, all threads, and what the call gave."""
    begun = time.process_time()
    found = call()
    return time.process_time() - begun, found
