"""The optimal-control problem: control profiles over N equal intervals, a duration, and limits along the path.

`ProcessProblem` optimises the dozen decisions of a platform process. A `ControlProblem` has a profile of each control
with hundreds of values, and exact second derivatives. The vessel is always simulated by the engine with error control:
an iterate gives the same result when it is simulated again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optim.errors import ConfigError, Status
from optim.kinetics.base import AbstractKineticModel, Environment
from optim.optimal_control.second_order import (
    AcceptedSteps,
    ConstantControlRate,
    StepChain,
    StepDerivatives,
    accepted_steps,
    cubic_hermite,
    differentiate_steps,
    join_steps,
    step_curvature,
)
from optim.schedule.grid import IntervalActions, IntervalGrid, padded_length
from optim.simulation.balance import Vessel, to_amounts, to_concentrations
from optim.simulation.engine.batches import map_batches
from optim.simulation.engine.march import Integrator
from optim.simulation.engine.reverse import RecordedMarch, record_march
from optim.simulation.engine.table import pack_vessels
from optim.types import Array, Scalar

# sizes of compiled programs: a few lanes, lanes, and steps at once
FEW_LANES, LANES, STEPS = 8, 32, 256


@dataclass(frozen=True)
class ControlProfile:
    """A control profile: a feed rate (L/h) or the temperature (degC), constant in every interval.

    Raises `ConfigError` if the bounds are not in order, or if a feed could flow backward.
    """

    name: str
    lower: float  # in the unit of the control
    upper: float  # in the unit of the control
    feed: int | None = 0  # index of the feed; None: the temperature

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ConfigError(f"profile {self.name}: lower {self.lower} must be below upper {self.upper}")
        if self.feed is not None and self.lower < 0.0:
            raise ConfigError(f"profile {self.name}: a feed cannot flow backward, lower is {self.lower}")


@dataclass(frozen=True)
class ControlLimit:
    """A path or terminal constraint: a function of the state that must not exceed, or not fall below, a limit.

    Margins are relative to the limit; those of a limit of 0 are in the unit of the value. Raises `ConfigError` for
    another `kind` or `where`.
    """

    name: str
    value: Callable[[Any, Scalar], Scalar]  # of the concentrations (the model's State) and the volume in L
    kind: str  # 'max' or 'min'
    limit: float  # in the unit of the value
    where: str = "path"  # 'path' or 'end'

    def __post_init__(self) -> None:
        for key, value, allowed in (("kind", self.kind, ("max", "min")), ("where", self.where, ("path", "end"))):
            if value not in allowed:
                raise ConfigError(f"limit {self.name}: {key} {value!r} is not one of {', '.join(allowed)}")

    def relative_margin(self, c: Any, volume: Scalar) -> Scalar:
        """The distance to the limit, relative to a limit that is not 0; the limit is met if it is not negative."""
        distance = self.limit - self.value(c, volume)
        return (distance if self.kind == "max" else -distance) / (abs(self.limit) or 1.0)


class TerminalState(NamedTuple):
    """The terminal state of a run, on which its value depends."""

    state: Any  # concentrations, the model's State
    volume: Scalar  # L
    fed: Array  # [J] total volume of every feed, L
    hours: Scalar  # duration


class SimulatedLanes(NamedTuple):
    """Simulated decisions of L lanes."""

    value: np.ndarray  # [L] the value that is maximised; NaN after a failure
    margins: np.ndarray  # [L, R] relative margins; a limit is met if its margin is not negative
    status: np.ndarray  # [L] `optim.errors.Status` of the simulation
    paths: list[LanePath]


class LanePath(NamedTuple):
    """The accepted steps of one lane (R steps, n states), and its states at the ends of the N intervals."""

    k: np.ndarray  # [R] index of the interval of each step
    fraction: np.ndarray  # [R] of the length of the interval
    y: np.ndarray  # [R, n] states before each step
    after: np.ndarray  # [R, n] states after each step
    nodes: np.ndarray  # [N+1, n]


class ControlDerivatives(NamedTuple):
    """First derivatives of L lanes by D scaled decisions, and intermediate results for the second derivatives.

    There are n states and q controls; z denotes the state at the beginning of an interval and its controls.
    """

    value: np.ndarray  # [L, D]
    margins: np.ndarray  # [L, R, D]
    states: np.ndarray  # [L, N+1, n, D] of the states at the nodes
    across: np.ndarray  # [L, N, n, n+q] of the states at the end of every interval by z
    steps: StepDerivatives
    chain: StepChain
    before: np.ndarray  # [rows, n, n+q] of the states before every step by z
    controls: np.ndarray  # [rows, q] controls of every step


@dataclass(frozen=True, eq=False)
class ControlProblem:
    """An optimal-control problem of one model with fixed parameters, to be maximised. Decisions are scaled to 0..1.

    Raises `ConfigError` for arrays of the wrong shape, a duration that is not positive, and profiles without a feed or
    with the same one.
    """

    model: AbstractKineticModel
    parameters: np.ndarray  # [P] in the order of the model's Parameters
    initial: np.ndarray  # [S] concentration of every species at the start, in its unit
    volume_l: float  # at the start
    composition: np.ndarray  # [J, S] concentration of every species in every feed
    profiles: tuple[ControlProfile, ...]  # feeds without a profile do not flow
    intervals: int  # number N of equal intervals of the profiles
    hours: tuple[float, float]  # bounds of the duration; equal bounds fix it
    value: Callable[[TerminalState], Scalar]  # the objective, smooth
    limits: tuple[ControlLimit, ...]
    integrator: Integrator
    temperature_c: float = 37.0  # without a temperature profile
    ph: float = 7.0
    parts: int = 1  # of every interval, at whose ends the path constraints are evaluated

    def __post_init__(self) -> None:
        species, names = self.model.names(), self.model.Parameters._fields
        for key, found, wanted in (
            ("initial", np.shape(self.initial), (len(species),)),
            ("composition", np.shape(self.composition)[1:], (len(species),)),
            ("parameters", np.shape(self.parameters), (len(names),)),
        ):
            if found != wanted:
                of = ", ".join(names if key == "parameters" else species)
                raise ConfigError(f"{key}: expected {wanted[0]} values in a row ({of}), not shape {found}")
        low, high = self.hours
        if not 0.0 < low <= high:
            raise ConfigError(f"hours: the duration must be above 0 and its bounds in order, not {low}..{high}")
        if self.intervals < 1 or not self.profiles:
            raise ConfigError("there must be at least one profile and one interval; there is nothing to optimise")
        for p in self.profiles:
            if p.feed is not None and not 0 <= p.feed < len(self.composition):
                raise ConfigError(f"profile {p.name}: there is no feed {p.feed}; {len(self.composition)} are given")
        targets = [p.feed for p in self.profiles]
        if len(set(targets)) < len(targets):
            raise ConfigError("two profiles set the same feed, or the temperature twice")

    # --- decisions ---

    @property
    def free_end(self) -> bool:
        """Whether the duration is a decision; it is then the last one."""
        return self.hours[1] > self.hours[0]

    @property
    def piece_count(self) -> int:
        """Number of parts of all intervals."""
        return self.intervals * self.parts

    @property
    def decision_count(self) -> int:
        """Number of decisions D: all profiles in the first interval, in the second, ..., and the duration if free."""
        return self.intervals * len(self.profiles) + self.free_end

    @property
    def decision_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds [D] of the decisions, in the units of the controls."""
        low, high = ([getattr(p, side) for p in self.profiles] * self.intervals for side in ("lower", "upper"))
        more = self.free_end
        return np.array(low + [self.hours[0]] * more), np.array(high + [self.hours[1]] * more)

    def decode_decisions(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Controls [L, N, profiles] in their units and durations [L] in h from scaled decisions [L, D]."""
        low, high = self.decision_bounds
        x = low + (high - low) * np.asarray(w)
        count = self.intervals * len(self.profiles)
        hours = x[:, -1] if self.free_end else np.full(len(x), self.hours[0])
        return x[:, :count].reshape(len(x), self.intervals, -1), hours

    def encode_decisions(self, controls: np.ndarray, hours: np.ndarray) -> np.ndarray:
        """Scaled decisions [L, D] from controls [L, N, profiles] in their units and durations [L] in h."""
        low, high = self.decision_bounds
        x = np.asarray(controls, float).reshape(len(controls), -1)
        if self.free_end:
            x = np.concatenate([x, np.asarray(hours, float)[:, None]], axis=1)
        return (x - low) / (high - low)

    # --- the vessel ---

    @cached_property
    def step_rate(self) -> ConstantControlRate:
        """The right-hand side of the vessel with constant controls."""
        heated = any(p.feed is None for p in self.profiles)
        return ConstantControlRate(self.model, len(self.composition), heated, self.temperature_c, self.ph)

    @cached_property
    def _columns(self) -> np.ndarray:
        """Column of every profile among the controls of a step."""
        return np.array([len(self.composition) if p.feed is None else p.feed for p in self.profiles])

    @cached_property
    def _parameters(self) -> Any:
        return self.model.Parameters(*(jnp.asarray(float(v)) for v in self.parameters))

    def simulate_decisions(self, w: np.ndarray) -> SimulatedLanes:
        """Simulate scaled decisions w [L, D]. A failure is data: see `SimulatedLanes.status`."""
        controls, hours = self.decode_decisions(w)
        recorded = self._record_march(controls, hours)
        states = np.asarray(recorded.march.states)[:, : self.piece_count + 1]
        status = np.asarray(recorded.march.status)
        value, margins = self._read(states, w)
        steps = accepted_steps(recorded)
        cut = np.searchsorted(steps.vessel, np.arange(len(w) + 1))
        paths = [
            LanePath(steps.k[a:b], steps.fraction[a:b], steps.y[a:b], steps.after[a:b], nodes)
            for a, b, nodes in zip(cut[:-1], cut[1:], states, strict=True)
        ]
        good = (status == 0) & np.isfinite(value) & np.isfinite(margins).all(axis=1)
        status = np.where((status == 0) & ~good, int(Status.NON_FINITE), status)
        return SimulatedLanes(np.where(good, value, np.nan), margins, status, paths)

    def _record_march(self, controls: np.ndarray, hours: np.ndarray) -> RecordedMarch:
        lanes, n = len(hours), self.piece_count
        controls = np.repeat(controls, self.parts, axis=1)
        grid = padded_length(n)
        edge = np.minimum(np.arange(grid + 1), n) / n
        rate = np.zeros((lanes, grid, len(self.composition)))
        temperature = np.full((lanes, grid), self.temperature_c)
        for i, p in enumerate(self.profiles):
            if p.feed is None:
                temperature[:, :n] = controls[:, :, i]
                temperature[:, n:] = controls[:, -1:, i]
            else:
                rate[:, :n, p.feed] = controls[:, :, i]
        none = np.zeros((lanes, grid))
        setpoints = Environment(temperature, np.full((lanes, grid), self.ph))
        actions = IntervalActions(none, np.zeros_like(rate), rate, rate, setpoints)
        whole = IntervalGrid(hours[:, None] * edge, actions, np.full(lanes, n, np.int32))
        full = self._program_width(lanes)
        whole = jax.tree.map(lambda a: np.concatenate([a, np.repeat(a[-1:], full - lanes, axis=0)]), whole)
        found = _recorded(
            self.model, self.integrator, self._parameters, self.initial, self.volume_l,
            self.composition, whole,
        )  # fmt: skip
        march = jax.tree.map(lambda a: np.asarray(a)[:lanes], found.march)
        tape = found.tape
        # rows of padding are repeated lanes, whose steps are ignored
        own = np.asarray(tape.vessel)[:, None, :] < lanes
        return RecordedMarch(march, tape._replace(accepted=np.asarray(tape.accepted) & own), found.used)

    def _program_width(self, lanes: int) -> int:
        """Lanes of the program for a number of lanes: one that is compiled already, unless it is much too wide."""
        wide = next((w for w in sorted(self._widths) if lanes <= w <= 4 * LANES), None)
        if wide is None:
            wide = FEW_LANES if lanes <= FEW_LANES else -(-lanes // LANES) * LANES
            self._widths.add(wide)
        return wide

    @cached_property
    def _widths(self) -> set[int]:
        return set()

    # --- values ---

    def _end(self, y: Array, x: Array) -> Array:
        controls = x[: self.intervals * len(self.profiles)].reshape(self.intervals, -1)
        hours = x[-1] if self.free_end else jnp.asarray(self.hours[0])
        fed = jnp.zeros(len(self.composition))
        for i, p in enumerate(self.profiles):
            if p.feed is not None:
                fed = fed.at[p.feed].set(jnp.sum(controls[:, i]) * hours / self.intervals)
        rows = tuple(y)
        return self.value(TerminalState(to_concentrations(self.model, rows), y[len(self.model.species)], fed, hours))

    def _margins(self, y: Array) -> Array:
        c, volume = to_concentrations(self.model, tuple(y)), y[len(self.model.species)]
        return jnp.stack([limit.relative_margin(c, volume) for limit in self.limits])

    @cached_property
    def _programs(self) -> dict[str, Any]:
        """Small functions of the states at nodes, compiled once per problem."""
        low, high = (jnp.asarray(b) for b in self.decision_bounds)

        def _end(y: Array, w: Array) -> Array:
            return self._end(y, low + (high - low) * w)

        def _within(c: Array, y: Array, after: Array) -> Array:
            first, last = (self.step_rate(self._parameters, self.composition, state, c) for state in (y, after))
            inside = cubic_hermite(y, after, np.array([0.25, 0.5, 0.75, 1.0]), slope0=first, slope1=last)
            return jnp.min(jax.vmap(self._margins)(inside), axis=0)

        nodes = lambda f: jax.jit(jax.vmap(jax.vmap(f)))  # noqa: E731
        return {
            "value": jax.jit(jax.vmap(_end)),
            "slope": jax.jit(jax.vmap(jax.grad(_end, (0, 1)))),
            "bend": jax.jit(jax.vmap(jax.hessian(_end, (0, 1)))),
            "margins": nodes(self._margins),
            "within": jax.jit(jax.vmap(_within)),
            "margin_slopes": nodes(jax.jacfwd(self._margins)),
            "margin_bends": nodes(lambda y, v: jax.hessian(lambda y: v @ self._margins(y))(y)),
        }

    def _call(self, name: str, *lanes: np.ndarray) -> Any:
        """Map a program over rows (lanes or steps) in batches of one size, so that it is compiled once."""
        return map_batches(self._programs[name], lanes, STEPS if name == "within" else LANES)

    @cached_property
    def margin_places(self) -> np.ndarray:
        """Mask [pieces, limits] of the margins: at the end of every piece for a path constraint, else of the last."""
        rows = np.tile([limit.where == "path" for limit in self.limits], (self.piece_count, 1)).astype(bool)
        rows = rows.reshape(self.piece_count, len(self.limits))
        rows[-1] = True
        return rows

    def _read(self, states: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value = self._call("value", states[:, -1], np.asarray(w))
        if not self.limits:
            return value, np.zeros((len(w), 0))
        return value, self._call("margins", states[:, 1:])[:, self.margin_places]

    # --- derivatives ---

    def first_derivatives(self, w: np.ndarray, paths: list[LanePath]) -> ControlDerivatives:
        """First derivatives of value and margins.

        Args:
            w: scaled decisions [L, D] of lanes whose simulation succeeded.
            paths: the paths of these lanes.
        """
        lanes, n, species, d = len(w), self.piece_count, len(self.model.species) + 1, self.decision_count
        controls, hours = self.decode_decisions(w)
        q = self.step_rate.control_count
        constant = np.zeros((lanes, n, q))
        if self.step_rate.heated:
            constant[:, :, -2] = self.temperature_c
        constant[:, :, self._columns] = np.repeat(controls, self.parts, axis=1)
        constant[:, :, -1] = hours[:, None] / n

        vessel = np.concatenate([np.full(len(path.k), lane) for lane, path in enumerate(paths)])
        whole = AcceptedSteps(vessel, *(np.concatenate([path[i] for path in paths]) for i in range(4)))
        rows, k, fraction, y, after = join_steps(whole)
        c = constant[rows, k]
        c[:, -1] *= fraction
        first = differentiate_steps(self.step_rate, self._parameters, self.composition, c=c, y=y, after=after)

        chain = StepChain(rows, k, fraction, lanes=lanes, intervals=n, controls=q)
        before, across = chain.forward(first)
        spread = self._spread
        states = np.zeros((lanes, n + 1, species, d))
        for i in range(n):
            states[:, i + 1] = across[:, i, :, :species] @ states[:, i] + across[:, i, :, species:] @ spread[i]
        by_state, by_w = self._call("slope", np.stack([p.nodes[-1] for p in paths]), w)
        value = np.einsum("ln,lnd->ld", by_state, states[:, -1]) + by_w
        margins = np.zeros((lanes, 0, d))
        if self.limits:
            slopes = self._call("margin_slopes", np.stack([p.nodes[1:] for p in paths]))
            margins = (slopes @ states[:, 1:])[:, self.margin_places]
        return ControlDerivatives(value, margins, states, across, first, chain, before, c)

    @cached_property
    def _spread(self) -> np.ndarray:
        """Derivatives of the controls of every piece by the scaled decisions, [pieces, q, D]."""
        low, high = self.decision_bounds
        width, m = high - low, len(self.profiles)
        out = np.zeros((self.piece_count, self.step_rate.control_count, self.decision_count))
        for k in range(self.piece_count):
            for i, column in enumerate(self._columns):
                at = k // self.parts * m + i
                out[k, column, at] = width[at]
            if self.free_end:
                out[k, -1, -1] = width[-1] / self.piece_count
        return out

    def second_derivatives(
        self, w: np.ndarray, paths: list[LanePath], *, first: ControlDerivatives, weights: np.ndarray
    ) -> np.ndarray:
        """Second derivatives [L, D, D] of the value plus a weighted sum of the margins (the Lagrangian).

        Args:
            w: scaled decisions [L, D] of lanes whose simulation succeeded.
            paths: the paths of these lanes.
            first: their first derivatives.
            weights: weight [L, R] of every margin.
        """
        lanes, n, species = len(w), self.piece_count, len(self.model.species) + 1
        ends = np.stack([p.nodes[1:] for p in paths])
        by_state, _ = self._call("slope", ends[:, -1], w)
        pull = np.zeros((lanes, n, species))  # of the state at the end of every interval
        bends = np.zeros((lanes, n, species, species))
        if self.limits:
            full = np.zeros((lanes, n, len(self.limits)))
            full[:, self.margin_places] = weights
            pull = np.einsum("lkp,lkpa->lka", full, self._call("margin_slopes", ends))
            bends = self._call("margin_bends", ends, full)
        pull[:, -1] += by_state
        across = first.across
        for k in range(n - 2, -1, -1):
            pull[:, k] += np.einsum("lab,la->lb", across[:, k + 1, :, :species], pull[:, k + 1])

        weight = first.chain.backward(first.steps, pull)
        second = step_curvature(
            self.step_rate,
            self._parameters,
            first.steps,
            composition=self.composition,
            c=first.controls,
            weight=weight,
            before=first.before,
            fraction=first.chain.fraction,
        )
        inner = first.chain.sum_by_interval(second)
        outer = np.concatenate(
            [first.states[:, :-1], np.broadcast_to(self._spread, (lanes, *self._spread.shape))], axis=2
        )
        d = self.decision_count
        total = np.swapaxes(outer.reshape(lanes, -1, d), 1, 2) @ (inner @ outer).reshape(lanes, -1, d)
        at_nodes = first.states[:, 1:]
        if self.limits:
            bent = (bends @ at_nodes).reshape(lanes, -1, d)
            total += np.swapaxes(at_nodes.reshape(lanes, -1, d), 1, 2) @ bent
        (yy, yw), (_, ww) = self._call("bend", ends[:, -1], w)
        last = at_nodes[:, -1]
        mixed = np.swapaxes(last, 1, 2) @ yw
        total += np.swapaxes(last, 1, 2) @ yy @ last + mixed + np.swapaxes(mixed, 1, 2) + ww
        return total

    # --- the path between the nodes ---

    def margins_along_path(self, w: np.ndarray, path: LanePath) -> np.ndarray:
        """Smallest margins [pieces, limits] along the whole path of one lane.

        The path is evaluated at the ends of all steps and at three places within each. A terminal constraint has inf in
        all pieces but the last.

        Args:
            w: scaled decisions [D].
            path: the path of the lane.
        """
        worst = np.full((self.piece_count, len(self.limits)), np.inf)
        if self.limits and len(path.k):
            controls, hours = self.decode_decisions(w[None])
            c = np.zeros((len(path.k), self.step_rate.control_count))
            c[:, self._columns] = np.repeat(controls[0], self.parts, axis=0)[path.k]
            c[:, -1] = path.fraction * hours[0] / self.piece_count
            np.minimum.at(worst, path.k, self._call("within", c, path.y, path.after))
            worst[:, [limit.where == "end" for limit in self.limits]] = np.inf
            worst[-1] = np.minimum(worst[-1], self._call("margins", path.nodes[None, -1:])[0, 0])
        return worst


@partial(jax.jit, static_argnums=0)
def _recorded(
    model: AbstractKineticModel, integrator: Integrator, p: Any, initial: Array, volume: Array, composition: Array,
    grid: IntervalGrid,
) -> RecordedMarch:  # fmt: skip
    lanes = grid.t.shape[0]
    state = model.State(*(jnp.full(lanes, initial[i]) for i in range(len(model.species))))
    y0 = jnp.stack(to_amounts(model, state, jnp.full(lanes, volume), actions=grid.actions), axis=-1)
    every = jax.tree.map(lambda a: jnp.broadcast_to(a, (lanes, *jnp.shape(a))), p)
    vessel = Vessel(jnp.broadcast_to(composition, (lanes, *composition.shape)))
    return record_march(model, pack_vessels(every, y0, grid=grid, vessel=vessel), integrator)
