"""A process problem of two decisions whose optima are known by hand, in place of simulated ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from optim.process.decision import Decision
from optim.process.lanes import as_lanes
from optim.process.metrics import find_metric
from optim.process.objective import Objective
from optim.process.problem import Evaluation, Slopes
from optim.settings.optimisation import OptimiseSettings

OPTIONS = OptimiseSettings(starts=4, max_iterations=60, tolerance=1e-10)


@dataclass
class Box:
    """Bounds of two decisions, x and y."""

    lower: np.ndarray
    upper: np.ndarray
    platform: np.ndarray
    decisions: tuple[Decision, ...] = ()

    def __post_init__(self):
        rows = zip("xy", self.lower, self.upper, self.platform, strict=False)
        self.decisions = tuple(Decision(n, "bolus", a, b, p, 0.0) for n, a, b, p in rows)

    def longest_h(self):
        return 1.0


@dataclass
class Item:
    name: str = "medium"
    unit: str = "EUR/L"
    low: float = 1.0
    high: float = 4.0


class Book:
    rows = (Item(),)

    def prices(self):
        return np.array([2.0])


@dataclass
class Limit:
    name: str = "room"
    where: str = "end"


class Model:
    class Parameters:
        _fields = ("best", "room")


@dataclass
class Toy:
    """titre = 20 - (x - best)^2 - price (y - 1)^2, harvest_h = 2 + x^2 + y^2; x + y may not pass `room`.

    A drift of the feed multiplies x.
    """

    design: Box = field(default_factory=lambda: Box(np.array([-4.0, -4.0]), np.array([8.0, 8.0]), np.zeros(2)))
    objective: Objective = field(default_factory=lambda: Objective("titre"))
    book: Book = field(default_factory=Book)
    constraints: tuple = (Limit(),)
    model: Model = field(default_factory=Model)
    metrics: ClassVar = {name: find_metric(name) for name in ("titre_g_per_l", "harvest_h")}

    @property
    def metric(self):
        return self.objective.target.name

    def derivatives(self, x, lanes):
        p, _, prices, drift = as_lanes(lanes)
        c = np.full(len(x), 2.0) if prices is None else prices[:, 0]
        f = np.broadcast_to(drift.feed, (len(x),))
        a, y = f * x[:, 0], x[:, 1]
        metrics = np.stack([20.0 - (a - p[:, 0]) ** 2 - c * (y - 1.0) ** 2, 2.0 + a**2 + y**2], axis=1)
        m = np.stack(
            [np.stack([-2.0 * f * (a - p[:, 0]), -2.0 * c * (y - 1.0)], 1), np.stack([2.0 * f * a, 2.0 * y], 1)], axis=1
        )
        margins = (p[:, 1] - a - y)[:, None]
        j = np.stack([-f, -np.ones(len(x))], axis=1)[:, None]
        i = list(self.metrics).index(self.metric)
        sign = -1.0 if self.metric == "harvest_h" else 1.0
        value = np.maximum(metrics[:, i], 1e-30)
        status = (p[:, 0] > 50.0).astype(int)
        e = Evaluation(sign * np.log(value), margins, metrics, status)
        return e, Slopes(sign * m[:, i] / value[:, None], j, m)

    def evaluate(self, x, lanes):
        return self.derivatives(x, lanes)[0]


def members(best, room=9.0):
    return np.stack([np.asarray(best, float), np.broadcast_to(room, np.shape(best)).astype(float)], axis=1)
