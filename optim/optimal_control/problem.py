"""An optimal-control problem: profiles over N equal intervals, a free or fixed duration, and limits along the path.

Where `ProcessProblem` optimises the dozen decisions of a platform process, this one has a profile of each control, with
hundreds of values, and exact second derivatives. The vessel is always simulated by the engine, adaptively: no iterate
is a discretised guess that would look different when simulated again.
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
from optim.simulation.engine.march import Integrator, pack_vessels
from optim.simulation.engine.reverse import RecordedMarch, record_march
from optim.types import Array, Scalar

FEW, LANES, STEPS = 8, 32, 256  # lanes and steps at once in one compiled program


@dataclass(frozen=True)
class ControlProfile:
    """A control that is constant in every interval: the rate of a feed, L/h, or (`feed` None) the temperature, degC."""

    name: str
    lower: float
    upper: float
    feed: int | None = 0

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ConfigError(f"profile {self.name}: lower {self.lower} must be below upper {self.upper}")
        if self.feed is not None and self.lower < 0.0:
            raise ConfigError(f"profile {self.name}: a feed cannot flow backward, lower is {self.lower}")


@dataclass(frozen=True)
class ControlLimit:
    """value(State of concentrations, volume in L) <= limit (max) or >= limit (min), along the path or at the end."""

    name: str
    value: Callable[[Any, Scalar], Scalar]
    kind: str
    limit: float
    where: str = "path"

    def __post_init__(self) -> None:
        for key, value, allowed in (("kind", self.kind, ("max", "min")), ("where", self.where, ("path", "end"))):
            if value not in allowed:
                raise ConfigError(f"limit {self.name}: {key} {value!r} is not one of {', '.join(allowed)}")
        if self.limit == 0.0:
            raise ConfigError(f"limit {self.name}: 0 gives it no scale; use a small number")

    def relative_margin(self, c: Any, volume: Scalar) -> Scalar:
        """What is left to the limit, relative to it; met when >= 0."""
        room = self.limit - self.value(c, volume)
        return (room if self.kind == "max" else -room) / abs(self.limit)


class TerminalState(NamedTuple):
    """A finished run, what its value depends on."""

    state: Any  # the model's State of concentrations
    volume: Scalar  # L
    fed: Array  # [J] L of every feed in all
    hours: Scalar


class SimulatedLanes(NamedTuple):
    """Lanes L. `value` is what is maximised; margins [L, R] are met when >= 0; `status` of the simulation."""

    value: np.ndarray
    margins: np.ndarray
    status: np.ndarray
    paths: list[LanePath]


class LanePath(NamedTuple):
    """The steps of one lane, and its states at the ends of the intervals."""

    k: np.ndarray
    share: np.ndarray
    y: np.ndarray  # [R, n]
    after: np.ndarray
    nodes: np.ndarray  # [N+1, n]


class ControlDerivatives(NamedTuple):
    """Of lanes L with D decisions, and what `hessian` needs of them."""

    value: np.ndarray  # [L, D]
    margins: np.ndarray  # [L, R, D]
    states: np.ndarray  # [L, N+1, n, D]
    across: np.ndarray  # [L, N, n, n+q] states at the end of every interval by what it begins with
    steps: StepDerivatives
    chain: StepChain
    before: np.ndarray  # [rows, n, n+q] states before every step by what its interval begins with
    controls: np.ndarray  # [rows, q]


@dataclass(frozen=True, eq=False)
class ControlProblem:
    """What is optimised: `value(End)` of one model with given parameters. Decisions are scaled to 0..1.

    `initial` holds the concentrations at the start and `composition` [J, N] those of every feed. Feeds without a
    profile do not flow. `hours` is the duration, or its bounds.
    """

    model: AbstractKineticModel
    parameters: np.ndarray  # [P]
    initial: np.ndarray
    volume_l: float
    composition: np.ndarray
    profiles: tuple[ControlProfile, ...]
    intervals: int
    hours: tuple[float, float]
    value: Callable[[TerminalState], Scalar]
    limits: tuple[ControlLimit, ...]
    integrator: Integrator
    temperature_c: float = 37.0
    ph: float = 7.0
    parts: int = 1  # of every interval, at whose ends limits along the path are checked

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
        """Whether the duration is a decision, the last one."""
        return self.hours[1] > self.hours[0]

    @property
    def piece_count(self) -> int:
        """Parts of all intervals."""
        return self.intervals * self.parts

    @property
    def decision_count(self) -> int:
        """Decisions D: every profile in the first interval, in the second, ..., then the duration if it is free."""
        return self.intervals * len(self.profiles) + self.free_end

    @property
    def decision_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """[D] in units of the controls."""
        low, high = ([getattr(p, side) for p in self.profiles] * self.intervals for side in ("lower", "upper"))
        more = self.free_end
        return np.array(low + [self.hours[0]] * more), np.array(high + [self.hours[1]] * more)

    def decode_decisions(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Controls [L, N, profiles] in their units and durations [L] in h, of scaled decisions [L, D]."""
        low, high = self.decision_bounds
        x = low + (high - low) * np.asarray(w)
        count = self.intervals * len(self.profiles)
        hours = x[:, -1] if self.free_end else np.full(len(x), self.hours[0])
        return x[:, :count].reshape(len(x), self.intervals, -1), hours

    def encode_decisions(self, controls: np.ndarray, hours: np.ndarray) -> np.ndarray:
        """The reverse: controls [L, N, profiles], hours [L]."""
        low, high = self.decision_bounds
        x = np.asarray(controls, float).reshape(len(controls), -1)
        if self.free_end:
            x = np.concatenate([x, np.asarray(hours, float)[:, None]], axis=1)
        return (x - low) / (high - low)

    # --- the vessel ---

    @cached_property
    def step_rate(self) -> ConstantControlRate:
        """The vessel with constant controls."""
        heated = any(p.feed is None for p in self.profiles)
        return ConstantControlRate(self.model, len(self.composition), heated, self.temperature_c, self.ph)

    @cached_property
    def _columns(self) -> np.ndarray:
        """Place of every profile among the controls of a step."""
        return np.array([len(self.composition) if p.feed is None else p.feed for p in self.profiles])

    @cached_property
    def _parameters(self) -> Any:
        return self.model.Parameters(*(jnp.asarray(float(v)) for v in self.parameters))

    def simulate_decisions(self, w: np.ndarray) -> SimulatedLanes:
        """Simulate scaled decisions [L, D]."""
        controls, hours = self.decode_decisions(w)
        recorded = self._record(controls, hours)
        states = np.asarray(recorded.march.states)[:, : self.piece_count + 1]
        status = np.asarray(recorded.march.status)
        value, margins = self._read(states, w)
        steps = accepted_steps(recorded)
        cut = np.searchsorted(steps.vessel, np.arange(len(w) + 1))
        paths = [
            LanePath(steps.k[a:b], steps.share[a:b], steps.y[a:b], steps.after[a:b], nodes)
            for a, b, nodes in zip(cut[:-1], cut[1:], states, strict=True)
        ]
        good = (status == 0) & np.isfinite(value) & np.isfinite(margins).all(axis=1)
        status = np.where((status == 0) & ~good, int(Status.NON_FINITE), status)
        return SimulatedLanes(np.where(good, value, np.nan), margins, status, paths)

    def _record(self, controls: np.ndarray, hours: np.ndarray) -> RecordedMarch:
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
        full = self._width(lanes)
        whole = jax.tree.map(lambda a: np.concatenate([a, np.repeat(a[-1:], full - lanes, axis=0)]), whole)
        found = _recorded(
            self.model, self.integrator, self._parameters, self.initial, self.volume_l,
            self.composition, whole,
        )  # fmt: skip
        march = jax.tree.map(lambda a: np.asarray(a)[:lanes], found.march)
        tape = found.tape
        # rows of padding are repeated lanes: they are not anyone's steps
        own = np.asarray(tape.vessel)[:, None, :] < lanes
        return RecordedMarch(march, tape._replace(accepted=np.asarray(tape.accepted) & own), found.used)

    def _width(self, lanes: int) -> int:
        """How many lanes are simulated for so many: one that is compiled already, if that is not far too many."""
        wide = next((w for w in sorted(self._widths) if lanes <= w <= 4 * LANES), None)
        if wide is None:
            wide = FEW if lanes <= FEW else -(-lanes // LANES) * LANES
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
        """Compiled once per problem: small functions of the state at nodes."""
        low, high = (jnp.asarray(b) for b in self.decision_bounds)

        def _end(y: Array, w: Array) -> Array:
            return self._end(y, low + (high - low) * w)

        def _within(c: Array, y: Array, after: Array) -> Array:
            first, last = (self.step_rate(self._parameters, self.composition, state, c) for state in (y, after))
            inside = cubic_hermite(first, last, y, after, np.array([0.25, 0.5, 0.75, 1.0]))
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
        """A program on rows of lanes or steps, in batches of one size: each program is compiled once."""
        return map_batches(self._programs[name], lanes, STEPS if name == "within" else LANES)

    @cached_property
    def margin_places(self) -> np.ndarray:
        """Where margins are taken: [pieces, limits], at the end of every one along the path, or of the last."""
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
        """First derivatives at lanes that ended well; `paths` are theirs."""
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
        rows, k, share, y, after = join_steps(whole)
        c = constant[rows, k]
        c[:, -1] *= share
        first = differentiate_steps(self.step_rate, self._parameters, self.composition, c, y, after)

        chain = StepChain(rows, k, share, lanes, n, q)
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
        """Controls of every interval by the scaled decisions, [N, q, D]."""
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

    def hessian(
        self, w: np.ndarray, paths: list[LanePath], slopes: ControlDerivatives, weights: np.ndarray
    ) -> np.ndarray:
        """Second derivatives [L, D, D] of value + weights [L, R] of the margins."""
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
        across = slopes.across
        for k in range(n - 2, -1, -1):
            pull[:, k] += np.einsum("lab,la->lb", across[:, k + 1, :, :species], pull[:, k + 1])

        weight = slopes.chain.backward(slopes.steps, pull)
        second = step_curvature(
            self.step_rate, self._parameters, self.composition, slopes.controls, slopes.steps, weight, slopes.before,
            slopes.chain.share,
        )  # fmt: skip
        inner = slopes.chain.sum_by_interval(second)
        outer = np.concatenate(
            [slopes.states[:, :-1], np.broadcast_to(self._spread, (lanes, *self._spread.shape))], axis=2
        )
        d = self.decision_count
        total = np.swapaxes(outer.reshape(lanes, -1, d), 1, 2) @ (inner @ outer).reshape(lanes, -1, d)
        at_nodes = slopes.states[:, 1:]
        if self.limits:
            bent = (bends @ at_nodes).reshape(lanes, -1, d)
            total += np.swapaxes(at_nodes.reshape(lanes, -1, d), 1, 2) @ bent
        (yy, yw), (_, ww) = self._call("bend", ends[:, -1], w)
        last = at_nodes[:, -1]
        mixed = np.swapaxes(last, 1, 2) @ yw
        total += np.swapaxes(last, 1, 2) @ yy @ last + mixed + np.swapaxes(mixed, 1, 2) + ww
        return total

    # --- the whole path ---

    def margins_along_path(self, w: np.ndarray, path: LanePath) -> np.ndarray:
        """Smallest margin of every limit in every part, [pieces, limits]; inf for one at the end, in other parts.

        Looked at is the whole path of one lane [D]: the ends of all steps, and three places within each.
        """
        worst = np.full((self.piece_count, len(self.limits)), np.inf)
        if self.limits and len(path.k):
            controls, hours = self.decode_decisions(w[None])
            c = np.zeros((len(path.k), self.step_rate.control_count))
            c[:, self._columns] = np.repeat(controls[0], self.parts, axis=0)[path.k]
            c[:, -1] = path.share * hours[0] / self.piece_count
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
