"""A process simulated over the parameter ensemble: trajectories with bands, metrics with intervals, bill, margins."""

from __future__ import annotations

import numpy as np

from optim.errors import SimulationError, Status
from optim.optimisation.result import (
    ConstraintValue,
    CostItem,
    DecisionValue,
    Interval,
    ProcessOutcome,
    Series,
)
from optim.process.cost import DRIVERS, HarvestedBatch
from optim.process.design import Design
from optim.process.lanes import Lanes, as_lanes
from optim.process.problem import ProcessProblem, Trace
from optim.runtime import require_float64
from optim.schedule.actions import Action
from optim.schedule.decode import actions_of
from optim.units import VARIABLES, display_unit

AT_BOUND = 1e-4  # of a decision's span
ACTIVE_MARGIN = 1e-3  # of a constraint's limit
LEAST_FREE_SPAN = 1e-6  # a decision with a smaller span was not free


def evaluate_process(
    problem: ProcessProblem,
    name: str,
    x: np.ndarray,
    *,
    ensemble: Lanes | np.ndarray,
) -> ProcessOutcome:
    """The process with decisions x [D] over an ensemble (lanes, or parameters [E, P]), member 0 being the estimate.

    Metrics of members that failed are left out and counted. Raises `SimulationError` when the estimate itself fails.
    """
    require_float64("evaluate_process")
    lanes = as_lanes(ensemble)
    trace = problem.trace(np.tile(x, (lanes.number, 1)), lanes)
    if trace.status[0] != 0:
        code = Status(int(trace.status[0]))
        raise SimulationError(f"process '{name}' cannot be simulated: {code.name.lower()}; {code.remedy}")
    good = trace.status == 0
    metrics = {
        key: Interval.of(trace.metrics[good, i])
        for i, key in enumerate(problem.metrics)
        if np.isfinite(trace.metrics[good, i]).all()
    }
    return ProcessOutcome(
        name=name,
        decisions=decision_values(problem, x),
        actions=process_actions(problem, x),
        trajectory=_series(problem, trace, good),
        metrics=metrics,
        metric_units={key: problem.metrics[key].unit for key in metrics},
        cost_items=cost_items(problem, HarvestedBatch(*(np.asarray(v)[0] for v in trace.harvest))),
        currency=problem.book.currency,
        constraints=constraint_values(problem, trace, good),
        failed_members=int(np.sum(~good)),
    )


def decision_values(problem: ProcessProblem, x: np.ndarray) -> tuple[DecisionValue, ...]:
    """Decisions with their bounds and screened ranges."""
    rows = []
    for d, value in zip(problem.design.decisions, x, strict=True):
        low, high = (None, None) if d.feed else problem.screened.get(d.what.screened, (None, None))
        span = d.upper - d.lower
        slack = max(1e-6, 0.5 * d.resolution)
        outside = low is not None and high is not None and not low - slack <= value <= high + slack
        rows.append(
            DecisionValue(
                name=d.name,
                kind=d.kind,
                unit=d.unit,
                value=float(value),
                lower=d.lower,
                upper=d.upper,
                at_bound=span > LEAST_FREE_SPAN and bool(min(value - d.lower, d.upper - value) < AT_BOUND * span),
                screened_low=low,
                screened_high=high,
                outside_screened=bool(outside),
                resolution=d.resolution,
            )
        )
    return tuple(rows)


def process_actions(problem: ProcessProblem, x: np.ndarray) -> tuple[Action, ...]:
    """What is done to the vessel, from the very schedule that is simulated, with the feeds' names of the design."""
    import jax

    design = problem.design
    perfused = [design.feeds[j] for j in design.perfusion_feeds]
    schedule = jax.jit(Design.schedule, static_argnums=0)(design, np.asarray(x, float))
    return actions_of(schedule, design.feeds, perfused=perfused)


def _series(problem: ProcessProblem, trace: Trace, good: np.ndarray) -> Series:
    keep = np.concatenate([[True], np.diff(trace.t[0]) > 1e-9])
    volume = 1000.0 * trace.volume
    content = (
        [trace.observed[:, problem.observed.index("product")] / trace.observed[:, problem.observed.index("biomass")]]
        if {"product", "biomass"} <= set(problem.observed)
        else []
    )
    values = [trace.observed[:, i] for i in range(len(problem.observed))] + content + [volume, trace.temperature]
    names = (*problem.observed, *(["product_per_biomass"] if content else []), "volume", "temperature")
    units = (
        *(display_unit(VARIABLES[v].unit) for v in problem.observed),
        *(["g/g"] if content else []),
        "mL",
        "°C",
    )
    stack = np.stack([v[good] for v in values])[:, :, keep]  # [V, E, T]
    low, middle, high = np.quantile(stack, (0.05, 0.5, 0.95), axis=1)
    return Series(trace.t[0][keep], names, units, low, middle, high)


def cost_items(problem: ProcessProblem, harvest: HarvestedBatch) -> tuple[CostItem, ...]:
    """Cost of every item of a production batch at the estimate."""
    import jax.numpy as jnp

    book = problem.book
    h = HarvestedBatch(*(jnp.asarray(v) for v in harvest))
    amounts = {key: float(v) for key, v in book.drivers(h).items()}
    costs = np.asarray(book.costs(jnp.asarray(book.prices()), h))
    return tuple(
        CostItem(
            name=item.name,
            category=item.category,
            amount=amounts[item.driver],
            amount_unit=DRIVERS[item.driver],
            price=item.price,
            price_unit=item.unit,
            cost=float(c),
            verified=item.verified,
            source=item.source,
        )
        for item, c in zip(book.rows, costs, strict=True)
    )


def constraint_values(problem: ProcessProblem, trace: Trace, good: np.ndarray) -> tuple[ConstraintValue, ...]:
    """Every constraint over the lanes of a trace: margins of lane 0, and the share of good lanes that meet it."""
    rows, at = [], 0
    nodes = trace.t.shape[1]
    for c in problem.constraints:
        width = nodes if c.where == "path" else 1
        margins = trace.margins[:, at : at + width].min(axis=1) * abs(c.limit)
        at += width
        margin = float(margins[0])
        rows.append(
            ConstraintValue(
                name=c.name,
                unit=c.unit,
                kind=c.kind,
                where=c.where,
                limit=c.limit,
                value=c.limit - margin if c.kind == "max" else c.limit + margin,
                margin=margin,
                active=abs(margin) < ACTIVE_MARGIN * abs(c.limit),
                probability_met=float(np.mean(margins[good] >= -1e-6 * abs(c.limit))),
            )
        )
    return tuple(rows)
