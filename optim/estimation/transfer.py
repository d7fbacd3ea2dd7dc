"""What one fit teaches the next: a fit continued with new runs, new clones placed among those known, a run followed.

`update` estimates everything anew and only starts where the old fit ended. `place` leaves what clones have in common to
the old fit: every member of its ensemble says what a clone is expected to be, and how likely the new readings are.
`follow` does the same for one vessel while it runs, of a new clone or of one that the fit knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from optim.artefact import Lineage
from optim.errors import FitError, IncompatibleError
from optim.estimation.estimate import FitOptions, found_noise, settle
from optim.estimation.fit import report
from optim.estimation.levenberg_marquardt import Progress, Search, minimise
from optim.estimation.placement import Bands, Placed, PlacedParameter, Placement
from optim.estimation.posterior import Z90, Noise, Point, Posterior
from optim.estimation.problem import FitProblem
from optim.estimation.result import FitResult
from optim.parameters import ParameterSpec, to_fitted, to_natural

# at least this share of the ensemble has a say, however much better a few members fit the new readings
LEAST_SHARE = 1.0 / 3.0
# of the spread of a known clone's ensemble: how far each of its members may follow the readings of one more vessel
KERNEL = 0.5
# of the cost; a thirtieth of a standard deviation
PLACING = Search(max_iterations=40, tolerance=1e-5)
# first damping of a search, and where one has just ended nearby
COLD, WARM = 1e-2, 1e-4


# --- a fit continued ---


def revived(old: FitResult, problem: FitProblem) -> tuple[Posterior, Point]:
    """The posterior that a fit has left, and its mode with the normal equations there, from what an artefact keeps.

    Raises `IncompatibleError` when `problem` holds other data or other parameters than were fitted, `FitError` when the
    estimate cannot be simulated.
    """
    if old.lineage.dataset_hash != problem.dataset.content_hash:
        raise IncompatibleError(f"the fit was made from other data than '{problem.dataset.name}' now holds; fit again")
    known = _Known(old)
    for row in (*problem.shared, *problem.clone):
        if row.name not in (*old.shared_names, *old.clone_names):
            raise IncompatibleError(f"the fit has no parameter '{row.name}'; fit again with this model")
    posterior = Posterior(problem, spread=known.spread(problem))
    point = _start(known, posterior)
    noise = found_noise(posterior, point, known.noise_scale(problem))
    posterior = Posterior(problem, noise, posterior.spread)
    posterior.evaluate([point])
    if not np.isfinite(point.cost):
        raise FitError("the fit's estimates cannot be simulated any more; fit again")
    return posterior, point


def update(
    old: FitResult,
    problem: FitProblem,
    options: FitOptions,
    seed: int,
    model_name: str,
    leave_one_out: bool = False,
    progress: Progress = lambda text: None,
) -> FitResult:
    """Fit `problem` (old runs and new ones) from where `old` ended: the same optimum as from scratch, in fewer steps.

    Parameters are taken over by name, and by the ids of clones, vessels and batches; what is new starts where it is
    expected. There is one start, whatever `options.starts` says. Raises `FitError` when it cannot be simulated.
    """
    known = _Known(old)
    posterior = Posterior(problem, spread=known.spread(problem))
    point = _start(known, posterior)
    noise = found_noise(posterior, point, known.noise_scale(problem))
    posterior = Posterior(problem, noise, posterior.spread)
    point = minimise(posterior, [point], options.search, progress)[0]
    if not np.isfinite(point.cost):
        raise FitError("the fit cannot be continued: its estimates fail on the new runs; fit from scratch")
    history = point.history
    posterior, point = settle(posterior, point, options, progress)
    point.history = history
    result = report(posterior, [point], options, seed, model_name, leave_one_out, progress)
    note = f"continued from a fit of '{old.lineage.dataset}' ({old.lineage.dataset_hash[:12]})"
    return replace(result, lineage=replace(result.lineage.noted(note), parents={old.kind(): old.id}))


@dataclass(frozen=True)
class _Known:
    """Estimates of an old fit by name."""

    old: FitResult

    @cached_property
    def rows(self) -> dict[tuple[str, str, str], float]:
        return {(p.level, p.name, p.owner): p.estimate for p in self.old.parameters}

    def value(self, row: ParameterSpec, *places: tuple[str, str]) -> float:
        """On the fitted scale: of the first of `places` (level, owner) that the fit has, or else as stated."""
        found = (self.rows[level, row.name, owner] for level, owner in places if (level, row.name, owner) in self.rows)
        return float(to_fitted((row,), np.array([next(found, row.value)]))[0])

    def spread(self, problem: FitProblem) -> np.ndarray:
        """Spread between clones, [nc]; as stated where the old fit had none."""
        return np.array([self.old.spread.get(row.name, row.spread or 1.0) for row in problem.clone])

    def noise_scale(self, problem: FitProblem) -> np.ndarray:
        """Factor on the stated noise of each variable, [V]; 1 for a variable that the old fit had not."""
        return np.array([self.old.noise_scale.get(name, 1.0) for name in problem.variables])


def _start(known: _Known, e: Posterior) -> Point:
    """Every parameter where the old fit has it, also where its level has changed; else where it is expected."""
    problem, point = e.problem, e.prior_point()
    common = (("shared", ""), ("population", ""), ("fixed", ""))
    first = [known.value(row, *common) for row in problem.shared]
    first += [known.value(row, ("population", ""), *common) for row in problem.clone]
    first += [known.value(row, ("batch", name)) for name in problem.batches[: e.n_batches] for row in problem.batch]
    point.shared = np.array(first)
    for c, group in enumerate(problem.groups):
        point.block[c, : e.nc] = [
            known.value(row, ("clone", group), ("population", ""), *common) for row in problem.clone
        ]
    for b, c in enumerate(problem.vessel_clone):
        run = problem.dataset.runs[b].run_id
        point.block[c, e.columns[b][e.nc :]] = [known.value(row, ("vessel", run)) for row in problem.vessel]
    return point


# --- a new clone placed ---


def place(
    old: FitResult,
    problem: FitProblem,
    days: Sequence[float] = (0.0, 3.0, 5.0, 7.0),
    draws: int = 200,
    seed: int = 0,
    search: Search = PLACING,
    progress: Progress = lambda text: None,
) -> Placement:
    """What is known of new clones after some `days`, from their samples so far and from the old fit.

    `problem` holds the new clones alone, with all that is planned for their vessels; each is placed by itself. For
    every member of the old ensemble the clone's and its vessels' parameters are estimated, with those of a batch that
    the old fit has not seen. Members then count by how likely they make the readings, so that the uncertainty of what
    clones share is part of the answer. Without samples the answer is the population.

    Raises `IncompatibleError` when the two are not of one model, or a clone is not new; `FitError` when no member can
    be simulated.
    """
    known = _Known(old)
    _check(known, problem)
    placed = []
    for c, clone in enumerate(problem.groups):
        own = problem.only(np.flatnonzero(problem.vessel_clone == c))
        members = _Members(known, own, np.random.default_rng(seed))
        points = members.points()
        for day in sorted(days):
            posterior, points = _conditioned(members, own.until(24.0 * day), points, search, progress)
            placed.append(_placed(members, posterior, points, clone, float(day), draws, seed))
    data = problem.dataset
    return Placement(
        lineage=Lineage.of(old, seed=seed).with_data(data.name, data.content_hash, data.simulated),
        shared_names=tuple(row.name for row in problem.shared),
        clone_names=tuple(row.name for row in problem.clone),
        clones=problem.groups,
        placed=tuple(placed),
    )


def _check(known: _Known, problem: FitProblem) -> None:
    _check_parameters(known, problem)
    if not problem.clone:
        raise IncompatibleError("no parameter differs between clones, so there is nothing to place a clone by")
    if again := sorted(set(problem.groups) & set(known.old.clones)):
        raise IncompatibleError(f"{', '.join(again)}: not new to the fit; continue the fit with the new runs instead")


def _check_parameters(known: _Known, problem: FitProblem) -> None:
    old = known.old
    for what, ours, theirs in (
        ("shared", problem.shared, old.shared_names),
        ("clone", problem.clone, old.clone_names),
        ("batch", problem.batch, old.batch_names),
    ):
        names = {row.name for row in ours}
        if names != set(theirs):
            differ = ", ".join(sorted(names ^ set(theirs)))
            raise IncompatibleError(f"the fit and the new runs differ in their {what} parameters: {differ}")
    for row in problem.table.of_level("fixed"):
        if not np.isclose(known.rows.get(("fixed", row.name, ""), np.nan), row.value, rtol=1e-9, atol=0.0):
            raise IncompatibleError(f"parameter '{row.name}' is not fixed at {row.value:g} in the fit")
    if len(old.shared) < 3:
        raise IncompatibleError("the fit's ensemble is too small to place a clone with; fit again with fit.ensemble=32")


@dataclass(frozen=True)
class _Members:
    """What each member of an old ensemble says of what clones have in common; member 0 is the estimate."""

    known: _Known
    problem: FitProblem  # of one clone
    rng: np.random.Generator

    @cached_property
    def _clones(self) -> np.ndarray:
        """Parameters of the old clones [E, C, nc] on the fitted scale."""
        old, rows = self.known.old, self.problem.clone
        found: np.ndarray = to_fitted(rows, old.clone[:, :, [old.clone_names.index(row.name) for row in rows]])
        return found

    @cached_property
    def _own(self) -> np.ndarray | None:
        """The same of this clone [E, nc], where the old fit knows it."""
        old, name = self.known.old, self.problem.groups[0]
        return self._clones[:, old.clones.index(name)] if name in old.clones else None

    @cached_property
    def spread(self) -> np.ndarray:
        """How far the clone may be from where a member expects it [nc]."""
        if self._own is None:
            return self.known.spread(self.problem)
        return np.maximum(KERNEL * self._own[1:].std(axis=0), 1e-6)

    @cached_property
    def kept(self) -> np.ndarray:
        """What is left to the old fit [n]: all but the parameters of batches that it has not seen."""
        e = self._posterior
        seen = [name in self._batches for name in self.problem.batches[: e.n_batches] for _ in range(e.nb)]
        return np.array([True] * (e.ns + e.nc) + seen)

    @cached_property
    def _posterior(self) -> Posterior:
        return Posterior(self.problem, spread=self.spread)

    @property
    def rows(self) -> tuple[ParameterSpec, ...]:
        """Specifications of the shared part [n]."""
        return self._posterior.rows_s

    @cached_property
    def _batches(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p.owner for p in self.known.old.parameters if p.level == "batch"))

    @cached_property
    def shared(self) -> np.ndarray:
        """The shared part [E, n] on the fitted scale."""
        old, problem, e = self.known.old, self.problem, self._posterior
        own = to_fitted(problem.shared, old.shared[:, [old.shared_names.index(row.name) for row in problem.shared]])
        found = np.tile(e.mean_s, (len(own), 1))
        found[:, : e.ns], found[:, e.ns : e.ns + e.nc] = own, self._population()
        columns = [old.batch_names.index(row.name) for row in problem.batch]
        for b, name in enumerate(problem.batches[: e.n_batches]):
            if name in self._batches:
                values = to_fitted(problem.batch, old.batch[:, self._batches.index(name)][:, columns])
                first = e.ns + e.nc + b * e.nb
                found[:, first : first + e.nb] = values
        return found

    def _population(self) -> np.ndarray:
        """Where each member expects the clone [E, nc].

        A new one: at the population's mean given the member's clones (readings say no more of it than the clones do).
        A known one: where the member has it, drawn in towards the mean, so that with the spread about it the ensemble
        is as wide as before (Liu & West 2001, in Sequential Monte Carlo Methods in Practice, 197-223).
        """
        rows, clones = self.problem.clone, self._clones
        if (own := self._own) is not None:
            middle = own[1:].mean(axis=0)
            return np.concatenate([own[:1], middle + np.sqrt(1.0 - KERNEL**2) * (own[1:] - middle)])
        sd = np.array([row.prior_sd_fitted() or np.inf for row in rows])
        stated = np.array([row.forward(row.value) for row in rows])
        precision = clones.shape[1] / self.spread**2 + 1.0 / sd**2
        mean = (clones.sum(axis=1) / self.spread**2 + stated / sd**2) / precision
        found = mean + self.rng.standard_normal(mean.shape) / np.sqrt(precision)
        found[0] = [self.known.value(row, ("population", "")) for row in rows]
        return np.clip(found, *np.array([row.bounds() for row in rows]).reshape(-1, 2).T)

    def points(self) -> list[Point]:
        """A start for every member: the clone where the member expects it."""
        found = []
        for shared in self.shared:
            point = self._posterior.prior_point()
            point.shared = shared.copy()
            point.block[:, : len(self.spread)] = shared[self._posterior.ns :][: len(self.spread)]
            point.fixed = self.kept, np.zeros(point.block.shape, bool)
            found.append(point)
        return found


# --- a vessel followed ---


@dataclass(frozen=True)
class Followed:
    """One running vessel given its readings so far.

    Lanes hold its parameters on the fitted scale in the order of `FitProblem.layout`: `lanes` [1 + D, Q], the first is
    the estimate, the others are draws; `before` [1 + D, Q] the same without its readings. `sd` [M]: noise of readings.
    """

    lanes: np.ndarray
    before: np.ndarray
    members: float  # of the old ensemble, how many have a say
    readings: int
    sd: np.ndarray


def follow(
    old: FitResult,
    problem: FitProblem,
    draws: int = 63,
    seed: int = 0,
    search: Search = PLACING,
    progress: Progress = lambda text: None,
) -> Followed:
    """Parameters of one vessel from its readings, under the population of a fit or the posterior of its own clone.

    Every member of the old ensemble is followed as in `place`, and members count by how likely they make the readings.
    Raises `IncompatibleError` when fit and problem are not of one model, `FitError` when no member can be simulated.
    """
    known = _Known(old)
    _check_parameters(known, problem)
    if len(problem.vessel_clone) != 1:
        raise IncompatibleError(f"one vessel is followed at a time, not {len(problem.vessel_clone)}")
    members = _Members(known, problem, np.random.default_rng(seed))
    found = []
    for seen in (problem.until(-1.0), problem):
        posterior, points = _conditioned(members, seen, members.points(), search, progress)
        chance, free = _chances(members, points), ~members.kept
        lanes = np.stack([posterior.lanes(p)[0] for p in points])
        # the estimate of the fit, and by how much the readings move the mean of the members from one to another
        even = np.where(np.isfinite([p.cost for p in points]), 1.0, 0.0)
        even[0] = 0.0
        estimate = lanes[0] + (chance - even / even.sum()) @ lanes
        drawn = _drawn(posterior, points, chance, free, draws, np.random.default_rng(seed + 1))
        rows = np.concatenate([estimate[None], *(posterior.lanes(p) for p in drawn)])
        ends = ((posterior.lower_s, posterior.lower_c), (posterior.upper_s, posterior.upper_c))
        low, high = (posterior.lanes(replace(points[0], shared=a, block=b[None]))[0] for a, b in ends)
        found.append(np.clip(rows, low, high))
    return Followed(
        lanes=found[1],
        before=found[0],
        members=float(1.0 / np.sum(chance**2)),
        readings=int(problem.vessels.weight.sum()),
        sd=posterior.noise.sd[0],
    )


def _conditioned(
    members: _Members, seen: FitProblem, points: list[Point], search: Search, progress: Progress
) -> tuple[Posterior, list[Point]]:
    """The clone's parameters given every member and the readings in use; noise by the readings, then by predictions."""
    scale = members.known.noise_scale(seen)
    posterior = Posterior(seen, Noise(scale, seen.vessels.sd * scale[seen.vessels.variable]), members.spread)
    points = _searched(posterior, points, COLD, search, progress)
    posterior = Posterior(seen, found_noise(posterior, points[0], scale), members.spread)
    points = _searched(posterior, points, WARM, search, progress)
    if not np.isfinite([p.cost for p in points[1:]]).any():
        raise FitError("no member of the fit's ensemble can be simulated on the new runs")
    return posterior, points


def _searched(
    posterior: Posterior, points: list[Point], damping: float, search: Search, progress: Progress
) -> list[Point]:
    fresh = [replace(p, damping=damping, bends=False, reason="", iterations=0, history=[]) for p in points]
    return minimise(posterior, fresh, search, progress)


def _placed(
    members: _Members, e: Posterior, points: list[Point], clone: str, day: float, draws: int, seed: int
) -> Placed:
    """The mixture of what the members say, each a normal distribution of the clone's parameters."""
    free, nc = ~members.kept, e.nc
    chance = _chances(members, points)
    mean, within = np.zeros((len(points), nc)), np.zeros((len(points), nc))
    for m in np.flatnonzero(chance):
        arrow = points[m].arrow
        assert arrow is not None
        mean[m], within[m] = points[m].block[0, :nc], arrow.over(free).variances()[1][0, :nc]
    centre = chance @ mean
    sd = np.sqrt(chance @ (within + (mean - centre) ** 2))
    population = members.shared[1:, e.ns : e.ns + nc]
    prior_sd = np.hypot(members.spread, population.std(axis=0, ddof=1))
    rng = np.random.default_rng(seed + 1)
    drawn = _drawn(e, points, chance, free, draws, rng)
    rows = []
    for i, row in enumerate(e.problem.clone):
        ends = row.backward(np.clip(centre[i] + sd[i] * np.array([-Z90, 0.0, Z90]), *row.bounds()))
        rows.append(
            PlacedParameter(row.name, row.unit, float(ends[1]), float(ends[0]), float(ends[2]), sd[i], prior_sd[i])
        )
    return Placed(
        clone=clone,
        day=day,
        readings=int(e.problem.vessels.weight.sum()),
        members=float(1.0 / np.sum(chance**2)),
        parameters=tuple(rows),
        shared=to_natural(e.problem.shared, np.stack([p.shared[: e.ns] for p in drawn])),
        own=to_natural(e.problem.clone, np.stack([p.block[0, :nc] for p in drawn])),
        bands=_bands(e, drawn, rng),
    )


def _chances(members: _Members, points: list[Point]) -> np.ndarray:
    """Probability of every member given the readings, [E]: by their likelihood, the clone's parameters averaged out.

    Member 0 is the estimate, no draw, and has none. An ensemble is small: where the readings would leave the say to a
    few, the likelihood is flattened until `LEAST_SHARE` of them count.
    """
    kept = np.flatnonzero(members.kept)
    score = np.full(len(points), -np.inf)
    for m, point in enumerate(points):
        if m == 0 or not np.isfinite(point.cost) or point.arrow is None:
            continue
        # what is kept has its prior from the old fit, whose draws these are
        stated = sum(float(members.rows[i].prior_score(point.shared[i])[0]) for i in kept)
        score[m] = stated - point.cost - 0.5 * point.arrow.over(~members.kept).log_determinant()
    score = score - score.max()
    wanted = LEAST_SHARE * np.isfinite(score).sum()
    low, high = 0.0, 1.0
    chance = _normalised(score, high)
    if 1.0 / np.sum(chance**2) < wanted:
        for _ in range(30):
            middle = 0.5 * (low + high)
            chance = _normalised(score, middle)
            low, high = (low, middle) if 1.0 / np.sum(chance**2) < wanted else (middle, high)
        chance = _normalised(score, low)
    return chance


def _normalised(score: np.ndarray, power: float) -> np.ndarray:
    chance = np.where(np.isfinite(score), np.exp(power * np.where(np.isfinite(score), score, 0.0)), 0.0)
    return chance / chance.sum()


def _drawn(
    e: Posterior, points: list[Point], chance: np.ndarray, free: np.ndarray, draws: int, rng: np.random.Generator
) -> list[Point]:
    """Draws of the mixture: members as often as they are likely, each with draws of what is not kept."""
    steps = (np.arange(draws) + rng.uniform()) / draws
    times = np.bincount(np.searchsorted(np.cumsum(chance)[:-1], steps, side="right"), minlength=len(points))
    found = []
    for m in np.flatnonzero(times):
        arrow = points[m].arrow
        assert arrow is not None
        shared, block = arrow.over(free).sample(rng, int(times[m]))
        for k in range(times[m]):
            step = np.zeros(len(free))
            step[free] = shared[k]
            found.append(e.moved(points[m], step, block[k]))
    return found


def _bands(e: Posterior, drawn: list[Point], rng: np.random.Generator) -> Bands:
    """Predictions of all variables at every node of the plan, to the end of the runs."""
    problem, v = e.problem, e.problem.vessels
    n, variables, nodes = len(problem.vessel_clone), len(problem.variables), v.grid.t.shape[1]
    node = np.tile(np.arange(nodes, dtype=np.int32), (n, variables))
    variable = np.tile(np.repeat(np.arange(variables, dtype=np.int32), nodes), (n, 1))
    blank = np.zeros(node.shape)
    everywhere = replace(
        problem,
        vessels=v._replace(
            node=node, variable=variable, value=blank, sd=blank + 1.0, censored=blank.astype(np.int32), weight=blank
        ),
    )
    u = np.concatenate([e.lanes(p) for p in drawn])
    y, status = everywhere.predict(u, np.tile(np.arange(n), len(drawn)))
    y = np.where((status == 0)[:, None], y, np.nan).reshape(len(drawn), *node.shape)
    reading = y.copy()
    for i, name in enumerate(problem.variables):
        own = variable[0] == i
        scatter = problem.noise.sd(name, y[..., own]) * e.noise.scale[i]
        scatter = problem.noise.reading_sd(name, y[..., own], scatter)
        noisy = y[..., own] + scatter * rng.standard_normal(scatter.shape)
        reading[..., own] = np.clip(noisy, *problem.noise.range_of(name))
    # a node is there once; the grid goes on with intervals of no length
    b, m = np.nonzero(node <= np.asarray(v.grid.intervals)[:, None])
    low, middle, high = np.nanquantile(y[:, b, m], [0.05, 0.5, 0.95], axis=0)
    reading_low, reading_high = np.nanquantile(reading[:, b, m], [0.05, 0.95], axis=0)
    return Bands(
        vessel=tuple(problem.dataset.runs[i].run_id for i in b),
        variable=tuple(problem.variables[i] for i in variable[b, m]),
        time_h=v.grid.t[b, node[b, m]],
        predicted=middle,
        lower90=low,
        upper90=high,
        reading_lower90=reading_low,
        reading_upper90=reading_high,
    )
