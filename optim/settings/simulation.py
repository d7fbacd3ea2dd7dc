"""Settings of a simulation: the integrator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from optim.settings.checks import require_one_of
from optim.settings.ranges import Section, Within

STEPPERS = ("auto", "explicit", "stiff")


@dataclass(frozen=True)
class IntegratorSettings(Section, key="integrator"):
    """How exactly, and by which method, vessels are integrated."""

    stepper: str = "auto"  # auto (stiff where the model declares itself stiff) | explicit (Tsit5) | stiff (Rodas5P)
    rtol: Annotated[float, Within(1e-14, 1e-2)] = 1e-5  # relative tolerance of a step
    atol: Annotated[float, Within(1e-16, 1e-2)] = 1e-6  # absolute tolerance of a step, in the scale of each species
    max_steps: Annotated[int, Within(1, 100_000_000)] = 20_000  # of one vessel; one that needs more ends with MAX_STEPS
    first_step_h: Annotated[float, Within(1e-9, 100.0, "h")] = 0.05  # h, of the first step after every action

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("integrator.stepper", self.stepper, STEPPERS)
