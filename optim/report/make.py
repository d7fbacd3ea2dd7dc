"""From an optimum, and the process that its rounded decisions give, to a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optim.errors import IncompatibleError
from optim.optimise.result import Action, ConstraintValue, DecisionValue, Optimum, ProcessOutcome, Series
from optim.report.feeds import feed_schedule, harvest_h, samples
from optim.report.recipe import (
    CostRow,
    Expected,
    HarvestCriterion,
    Metric,
    Provenance,
    Recipe,
    Rounded,
    Setpoint,
)
from optim.report.words import exact, metric_label, percent, pretty_unit, words

Ranges = Mapping[str, tuple[float, float]]
_MET = -1e-6  # of a limit: a margin above this meets its constraint
_BASIS = "starting working volume (not the current one)"


def make_recipe(
    optimum: Optimum, rounded: ProcessOutcome, provenance: Provenance, suggested_ranges: Ranges | None = None
) -> Recipe:
    """The recipe of `rounded`: the optimum's decisions rounded (`round_decisions`) and simulated again.

    `suggested_ranges` gives, by decision, the range that the model suggests, in the decision's unit. Raises
    `IncompatibleError` when the two processes do not have the same decisions.
    """
    best, base = optimum.optimum, optimum.baseline
    if [d.name for d in best.decisions] != [d.name for d in rounded.decisions]:
        raise IncompatibleError(
            f"the rounded process has the decisions {', '.join(d.name for d in rounded.decisions)}, "
            f"the optimum {', '.join(d.name for d in best.decisions)}"
        )
    start_ml = 1000.0 * optimum.vessel_volume_l
    loss = _loss(best, rounded, optimum.objective)
    unverified = sum(not c.verified for c in rounded.cost_items)
    prices = f"{unverified} of {len(rounded.cost_items)} prices are unverified"
    return Recipe(
        title=f"{optimum.clone}: process for best {metric_label(optimum.objective).lower()}",
        status="DRAFT",
        clone=optimum.clone,
        model=optimum.model,
        dataset=optimum.dataset,
        dataset_hash=optimum.dataset_hash,
        simulated=optimum.simulated,
        seed=optimum.seed,
        objective=optimum.objective,
        baseline_name=base.name,
        vessel_volume_ml=start_ml,
        production_volume_l=optimum.production_volume_l,
        volume_basis=_BASIS,
        setpoints=_setpoints(rounded, base, dict(suggested_ranges or {})),
        feeds=feed_schedule(rounded.actions, start_ml, optimum.production_volume_l),
        baseline_feeds=feed_schedule(base.actions, start_ml, optimum.production_volume_l),
        harvest=_harvest(rounded),
        sampling=samples(rounded.actions),
        expected=_expected(rounded.trajectory, base.trajectory),
        metrics=tuple(
            Metric(name, rounded.metric_units[name], rounded.metrics[name], best.metrics[name], base.metrics.get(name))
            for name in rounded.metrics
            if name in best.metrics
        ),
        currency=rounded.currency,
        costs=_costs(rounded, base),
        unverified_prices=prices,
        constraints=rounded.constraints,
        rounding=tuple(
            Rounded(a.name, a.unit, a.value, b.value, a.resolution)
            for a, b in zip(best.decisions, rounded.decisions, strict=True)
        ),
        rounding_loss=loss,
        failed_members=rounded.failed_members,
        warnings=_warnings(rounded, best, prices if unverified else ""),
        notes=optimum.notes,
        provenance=provenance,
    )


def _loss(best: ProcessOutcome, rounded: ProcessOutcome, objective: str) -> float:
    if objective not in best.metrics or objective not in rounded.metrics:
        return math.nan
    before = best.metrics[objective].p50
    return 1.0 - rounded.metrics[objective].p50 / before if before else math.nan


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1.0, abs(a), abs(b))


class _Unused:
    """Decisions that no row of the setpoint table has shown yet, found again by what they set."""

    def __init__(self, process: ProcessOutcome):
        self.left = list(process.decisions)

    def take(self, unit: str, value: float) -> DecisionValue | None:
        for d in self.left:
            if d.unit == unit and _near(d.value, value):
                self.left.remove(d)
                return d
        return None


def _setpoints(process: ProcessOutcome, base: ProcessOutcome, ranges: dict[str, tuple[float, float]]) -> tuple[
    Setpoint, ...
]:
    end = harvest_h(process.actions)
    unused = _Unused(process)
    before = {d.name: d.value for d in base.decisions}

    def row(
        parameter: str,
        unit: str,
        phase: str,
        span: tuple[float, float],
        target: float,
        d: DecisionValue | None,
        scale: float = 1.0,
    ) -> Setpoint:
        low, high = ranges.get(d.name, (None, None)) if d else (None, None)

        def shown(value: float | None) -> float | None:
            return None if value is None else value * scale

        return Setpoint(
            parameter=parameter,
            unit=unit,
            phase=phase,
            start_day=span[0] / 24.0,
            end_day=span[1] / 24.0,
            target=target * scale,
            platform=shown(before.get(d.name)) if d else None,
            model_suggested_range_low=shown(low),
            model_suggested_range_high=shown(high),
            searched_low=shown(d.lower) if d else None,
            searched_high=shown(d.upper) if d else None,
            screened_low=shown(d.screened_low) if d else None,
            screened_high=shown(d.screened_high) if d else None,
            outside_screened=d.outside_screened if d else False,
            rationale=_rationale(d),
        )

    rows = []
    for what, unit in dict.fromkeys((a.what, a.unit) for a in process.actions if a.kind == "setpoint"):
        steps = sorted((a for a in process.actions if a.kind == "setpoint" and a.what == what), key=_time)
        names = {1: ("whole run",), 2: ("growth", "production")}.get(len(steps)) or tuple(
            f"phase {i + 1}" for i in range(len(steps))
        )
        for i, (step, name) in enumerate(zip(steps, names, strict=True)):
            until = steps[i + 1].time_h if i + 1 < len(steps) else end
            if i > 0 and (shift := unused.take("h", step.time_h)):
                rows.append(row(f"{words(what)} shift", "d", "at", (step.time_h,) * 2, step.time_h, shift, 1.0 / 24.0))
            found = unused.take(step.unit, step.value)
            rows.append(row(words(what), step.unit, name, (step.time_h, until), step.value, found))
    rows.append(row("Harvest", "d", "at", (end, end), end, unused.take("h", end), 1.0 / 24.0))
    # volumes, and rates that are pieces of a profile, are the feed schedule; the two numbers of an exponential are not
    exponential = any(d.unit == "1/h" for d in unused.left)
    rows += [
        row(words(d.name), d.unit, "feeding", (0.0, end), d.value, d)
        for d in unused.left
        if d.unit != "mL" and (exponential or d.unit != "mL/h")
    ]
    return tuple(rows)


def _time(action: Action) -> float:
    return action.time_h


def _rationale(d: DecisionValue | None) -> str:
    if d is None:
        return "kept as in the platform process"
    parts = ["optimised"]
    if d.at_bound:
        near_low = abs(d.value - d.lower) <= abs(d.upper - d.value)
        parts.append(f"at the {'lower' if near_low else 'upper'} end of the range searched: a wider one may do better")
    if d.outside_screened:
        parts.append("outside what was screened: test before relying on it")
    return "; ".join(parts)


def _harvest(process: ProcessOutcome) -> tuple[HarvestCriterion, ...]:
    end = harvest_h(process.actions)
    first = HarvestCriterion("culture time", "at", end, "h", end, f"day {exact(end / 24.0)}")
    return (
        first,
        *(
            HarvestCriterion(
                criterion=words(c.name).lower(),
                rule="not below" if c.kind == "min" else "not above",
                value=c.limit,
                unit=c.unit,
                expected=c.value,
                note=f"met with probability {percent(c.probability_met, 0)}",
            )
            for c in process.constraints
        ),
    )


def _expected(process: Series, base: Series) -> tuple[Expected, ...]:
    rows = []
    for i, name in enumerate(process.names):
        j = base.names.index(name) if name in base.names else None

        def of_base(values: str, j: int | None = j) -> tuple[float, ...]:
            return () if j is None else tuple(float(v) for v in getattr(base, values)[j])

        rows.append(
            Expected(
                name=name,
                unit=process.units[i],
                time_h=tuple(float(v) for v in process.time_h),
                p05=tuple(float(v) for v in process.p05[i]),
                p50=tuple(float(v) for v in process.p50[i]),
                p95=tuple(float(v) for v in process.p95[i]),
                baseline_time_h=() if j is None else tuple(float(v) for v in base.time_h),
                baseline_p05=of_base("p05"),
                baseline_p50=of_base("p50"),
                baseline_p95=of_base("p95"),
            )
        )
    return tuple(rows)


def _costs(process: ProcessOutcome, base: ProcessOutcome) -> tuple[CostRow, ...]:
    total = sum(c.cost for c in process.cost_items)
    before = {c.name: c.cost for c in base.cost_items}
    return tuple(
        CostRow(
            name=c.name,
            category=c.category,
            amount=c.amount,
            amount_unit=c.amount_unit,
            price=c.price,
            price_unit=c.price_unit,
            cost=c.cost,
            share=c.cost / total if total else math.nan,
            baseline_cost=before.get(c.name),
            verified=c.verified,
            source=c.source,
        )
        for c in process.cost_items
    )


def _broken(constraints: tuple[ConstraintValue, ...]) -> dict[str, ConstraintValue]:
    return {c.name: c for c in constraints if c.margin < _MET * abs(c.limit)}


def _warnings(rounded: ProcessOutcome, best: ProcessOutcome, prices: str) -> tuple[str, ...]:
    found = []
    already = _broken(best.constraints)
    for name, c in _broken(rounded.constraints).items():
        why = "not met" if name in already else "no longer met after rounding"
        found.append(f"{words(name)}: {exact(c.value)} against a {c.kind} of {exact(c.limit)} {pretty_unit(c.unit)}, {why}")
    steps = {d.resolution for d in rounded.decisions if d.unit == "mL" and d.resolution > 0.0}
    if steps:
        step = min(steps)
        off = [a for a in rounded.actions if a.kind == "bolus" and abs(a.value / step - round(a.value / step)) > 1e-4]
        found += [
            f"the bolus of {exact(a.value)} mL at {exact(a.time_h)} h is no multiple of {exact(step)} mL: harvest cuts "
            "its day short, so a part of it is given"
            for a in off
        ]
    outside = [words(d.name).lower() for d in rounded.decisions if d.outside_screened]
    if outside:
        found.append(f"outside the screened range: {', '.join(outside)}")
    if rounded.failed_members:
        found.append(f"{rounded.failed_members} parameter sets could not be simulated and are left out of the intervals")
    if prices:
        found.append(prices)
    return tuple(found)
