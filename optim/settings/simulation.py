"""Settings of a simulation: the integrator."""

from __future__ import annotations

from dataclasses import dataclass

from optim.settings.checks import require_above, require_at_least, require_one_of

STEPPERS = ("auto", "explicit", "stiff")


@dataclass(frozen=True)
class IntegratorSettings:
    """How exactly, and by which method, vessels are integrated."""

    stepper: str = "auto"  # auto (stiff where the model declares itself stiff) | explicit (Tsit5) | stiff (Rodas5P)
    rtol: float = 1e-5  # relative tolerance of a step
    atol: float = 1e-6  # absolute tolerance of a step, relative to the scale of each species
    max_steps: int = 20_000  # of one vessel; one that needs more ends with MAX_STEPS
    first_step_h: float = 0.05  # h, of the first step after every action

    def __post_init__(self) -> None:
        require_one_of("integrator.stepper", self.stepper, STEPPERS)
        require_above("integrator.rtol", self.rtol, 0.0)
        require_above("integrator.atol", self.atol, 0.0)
        require_at_least("integrator.max_steps", self.max_steps, 1)
        require_above("integrator.first_step_h", self.first_step_h, 0.0)
