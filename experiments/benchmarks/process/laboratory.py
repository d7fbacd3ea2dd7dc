"""The hidden truth as a noisy laboratory: it runs a process in one vessel of one clone and tells what assays would say.

Vessel, samples, inoculum error and assay errors are those of the generator of the screen (`optim.synthetic`). The
same truth, without noise, judges what a method recommends. Nobody but the judge sees the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.stats import qmc

from optim.app.build import build_process, compose
from optim.data.open import read_dataset
from optim.data.screened import Screen
from optim.process.cost import HarvestedBatch
from optim.process.design import BOLUS_COVERS_H, Design
from optim.process.problem import ProcessProblem
from optim.synthetic import INOCULUM_SD, SCREEN_ASSAYS, ScreenOptions, clone_truth
from optim.units import HOURS_PER_DAY

# relative and absolute error of an osmometer, mOsm/kg: the generator has no such assay, this one is constructed
OSMOMETER = (0.01, 2.0)
VALUE = "yield_per_cost_g_per_eur"


class Reading(NamedTuple):
    """What a run of one vessel tells: the yield per cost of the assayed harvest, g/EUR, and by limit the relative room
    of the worst assay (negative: broken)."""

    value: float
    room: np.ndarray


@dataclass(frozen=True)
class Judgement:
    """A process of a clone by the noise-free truth: value in g/EUR, and by limit the relative room."""

    clone: str
    value: float
    room: dict[str, float]

    @property
    def violation(self) -> float:
        """Largest relative violation of a limit, 0 when all are met."""
        return max(0.0, -min(self.room.values()))


class Laboratory:
    """Runs vessels of the clones of one simulated screen; `used` counts them."""

    def __init__(self, problem: ProcessProblem, seed: int, mismatch: bool = False):
        truth = clone_truth(ScreenOptions(seed=seed, mismatch=mismatch))
        self.problem, self.clones, self.mismatch = problem, tuple(truth), mismatch
        self._truth = {c: np.array([p]) for c, p in truth.items()}
        self._rng = np.random.default_rng((seed, 48))
        self.used = 0

    @property
    def assayed(self) -> list[str]:
        """Limits that an assay tells of, in the order of `Reading.room`; the volume is known without one."""
        return [c.name for c in self.problem.constraints if c.variable != "volume"]

    def again(self, seed: int) -> Laboratory:
        """The same clones, other errors, no vessel used: one for each method."""
        other = object.__new__(Laboratory)
        other.problem, other.clones, other.mismatch, other._truth = (
            self.problem,
            self.clones,
            self.mismatch,
            self._truth,
        )
        other._rng, other.used = np.random.default_rng((seed, 49)), 0
        return other

    def run(self, clone: str, x: np.ndarray) -> Reading:
        """One vessel with decisions x [D]."""
        self.used += 1
        p, rng = self.problem, self._rng
        initial = p.initial.copy()
        initial[:2] *= np.exp(INOCULUM_SD * rng.standard_normal())
        trace = replace(p, initial=initial).trace(x[None], self._truth[clone])
        if trace.status[0] != 0:
            raise RuntimeError(f"the process {x} of {clone} cannot be simulated: status {int(trace.status[0])}")
        t, seen = np.asarray(trace.t[0]), dict(zip(p.observed, np.asarray(trace.observed[0]), strict=True))
        end = float(t.max())
        when = np.unique([int(np.argmin(np.abs(t - s))) for s in (*np.arange(0.0, end, HOURS_PER_DAY), end)])
        assayed = {name: self._assay(name, values[when]) for name, values in seen.items()}
        harvest = HarvestedBatch(*(float(np.asarray(v)[0]) for v in trace.harvest))
        harvest = harvest._replace(titre=assayed[p.product.variable][-1], viability=assayed["viability"][-1])
        room = []
        for c in p.constraints:
            if c.variable != "volume":
                value = assayed[c.variable] if c.where == "path" else assayed[c.variable][-1:]
                room.append(float(np.min(value - c.limit if c.kind == "min" else c.limit - value)) / abs(c.limit))
        grams = float(p.book.released_amount(harvest))
        return Reading(grams / float(np.sum(p.book.costs(p.book.prices(), harvest))), np.array(room))

    def _assay(self, name: str, true: np.ndarray) -> np.ndarray:
        relative, absolute = OSMOMETER if name == "osmolality" else SCREEN_ASSAYS[name][:2]
        seen = true + np.hypot(relative * true, absolute) * self._rng.standard_normal(len(true))
        return np.clip(seen, 1e-6, 1.0 if name == "viability" else np.inf)

    # --- what only the judge may ask ---

    def judge(self, clone: str, x: np.ndarray) -> Judgement:
        """The noise-free truth of a process; costs no vessel."""
        p = self.problem
        e = p.evaluate(x[None], self._truth[clone])
        if e.status[0] != 0:
            raise RuntimeError(f"the process {x} of {clone} cannot be simulated: status {int(e.status[0])}")
        nodes = p.trace(x[None], self._truth[clone]).t.shape[1]
        room, at = {}, 0
        for c in p.constraints:
            width = nodes if c.where == "path" else 1
            room[c.name] = float(np.min(e.margins[0, at : at + width]))
            at += width
        return Judgement(clone, float(e.metrics[0, list(p.metrics).index(VALUE)]), room)

    def truth(self) -> dict[str, np.ndarray]:
        """True parameters by clone, [1, P]."""
        return dict(self._truth)


def laboratory(seed: int, mismatch: bool = False) -> Laboratory:
    """The laboratory of the screen of a generator's seed, with the configured vessel, limits and price book.

    With `mismatch` its cells form a growth inhibitor that nobody measures and that optim's model lacks.
    """
    cfg = compose(["tracking=off"])
    return Laboratory(build_process(cfg, Screen.from_dataset(read_dataset(cfg.dataset.name))), seed, mismatch)


def volume_room(design: Design, limit_ml: float, x: np.ndarray) -> np.ndarray:
    """Relative room below the vessel's volume, [L], of decisions x [L, D]: arithmetic that needs no experiment."""
    end = x[:, [d.kind for d in design.decisions].index("harvest")]
    days = np.arange(0.0, design.longest_h() - 1e-9, HOURS_PER_DAY)
    change = np.zeros((len(x), len(days)))
    for t in design.sample_times_h:
        change[:, int(np.searchsorted(days, t))] -= 1000.0 * design.sample_volume_l * (t < end)
    for i, d in enumerate(design.decisions):
        if d.kind == "bolus":
            part = np.clip((end - d.time_h) / BOLUS_COVERS_H, 0.0, 1.0)
            change[:, int(np.searchsorted(days, d.time_h))] += x[:, i] * part
    volume = 1000.0 * design.start_volume_l + np.cumsum(change, axis=1)
    return np.asarray((limit_ml - volume.max(axis=1)) / limit_ml)


@dataclass(frozen=True)
class Space:
    """What a method varies, as points of the unit cube: all decisions of a design, or few numbers in place of them."""

    name: str
    lower: np.ndarray
    upper: np.ndarray
    platform: np.ndarray  # in the unit cube
    to_design: np.ndarray  # [n, D], 1 where a number of the space sets a decision
    problem: ProcessProblem

    @property
    def n(self) -> int:
        return len(self.lower)

    def decisions(self, u: np.ndarray) -> np.ndarray:
        """Decisions [L, D] of points u [L, n]."""
        return np.asarray((self.lower + np.asarray(u) * (self.upper - self.lower)) @ self.to_design)

    def fits(self, u: np.ndarray) -> np.ndarray:
        """Whether the vessel holds the volume, [L]."""
        limit = next(c.limit for c in self.problem.constraints if c.variable == "volume")
        return volume_room(self.problem.design, limit, self.decisions(u)) >= 0.0

    def fill(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Space-filling points that the vessel holds, [n, dimensions]."""
        kept = np.empty((0, self.n))
        while len(kept) < n:
            drawn = qmc.Sobol(self.n, rng=rng).random(1 << int(np.ceil(np.log2(2 * n + 2))))
            kept = np.concatenate([kept, drawn[self.fits(drawn)]])
        return kept[:n]


def full(problem: ProcessProblem) -> Space:
    """Every decision of the design."""
    d = problem.design
    return Space(
        "14 factors", d.lower, d.upper, (d.platform - d.lower) / (d.upper - d.lower), np.eye(len(d.lower)), problem
    )


def reduced(problem: ProcessProblem, phases: tuple[int, ...] = (11,)) -> Space:
    """Few factors: one feed volume for all boluses of a phase of so many days, and whatever is no bolus.

    With one phase, more feed than the vessel holds on the platform's day of harvest is out of range: arithmetic tells.
    """
    d = problem.design
    feeds = [i for i, one in enumerate(d.decisions) if one.kind == "bolus"]
    if sum(phases) != len(feeds):
        raise ValueError(f"phases {phases} must add up to {len(feeds)} boluses")
    others = [i for i in range(len(d.decisions)) if i not in feeds]
    groups: list[list[int]] = [list(g) for g in np.split(np.array(feeds), np.cumsum(phases)[:-1])]
    groups += [[i] for i in others]
    to_design = np.array([[float(i in g) for i in range(len(d.decisions))] for g in groups])
    lower, upper, platform = (np.array([side[g[0]] for g in groups]) for side in (d.lower, d.upper, d.platform))
    if len(phases) == 1:
        limit = next(c.limit for c in problem.constraints if c.variable == "volume")
        doses = np.linspace(lower[0], upper[0], 241)
        x = np.array([[dose, *platform[1:]] for dose in doses]) @ to_design
        upper[0] = doses[volume_room(d, limit, x) >= 0.0].max()
    name = {1: "4 factors", 3: "6 factors"}.get(len(phases), f"{len(groups)} factors")
    return Space(name, lower, upper, (platform - lower) / (upper - lower), to_design, problem)


class Recommendation(NamedTuple):
    """What a method would make after so many vessels: decisions [D]; `tried` is the best of those that it has made."""

    runs: int
    clone: str
    x: np.ndarray
    tried: np.ndarray | None = None


def chosen_by_platform(lab: Laboratory, vessels: int) -> str:
    """The clone whose vessels at the platform process read best, on average over `vessels` of each clone."""
    x = lab.problem.design.platform
    means = {c: np.mean([lab.run(c, x).value for _ in range(vessels)]) for c in lab.clones}
    return max(means, key=lambda c: means[c])
