"""A simulated batch with a hidden truth: what is asked for, what the pump gives, what is drawn and read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

from optim.data.dataset import Dataset, Measurements, Run
from optim.data.schedules import feeds_of, schedule_of
from optim.kinetics.cho_moller import ChoMoller, Parameters
from optim.process.lanes import Lanes, VesselStart
from optim.process.problem import ProcessProblem
from optim.replanning.remaining import remaining_design
from optim.schedule.actions import Action, Bolus, Sample, Setpoint, start_time
from optim.schedule.schedule import to_grid
from optim.simulation.balance import Vessel
from optim.simulation.cultivation import Cultivation
from optim.simulation.engine.march import Integrator
from optim.simulation.simulate import check_trajectory, observe_nodes, simulate_cultivations
from optim.synthetic import (
    BASAL_MEDIUM,
    CLONE_SPREAD,
    FEED,
    INOCULUM_VCD,
    QP_RANGE,
    SAMPLE_ML,
    SCREEN_ASSAYS,
    START_ML,
    TYPICAL_CLONE,
)
from optim.units import HOURS_PER_DAY

MODEL = ChoMoller()
INTERVALS = 64
EXACT = Integrator(rtol=1e-8, atol=1e-9)


@dataclass(frozen=True)
class Truth:
    """What nobody knows: the clone, the cells at the start, and what the pump gives of what is asked of it, by day."""

    clone: str
    parameters: Parameters
    inoculum: float
    pump: dict[int, float]
    seed: int

    def start(self) -> np.ndarray:
        """Concentrations [N] and volume (L) at time 0."""
        first = np.array(list(MODEL.initial(BASAL_MEDIUM, INOCULUM_VCD, {}).values()))
        first[:2] *= self.inoculum
        return np.append(first, START_ML / 1000.0)

    def lane(self) -> Lanes:
        """As the lane of a process problem."""
        first = self.start()[None]
        return Lanes(np.array(self.parameters)[None], VesselStart(first[:, :-1], first[:, -1]))


def hidden(seed: int, screened: Dataset | None) -> Truth:
    """Inoculum 25 % up or down at most, a pump that gives 20 % less on two days; a clone of the population, or of a
    screen where one is given."""
    rng = np.random.default_rng([seed, 7])
    inoculum, first = float(rng.uniform(0.75, 1.25)), int(rng.integers(3, 9))
    if screened is None:
        own = {
            n: float(getattr(TYPICAL_CLONE, n)) * float(np.exp(s * rng.standard_normal()))
            for n, s in CLONE_SPREAD.items()
        }
        own["qP"] = float(np.clip(own["qP"], *QP_RANGE))
        name, parameters = "NEW", TYPICAL_CLONE._replace(**own)
    else:
        assert screened.truth is not None
        name = screened.clones[int(rng.integers(len(screened.clones)))]
        known = screened.truth[""] | screened.truth[name]
        parameters = Parameters(*(known[n] for n in Parameters._fields))
    return Truth(name, parameters, inoculum, {first: 0.8, first + 1: 0.8}, seed)


@dataclass(frozen=True)
class Batch:
    """One batch under way under its truth."""

    truth: Truth
    actions: tuple[Action, ...] = ()
    now_h: float = 0.0
    begun: bool = False
    readings: tuple[tuple[float, str, float, str], ...] = field(default=())

    def run(self, end_h: float) -> Run:
        return Run(
            run_id="R1",
            experiment_id="LATER",
            vessel_id="V1",
            clone_id=self.truth.clone,
            start_volume_l=START_ML / 1000.0,
            medium_id="basal_a",
            temperature_c=36.8,
            ph=7.0,
            inoculum_vcd=INOCULUM_VCD,
            end_time_h=end_h,
            actions=self.actions,
        )

    def until(self, now_h: float, plan: dict[str, float], times: dict[str, float]) -> Batch:
        """The batch at a later time, the plan carried out in between: boluses from now on, up to but without then."""
        actions = list(self.actions)
        for name, t in times.items():
            if self.now_h <= t < now_h and plan[name] > 0.0:
                dose = plan[name] / 1000.0 * self.truth.pump.get(round(t / HOURS_PER_DAY), 1.0)
                # the last dose is cut short where harvest comes within its day
                dose *= float(np.clip((plan["harvest"] - t) / HOURS_PER_DAY, 0.0, 1.0))
                actions.append(Bolus(t, "feed_a", 1000.0 * dose))
        drawn = [
            d * HOURS_PER_DAY
            for d in range(14)
            if (self.now_h < d * HOURS_PER_DAY or not self.begun) and d * HOURS_PER_DAY <= now_h
        ]
        actions += [Sample(t, SAMPLE_ML) for t in drawn]
        shift = plan["shift_time"]
        if self.now_h < shift <= now_h:
            actions.append(Setpoint(shift, temperature_c=plan["shift_temperature"]))
        ordered = tuple(sorted(actions, key=start_time))
        later = replace(self, actions=ordered, now_h=now_h, begun=True)
        return replace(later, readings=(*self.readings, *later._read(drawn)))

    def _read(self, times: list[float]) -> list[tuple[float, str, float, str]]:
        rows = []
        true = truth_at(self.truth, self.run(self.now_h + 0.01), np.array(times)) if times else {}
        for i, t in enumerate(times):
            day = round(t / HOURS_PER_DAY)
            for k, (variable, (relative, absolute, limit, days)) in enumerate(SCREEN_ASSAYS.items()):
                if day not in days:
                    continue
                # the same noise whatever was done before
                noise = np.random.default_rng([self.truth.seed, 11, day, k]).standard_normal()
                value = float(true[variable][i])
                seen = value + float(np.hypot(relative * value, absolute)) * noise
                seen = min(max(seen, 0.0), 1.0) if variable == "viability" else max(seen, 0.0)
                below = seen < limit
                rows.append((t, variable, limit if below else seen, "<" if below else ""))
        return rows

    def dataset(self) -> Dataset:
        """What the laboratory has of it."""
        time, variable, value, censored = zip(*self.readings, strict=True)
        n = len(time)
        return Dataset(
            name="running",
            description="a simulated batch under way",
            organism="CHO (simulated)",
            citation="",
            licence="Apache-2.0",
            simulated=True,
            content_hash="simulated",
            runs=(self.run(self.now_h),),
            measurements=Measurements(
                np.zeros(n, int), np.array(time), variable, np.array(value), censored, ("1",) * n
            ),
            media={"basal_a": BASAL_MEDIUM, "feed_a": FEED},
        )


@jax.jit
def _simulated(p: Parameters, start: jax.Array, volume: jax.Array, grid: object, feeds: jax.Array) -> object:
    cultivation = Cultivation(MODEL.State(*start), volume, grid, Vessel(feeds))
    p, cultivation = jax.tree.map(lambda x: jnp.asarray(x)[None], (p, cultivation))
    trajectory = simulate_cultivations(MODEL, p, cultivation, integrator=EXACT)
    return trajectory, jax.vmap(lambda p, t, g: observe_nodes(MODEL, p, t, grid=g))(p, trajectory, cultivation.grid)


def truth_at(truth: Truth, run: Run, times: np.ndarray) -> dict[str, np.ndarray]:
    """True values of every assay at some times of a run, by the plain simulator."""
    schedule = schedule_of(run, times, feeds_of(run))
    grid, _ = to_grid(jax.tree.map(jnp.asarray, schedule), INTERVALS)
    start, feeds = truth.start(), np.array([MODEL.feed(FEED)])
    trajectory, seen = _simulated(truth.parameters, start[:-1], start[-1], grid, feeds)
    check_trajectory(trajectory, (run.run_id,))
    place = [int(np.argmin(np.abs(np.asarray(grid.t) - t))) for t in times]
    return {name: np.asarray(v)[0, place] for name, v in seen.items()}


def judged(problem: ProcessProblem, batch: Batch, plan: dict[str, float]) -> dict[str, float]:
    """The objective and the worst relative margin of every limit, from inoculation to harvest, under the truth."""
    # all is done but the harvest; doses still open lie after it, or are none
    now = min(batch.now_h, plan["harvest"] - 0.02)
    left, _ = remaining_design(problem.design, batch.run(plan["harvest"]), now_h=now, feeds=("feed_a",))
    x = np.array([plan["harvest"] if d.kind == "harvest" else 0.0 for d in left.decisions])
    x = np.array([plan[d.name] if "shift" in d.kind else v for d, v in zip(left.decisions, x, strict=True)])
    trace = replace(problem, design=left, integrator=EXACT).trace(x[None], batch.truth.lane())
    if trace.status[0] != 0:
        raise RuntimeError(f"the truth of seed {batch.truth.seed} cannot be simulated: status {trace.status[0]}")
    found = {"objective": float(trace.metrics[0, list(problem.metrics).index(problem.metric)])}
    volume = 1000.0 * (trace.volume[0])
    for c in problem.constraints:
        value = volume if c.variable == "volume" else trace.observed[0, problem.observed.index(c.variable)]
        room = ((c.limit - value) if c.kind == "max" else (value - c.limit)) / abs(c.limit)
        found[c.name] = float(room.min() if c.where == "path" else room[-1])
    return found
