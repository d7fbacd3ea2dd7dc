"""The commands as functions: each reads the artefacts before it and its own configuration, and writes its own artefact.

`run` is the whole flow: fit, rank, optimise, export, in one tracked run.
"""

from __future__ import annotations

import platform
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from optim import __version__
from optim.artefact import load, save
from optim.config import build_fit, build_process, build_table, config_hash, model_config
from optim.data.dataset import Dataset
from optim.data.registry import open_dataset
from optim.errors import (
    BoundActiveWarning,
    ConfigError,
    ExtrapolationWarning,
    IncompatibleError,
    OptimError,
    UnidentifiableWarning,
    UnverifiedWarning,
    nearest,
)
from optim.fit.estimate import FitOptions
from optim.fit.fit import fit as fit_problem
from optim.fit.problem import FitProblem
from optim.fit.result import FitResult, ModelScore
from optim.fit.score import log_predictive, r_squared
from optim.fit.transfer import update
from optim.optimise.optimise import NEWCOMER, About, parameter_sets
from optim.optimise.optimise import optimise as optimise_process
from optim.optimise.optimise import rank as rank_clones
from optim.optimise.outcome import Ranges, outcome
from optim.optimise.result import Optimum, ProcessOutcome, Ranking
from optim.optimise.solve import OptimiseOptions
from optim.process.problem import ProcessProblem
from optim.report import plots, terminal
from optim.report.export import export_recipe, parameter_csv, ranking_csv, trajectory_csv
from optim.report.fit_page import fit_page
from optim.report.page import png
from optim.report.recipe import Provenance, Recipe, broken_limits, make_recipe, rounded_decisions
from optim.report.tracking import Tracker, TrackingOptions, open_tracker

Say = Callable[[str], None]
VAGUE = 0.9  # of the prior's standard deviation: a posterior wider than this has learnt nothing


@dataclass
class Session:
    """One command at work: where it writes, how it is tracked, how it tells."""

    cfg: DictConfig
    out: Path
    tracker: Tracker
    say: Say
    progress: Say
    told: set[str] = field(default_factory=set)

    def table(self, text: str, name: str) -> None:
        file = self.out / "tables" / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        self.tracker.file(file, "tables")

    def page(self, text: str, name: str) -> None:
        """Write an HTML page to the output folder, and give it to the tracked run."""
        file = self.out / name
        draft = file.with_suffix(".part")
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
        self.tracker.file(file, "")
        self.say(f"  report: {file}")

    def keep(self, artefact: Any, name: str) -> None:
        """Write an artefact to the output folder, and give it to the tracked run."""
        self.tracker.folder(save(artefact, self.out / name), name)

    def lines(self, lines: list[str]) -> None:
        for line in lines:
            self.say(line)

    def note(self, text: str) -> None:
        """Say a note once, however many artefacts carry it."""
        if text not in self.told:
            self.told.add(text)
            self.say(f"  note: {text}")

    def figure(self, figure: Any, name: str) -> None:
        folder = self.out / "plots"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.png"
        file.write_bytes(png(figure))
        self.tracker.file(file, "plots")


@contextmanager
def session(cfg: DictConfig, command: str, say: Say = print, progress: Say = lambda text: None) -> Iterator[Session]:
    """Open the output folder and tracking for one command. Raises `OptimError` for a folder that cannot be written."""
    out = Path(cfg.out).expanduser().resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
        (out / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    except OSError as err:
        raise OptimError(f"cannot write to out={cfg.out}: {err.strerror or err}. Choose a writable folder.") from err
    import jax

    t = cfg.tracking
    options = TrackingOptions(t.enabled, t.uri, t.experiment, Path(t.workspace), t.child_runs)
    tags = {
        "optim.command": command,
        "optim.version": __version__,
        "optim.config_hash": config_hash(cfg)[:16],
        "jax": version("jax"),
        "x64": str(jax.config.jax_enable_x64),
        "device": jax.default_backend(),
    }
    with open_tracker(options, f"{cfg.name} {command}", tags) as tracker:
        tracker.text(OmegaConf.to_yaml(cfg), "config.yaml")
        tracker.parameters(
            {
                "experiment": cfg.name,
                "model": cfg.model.name,
                "dataset": cfg.dataset.name,
                "maximise": cfg.objective.maximise,
                "cost": cfg.cost.name,
                "seed": cfg.seed,
                "starts": cfg.optimise.starts,
            }
        )
        yield Session(cfg, out, tracker, say, progress)


# --- fit ------------------------------------------------------------------------------------------------------------


def fit(s: Session) -> FitResult:
    """Fit the configured model (and those it is compared with) to the dataset; writes `out/fit`."""
    cfg = s.cfg
    dataset = open_dataset(cfg.dataset.name)
    label = "SIMULATED data" if dataset.simulated else "measured data"
    s.say(
        f"{cfg.title}: {label}, {len(dataset.runs)} runs of {_groups(dataset)}, "
        f"{len(dataset.measurements.value)} values"
    )
    problem = build_fit(cfg, dataset)
    options = _fit_options(cfg)
    rest = (options, cfg.seed, cfg.model.name, cfg.fit.leave_one_out, s.progress)
    if cfg.fit.continue_from:
        result = update(load(FitResult, Path(cfg.fit.continue_from) / "fit"), problem, *rest)
    else:
        result = fit_problem(problem, *rest)
    scores = [_compared(s, dataset, name, options) for name in cfg.fit.compare if name != cfg.model.name]
    scores.append(_score(result))
    result = replace(result, comparison=tuple(sorted(scores, key=lambda m: -m.aicc)) if len(scores) > 1 else ())
    s.keep(result, "fit")
    _report_fit(s, result, dataset)
    return result


def _groups(dataset: Dataset) -> str:
    if len(dataset.clones) > 1:
        return f"{len(dataset.clones)} clones"
    return f"one strain in {len({run.experiment_id for run in dataset.runs})} campaigns"


def _fit_options(cfg: DictConfig) -> FitOptions:
    f = cfg.fit
    return FitOptions(
        starts=f.starts,
        max_iterations=f.max_iterations,
        tolerance=f.tolerance,
        ensemble=f.ensemble,
        start_spread=f.start_spread,
        noise_rounds=f.noise_rounds,
        estimate_spread=f.estimate_spread,
        startup=f.startup,
        quality=f.quality,
        identify=f.identify,
        profiles=tuple(f.profiles),
        ensemble_by=f.ensemble_by,
        draws=f.draws,
    )


def _compared(s: Session, dataset: Dataset, name: str, options: FitOptions) -> ModelScore:
    problem = build_fit(s.cfg, dataset, model_config(name))
    # compared by their scores alone
    one = replace(options, ensemble=2, quality=False, identify=False, profiles=(), ensemble_by="laplace")
    return _score(fit_problem(problem, one, s.cfg.seed, name, s.cfg.fit.leave_one_out, s.progress))


def _score(r: FitResult) -> ModelScore:
    left = r_squared(r.left_out) if r.left_out is not None else {}
    scores = [float("nan") if o is None else log_predictive(o) for o in (r.left_out, r.clones_left_out)]
    return ModelScore(r.model, r.n_parameters, r.log_likelihood, r.aicc, r.bic, r.r2, left, *scores)


def _report_fit(s: Session, r: FitResult, dataset: Dataset) -> None:
    s.lines(terminal.fit_lines(r))
    for note in r.notes:
        s.note(note)
    bound = [f"{p.name} {p.owner}".strip() for p in r.parameters if p.at_bound]
    if bound:
        warnings.warn(f"estimates at their bounds: {', '.join(bound)}", BoundActiveWarning, stacklevel=2)
    vague = [p.name for p in r.parameters if p.level in ("shared", "population") and p.shrinkage > VAGUE]
    if vague:
        message = f"the data say little about {', '.join(vague)}: their intervals are as wide as the prior"
        warnings.warn(message, UnidentifiableWarning, stacklevel=2)
    s.tracker.dataset(dataset, "fit")
    s.tracker.metrics(terminal.fit_metrics(r))
    s.tracker.history("fit/cost_per_iteration", r.history)
    s.table(parameter_csv(r), "parameters")
    for variable in dict.fromkeys(r.observations.variable):
        s.figure(plots.fit_assay(r, variable), f"fit_{variable}")
        if r.left_out is not None:
            s.figure(plots.fit_assay(r, variable, r.left_out), f"left_out_{variable}")
    s.figure(plots.parity(r), "parity")
    s.figure(plots.residuals(r), "residuals")
    if r.recovery:
        s.figure(plots.recovery(r), "recovery")
    s.page(fit_page(r, s.cfg.title), "fit.html")
    if s.cfg.tracking.child_runs:
        for clone in r.clones:
            own = {p.name: p.estimate for p in r.parameters if p.owner == clone and p.level == "clone"}
            s.tracker.child(f"clone {clone}", {"clone": clone}, {f"clone/{k}": v for k, v in own.items()})


# --- rank and optimise ------------------------------------------------------------------------------------------------


def _problem(s: Session, result: FitResult, dataset: Dataset, case: str = "") -> ProcessProblem:
    if result.model != s.cfg.model.name:
        raise IncompatibleError(
            f"{s.out / 'fit'} is a fit of model '{result.model}', the configuration says '{s.cfg.model.name}'; "
            "run `optim fit` with this configuration first"
        )
    if result.dataset_hash != dataset.content_hash:
        raise IncompatibleError(
            f"{s.out / 'fit'} was made from other data than '{dataset.name}' now holds; run `optim fit` again"
        )
    chosen = s.cfg.objective.also[case] if case else None
    if chosen is None:
        return build_process(s.cfg, dataset)
    return build_process(s.cfg, dataset, chosen.maximise, dict(chosen.hold))


def _ensembles(
    s: Session, problem: ProcessProblem, result: FitResult, clones: tuple[str, ...]
) -> dict[str, np.ndarray]:
    fixed = {n: float(p.value) for n, p in s.cfg.model.parameters.items() if p.level == "fixed"}
    return {c: parameter_sets(result, fixed, problem.model, c) for c in clones}


def _about(s: Session, problem: ProcessProblem, result: FitResult, dataset: Dataset) -> About:
    notes = ["SIMULATED data: nothing here was measured"] if dataset.simulated else []
    notes.append(f"price book '{problem.book.title}': {problem.book.unverified_text()}")
    loose = [c.name for c in problem.constraints if not c.verified]
    if loose:
        notes.append(f"limits without a source: {', '.join(loose)}")
    unverified = sorted({p.name for p in result.parameters if not p.verified})
    if unverified:
        notes.append(f"parameters whose prior has no source: {', '.join(unverified)}")
    return About(result, s.cfg.seed, s.cfg.design.feed_id, screened_ranges(dataset), tuple(notes))


def screened_ranges(dataset: Dataset) -> Ranges:
    """Range of each kind of decision in the data: what the screen can speak for."""
    ranges: Ranges = {"harvest": (0.0, max(run.end_time_h for run in dataset.runs))}
    levels, steps, shifts, doses, starts, rates = [], [], [], [0.0], [], []
    for run in dataset.runs:
        changes = [e for e in run.events if e.kind == "temperature"]
        held = [(0.0, run.temperature_c)] + [(e.time_h, e.value) for e in changes]
        until = [t for t, _ in held[1:]] + [run.end_time_h]
        levels.append(sum(v * (b - a) for (a, v), b in zip(held, until, strict=True)) / run.end_time_h)
        if len(changes) == 1:
            steps.append(changes[0].value)
            shifts.append(changes[0].time_h)
        doses += [1000.0 * e.value for e in run.events if e.kind == "bolus"]
        flows = [e for e in run.events if e.kind == "feed_rate" and e.feed_id != "base"]
        rates += [1000.0 * e.value for e in flows]
        starts += [1000.0 * e.value for e in flows if e.time_h == 0.0]
    named = {"shift_temperature": steps, "shift_time": shifts, "feed_rate": rates, "feed_start": starts}
    ranges |= {kind: (min(v), max(v)) for kind, v in named.items() if v}
    if len(doses) > 1:
        ranges["bolus"] = (min(doses), max(doses))
    if not steps:
        ranges["temperature"] = (min(levels), max(levels))
    return ranges


def _options(cfg: DictConfig) -> OptimiseOptions:
    o = cfg.optimise
    if o.starts < 1 or o.rank_starts < 1:
        raise ConfigError("optimise: starts and rank_starts must be at least 1")
    return OptimiseOptions(o.starts, o.rank_starts, o.max_iterations, o.tolerance)


def rank(s: Session, result: FitResult | None = None) -> Ranking:
    """Rank all clones, each at its own optimised process; reads `out/fit`, writes `out/ranking`."""
    result = result or load(FitResult, s.out / "fit")
    dataset = open_dataset(s.cfg.dataset.name)
    problem = _problem(s, result, dataset)
    if result.group_by != "clone":
        raise ConfigError("rank: the fit groups runs by experiment, so there are no clones to rank")
    ensembles = _ensembles(s, problem, result, result.clones)
    truth = None
    if dataset.truth is not None:
        known = dataset.truth

        def truth(clone: str, x: np.ndarray) -> float:
            named = known[""] | known[clone]
            p = np.array([[named[n] for n in problem.model.Parameters._fields]])
            return float(np.exp(problem.evaluate(x[None], p).objective[0]))

    about = _about(s, problem, result, dataset)
    ranking = rank_clones(problem, ensembles, _options(s.cfg), about, truth, s.progress)
    s.keep(ranking, "ranking")
    s.lines(terminal.ranking_lines(ranking))
    s.tracker.metrics(terminal.ranking_metrics(ranking))
    s.table(ranking_csv(ranking), "ranking")
    s.figure(plots.ranking(ranking), "ranking")
    return ranking


def optimise(s: Session, result: FitResult | None = None, ranking: Ranking | None = None) -> dict[str, Optimum]:
    """Optimise the process of the chosen clone for every objective; reads `out/fit`, writes `out/optimum*`."""
    result = result or load(FitResult, s.out / "fit")
    dataset = open_dataset(s.cfg.dataset.name)
    clone = _chosen_clone(s, result, ranking)
    found: dict[str, Optimum] = {}
    for case in ("", *s.cfg.objective.also):
        problem = _problem(s, result, dataset, case)
        ensemble = _ensembles(s, problem, result, (clone,))[clone]
        about = _about(s, problem, result, dataset)
        first = _ranked_process(problem, ranking, clone) if not case else None
        optimum = optimise_process(problem, clone, ensemble, _options(s.cfg), about, first, s.progress)
        s.keep(optimum, _folder("optimum", case))
        found[case] = optimum
        _report_optimum(s, result, optimum, case)
    return found


def _folder(kind: str, case: str) -> str:
    return f"{kind}_{case}" if case else kind


def _chosen_clone(s: Session, result: FitResult, ranking: Ranking | None) -> str:
    wanted = str(s.cfg.optimise.clone)
    if wanted == "best":
        ranking = ranking or load(Ranking, s.out / "ranking")
        return ranking.rows[0].clone
    allowed = (*result.clones, NEWCOMER, "best")
    if wanted not in allowed:
        raise ConfigError(f"optimise.clone: unknown '{wanted}'.{nearest(wanted, allowed)} Known: {', '.join(allowed)}")
    return wanted


def _ranked_process(problem: ProcessProblem, ranking: Ranking | None, clone: str) -> np.ndarray | None:
    row = next((r for r in ranking.rows if r.clone == clone and r.decisions), None) if ranking else None
    return np.array([row.decisions[d.name] for d in problem.design.decisions]) if row else None


def _report_optimum(s: Session, result: FitResult, o: Optimum, case: str) -> None:
    s.lines(terminal.optimum_lines(o))
    for note in o.notes:
        s.note(note)
    outside = sum(d.outside_screened for d in o.optimum.decisions)
    if outside:
        message = f"{outside} decisions for {o.objective} lie outside the screened range (marked *)"
        warnings.warn(message, ExtrapolationWarning, stacklevel=2)
    prefix = case or "optimum"
    s.tracker.metrics({f"{prefix}/{k}": m.p50 for k, m in o.optimum.metrics.items()})
    s.tracker.metrics({f"{prefix}_platform/{k}": m.p50 for k, m in o.baseline.metrics.items()})
    s.tracker.metrics({f"{prefix}/worst_margin": min([c.margin for c in o.optimum.constraints], default=0.0)})
    s.tracker.history(f"{prefix}/objective_per_evaluation", o.history)
    s.figure(plots.processes(o), _folder("processes", case))
    s.figure(plots.feeds(o), _folder("feeds", case))
    s.figure(plots.cost(o), _folder("cost", case))
    s.figure(plots.convergence(result, o), _folder("convergence", case))


# --- export, simulate, run ------------------------------------------------------------------------------------------


def export(
    s: Session,
    optima: dict[str, Optimum] | None = None,
    result: FitResult | None = None,
    created_utc: str | None = None,
) -> dict[str, Recipe]:
    """Turn every optimum into a recipe; reads `out/optimum*` and `out/fit`, writes `out/recipe*`."""
    cases = ("", *s.cfg.objective.also)
    optima = optima or {case: load(Optimum, s.out / _folder("optimum", case)) for case in cases}
    result = result or load(FitResult, s.out / "fit")
    dataset = open_dataset(s.cfg.dataset.name)
    recipes = {}
    for case, optimum in optima.items():
        problem = _problem(s, result, dataset, case)
        ensemble = _ensembles(s, problem, result, (optimum.clone,))[optimum.clone]
        about = _about(s, problem, result, dataset)
        if [d.name for d in problem.design.decisions] != [d.name for d in optimum.optimum.decisions]:
            raise IncompatibleError(
                f"{s.out / _folder('optimum', case)} has other decisions than the configured design "
                f"('{s.cfg.design.title}'); export with its design, or run `optim optimise` with this one"
            )
        rounded = _rounded(problem, optimum, ensemble, about)
        provenance = _provenance(s, dataset, created_utc)
        recipe = make_recipe(s.cfg.title, optimum, rounded, provenance)
        folder = export_recipe(recipe, optimum, s.out / _folder("recipe", case))
        s.tracker.folder(folder, folder.name)
        unverified = [i.name for i in recipe.process.cost_items if not i.verified]
        if unverified:
            text = f"{len(unverified)} of {len(recipe.process.cost_items)} prices behind {folder.name} are unverified"
            warnings.warn(text, UnverifiedWarning, stacklevel=2)
        s.say(f"recipe (DRAFT, rounding loss {recipe.rounding_loss_percent:.2g} %): {folder / 'recipe.html'}")
        recipes[case] = recipe
    return recipes


def _rounded(problem: ProcessProblem, optimum: Optimum, ensemble: np.ndarray, about: About) -> ProcessOutcome:
    """The optimum at what pumps can do, simulated again; feeds rounded down where the nearest step breaks a limit."""
    already = set(broken_limits(optimum.optimum))
    for feeds_down in (False, True):
        x = np.array(rounded_decisions(optimum.optimum.decisions, feeds_down))
        found = outcome(problem, "optimum", x, ensemble, about.feed, about.screened)
        if set(broken_limits(found)) <= already:
            break
    return found


def _provenance(s: Session, dataset: Dataset, created_utc: str | None) -> Provenance:
    return Provenance(
        created_utc=created_utc or datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        code_version=__version__,
        git_commit=_commit(),
        python=platform.python_version(),
        jax=version("jax"),
        config_hash=config_hash(s.cfg),
        config=OmegaConf.to_yaml(s.cfg),
        dataset=dataset.name,
        dataset_hash=dataset.content_hash,
        seed=s.cfg.seed,
        run_id=s.tracker.run_id,
    )


def _commit() -> str:
    """Commit of the checkout this package runs from; '' for an installed wheel."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def simulate(s: Session) -> ProcessOutcome:
    """Simulate the platform process with the model's configured parameter values; writes `out/simulation.csv`."""
    dataset = open_dataset(s.cfg.dataset.name)
    problem = build_process(s.cfg, dataset)
    values = build_table(s.cfg.model, problem.model).values()
    p = np.array([[values[n] for n in problem.model.Parameters._fields]])
    ranges = screened_ranges(dataset)
    found = outcome(problem, "platform", problem.design.platform, p, s.cfg.design.feed_id, ranges)
    file = s.out / "simulation.csv"
    file.write_text(trajectory_csv(found.trajectory))
    s.say(f"{s.cfg.title}: platform process at the model's published parameters")
    s.lines(terminal.trajectory_lines(found.trajectory))
    s.say(f"  written to {file}")
    s.tracker.metrics({f"simulation/{k}": m.p50 for k, m in found.metrics.items()})
    return found


def run(s: Session) -> dict[str, Recipe]:
    """The whole flow: fit, rank (where there are clones), optimise, export."""
    result = fit(s)
    ranking = rank(s, result) if result.group_by == "clone" and len(result.clones) > 1 else None
    optima = optimise(s, result, ranking)
    return export(s, optima, result)


COMMANDS: dict[str, Callable[[Session], Any]] = {
    "run": run,
    "simulate": simulate,
    "fit": fit,
    "rank": rank,
    "optimise": optimise,
    "export": export,
}

__all__ = ["COMMANDS", "FitProblem", "Session", "export", "fit", "optimise", "rank", "run", "session", "simulate"]
