"""One vessel simulated from Python: a model, what is done to the vessel, and the run that follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from optim.app.build import basal_medium, feed_media
from optim.app.model import Model
from optim.artefact import Lineage
from optim.errors import ConfigError, nearest
from optim.schedule.actions import Harvest

if TYPE_CHECKING:
    from optim.schedule.actions import Action
    from optim.simulation.run import SimulatedRun

Composition = Mapping[str, float]
SHOWN_TIMES = 200  # of a run whose times are not given


def simulate(
    model: Model,
    actions: Iterable[Action],
    *,
    initial: Composition | None = None,
    stocks: Mapping[str, Composition] | None = None,
    volume_ml: float | None = None,
    parameters: Mapping[str, float] | None = None,
    times_h: Sequence[float] | None = None,
) -> SimulatedRun:
    """Simulate one vessel.

    Args:
        model: from `optim.load_model`.
        actions: what is done to the vessel, objects of `optim.actions` in any order, with one `Harvest`, which ends it.
        initial: concentrations just after inoculation, by species, each in the unit of the species. Those that are not
            named have the value that the model's own design gives them.
        stocks: composition of feeds by name, by component of media (canonical unit) or species; beside those of the
            model's own design.
        volume_ml: at the start; by default that of the model's own vessel.
        parameters: values by name, in the unit of the model's table, such as `result.estimates("C01")`; parameters that
            are not named have their configured value.
        times_h: times at which the run is observed, beside those of the actions; by default 200 equal steps.

    Returns:
        States, assays and harvested amounts over time, with tables and figures.

    Raises:
        ConfigError: an unknown species, parameter or feed, or a plan that cannot be run; lists every fault.
        SimulationError: the run ends before its harvest; names the time, the reason and the remedy.
    """
    from optim.data.screened import Screen
    from optim.schedule.plan import make_plan
    from optim.schedule.schedule import to_grid
    from optim.simulation.cultivation import Cultivation
    from optim.simulation.engine.stiffness import integrator_for
    from optim.simulation.simulate import check_trajectory, observe_nodes, simulate_one
    from optim.simulation.vessel import make_vessel

    design, kinetics = model.settings.design, model.kinetics
    actions = tuple(actions)
    start_ml = float(model.settings.vessel.start_volume_ml if volume_ml is None else volume_ml)
    end = max((a.time_h for a in actions if isinstance(a, Harvest)), default=0.0)
    observed = np.linspace(0.0, end, SHOWN_TIMES + 1) if times_h is None else np.asarray(times_h, float)
    plan = make_plan(actions, observed_h=observed, volume_ml=start_ml)
    screen = Screen.without_data()
    media = feed_media(design, screen) | dict(stocks or {})
    own = kinetics.initial(basal_medium(design, screen), design.inoculum_vcd_1e6_per_ml, dict(design.initial))
    state = _merged("initial", own, initial or {}, "species")
    values = _merged("parameters", model.parameters.natural_values(), parameters or {}, "parameter")
    p = kinetics.Parameters(*(values[name] for name in kinetics.Parameters._fields))
    cultivation = Cultivation(
        initial=kinetics.State(**state),
        volume=np.asarray(start_ml / 1000.0),
        grid=to_grid(plan.schedule)[0],
        vessel=make_vessel(kinetics, plan, media),
    )
    trajectory = simulate_one(kinetics, p, cultivation, integrator=integrator_for(kinetics, model.settings.integrator))
    check_trajectory(trajectory, ("the vessel",))
    assays = observe_nodes(kinetics, p, trajectory, grid=cultivation.grid)
    return _as_run(model, actions, trajectory, assays)


def _merged(where: str, values: Composition, changes: Composition, what: str) -> dict[str, float]:
    unknown = [name for name in changes if name not in values]
    if unknown:
        told = "; ".join(f"no {what} '{name}'.{nearest(name, values)}" for name in unknown)
        raise ConfigError(f"{where}: {told} Known: {', '.join(values)}")
    for name, value in changes.items():
        if not np.isfinite(value):
            raise ConfigError(f"{where}: {name} is {value}; give a number")
    return {name: float(changes.get(name, value)) for name, value in values.items()}


def _as_run(model: Model, actions: tuple[Action, ...], trajectory: Any, assays: Mapping[str, Any]) -> SimulatedRun:
    from optim.simulation.run import SimulatedRun
    from optim.units import VARIABLES, display_unit

    kinetics = model.kinetics
    units = {s.name: s.unit for s in kinetics.species}
    rows = {("volume", "mL"): 1000.0 * np.asarray(trajectory.volume)}
    rows |= {(n, display_unit(units[n])): np.asarray(getattr(trajectory.concentrations, n)) for n in kinetics.names()}
    rows |= {(n, display_unit(VARIABLES[n].unit)): np.asarray(v) for n, v in assays.items()}
    rows |= {(f"harvested_{n}", units[n].split("/")[0]): np.asarray(v) for n, v in trajectory.collected.items()}
    t = np.asarray(trajectory.t)
    keep = np.concatenate([[True], np.diff(t) > 1e-9])  # a grid is padded with intervals of no length
    notes = () if model.settings.model.verified else ("this model has not been checked against its publication",)
    return SimulatedRun(
        title=model.settings.model.title,
        time_h=t[keep],
        names=tuple(name for name, _ in rows),
        units=tuple(unit for _, unit in rows),
        values=np.stack(list(rows.values()))[:, keep],
        actions=actions,
        lineage=Lineage(model.name, "", "", True, 0, notes),
    )
