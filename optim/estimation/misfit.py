"""Misfit: assays that a fitted model does not describe, by one rule, and the sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optim.estimation.noise import MOST_NOISE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optim.estimation.result import Observations

# a model that predicts an assay worse than the mean of its readings does not describe it
LEAST_R2 = 0.0
# readings that hardly vary have an R2 near 0 however good the model is: so their distance from it must exceed their
# stated noise by this factor, too
NOISE_ALLOWED = 1.5


@dataclass(frozen=True)
class Misfit:
    """An assay that the model does not describe.

    `r2` is over uncensored readings after time 0, NaN where it cannot be computed. `noise` is the root mean square
    distance of these readings from the model, in units of the stated noise, NaN where every reading is censored.
    """

    variable: str
    r2: float
    noise: float
    readings: int

    @property
    def reason(self) -> str:
        """Why the rule calls it a misfit."""
        if not np.isfinite(self.noise):
            return f"all {self.readings} readings after time 0 are beyond a limit of quantification"
        times = f"{self.noise:,.0f}" if self.noise >= 10.0 else f"{self.noise:.1f}"
        r2 = "cannot be computed" if np.isnan(self.r2) else f"{self.r2:.2f}" if self.r2 > -100.0 else f"{self.r2:.1e}"
        return f"R2 {r2}, {times} times the stated noise"

    @property
    def sentence(self) -> str:
        """The misfit in words."""
        return misfit_sentence((self,))


def find_misfits(o: Observations, noise_scale: Mapping[str, float]) -> tuple[Misfit, ...]:
    """The assays that a model does not describe.

    The rule: R2 after time 0 is below `LEAST_R2` and the readings lie `NOISE_ALLOWED` times their stated noise from the
    model; or R2 cannot be computed, and no reading is within the limits of quantification or they lie `MOST_NOISE`
    times their noise away.

    Args:
        o: readings with predictions.
        noise_scale: by variable, the estimated factor on the stated noise that `o.sd` holds.
    """
    from optim.estimation.score import r_squared

    r2, variable, after = r_squared(o), np.array(o.variable), o.time_h > 0.0
    free = np.array([c == "" for c in o.censored], bool)
    found = []
    for name in dict.fromkeys(o.variable):
        own = after & (variable == name)
        use = own & free
        distance = (o.value[use] - o.predicted[use]) / o.sd[use] * noise_scale.get(name, 1.0)
        noise = float(np.sqrt(np.mean(distance**2))) if use.any() else float("nan")
        if use.any() and not np.isfinite(noise):
            noise = float("inf")
        limit = MOST_NOISE if np.isnan(r2[name]) else NOISE_ALLOWED
        if own.any() and not r2[name] >= LEAST_R2 and not noise <= limit:
            found.append(Misfit(name, r2[name], noise, int(own.sum())))
    return tuple(found)


def misfit_sentence(misfits: tuple[Misfit, ...]) -> str:
    """One sentence on all assays that the model does not describe; '' where there is none."""
    return "the model does not describe " + "; ".join(f"{m.variable}: {m.reason}" for m in misfits) if misfits else ""


def noise_sentences(noise_scale: Mapping[str, float]) -> tuple[str, ...]:
    """A sentence on the assays whose estimated noise is as large as a fit allows; none where there are none."""
    capped = [name for name, factor in noise_scale.items() if factor >= MOST_NOISE * (1.0 - 1e-9)]
    if not capped:
        return ()
    return (
        f"about the model, readings of {', '.join(capped)} scatter at least {MOST_NOISE:g} times as wide as their "
        "stated noise, which is the most that a fit allows for: intervals of what they inform are too narrow",
    )
