"""What every program of this folder is given: a process as plain numbers and functions, and how answers are judged."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from optim.kinetics.base import AbstractKineticModel
from optim.schedule.grid import IntervalGrid
from optim.simulation.balance import Vessel

Floats = NDArray[np.float64]
# an absolute tolerance is this share of the relative one, times the size of the species
ATOL_PER_RTOL = 0.1


@dataclass(frozen=True, eq=False)
class Process:
    """One process for all programs.

    `rates` and `edge` are written for numbers of any kind: SciPy gives them floats and diffrax traced values, so that
    every program solves the same equations. optim is given its own model of the library, a grid and a vessel instead.
    """

    name: str
    parameters: Callable[[int], Floats]  # n -> [n, P], in the order of the model's Parameters
    start: Floats  # [N'] what is integrated: species (concentrations), then the volume (L) where it flows
    nodes: Floats  # [K+1] h
    controls: Floats  # [K, C] of every interval
    rates: Callable[..., list[Any]]  # (h since the node, y [N'], p [P], u [C], exp) -> dy/dt, per hour
    edge: Callable[..., list[Any]]  # (y, u) -> y after what happens at the left edge
    sizes: Floats  # [N'] absolute tolerances are relative to these
    model: AbstractKineticModel
    grid: IntervalGrid  # of one vessel
    vessel: Vessel
    start_l: float
    # optim takes tolerances relative to the scales of its species: the factor that makes them those of `sizes`
    optim_atol: float = 1.0


def perturbed(nominal: Sequence[float], n: int) -> Floats:
    """Parameters of vessels 0 to n - 1, up to 10 % off the nominal ones: [n, P]."""
    i, j = np.arange(n)[:, None], np.arange(len(nominal))[None, :]
    return np.asarray(nominal) * np.exp(0.1 * np.sin(0.7 * (i + 1) * (j + 1) + j))


def solve_scipy(process: Process, p: Floats, method: str, rtol: float, atol: float) -> tuple[Floats, int]:
    """One vessel by `solve_ivp`, restarted at every node: states at the end of every interval, and accepted steps."""
    y, steps, values = process.start, 0, tuple(p.tolist())
    found = np.empty((len(process.controls), len(y)))

    def rates(t: float, y: Floats, u: list[float]) -> list[float]:
        # plain floats, because arithmetic on single NumPy numbers is several times slower
        return process.rates(t, y.tolist(), values, u, math.exp)

    for k, u in enumerate(process.controls.tolist()):
        y = np.array(process.edge(y.tolist(), u))
        # no dense output: only the end is asked for; time counts from the node
        span = (0.0, process.nodes[k + 1] - process.nodes[k])
        solution = solve_ivp(rates, span, y, method, args=(u,), rtol=rtol, atol=atol * process.sizes)
        if not solution.success:
            raise RuntimeError(f"{method}, interval {k}: {solution.message}")
        y = solution.y[:, -1]
        steps += len(solution.t) - 1
        found[k] = y
    return found, steps


@cache
def reference(process: Process, n: int) -> Floats:
    """States [n, K, N'] of the first n vessels, tight enough to judge the programs by."""
    return np.stack([solve_scipy(process, p, "Radau", 1e-10, 1e-12)[0] for p in process.parameters(n)])


def error(process: Process, states: Floats, compared: int) -> float:
    """Largest error of any species at any node of the first vessels, relative to its largest value in that vessel."""
    species = len(process.model.species)
    true = reference(process, compared)[: len(states), :, :species]
    found = states[: len(true), :, :species]
    size = np.abs(true).max(axis=1, keepdims=True)
    return float(np.max(np.abs(found - true) / np.where(size > 0.0, size, 1.0)))
