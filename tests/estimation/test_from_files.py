"""Fits from files that speak the whole vocabulary: oxygen, perfusion and transfected cells, with known parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from support.toys import optimum

from optim.app.build import build_table, model_config
from optim.data.dataset import Run
from optim.data.reader import read_folder
from optim.data.writer import event_table, media_table, run_table, write_dataset
from optim.errors import DatasetError
from optim.estimation.noise import NoiseModel
from optim.estimation.problem import FitProblem, build_problem
from optim.kinetics import load_kinetics
from optim.kinetics.base import AbstractKineticModel
from optim.parameters import ParameterTable
from optim.schedule.actions import (
    Action,
    Aeration,
    Bleed,
    Bolus,
    Drain,
    Evaporation,
    Exchange,
    Feed,
    Induce,
    Perfusion,
    Sample,
    Setpoint,
    TopUp,
    Transfect,
    start_time,
)
from optim.schedule.plan import make_plan
from optim.schedule.schedule import to_grid
from optim.settings.estimation import AssaySettings
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.rosenbrock import Rodas5P
from optim.simulation.engine.steppers import Tsit5
from optim.simulation.simulate import observe_nodes, simulate_one
from optim.simulation.vessel import make_vessel
from optim.units import VARIABLES, display_unit

HEADER = dict.fromkeys(("name", "description", "organism", "citation", "licence"), "x") | {"simulated": True}
MEDIA = {
    "cho": {"glucose": 40.0, "lactate": 0.5},
    "fresh": {"glucose": 60.0},
    "sugar": {"glucose": 2000.0},
    "seed": {"vcd": 30.0, "glucose": 20.0},
    "ecoli": {"glucose": 20.0, "dissolved_oxygen": 100.0},
    "glucose": {"glucose": 2500.0},
    "inducer": {},
    "hek": {"plasmid_rep_cap": 7.6e4, "plasmid_vector": 7.6e4, "plasmid_helper": 7.6e4},
    "mix": {},
}


def run(name: str, medium: str, vcd: float | None, end_h: float, *actions: Action, litres: float = 1.0) -> Run:
    ordered = tuple(sorted(actions, key=start_time))
    return Run(name, "E1", name, "C1", litres, medium, 37.0, 7.0, vcd, end_h, ordered)


PERFUSED = run(
    "P1", "cho", 1.0, 240.0,
    Perfusion(24.0, "fresh", rate_vvd=0.8, stop_h=96.0),
    Perfusion(96.0, "fresh", rate_vvd=1.5),
    Bleed(120.0, above_vcd_1e6_per_ml=9.0),
    Evaporation(0.0, 0.4),
    Sample(48.0, 10.0),
)  # fmt: skip
FED = run(
    "P2", "cho", 0.3, 216.0,
    *(Bolus(24.0 * d, "sugar", 4.0) for d in (2, 4)),
    Drain(60.0, 200.0),
    Bolus(60.0, "seed", 20.0),
    Exchange(100.0, 500.0, "fresh"),
    TopUp("sugar", "glucose", below=15.0, to=30.0, times_h=(144.0, 168.0)),
    Feed("fresh", 150.0, 1.0, end_rate_ml_per_h=3.0, stop_h=200.0),
    Setpoint(90.0, temperature_c=34.0, ph=6.9, ramp_h=12.0),
)  # fmt: skip
OXYGEN = run(
    "O1", "ecoli", None, 12.0,
    Setpoint(0.0, kla_per_h=220.0),
    Setpoint(4.0, kla_per_h=600.0, ramp_h=3.0),
    Aeration(0.0, gas_l_per_h=120.0, oxygen_percent=20.95),
    Feed("glucose", 5.0, 8.0, growth_per_h=0.15),
    Induce(7.0, "inducer", 2.0),
    Sample(6.0, 10.0),
    litres=2.0,
)  # fmt: skip
TRANSFECTED = run(
    "T1", "hek", 1.0, 48.0,
    Transfect(0.0, "mix", 20.0),
    Exchange(6.0, 600.0, "fresh"),
    Setpoint(0.0, do_percent=40.0, kla_per_h=10.0),
    Setpoint(24.0, temperature_c=35.0),
)  # fmt: skip

TIGHT = {"rtol": 1e-9, "atol": 1e-10, "max_steps": 200_000}
CASES: dict[str, tuple[tuple[Run, ...], dict[str, float], tuple[str, ...], np.ndarray, Any]] = {
    "cho_perfusion": (
        (PERFUSED, FED), {"u_max_glc": 1.2, "q_mab": 0.8}, ("vcd", "glucose", "titre"), np.arange(24.0, 217.0, 24.0),
        Tsit5(),
    ),
    "ecoli_oxygen_steady": (
        (OXYGEN,), {"qS_max": 0.9, "Y_em": 1.1}, ("biomass", "glucose", "dissolved_oxygen"), np.arange(1.0, 12.0),
        Tsit5(),
    ),
    "ecoli_oxygen": (
        (OXYGEN,), {"qS_max": 0.9, "Y_em": 1.1}, ("biomass", "glucose", "dissolved_oxygen"), np.arange(1.0, 12.0),
        Rodas5P(),
    ),
    "raav_nguyen": (
        (TRANSFECTED,), {"k1": 1.2, "k4": 0.8}, ("vcd", "vector_genomes", "capsids", "vector_dna"),
        np.array([4.0, 8.0, 16.0, 24.0, 36.0, 48.0]), Rodas5P(),
    ),
}  # fmt: skip


def truth_of(model: AbstractKineticModel, p: Any, one: Run, times: np.ndarray, stepper: Any) -> dict[str, np.ndarray]:
    """What exact assays read of one run, from its actions and without any of the code of fits."""
    plan = make_plan(one.plan(), observed_h=times[times < one.end_time_h], volume_ml=1000.0 * one.start_volume_l)
    vessel = make_vessel(model, plan, MEDIA | {"": {}})
    sample = {"biomass": 2.0} if one.inoculum_vcd is None else {}
    start = model.initial(MEDIA[one.medium_id], one.inoculum_vcd, sample)
    grid = to_grid(plan.schedule, 64)[0]
    cultivation = Cultivation(tuple(start.values()), jnp.asarray(one.start_volume_l), grid, vessel)
    t = simulate_one(model, p, cultivation, integrator=Integrator(stepper, **TIGHT))
    assert int(t.status) == 0
    seen = observe_nodes(model, p, t, grid=grid)
    at = [int(np.argmin(np.abs(np.asarray(t.t) - h))) for h in times]
    return {name: np.asarray(v)[at] for name, v in seen.items()}


def written(folder: Path, runs: tuple[Run, ...], rows: list[dict[str, object]]) -> Path:
    tables = {
        "runs.csv": run_table(runs),
        "events.csv": event_table(runs),
        "media.csv": media_table(MEDIA),
        "measurements.csv": rows,
    }
    return write_dataset(folder, HEADER, tables)


def reading(run_id: str, time: float, name: str, value: float) -> dict[str, object]:
    unit = display_unit(VARIABLES[name].unit)
    return {"run_id": run_id, "time_h": time, "variable": name, "value": value, "unit": unit}


def problem_of(name: str, folder: Path) -> tuple[FitProblem, dict[str, float]]:
    """A fit problem from files with exact readings, and the true values of its two free parameters."""
    runs, factors, assays, times, stepper = CASES[name]
    config = model_config(name)
    model = load_kinetics(config.kinetics)
    table = build_table(config, model)
    values = table.natural_values()
    truth = {key: values[key] * factor for key, factor in factors.items()}
    p = model.Parameters(*((values | truth)[key] for key in model.Parameters._fields))
    rows = []
    for one in runs:
        seen = truth_of(model, p, one, times[times <= one.end_time_h], stepper)
        rows += [
            reading(one.run_id, float(t), assay, max(float(v), 0.0))
            for assay in assays
            for t, v in zip(times, seen[assay], strict=False)
        ]
        if one.inoculum_vcd is None:
            rows.append(reading(one.run_id, 0.0, "biomass", 2.0))
    dataset = read_folder(written(folder, runs, rows))
    free = [
        replace(row, level="shared", scale="log", lower=row.value / 3, upper=row.value * 3, prior="lognormal",
                prior_sd=1.0, spread=None)
        if row.name in truth
        else replace(row, level="fixed", scale="identity", times="")
        for row in table.rows
        if row.name in model.Parameters._fields
    ]  # fmt: skip
    noise = NoiseModel({assay: AssaySettings(0.02, 1e-3) for assay in assays})
    integrator = Integrator(stepper, rtol=1e-7, atol=1e-8, max_steps=100_000)
    return build_problem(model, ParameterTable(tuple(free)), dataset, noise=noise, integrator=integrator), truth


@pytest.mark.parametrize(
    "name",
    [
        "cho_perfusion",
        pytest.param("ecoli_oxygen_steady", marks=pytest.mark.slow),
        pytest.param("ecoli_oxygen", marks=pytest.mark.slow),
        pytest.param("raav_nguyen", marks=pytest.mark.slow),
    ],
)
def test_known_parameters_come_back_from_files(name, tmp_path):
    problem, truth = problem_of(name, tmp_path / "d")
    _, best = optimum(problem)
    found = dict(zip([row.name for row in problem.shared_specs], np.exp(best.shared), strict=False))
    assert found == pytest.approx(truth, rel=2e-3)


def test_a_model_with_oxygen_needs_the_kla_of_every_run(tmp_path):
    bare = replace(OXYGEN, run_id="O2", actions=tuple(a for a in OXYGEN.actions if not isinstance(a, Setpoint)))
    rows = [reading(one, 0.0, "biomass", 2.0) for one in ("O1", "O2")] + [reading("O1", 3.0, "biomass", 3.0)]
    dataset = read_folder(written(tmp_path / "d", (OXYGEN, bare), rows))
    noise = NoiseModel({"biomass": AssaySettings(0.02, 1e-3)})
    for name in ("ecoli_oxygen", "ecoli_oxygen_steady"):
        config = model_config(name)
        model = load_kinetics(config.kinetics)
        with pytest.raises(DatasetError, match=r"run 'O2'.*kla.*at time 0"):
            build_problem(model, build_table(config, model), dataset, noise=noise, integrator=Integrator())


def test_a_top_up_that_its_feed_cannot_reach_names_the_run(tmp_path):
    weak = run("W1", "cho", 1.0, 48.0, TopUp("fresh", "glucose", below=50.0, to=80.0, times_h=(24.0,)))
    dataset = read_folder(written(tmp_path / "d", (weak,), [reading("W1", 24.0, "vcd", 1.0)]))
    config = model_config("cho_perfusion")
    model = load_kinetics(config.kinetics)
    noise = NoiseModel({"vcd": AssaySettings(0.02, 1e-3)})
    with pytest.raises(DatasetError, match=r"run 'W1'.*\n.*cannot top up to 80"):
        build_problem(model, build_table(config, model), dataset, noise=noise, integrator=Integrator())
