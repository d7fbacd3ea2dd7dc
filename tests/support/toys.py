"""Fit problems of the small models, with simulated readings: little to compute, much known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from optim.data.dataset import Dataset, Measurements, Run
from optim.estimation.levenberg_marquardt import Search, minimise
from optim.estimation.noise import NoiseModel
from optim.estimation.posterior import Point, Posterior
from optim.estimation.problem import FitProblem, build_problem
from optim.kinetics.base import AbstractKineticModel
from optim.parameters import ParameterSpec, ParameterTable
from optim.settings.estimation import AssaySettings
from optim.simulation.engine.march import Integrator

TIGHT = Integrator(rtol=1e-9, atol=1e-10)


def spec(name: str, value: float, level: str = "shared", **change: object) -> ParameterSpec:
    """A row of the parameter table; on the identity scale, and with a wide prior, unless `change` says otherwise."""
    row: dict[str, object] = {
        "unit": "1/h", "scale": "identity", "lower": -10.0, "upper": 10.0, "prior_sd": 5.0,
        "spread": 0.5 if level == "clone" else None, "source": "a toy", "verified": True,
    }  # fmt: skip
    return ParameterSpec(name=name, value=value, level=level, **(row | change))


def toy(
    model: AbstractKineticModel,
    rows: Sequence[ParameterSpec],
    truth: Mapping[str, float],
    clones: Sequence[str] = ("A",),
    times: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
    sd: float = 0.1,
    seed: int = 0,
    kind: str = "lognormal",
) -> FitProblem:
    """One vessel for each entry of `clones`; readings of biomass about the model at the true values.

    `truth` holds fitted values by name, or by name and clone as 'name/clone'. With lognormal readings and growth at
    rate k, residuals are linear in k and in the logarithm of the inoculum.
    """
    runs = tuple(
        Run(f"V{i}", f"E{c}", f"V{i}", c, 1.0, "medium", 37.0, 7.0, None, max(times) + 1.0, ())
        for i, c in enumerate(clones)
    )
    run = np.repeat(np.arange(len(runs)), len(times))
    n = len(run)
    readings = Measurements(
        run, np.tile(np.asarray(times, float), len(runs)), ("biomass",) * n, np.ones(n), ("",) * n, ("1",) * n
    )
    dataset = Dataset("toy", "", "", "", "", True, "", runs, readings, {"medium": {}})
    assay = AssaySettings(0.0, sd) if kind == "normal" else AssaySettings(sd, 0.0, kind)
    noise = NoiseModel({"biomass": assay})
    problem = build_problem(model, ParameterTable(tuple(rows)), dataset, noise=noise, integrator=TIGHT)
    free = (*problem.shared_specs, *problem.batch_specs, *problem.group_specs, *problem.vessel_specs)
    u = np.array([[_true(truth, s.name, c, s.to_fitted(s.value)) for s in free] for c in clones])
    y = problem.predict(u)[0][:, : len(times)]
    z = sd * np.random.default_rng(seed).standard_normal(y.shape)
    value = (y * np.exp(z) if kind == "lognormal" else y + z).ravel()
    return build_problem(
        model,
        problem.table,
        replace(dataset, measurements=replace(readings, value=value)),
        noise=noise,
        integrator=TIGHT,
    )


def _true(truth: Mapping[str, float], name: str, clone: str, otherwise: float) -> float:
    return truth.get(f"{name}/{clone}", truth.get(name, otherwise))


def optimum(problem: FitProblem) -> tuple[Posterior, Point]:
    """The posterior and its mode, with the noise as stated."""
    posterior = Posterior(problem)
    best = minimise(posterior, [posterior.prior_point()], Search(80, 1e-11), progress=lambda text: None)[0]
    assert np.isfinite(best.cost)
    return posterior, best
