"""The vessel by NumPy and SciPy, written from its equations alone: an oracle for the simulator.

Nothing of the balance, the march or the steppers is used here. Reaction rates are the model's own, through one compiled
function per model; they have oracles of their own. Every interval is integrated afresh, so that no solver crosses an
event.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from optim.kinetics.base import AbstractKineticModel, Environment
from optim.schedule.grid import IntervalGrid
from optim.simulation.balance import Vessel

# the controller that holds a VCD by bleeding: 1/h per relative excess, and the excess over which it opens
GAIN, WIDTH = 5.0, 0.01


class Path(NamedTuple):
    """States at every node of a grid, just before the actions there."""

    concentrations: np.ndarray  # [K+1, N]
    volume: np.ndarray  # [K+1] L
    collected: np.ndarray  # [K+1, N] amounts that left with the harvest line


@cache
def compiled(model: AbstractKineticModel) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    """Rates [N] and their derivatives by the concentrations [N, N], of arrays."""

    def rates(c: Any, p: Any, env: Any) -> Any:
        kla = env[2]
        return jnp.stack(
            model.rates(model.Parameters(*p), model.State(*c), Environment(env[0], env[1], None, kla)),
        )

    value, slope = jax.jit(rates), jax.jit(jax.jacfwd(rates))
    return (lambda *a: np.asarray(value(*a))), (lambda *a: np.asarray(slope(*a)))


def oracle(
    model: AbstractKineticModel,
    p: Any,
    initial: Any,
    volume: float,
    grid: IntervalGrid,
    vessel: Vessel,
    method: str = "LSODA",
    rtol: float = 1e-10,
) -> Path:
    """One vessel; every argument as for `simulate_one`."""
    grid, vessel = jax.tree.map(np.asarray, (grid, vessel))
    p = np.array([float(x) for x in p])
    species = model.species
    n = len(species)
    names = model.names()
    dilutes = np.array([s.dilutes for s in species])
    scale = np.array([s.scale for s in species])
    saturation = np.array([np.nan if s.saturation is None else s.saturation for s in species])
    fed = np.array([s.dilutes or bool(s.component) for s in species])
    cells = names.index(model.inoculum_species[0])
    passes = np.ones(n) if vessel.retention is None else 1.0 - vessel.retention
    feeds = vessel.feeds
    rates, slopes = compiled(model)
    a = grid.actions

    def given(amounts: np.ndarray, dose: float, j: int) -> np.ndarray:
        """Amounts after (or per hour with) an addition of feed j; a property of cells takes its share per cell."""
        added = dose * feeds[j]
        per_cell = np.where(dilutes, 1.0, 1.0 / amounts[cells])
        return np.where(fed, added * per_cell, 0.0)

    def act(y: np.ndarray, k: int) -> np.ndarray:
        """Sample, removal through the retention device, boluses, top-ups: one after the other."""
        x, v, out = y[:n].copy(), y[n], y[n + 1 :].copy()
        taken = a.withdraw[k]
        x, v = np.where(dilutes, x * (v - taken) / v, x), v - taken
        if a.remove is not None:
            left = np.where(dilutes, a.remove[k] / v * passes * x, 0.0)
            x, v, out = x - left, v - a.remove[k], out + left
        for j in range(len(feeds)):
            x, v = x + given(x, a.bolus[k, j], j), v + a.bolus[k, j]
        if a.topup_to is not None:
            for j in range(len(feeds)):
                wanted, of = a.topup_to[k, j], vessel.topup[j]
                if of @ x / v < a.topup_below[k, j] and of @ feeds[j] > wanted:
                    dose = max((wanted * v - of @ x) / (of @ feeds[j] - wanted), 0.0)
                    x, v = x + given(x, dose, j), v + dose
        return np.concatenate([x, [v], out])

    def change(t: float, y: np.ndarray, k: int) -> np.ndarray:
        begin, end = grid.t[k], grid.t[k + 1]
        share = (t - begin) / (end - begin)
        env = environment(a, k, share)
        x, v = y[:n], y[n]
        c = np.where(dilutes, x / v, x)
        r = rates(c, p, env)
        dx = np.where(dilutes, v * r, r)
        flow = a.rate_start[k] + share * (a.rate_end[k] - a.rate_start[k])
        if a.growth is not None:
            flow = flow * np.exp(a.growth[k] * (t - begin))
        for j in range(len(feeds)):
            dx = dx + given(x, flow[j], j)
        dv = flow.sum()
        if vessel.titrant is not None:
            dv += max(v * (vessel.titrant @ r), 0.0)
        if a.evaporation is not None:
            dv -= a.evaporation[k]
        bleed = harvest = 0.0
        if a.bleed is not None:
            bleed += a.bleed[k]
        if a.bleed_above is not None:
            bleed += v * GAIN * WIDTH * np.logaddexp(0.0, (c[cells] / a.bleed_above[k] - 1.0) / WIDTH)
        dv -= bleed
        if a.harvest is not None:
            harvest += a.harvest[k]
        if a.level is not None:
            harvest += a.level[k] * max(dv - harvest, 0.0)
        dv -= harvest
        dx = dx - np.where(dilutes, (bleed + harvest * passes) * c, 0.0)
        if a.start.kla is not None:
            dx = dx + np.where(np.isnan(saturation), 0.0, v * env[2] * (saturation - c))
        return np.concatenate([dx, [dv], np.where(dilutes, harvest * passes * c, 0.0)])

    def slope(t: float, y: np.ndarray, k: int) -> np.ndarray:
        """Of the reactions and the gas alone: what is stiff. Newton's iteration needs no more."""
        env = environment(a, k, (t - grid.t[k]) / (grid.t[k + 1] - grid.t[k]))
        v = y[n]
        c = np.where(dilutes, y[:n] / v, y[:n])
        size = np.where(dilutes, v, 1.0)
        found = np.zeros((2 * n + 1, 2 * n + 1))
        found[:n, :n] = size[:, None] * slopes(c, p, env) / size
        if a.start.kla is not None:
            found[:n, :n] -= np.diag(np.where(np.isnan(saturation), 0.0, env[2]))
        return found

    y = np.concatenate([np.where(dilutes, np.array(initial, float) * volume, initial), [volume], np.zeros(n)])
    rows = [y]
    for k in range(int(grid.intervals)):
        y = act(y, k)
        if grid.t[k + 1] > grid.t[k]:
            size = np.where(dilutes, scale * y[n], scale)
            atol = rtol * 1e-2 * np.concatenate([size, [y[n]], size])
            run = solve_ivp(change, grid.t[k : k + 2], y, method, rtol=rtol, atol=atol, args=(k,), jac=slope)
            assert run.success, run.message
            y = run.y[:, -1]
        rows.append(y)
    path = np.array(rows)
    v = path[:, n]
    c = np.where(dilutes, path[:, :n] / v[:, None], path[:, :n])
    return Path(c, v, path[:, n + 1 :])


def environment(a: Any, k: int, share: float) -> np.ndarray:
    """Temperature, pH and kLa at a place of an interval."""
    ends = a.start if a.end is None else a.end
    start = np.array([0.0 if x is None else x[k] for x in (a.start.temperature, a.start.ph, a.start.kla)])
    end = np.array([0.0 if x is None else x[k] for x in (ends.temperature, ends.ph, ends.kla)])
    return start + share * (end - start)
