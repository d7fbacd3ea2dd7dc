"""This package on the screen: a kinetic model, a parameter table, and the search."""

from typing import Any, ClassVar, NamedTuple

import numpy as np
import screen as made
from programs import Fit
from screen import Screen

from optim.data.dataset import Dataset, Measurements
from optim.estimation.levenberg_marquardt import Search, minimise
from optim.estimation.likelihood import Vessels
from optim.estimation.noise import NoiseModel
from optim.estimation.posterior import Point, Posterior
from optim.estimation.problem import FitProblem
from optim.kinetics.base import AbstractKineticModel, Environment, Inoculum, Species
from optim.parameters import ParameterSpec, ParameterTable
from optim.schedule.grid import IntervalActions, IntervalGrid
from optim.settings.estimation import AssaySettings
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.steppers import Tsit5

# what the assays of the screen are called here
ASSAYS = ("vcd", "tcd", "glucose", "glutamine", "lactate", "ammonia", "titre")


class State(NamedTuple):
    Xv: Any
    Xd: Any
    Glc: Any
    Gln: Any
    Lac: Any
    Amm: Any
    mAb: Any


class Parameters(NamedTuple):
    Kg: Any
    Kq: Any
    KIl: Any
    KIa: Any
    Yg: Any
    Yq: Any
    mg: Any
    Ya: Any
    kdq: Any
    Kda: Any
    mum: Any
    kd: Any
    qp: Any
    Yl: Any


class ScreenModel(AbstractKineticModel):
    """The equations of `screen.rates`; per day, since the grid below is in days."""

    State: ClassVar[Any] = State
    Parameters: ClassVar[Any] = Parameters
    species: ClassVar[tuple[Species, ...]] = tuple(Species(name, "-", 1.0) for name in State._fields)
    inoculum: ClassVar[Inoculum] = Inoculum("", {"Xv": 1.0, "Xd": 0.0})
    initial_variables: ClassVar[tuple[str, ...]] = ()

    def rates(self, p: Any, c: Any, env: Environment) -> State:
        G, Q, L, A = c.Glc, c.Gln, c.Lac, c.Amm
        mu = p.mum * G / (p.Kg + G) * Q / (p.Kq + Q) * p.KIl / (p.KIl + L) * p.KIa / (p.KIa + A)
        death = made.KD0 + p.kd * A / (p.Kda + A)
        qg, qq = mu / p.Yg + p.mg * G / (made.EPS + G), mu / p.Yq
        uptake = made.QLAC_UP * L / (made.KLAC_UP + L) * made.KSW / (made.KSW + G)
        return State(
            Xv=(mu - death) * c.Xv,
            Xd=death * c.Xv - made.K_LYS * c.Xd,
            Glc=-qg * c.Xv,
            Gln=-qq * c.Xv - p.kdq * Q,
            Lac=(p.Yl * qg - uptake) * c.Xv,
            Amm=p.Ya * qq * c.Xv + p.kdq * Q,
            mAb=p.qp * c.Xv,
        )

    def observe(self, p: Any, c: Any, env: Environment) -> dict[str, Any]:
        return dict(zip(ASSAYS, c, strict=True))


def problem_of(s: Screen, rtol: float = made.RTOL) -> FitProblem:
    """The screen as a fit problem: own parameters are those of the only vessel of each clone."""
    n = s.clones
    times = np.unique(np.concatenate([made.DAYS, made.BOLUS_DAYS]))
    count = len(times) - 1
    bolus, none = np.zeros((n, count, 1)), np.zeros((n, count))
    bolus[:, np.searchsorted(times, made.BOLUS_DAYS), 0] = s.vf[:, None]
    climate = Environment(none + 37.0, none + 7.0)
    grid = IntervalGrid(
        np.tile(times, (n, 1)),
        IntervalActions(none, bolus, np.zeros_like(bolus), np.zeros_like(bolus), climate),
        np.full(n, count, np.int32),
    )
    feeds = np.zeros((n, 1, 7))
    feeds[:, 0, 2:4] = made.FEED_GLC, made.FEED_GLN
    vessels = Vessels(
        grid=grid,
        feeds=feeds,
        initial=s.y0[:, :7],
        volume=s.y0[:, 7],
        node=np.tile(np.repeat(np.searchsorted(times, made.DAYS), 7), (n, 1)).astype(np.int32),
        variable=np.tile(np.arange(7), (n, 15)).astype(np.int32),
        value=s.data.reshape(n, -1),
        sd=s.sd.reshape(n, -1),
        censored=np.zeros((n, 105), np.int32),
        weight=np.ones((n, 105)),
    )
    rows = []
    for i, name in enumerate((*made.SHARED, *made.OWN)):
        centre, level = float(np.exp(s.prior_mu[i])), "shared" if i < 10 else "vessel"
        low, high = centre * np.exp(-made.BOUND), centre * np.exp(made.BOUND)
        rows.append(
            ParameterSpec(
                name=name,
                value=centre,
                unit="-",
                level=level,
                lower=low,
                upper=high,
                prior_sd=float(s.prior_sd[i]),
                source="made",
                verified=True,
            )
        )
    names = tuple(str(c) for c in range(n))
    empty = Measurements(np.zeros(0, int), np.zeros(0), (), np.zeros(0), (), ())
    return FitProblem(
        model=ScreenModel(),
        table=ParameterTable(tuple(rows)),
        dataset=Dataset("screen", "", "CHO", "", "", True, "", (), empty, {}),
        noise=NoiseModel({name: AssaySettings(0.05, 0.1) for name in ASSAYS}, estimate_scale=False),
        integrator=Integrator(Tsit5(), rtol=rtol, atol=rtol * made.ATOL / made.RTOL),
        variables=ASSAYS,
        vessels=vessels,
        vessel_group=np.arange(n),
        groups=names,
        group_by="clone",
        vessel_batch=np.zeros(n, int),
        batches=("1",),
    )


class Optim:
    """Levenberg-Marquardt on the arrow, with forward derivatives per vessel."""

    name = "optim"
    derivative = "residuals and Jacobian"

    def __init__(self, s: Screen):
        self.posterior = Posterior(problem_of(s))

    def _point(self, theta: np.ndarray) -> Point:
        own = theta[10:].reshape(-1, 4)
        return Point(theta[:10].copy(), own.copy(), np.ones(len(own)))

    def cost(self, theta: np.ndarray) -> float:
        point = self._point(theta)
        self.posterior.evaluate_cost([point])
        return point.cost

    def derivatives(self, theta: np.ndarray) -> np.ndarray:
        """The gradient; the equations over all parameters are made with it."""
        point = self._point(theta)
        self.posterior.evaluate([point])
        assert point.arrow is not None
        return np.concatenate([point.arrow.gs, point.arrow.gc.ravel()])

    def fit(self, theta: np.ndarray) -> Fit:
        return self.fit_many([theta])[0]

    def fit_many(self, thetas: list[np.ndarray]) -> list[Fit]:
        """All starts together."""
        ends = minimise(self.posterior, [self._point(t) for t in thetas], Search(60, 1e-6), progress=lambda text: None)
        return [Fit(np.concatenate([p.shared, p.block.ravel()]), p.cost, p.iterations) for p in ends]
