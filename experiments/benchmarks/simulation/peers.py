"""What optim and others need for the batch of CHO vessels: `python peers.py [peer ...] [--vessels N] [--threads N]`.

The peers: plain C (cho_batch.c), SciPy's `solve_ivp` restarted every day, and diffrax used plainly, all at the same
tolerances. Every time is the median of some repeats after a warm-up. The machine decides the seconds; quote ratios.

C uses one thread unless told otherwise and SciPy one core; XLA may use all cores. `taskset -c 0 python peers.py` gives
every peer one core.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import problem
from numpy.typing import NDArray
from problem import reference

from optim.kinetics.base import Environment
from optim.kinetics.cho_xing import ChoXing
from optim.schedule.grid import Actions, IntervalGrid
from optim.simulate.balance import Vessel
from optim.simulate.integrators import AbstractStepper, Tsit5
from optim.simulate.march import Integrator
from optim.simulate.rosenbrock import Rodas5P
from optim.simulate.simulate import simulate

C_FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fno-associative-math")
SCIPY = ("LSODA", "RK45", "BDF", "Radau")
DIFFRAX = ("Tsit5", "Kvaerno5")
# the vessels whose final state is compared with the reference; the reference needs seconds for each
COMPARED = 4


@dataclass(frozen=True)
class Result:
    """One peer on one case. Steps are per vessel over 14 days: attempts in C and diffrax, accepted ones in SciPy."""

    peer: str
    case: str
    vessels: int
    seconds_per_vessel: float
    error: float
    steps: float | None = None


def error(case: str, days: NDArray[np.float64]) -> float:
    """Largest error of the final states of the first vessels, relative to max(|x|, 1e-3).

    It is about 1e-4 where a species is used up: the absolute tolerance allows 1e-7 there, and 1e-3 is what counts.
    """
    compared = min(len(days), COMPARED)
    final, true = days[:compared, -1], reference(case, COMPARED)[:compared, -1]
    return float(np.max(np.abs(final - true) / np.maximum(np.abs(true), 1e-3)))


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call that has been warmed up already."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def run_c(case: str, vessels: int = 1000, repeats: int = 5, threads: int = 1) -> Result:
    """cho_batch.c, compiled here and now for this processor; it times itself and warms up on its own."""
    source = Path(__file__).with_name("cho_batch.c")
    with tempfile.TemporaryDirectory() as folder:
        program, states = Path(folder) / "cho_batch", Path(folder) / "states"
        subprocess.run(["cc", *C_FLAGS, str(source), "-o", str(program), "-lm", "-lpthread"], check=True)
        command = [str(program), case, str(vessels), str(threads), str(repeats), str(states)]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        days = np.fromfile(states).reshape(vessels, problem.DAYS, -1)
    seconds = statistics.median(answer["seconds"]) / vessels
    label = "C Tsit5" if threads == 1 else f"C Tsit5, {threads} threads"
    return Result(label, case, vessels, seconds, error(case, days), answer["steps"])


def run_scipy(method: str, case: str, vessels: int = COMPARED, repeats: int = 1) -> Result:
    """SciPy, one vessel after another. Few vessels are enough: its time per vessel does not depend on their number."""
    batch = problem.parameters(vessels)
    answers: list[tuple[NDArray[np.float64], int]] = []

    def call() -> None:
        answers[:] = [problem.simulate(case, p, method) for p in batch]

    problem.simulate(case, batch[0], method)
    seconds = median_seconds(call, repeats) / vessels
    days = np.stack([states for states, _ in answers])
    steps = statistics.fmean(steps for _, steps in answers)
    return Result(f"SciPy {method}", case, vessels, seconds, error(case, days), steps)


def _jax_rates(y: Iterable[jax.Array], p: Iterable[jax.Array]) -> list[jax.Array]:
    """`problem.rates` in JAX."""
    mumax, kd, k_glc, k_gln, ki_lac, ki_amm, kd_lac, kd_amm, yx_glc, yx_gln, y_lac, y_amm, r_amm, m_glc, a1, a2, q = p
    x, _, glc, gln, lac, amm, _ = y
    growth = mumax * glc / (k_glc + glc) * gln / (k_gln + gln) * ki_lac / (ki_lac + lac) * ki_amm / (ki_amm + amm)
    death = kd * lac / (kd_lac + lac) * amm / (kd_amm + amm)
    uptake = growth / yx_glc + m_glc * glc / (glc + 0.01)
    return [
        (growth - death) * x,
        death * x,
        -uptake * x,
        -(growth / yx_gln + a1 * gln / (a2 + gln)) * x,
        y_lac * uptake * x,
        (y_amm * growth / yx_gln - r_amm * amm / (amm + 0.1)) * x,
        q * (1 - growth / mumax) * x,
    ]


def run_diffrax(solver: str, case: str, vessels: int = 1000, repeats: int = 5, by_species: bool = False) -> Result:
    """diffrax the plain way: a scan over days of `diffeqsolve`, vmapped over vessels, compiled.

    The state is one array, as most people write it, or, `by_species`, a tuple of numbers: then each species is an array
    along the vessels and the compiled loop need not gather the species of a vessel.
    """
    jax.config.update("jax_enable_x64", True)
    join = tuple if by_species else jnp.stack
    term = diffrax.ODETerm(lambda t, y, p: join(_jax_rates(y, p)))
    controller = diffrax.PIDController(rtol=problem.RTOL, atol=problem.ATOL)
    boluses = np.where(np.isin(problem.DAY_H * np.arange(problem.DAYS), problem.BOLUS_H), problem.BOLUS_L, 0.0)

    def vessel(p: jax.Array) -> tuple[jax.Array, jax.Array]:
        def day(carry: tuple, bolus: jax.Array) -> tuple[tuple, tuple[jax.Array, jax.Array]]:
            y, volume = carry
            after = volume + bolus
            solution = diffrax.diffeqsolve(
                term,
                getattr(diffrax, solver)(),
                t0=0.0,
                t1=problem.DAY_H,
                dt0=0.1,  # as in C; for this problem better than the first step diffrax would choose
                y0=join([(y[i] * volume + feed * bolus) / after for i, feed in enumerate(problem.FEED[case])]),
                args=p,
                saveat=diffrax.SaveAt(t1=True),
                stepsize_controller=controller,
                max_steps=100_000,
            )
            y = jax.tree.map(lambda leaf: leaf[0], solution.ys)
            return (y, after), (jnp.stack([*y, after]), solution.stats["num_steps"])

        start = join([jnp.asarray(x) for x in problem.START]), jnp.asarray(problem.START_L)
        _, (days, steps) = jax.lax.scan(day, start, jnp.asarray(boluses))
        return days, steps.sum()

    batch = jnp.asarray(problem.parameters(vessels))
    program = jax.jit(jax.vmap(vessel)).lower(batch).compile()
    days, steps = jax.block_until_ready(program(batch))
    seconds = median_seconds(lambda: jax.block_until_ready(program(batch)), repeats) / vessels
    label = f"diffrax {solver}{' by species' if by_species else ''}"
    return Result(label, case, vessels, seconds, error(case, np.asarray(days)), float(steps.mean()))


def run_optim(stepper: AbstractStepper, case: str, vessels: int = 1000, repeats: int = 5) -> Result:
    """This package, with its model `cho_xing` and a grid of daily nodes."""
    jax.config.update("jax_enable_x64", True)
    model, days = ChoXing(), problem.DAY_H * np.arange(problem.DAYS + 1)
    bolus = np.where(np.isin(days[:-1], problem.BOLUS_H), problem.BOLUS_L, 0.0)
    each = (vessels, problem.DAYS)
    still = np.zeros((*each, 1))
    actions = Actions(
        withdraw=np.zeros(each),
        bolus=np.broadcast_to(bolus[:, None], still.shape),
        rate_start=still,
        rate_end=still,
        start=Environment(np.full(each, 37.0), np.full(each, 7.0)),
    )
    grid = IntervalGrid(np.broadcast_to(days, (vessels, len(days))), actions, np.full(vessels, problem.DAYS, np.int32))
    feeds = Vessel(np.broadcast_to(problem.FEED[case], (vessels, 1, len(problem.START))))
    p = model.Parameters(*problem.parameters(vessels).T)
    start = model.State(*(np.full(vessels, x) for x in problem.START))
    # the tolerance is relative to a species' scale, at most 10 here: never looser than that of the others
    integrator = Integrator(stepper, rtol=problem.RTOL, atol=0.1 * problem.ATOL, guard=False)
    program = jax.jit(lambda p, c, g: simulate(model, p, c, np.full(vessels, problem.START_L), g, feeds, integrator))
    ran = jax.block_until_ready(program(p, start, grid))
    seconds = median_seconds(lambda: jax.block_until_ready(program(p, start, grid)), repeats) / vessels
    states = np.stack([*ran.concentrations, ran.volume], axis=-1)[:, 1:]
    return Result(
        f"optim {type(stepper).__name__}", case, vessels, seconds, error(case, states), float(ran.steps.mean())
    )


def table(results: list[Result]) -> str:
    """One line per result, with the ratio to the C program on the same case."""
    limit = {result.case: result.seconds_per_vessel for result in results if result.peer == "C Tsit5"}
    lines = [f"{'peer':<28}{'case':<10}{'vessels':>8}{'ms/vessel':>12}{'x C':>9}{'steps':>8}{'error':>10}"]
    for r in results:
        ratio = f"{r.seconds_per_vessel / limit[r.case]:.1f}" if r.case in limit else "-"
        steps = "-" if r.steps is None else f"{r.steps:.0f}"
        ms = 1e3 * r.seconds_per_vessel
        lines.append(f"{r.peer:<28}{r.case:<10}{r.vessels:>8}{ms:>12.4g}{ratio:>9}{steps:>8}{r.error:>10.1e}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", help=f"of {', '.join((*DIFFRAX, *SCIPY))}; without a name: all")
    parser.add_argument("--vessels", type=int, default=1000, help="vessels of C and diffrax (Kvaerno5: at most 100)")
    parser.add_argument("--scipy-vessels", type=int, default=COMPARED)
    parser.add_argument("--threads", type=int, default=1, help="threads of a second run of C")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of C and diffrax; SciPy is run once")
    options = parser.parse_args()
    chosen = options.peers or [*DIFFRAX, *SCIPY]
    if unknown := set(chosen) - {*DIFFRAX, *SCIPY}:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")

    results: list[Result] = []
    for case in problem.CASES:
        print(f"{case} ...", file=sys.stderr)
        results.append(run_c(case, options.vessels, options.repeats))
        if options.threads > 1:
            results.append(run_c(case, options.vessels, options.repeats, options.threads))
        results += [run_optim(s, case, options.vessels, options.repeats) for s in (Tsit5(), Rodas5P())]
        for name in DIFFRAX:
            if name in chosen:
                # the implicit solver is so slow that a thousand vessels would take minutes
                vessels = options.vessels if name == "Tsit5" else min(options.vessels, 100)
                for by_species in (False, True) if name == "Tsit5" else (False,):
                    results.append(run_diffrax(name, case, vessels, options.repeats, by_species))
        for name in SCIPY:
            if name in chosen:
                results.append(run_scipy(name, case, options.scipy_vessels))
    print(table(results))
