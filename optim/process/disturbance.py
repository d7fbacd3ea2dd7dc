"""Errors of execution: dose, strength, inoculum, setpoints and delay, as numbers that may be traced."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.stats import norm, qmc

from optim.schedule.schedule import Schedule
from optim.settings.objective import ExecutionSettings
from optim.settings.optimisation import DriftSettings
from optim.types import Array


class Drift(NamedTuple):
    """Factors on volumes and concentrations, offsets of setpoints; each a scalar or one per lane."""

    feed: Array  # factor on every volume and rate that goes in
    strength: Array  # factor on what feeds hold
    inoculum: Array  # factor on the cells at the start
    temperature_c: Array  # degC, added
    ph: Array  # added
    delay_h: Array  # h by which everything done after time 0 comes late; harvest does not

    def applied(self, s: Schedule) -> Schedule:
        """The schedule as it is really carried out."""
        late = jnp.where(s.times > 0.0, self.delay_h, 0.0)
        return s._replace(
            times=s.times + late,
            bolus=s.bolus * self.feed,
            rate_t=s.rate_t + jnp.where(s.rate_t > 0.0, self.delay_h, 0.0),
            rate_start=s.rate_start * self.feed,
            rate_end=s.rate_end * self.feed,
            setpoint_t=s.setpoint_t + jnp.where(s.setpoint_t > 0.0, self.delay_h, 0.0),
            flow_t=None if s.flow_t is None else s.flow_t + jnp.where(s.flow_t > 0.0, self.delay_h, 0.0),
            setpoints=self._shifted(s.setpoints),
            setpoints_end=None if s.setpoints_end is None else self._shifted(s.setpoints_end),
        )

    def _shifted(self, env):  # type: ignore[no-untyped-def]
        return env._replace(temperature=env.temperature + self.temperature_c, ph=env.ph + self.ph)


def drift_of(settings: DriftSettings | ExecutionSettings) -> Drift:
    """The drift that settings describe, or standard deviations of drifts."""
    return Drift(*(getattr(settings, name) for name in Drift._fields))


AS_PLANNED = drift_of(DriftSettings())


def broadcast_drift(drift: Drift, n: int) -> Drift:
    """The same drift in n lanes."""
    return Drift(*(np.broadcast_to(np.asarray(v, float), (n,)) for v in drift))


def sample_execution_errors(spread: ExecutionSettings, n: int, seed: int) -> Drift:
    """n lanes of ordinary execution, the first as planned: normal errors with the standard deviations of `spread`.

    A Latin hypercube: tails are filled as evenly as so few draws can.
    """
    rng = np.random.default_rng(seed)
    z = norm.ppf(qmc.LatinHypercube(len(Drift._fields), rng=rng).random(n)).T
    z[:, 0] = 0.0
    middle = np.array(AS_PLANNED, float)[:, None]
    values = middle + np.array(drift_of(spread), float)[:, None] * z
    late = len(values) - 1
    values[late] = np.abs(values[late])  # what is done late is never early
    return Drift(*values)
