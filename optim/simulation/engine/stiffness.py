"""Stiffness: the choice of a stepper for a model, and a check of that choice after a simulation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optim.kinetics.base import AbstractKineticModel
from optim.schedule.grid import IntervalGrid
from optim.settings.simulation import IntegratorSettings
from optim.simulation.balance import Controls, Vessel, collected_species, collects_harvest, to_amounts
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.rhs import FrozenInputs, right_hand_side
from optim.simulation.engine.rosenbrock import Rodas5P
from optim.simulation.engine.steppers import AbstractStepper, Tsit5
from optim.simulation.simulate import Trajectory

# a step of Rodas5P costs as much as about three of Tsit5 (experiments/benchmarks/simulation)
COST_OF_A_STIFF_STEP = 3.0
# vessels with fewer steps are cheap with either stepper, and give no warning
FEWEST_STEPS_TO_WARN = 300


def stepper_for(model: AbstractKineticModel) -> AbstractStepper:
    """The stepper for a model: `Rodas5P` if the model is stiff (`AbstractKineticModel.stiff`), else `Tsit5`."""
    return Rodas5P() if model.stiff else Tsit5()


def integrator_for(model: AbstractKineticModel, settings: IntegratorSettings) -> Integrator:
    """The integrator of the settings; the stepper `auto` is that of `stepper_for`."""
    numbers = dict(vars(settings))
    steppers = {"auto": stepper_for(model), "explicit": Tsit5(), "stiff": Rodas5P()}
    return Integrator(steppers[numbers.pop("stepper")], **numbers)


def explicit_step_count(
    model: AbstractKineticModel, p: Any, trajectory: Trajectory, *, grid: IntervalGrid, vessel: Vessel
) -> np.ndarray:
    """Number of steps that stability alone requires of `Tsit5`.

    It is the sum over the intervals of their length times the fastest rate, over the stability limit. The fastest rate
    is the largest absolute eigenvalue of the Jacobian at the end of the interval.

    Args:
        model: kinetic model.
        p: the model's Parameters, each [V].
        trajectory: trajectories with a leading axis V.
        grid: their schedules.
        vessel: their vessels.

    Returns:
        The number of steps of each vessel [V].
    """
    last = jax.tree.map(lambda a: np.moveaxis(np.asarray(a), 0, -1), grid.actions)
    length = np.diff(np.asarray(grid.t), axis=1).T  # [K, V]
    volume = jnp.asarray(trajectory.volume)[:, 1:]
    c = model.State(*(jnp.asarray(x)[:, 1:] for x in trajectory.concentrations))
    y = to_amounts(model, c, volume, actions=grid.actions)[: len(model.species) + 1]
    if collects_harvest(grid.actions):
        y = (*y, *(jnp.zeros_like(volume) for _ in collected_species(model)))
    intervals, vessels = length.shape
    flat = lambda a: jnp.asarray(a).reshape(*jnp.shape(a)[2:], -1)  # noqa: E731  [K, ..., V] -> [..., K V]
    by_interval = jax.tree.map(lambda a: flat(np.moveaxis(a, -1, 1)), last)
    repeat = lambda a: jnp.tile(jnp.moveaxis(jnp.asarray(a), 0, -1), intervals)  # noqa: E731  [V, ...] -> [..., K V]
    frozen = FrozenInputs(Controls(flat(length), by_interval), jax.tree.map(repeat, p), jax.tree.map(repeat, vessel))
    states = jnp.stack([x.T.ravel() for x in y])
    entries = right_hand_side(model, frozen).jacobian(jnp.ones_like(states[0]), states)[1]
    matrix = np.zeros((states.shape[1], len(y), len(y)))
    for (i, j), value in entries.items():
        matrix[:, i, j] = value
    finite = np.isfinite(matrix).all(axis=(1, 2))
    matrix[~finite] = 0.0
    fastest = np.abs(np.linalg.eigvals(matrix)).max(axis=1)
    return np.asarray(fastest.reshape(intervals, vessels).sum(axis=0) / (Tsit5.stability_limit or 1.0))


def stepper_advice(integrator: Integrator, steps: np.ndarray, explicit: np.ndarray) -> str | None:
    """Advice to use the other stepper, or None if the choice was good.

    Args:
        integrator: the integrator that was used.
        steps: attempted steps of each vessel [V].
        explicit: steps that stability requires of `Tsit5` [V], from `explicit_step_count`.

    Returns:
        A sentence with the reason and the setting to use, or None.
    """
    taken, bound = float(np.median(steps)), float(np.median(explicit))
    if taken < FEWEST_STEPS_TO_WARN:
        return None
    if integrator.stepper.stability_limit is not None:
        if bound > 0.7 * taken:
            return (
                f"most of the {taken:.0f} steps of a vessel are there for stability, not for accuracy: the system is "
                "stiff; use integrator=stiff"
            )
    elif 2.0 * max(bound, taken) < COST_OF_A_STIFF_STEP * taken:
        return (
            f"stability would ask an explicit stepper for {bound:.0f} steps where this one takes {taken:.0f}, each "
            f"{COST_OF_A_STIFF_STEP:g} times as dear: the system is mild; use integrator=explicit"
        )
    return None
