"""The programs that compete: plain C, SciPy's `solve_ivp` restarted at every node, diffrax used plainly, and optim."""

import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from process import ATOL_PER_RTOL, Process, solve_scipy
from timing import Answer, Peer, clocked, warmed

from optim.kinetics.base import AbstractKineticModel
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.rosenbrock import Rodas5P
from optim.simulation.engine.steppers import AbstractStepper, Tsit5
from optim.simulation.simulate import Trajectory, simulate_cultivations

C_FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fno-associative-math")
SCIPY = ("LSODA", "RK45", "BDF", "Radau")
STEPPERS: dict[str, Callable[[], AbstractStepper]] = {"Tsit5": Tsit5, "Rodas5P": Rodas5P}


@cache
def _c_program() -> tuple[Path, tempfile.TemporaryDirectory]:
    """cho_batch.c compiled for this processor; the folder lives as long as this process."""
    folder = tempfile.TemporaryDirectory()
    program = Path(folder.name) / "cho_batch"
    source = Path(__file__).with_name("cho_batch.c")
    subprocess.run(["cc", *C_FLAGS, str(source), "-o", str(program), "-lm", "-lpthread"], check=True)
    return program, folder


def c(case: str, vessels: int, rtol: float, threads: int = 1) -> Peer:
    """cho_batch.c: it warms up and times itself, so that starting the process does not count."""

    def run() -> Answer:
        program, folder = _c_program()
        states = Path(folder.name) / "states"
        words = [case, vessels, threads, 1, states, rtol, ATOL_PER_RTOL * rtol]
        ended = subprocess.run([program, *map(str, words)], capture_output=True, text=True)
        if ended.returncode:
            return Answer(float("nan"), np.empty(0), float("nan"), ended.stderr.strip())
        answer = json.loads(ended.stdout)
        return Answer(answer["seconds"][0], np.fromfile(states).reshape(vessels, -1, 8), answer["steps"])

    return Peer("C Tsit5", vessels, run)


def scipy(process: Process, method: str, vessels: int, rtol: float) -> Peer:
    """SciPy, one vessel after another. Few are enough: its time per vessel does not depend on their number."""

    def run() -> Answer:
        batch, atol = process.parameters(vessels), ATOL_PER_RTOL * rtol
        try:
            seconds, found = clocked(lambda: [solve_scipy(process, p, method, rtol, atol) for p in batch])
        except RuntimeError as err:
            return Answer(float("nan"), np.empty(0), float("nan"), str(err))
        return Answer(seconds, np.stack([f[0] for f in found]), statistics.fmean(f[1] for f in found))

    return Peer(f"SciPy {method}", vessels, run)


@cache
def _diffrax_program(
    solver: str, by_species: bool, sizes: tuple[float, ...], rates: Any, edge: Any, max_steps: int
) -> Callable[..., Any]:
    """A vmap over vessels of a scan over intervals of `diffeqsolve`, compiled; states in units of their sizes."""
    join = tuple if by_species else jnp.stack
    unit = all(size == 1.0 for size in sizes)

    def natural(y: Any) -> list[Any]:
        return [y[i] if unit else y[i] * size for i, size in enumerate(sizes)]

    def scaled(y: Any) -> Any:
        return join([jnp.asarray(x if unit else x / size) for x, size in zip(y, sizes, strict=True)])

    term = diffrax.ODETerm(lambda t, y, args: scaled(rates(t, natural(y), args[0], args[1], jnp.exp)))

    def vessel(p: Any, start: Any, lengths: Any, controls: Any, rtol: Any) -> tuple[Any, Any, Any]:
        controller = diffrax.PIDController(rtol=rtol, atol=ATOL_PER_RTOL * rtol)

        def interval(y: Any, row: tuple[Any, Any]) -> tuple[Any, tuple[Any, Any, Any]]:
            length, u = row
            solution = diffrax.diffeqsolve(
                term,
                getattr(diffrax, solver)(),
                t0=0.0,
                t1=length,
                # as in C; better for the batch of CHO vessels than the first step diffrax would choose
                dt0=jnp.minimum(0.1, length),
                y0=scaled(edge(natural(y), u)),
                args=(p, u),
                saveat=diffrax.SaveAt(t1=True),
                stepsize_controller=controller,
                max_steps=max_steps,
                throw=False,
            )
            y = jax.tree.map(lambda leaf: leaf[0], solution.ys)
            good = solution.result == diffrax.RESULTS.successful
            return y, (jnp.stack(natural(y)), solution.stats["num_steps"], good)

        _, (states, steps, good) = jax.lax.scan(interval, scaled(list(start)), (lengths, controls))
        return states, steps.sum(), good.all()

    return jax.jit(jax.vmap(vessel, in_axes=(0, None, None, None, None)))


def diffrax_peer(
    process: Process, solver: str, vessels: int, rtol: float, by_species: bool = False, max_steps: int = 100_000
) -> Peer:
    """diffrax the plain way, at most `max_steps` steps an interval.

    The state is one array, as most people write it, or, `by_species`, a tuple of numbers: then each species is an array
    along the vessels and the compiled loop need not gather the species of a vessel.
    """
    key = (solver, by_species, tuple(process.sizes.tolist()), process.rates, process.edge, max_steps)
    program = _diffrax_program(*key)
    arrays = (process.parameters(vessels), process.start, np.diff(process.nodes), process.controls)
    arguments = (*map(jnp.asarray, arrays), rtol)

    def run() -> Answer:
        seconds, (states, steps, good) = clocked(lambda: jax.block_until_ready(program(*arguments)))
        failed = "" if bool(good.all()) else f"{int((~good).sum())} of {vessels} vessels over {max_steps} steps"
        return Answer(seconds, np.asarray(states), float(steps.mean()), failed)

    return warmed(f"diffrax {solver}{' by species' if by_species else ''}", vessels, run)


@cache
def optim_program(model: AbstractKineticModel) -> Callable[..., Trajectory]:
    """`simulate_cultivations`, compiled; tolerances are arguments, so one program serves all of them."""
    return jax.jit(lambda integrator, *arguments: simulate_cultivations(model, *arguments, integrator=integrator))


def optim_arguments(process: Process, vessels: int) -> tuple[Any, Cultivation]:
    """The arguments of `simulate_cultivations` after the model: parameters and cultivations."""
    model = process.model
    p = model.Parameters(*process.parameters(vessels).T)
    start = model.State(*(np.full(vessels, x) for x in process.start[: len(model.species)]))
    grid, vessel = jax.tree.map(lambda a: np.broadcast_to(a, (vessels, *np.shape(a))), (process.grid, process.vessel))
    return jax.tree.map(jnp.asarray, (p, Cultivation(start, np.full(vessels, process.start_l), grid, vessel)))


def integrator_for(
    process: Process, stepper: str, rtol: float, guard: bool = False, max_steps: int = 100_000
) -> Integrator:
    """Settings at the tolerances of everybody."""
    atol = ATOL_PER_RTOL * rtol * process.optim_atol
    return Integrator(STEPPERS[stepper](), rtol, atol, max_steps=max_steps, guard=guard)


def optim(
    process: Process, stepper: str, vessels: int, rtol: float, max_steps: int = 100_000, program: Any = None
) -> Peer:
    """This package, with its own model and a grid; without the guard that derivatives need."""
    program, arguments = program or optim_program(process.model), optim_arguments(process, vessels)
    integrator = integrator_for(process, stepper, rtol, max_steps=max_steps)

    def run() -> Answer:
        seconds, found = clocked(lambda: jax.block_until_ready(program(integrator, *arguments)))
        states = np.stack([*found.concentrations, found.volume], axis=-1)[:, 1:]
        bad = int((found.status != 0).sum())
        failed = f"{bad} of {vessels} vessels over {max_steps} steps" if bad else ""
        return Answer(seconds, states, float(found.steps.mean()), failed)

    return warmed(f"optim {stepper}", vessels, run)
