"""Choice of the stepper: what a model says of itself, and what its vessels say after a run."""

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
# vessels with fewer steps are cheap either way
WORTH_A_WARNING = 300


def stepper_for(model: AbstractKineticModel) -> AbstractStepper:
    """The stepper that suits what the model says of itself."""
    return Rodas5P() if model.stiff else Tsit5()


def integrator_for(model: AbstractKineticModel, settings: IntegratorSettings) -> Integrator:
    """The integrator that settings ask for; `auto` takes the stepper that suits the model."""
    numbers = dict(vars(settings))
    steppers = {"auto": stepper_for(model), "explicit": Tsit5(), "stiff": Rodas5P()}
    return Integrator(steppers[numbers.pop("stepper")], **numbers)


def explicit_step_count(
    model: AbstractKineticModel, p: Any, trajectory: Trajectory, *, grid: IntervalGrid, vessel: Vessel
) -> np.ndarray:
    """Steps [V] that stability alone asks of Tsit5: the fastest rate of every interval times its length, over 2.8.

    The rate is the largest eigenvalue of the Jacobian at the end of the interval. Arguments with a leading axis V.
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
    held = FrozenInputs(Controls(flat(length), by_interval), jax.tree.map(repeat, p), jax.tree.map(repeat, vessel))
    states = jnp.stack([x.T.ravel() for x in y])
    entries = right_hand_side(model, held).jacobian(jnp.ones_like(states[0]), states)[1]
    matrix = np.zeros((states.shape[1], len(y), len(y)))
    for (i, j), value in entries.items():
        matrix[:, i, j] = value
    finite = np.isfinite(matrix).all(axis=(1, 2))
    matrix[~finite] = 0.0
    fastest = np.abs(np.linalg.eigvals(matrix)).max(axis=1)
    return np.asarray(fastest.reshape(intervals, vessels).sum(axis=0) / (Tsit5.stability_limit or 1.0))


def stepper_advice(integrator: Integrator, steps: np.ndarray, explicit: np.ndarray) -> str | None:
    """What another stepper would save, or None. `steps` [V] taken, `explicit` [V] as from `explicit_steps`."""
    taken, bound = float(np.median(steps)), float(np.median(explicit))
    if taken < WORTH_A_WARNING:
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
