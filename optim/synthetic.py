"""A simulated clone screen with known truth: a miniature-bioreactor campaign of CHO clones.

The vessels follow model A2 (`optim.kinetics.cho_moller`). Daily samples remove volume, feeds are boluses, temperature
is shifted, assays are noisy, and some values are missing or below the limit of quantification. With `mismatch` the true
model has an unmeasured growth inhibitor that the fitted model lacks. Nothing here was measured, and every dataset
states so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from optim.data.dataset import Run
from optim.data.schedules import feeds_of, schedule_of
from optim.data.writer import event_table, run_table, write_dataset
from optim.kinetics.cho_moller import ChoMoller, Parameters
from optim.runtime import require_float64
from optim.schedule.actions import Action, Bolus, Sample, Setpoint, start_time
from optim.schedule.grid import padded_length
from optim.schedule.schedule import to_grid
from optim.simulation.balance import Vessel
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.simulate import check_trajectory, observe_nodes, simulate_cultivations
from optim.units import HOURS_PER_DAY

START_ML, SAMPLE_ML, DAYS = 13.0, 0.35, 14
EVERY_DAY = np.arange(DAYS + 1) * HOURS_PER_DAY
INOCULUM_VCD = 0.5  # 1e9 cells/L
BASAL_MEDIUM = {"glucose": 35.0, "glutamine": 6.0, "ammonia": 0.5, "lactate": 0.5, "background_osmolality": 235.0}
FEED = {"glucose": 420.0, "glutamine": 28.0, "background_osmolality": 520.0}
COMPONENT_UNITS = {"background_osmolality": "mOsm/kg"}
PG_PER_CELL_D = 1.0 / 24.0e3  # pg/cell/d in g/1e9 cells/h

# Published values of model A2 (Möller et al. 2020) unless a comment says otherwise
TYPICAL_CLONE = Parameters(
    mu_max=0.038,  # a little slower than published, so that cultures peak at 10 to 25e6 cells/mL
    mu_d_max=0.06,
    mu_d_min=0.0014,
    k_lys=0.002,
    k_glc=0.20,
    k_gln=2.0,
    KI_amm=12.0,
    KS_glc=0.02,
    KS_gln=0.03,
    q_glc_max=0.040,
    q_gln_max=0.030,
    q_lac_max=0.2,
    Y_amm=0.80,
    Y_lac=0.25,
    K_lac=0.01,
    qP=20.0 * PG_PER_CELL_D,
    kappa_T=0.05,
    T_opt=36.4,
    s_T=3.5,
    pH_opt=6.99,
    s_pH=1.0,
    y_byp=0.0,
    KI_byp=30.0,
)
# spread between clones on the log scale, chosen inside the ranges met in practice: qP 0.4 to 0.8, growth 0.1 to 0.2
CLONE_SPREAD = {"mu_max": 0.10, "qP": 0.38, "mu_d_min": 0.35, "q_glc_max": 0.15, "Y_lac": 0.20}
QP_RANGE = (10.0 * PG_PER_CELL_D, 40.0 * PG_PER_CELL_D)
INOCULUM_SD = 0.06
# assay: relative error, absolute error, limit of quantification, days on which it is measured
SCREEN_ASSAYS: dict[str, tuple[float, float, float, tuple[int, ...]]] = {
    "vcd": (0.08, 0.05, 0.0, tuple(range(15))),
    "viability": (0.0, 0.012, 0.0, tuple(range(15))),
    "glucose": (0.04, 0.4, 0.5, tuple(range(15))),
    "lactate": (0.04, 0.2, 0.3, tuple(range(15))),
    "glutamine": (0.06, 0.08, 0.2, tuple(range(0, 15, 2))),
    "ammonia": (0.06, 0.10, 0.3, tuple(range(0, 15, 2))),
    "titre": (0.06, 0.01, 0.05, (2, 4, 6, 8, 10, 12, 14)),
}
MISSING_FRACTION = 0.04


@dataclass(frozen=True)
class ScreenOptions:
    """Size of a simulated screen; with `mismatch` the true model has a mechanism that the fitted model lacks."""

    clones: int = 24
    vessels_per_clone: int = 2
    seed: int = 1
    mismatch: bool = False


def clone_truth(options: ScreenOptions) -> dict[str, Parameters]:
    """True parameters of every clone, by clone id."""
    rng = np.random.default_rng(options.seed)
    base = TYPICAL_CLONE._replace(y_byp=1.0) if options.mismatch else TYPICAL_CLONE
    truth = {}
    for c in range(options.clones):
        own = {n: float(getattr(base, n)) * float(np.exp(s * rng.standard_normal())) for n, s in CLONE_SPREAD.items()}
        own["qP"] = float(np.clip(own["qP"], *QP_RANGE))
        truth[f"C{c + 1:02d}"] = base._replace(**own)
    return truth


def screen_runs(options: ScreenOptions) -> tuple[Run, ...]:
    """Runs of a screen: replicates of a clone differ in feeds and temperature shift, so both effects are estimable."""
    rng = np.random.default_rng(options.seed + 1)
    runs = []
    for c in range(options.clones):
        for v in range(options.vessels_per_clone):
            percent = (3.0, 4.5)[v % 2] + 0.5 * rng.integers(-1, 2)
            day, level = int(rng.integers(4, 11)), float(rng.choice([31.0, 32.0, 33.0, 34.0, 35.0]))
            actions: list[Action] = [Sample(d * HOURS_PER_DAY, SAMPLE_ML) for d in range(DAYS)]
            actions += [Bolus(d * HOURS_PER_DAY, "feed_a", percent / 100.0 * START_ML) for d in range(3, 13)]
            actions.append(Setpoint(day * HOURS_PER_DAY, temperature_c=level))
            runs.append(
                Run(
                    run_id=f"C{c + 1:02d}-{v + 1}",
                    experiment_id="SCREEN1",
                    vessel_id=f"CS{(c * options.vessels_per_clone + v) // 24 + 1}-"
                    f"{(c * options.vessels_per_clone + v) % 24 + 1}",
                    clone_id=f"C{c + 1:02d}",
                    start_volume_l=START_ML / 1000.0,
                    medium_id="basal_a",
                    temperature_c=36.8,
                    ph=7.0,
                    inoculum_vcd=INOCULUM_VCD,
                    end_time_h=DAYS * HOURS_PER_DAY,
                    actions=tuple(sorted(actions, key=start_time)),
                )
            )
    return tuple(runs)


def simulate_screen(
    runs: tuple[Run, ...],
    truth: dict[str, Parameters],
    factors: np.ndarray,
    *,
    times_h: np.ndarray = EVERY_DAY,
) -> dict[str, np.ndarray]:
    """Simulate a screen without noise.

    `truth`: parameters by clone; `factors` [B]: on the inoculum of each vessel. Returns true values by variable,
    [B, times], at `times_h` (default: every day); after the end of a run, those at its end.
    """
    require_float64("simulate_screen")
    model, days = ChoMoller(), times_h
    schedules = [schedule_of(run, days[days < run.end_time_h], feeds_of(run)) for run in runs]
    size = padded_length(max(len(s.times) for s in schedules))
    grids = [to_grid(s, size)[0] for s in schedules]
    grid = jax.tree.map(lambda *x: jnp.stack(x), *grids)
    start = np.array([list(model.initial(BASAL_MEDIUM, INOCULUM_VCD, {}).values()) for _ in runs])
    start[:, :2] *= factors[:, None]
    p = Parameters(*(jnp.asarray(v) for v in zip(*(truth[run.clone_id] for run in runs), strict=True)))
    feeds = jnp.broadcast_to(jnp.asarray([model.feed(FEED)]), (len(runs), 1, len(model.species)))
    integrator = Integrator(rtol=1e-8, atol=1e-9)

    volumes = jnp.asarray([run.start_volume_l for run in runs])
    run_all = jax.jit(lambda p, cultivation: simulate_cultivations(model, p, cultivation, integrator=integrator))
    trajectory = run_all(p, Cultivation(model.State(*start.T), volumes, grid, Vessel(feeds)))
    true = jax.vmap(lambda p, t, g: observe_nodes(model, p, t, grid=g))(p, trajectory, grid)
    check_trajectory(trajectory, tuple(run.run_id for run in runs))
    nodes = np.array([[int(np.argmin(np.abs(np.asarray(t) - d))) for d in days] for t in trajectory.t])
    return {name: np.take_along_axis(np.asarray(v), nodes, axis=1) for name, v in true.items()}


def make_screen(folder: Path, name: str, options: ScreenOptions) -> Path:
    """Simulate a screen, read it with noise, and write it as a dataset folder; returns the folder."""
    truth, runs = clone_truth(options), screen_runs(options)
    rng = np.random.default_rng(options.seed + 2)
    factors = np.exp(INOCULUM_SD * rng.standard_normal(len(runs)))
    values = simulate_screen(runs, truth, factors)
    days = {variable: tuple(d * HOURS_PER_DAY for d in assay[3]) for variable, assay in SCREEN_ASSAYS.items()}
    measurements = assay_runs(runs, values, EVERY_DAY, when=[days] * len(runs), rng=rng)
    write_dataset(folder, _header(name, options), screen_tables(runs, measurements, truth))
    return folder


def assay_runs(
    runs: tuple[Run, ...],
    values: dict[str, np.ndarray],
    times_h: np.ndarray,
    *,
    when: Sequence[Mapping[str, Sequence[float]]],
    rng: np.random.Generator,
    noise: float = 1.0,
) -> list[dict[str, object]]:
    """Simulate the assays of a screen; returns rows of measurements.

    `values` are true values by variable, [B, times], at `times_h`. `when`: per run, the times (h) at which each
    variable is measured. `noise`: factor on the noise of `SCREEN_ASSAYS`.
    """
    measurements: list[dict[str, object]] = []
    for b, run in enumerate(runs):
        for variable, (relative, absolute, limit, _) in SCREEN_ASSAYS.items():
            for t in when[b].get(variable, ()):
                true = values[variable][b, int(np.argmin(np.abs(times_h - t)))]
                reading = true + noise * np.hypot(relative * true, absolute) * rng.standard_normal()
                lost = rng.random() < MISSING_FRACTION
                reading = min(max(reading, 0.0), 1.0) if variable == "viability" else max(reading, 0.0)
                if lost:
                    continue
                below = reading < limit
                measurements.append(
                    {
                        "experiment_id": run.experiment_id,
                        "run_id": run.run_id,
                        "vessel_id": run.vessel_id,
                        "clone_id": run.clone_id,
                        "time_h": t,
                        "variable": variable,
                        "value": limit if below else float(f"{reading:.4g}"),
                        "unit": _unit(variable),
                        "method": "simulated",
                        "replicate": "1",
                        "censored": "<" if below else "",
                        "qc_flag": "",
                    }
                )
    return measurements


def _unit(variable: str) -> str:
    return {"vcd": "1e6 cells/mL", "viability": "1", "titre": "g/L"}.get(variable, "mmol/L")


def _header(name: str, options: ScreenOptions) -> dict[str, object]:
    extra = " The truth has an unmeasured growth inhibitor that model A2 lacks." if options.mismatch else ""
    return {
        "name": name,
        "description": f"SIMULATED clone screen: {options.clones} CHO clones x {options.vessels_per_clone} vessels x "
        f"{DAYS} days, daily bolus feeds, temperature shift, sampling volumes removed.{extra}",
        "organism": "CHO (simulated)",
        "citation": "made by optim's own generator from the model of Möller et al. 2020, Comput Chem Eng 134:106693",
        "licence": "Apache-2.0",
        "simulated": True,
        "notes": [f"generator seed {options.seed}; clone spreads are chosen, not measured"],
    }


def screen_tables(
    runs: tuple[Run, ...], measurements: list[dict[str, object]], truth: dict[str, Parameters]
) -> dict[str, list[dict[str, object]]]:
    """All tables of a simulated dataset, by file name; `truth` becomes truth.csv."""
    media = [
        {"medium_id": medium, "component": name, "value": value, "unit": COMPONENT_UNITS.get(name, "mmol/L")}
        for medium, composition in (("basal_a", BASAL_MEDIUM), ("feed_a", FEED))
        for name, value in composition.items()
    ]
    shared = [n for n in Parameters._fields if n not in CLONE_SPREAD]
    first = next(iter(truth.values()))
    rows: list[dict[str, object]] = [{"owner": "", "parameter": n, "value": getattr(first, n)} for n in shared]
    rows += [{"owner": c, "parameter": n, "value": getattr(p, n)} for c, p in truth.items() for n in CLONE_SPREAD]
    return {
        "runs.csv": run_table(runs),
        "events.csv": event_table(runs),
        "media.csv": media,
        "measurements.csv": measurements,
        "truth.csv": rows,
    }
