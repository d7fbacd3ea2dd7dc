"""Do intervals hold what they promise? `python coverage.py [--quick] [--screens N] [--out FOLDER]`.

Simulated screens with known truth, some of their clones sampled for a few days only, are fitted with what is estimated
of noise and spread. Asked: how often a 90 % interval of a clone's parameter holds the truth; whether the probability
that one clone beats another is that often right; what is gained over fitting every clone alone; and how a new clone,
placed under the fit, comes to be known by the day.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from optim.app.build import build_fit, compose
from optim.data.dataset import Dataset, Measurements
from optim.data.open import read_dataset
from optim.estimation.ensemble import draw_laplace
from optim.estimation.estimate import multi_start
from optim.estimation.fit import build_fit_result
from optim.estimation.posterior import Point, Posterior
from optim.estimation.predictive import Z90
from optim.estimation.problem import FitProblem
from optim.estimation.result import FitResult
from optim.estimation.transfer.new_clone import predict_clones
from optim.parameters import ParameterSpec, ParameterTable
from optim.runtime import configure
from optim.settings.estimation import FitSettings, PlaceSettings
from optim.synthetic import ScreenOptions, make_screen

Row = dict[str, Any]

CLONES, VESSELS, SCREENS, FIRST_SEED = 10, 2, 50, 1001
FEW, FEW_UNTIL_H = 3, 120.0  # so many clones of a screen are sampled until then only
PLACED = 10  # so many of the screens are asked about new clones, which takes longer than all the rest
NEW, DAYS = 2, (0.0, 3.0, 5.0, 7.0)  # clones that the fit has not seen, of another screen of the same population
DRAWS = 200
OPTIONS = FitSettings(starts=1, tolerance=1e-6)
# a process that all clones are compared in: what a vessel of the screen got, as predicted on its last day
COMPARED, ASSAY = 0, "titre"
HERE = Path(__file__).parent
RESULTS, FIGURE = "coverage.json", "coverage.png"
TARGET = (0.85, 0.95)
POOLED, ALONE = "#0072B2", "#D55E00"
# the centre of a population is held where it is stated
HELD_SD = 1e-6


def say(text: str) -> None:
    """How far it is; to the side of the tables."""
    print(text, file=sys.stderr, flush=True)


# --- screens ---


def screen(seed: int, clones: int = CLONES) -> Dataset:
    """A simulated screen."""
    with tempfile.TemporaryDirectory() as folder:
        return read_dataset(str(make_screen(Path(folder) / "screen", "screen", ScreenOptions(clones, VESSELS, seed))))


def thinned(dataset: Dataset) -> Dataset:
    """The last clones sampled for a few days only."""
    few = dataset.clones[-FEW:]
    m = dataset.measurements
    late = np.array([dataset.runs[r].clone_id in few for r in m.run]) & (m.time_h > FEW_UNTIL_H)
    return replace(dataset, measurements=_rows(m, np.flatnonzero(~late)))


def _rows(m: Measurements, keep: np.ndarray) -> Measurements:
    return Measurements(
        m.run[keep],
        m.time_h[keep],
        tuple(m.variable[i] for i in keep),
        m.value[keep],
        tuple(m.censored[i] for i in keep),
        tuple(m.replicate[i] for i in keep),
    )


def alone(problem: FitProblem) -> FitProblem:
    """The same data with every clone by itself: no parameter is shared, and the stated priors are all that is known.

    A clone's prior then has the uncertainty of the population and the spread between clones in it.
    """

    def apart(row: ParameterSpec) -> ParameterSpec:
        if row.level == "shared":
            return replace(row, level="clone", spread=row.prior_sd, prior_sd=HELD_SD)
        if row.level == "clone":
            return replace(row, spread=float(np.hypot(row.prior_sd or 0.0, row.spread or 0.0)), prior_sd=HELD_SD)
        return row

    return replace(problem, table=ParameterTable(tuple(apart(row) for row in problem.table.rows)))


# --- one screen ---


def study(seed: int) -> Row:
    """What one screen gives: rows of parameters, of pairs of clones, and of ranks; and the seconds of the fits."""
    problem = build_fit(compose([]), thinned(screen(seed)))
    start = time.perf_counter()
    posterior, points = multi_start(problem, OPTIONS, seed, progress=lambda text: None)
    pooled_s = time.perf_counter() - start
    own = alone(problem)
    start = time.perf_counter()
    by_itself = multi_start(own, replace(OPTIONS, estimate_spread=False), seed, progress=lambda text: None)
    alone_s = time.perf_counter() - start
    placed: list[Row] = []
    readings: list[Row] = []
    place_s = None
    if seed < FIRST_SEED + PLACED:
        fitted = build_fit_result(posterior, points, OPTIONS, seed=seed, model_name="cho_moller")
        start = time.perf_counter()
        placed, readings = placing(fitted, seed)
        place_s = (time.perf_counter() - start) / NEW
    pairs, ranks, titres = ranking(posterior, points[0], seed)
    for row, error in zip(titres, titre_errors(by_itself[0], by_itself[1][0]), strict=True):
        row["error_alone"] = error
    found = estimates(posterior, points[0])
    separate = estimates(by_itself[0], by_itself[1][0])
    few = set(problem.groups[-FEW:])
    rows = [
        {
            "seed": seed,
            "clone": clone,
            "few": clone in few,
            "name": name,
            "error": error,
            "sd": sd,
            "error_alone": separate[clone, name][0],
            "sd_alone": separate[clone, name][1],
        }
        for (clone, name), (error, sd) in found.items()
        if clone and posterior.problem.table[name].level == "clone"
    ]
    shared = [
        {"seed": seed, "name": name, "error": error, "sd": sd}
        for (clone, name), (error, sd) in found.items()
        if not clone
    ]
    return {
        "seed": seed,
        "parameters": rows,
        "shared": shared,
        "pairs": pairs,
        "ranks": ranks,
        "titres": titres,
        "placed": placed,
        "readings": readings,
        "noise": dict(zip(problem.variables, posterior.noise.scale.tolist(), strict=True)),
        "spread": {row.name: s for row, s in zip(problem.group_specs, posterior.spread.tolist(), strict=True)},
        "pooled_s": pooled_s,
        "alone_s": alone_s,
        "place_s": place_s,
        "ends": [points[0].reason, by_itself[1][0].reason],
    }


def estimates(posterior: Posterior, point: Point) -> dict[tuple[str, str], tuple[float, float]]:
    """Error and standard deviation, both on the fitted scale (logarithms here), by clone ('' shared) and parameter."""
    assert point.arrow is not None
    problem = posterior.problem
    truth = problem.dataset.truth
    assert truth is not None
    var_s, var_c = point.arrow.variances()
    found = {}
    for i, row in enumerate(problem.shared_specs):
        found["", row.name] = (float(point.shared[i] - row.to_fitted(truth[""][row.name])), float(np.sqrt(var_s[i])))
    for c, clone in enumerate(problem.groups):
        for i, row in enumerate(problem.group_specs):
            true = row.to_fitted((truth[""] | truth[clone])[row.name])
            found[clone, row.name] = (float(point.block[c, i] - true), float(np.sqrt(var_c[c, i])))
    return found


def placing(fitted: FitResult, seed: int) -> tuple[list[Row], list[Row]]:
    """New clones by the day: errors of their parameters, and how many later readings lie in their 90 % bands."""
    other = screen(FIRST_SEED + 10_000 + seed, CLONES + NEW)
    new = other.select_runs(np.arange(CLONES * VESSELS, (CLONES + NEW) * VESSELS))
    m, truth = new.measurements, new.truth
    assert truth is not None
    problem = build_fit(compose([]), new)
    found, readings = [], []
    for at in predict_clones(fitted, problem, PlaceSettings(days=DAYS, draws=DRAWS), seed=seed).placed:
        base = {"seed": seed, "clone": at.clone, "day": at.day}
        for p in at.parameters:
            row = problem.table[p.name]
            error = row.to_fitted(p.estimate) - row.to_fitted(truth[at.clone][p.name])
            found.append({**base, "name": p.name, "error": error, "sd": float(p.sd)})
        b = at.bands
        band = {key: i for i, key in enumerate(zip(b.vessel, b.variable, b.time_h.tolist(), strict=True))}
        for k in np.flatnonzero(m.time_h > 24.0 * at.day):
            i = band.get((new.runs[m.run[k]].run_id, m.variable[k], float(m.time_h[k])))
            if i is not None and not m.censored[k]:
                inside = bool(b.reading_lower90[i] <= m.value[k] <= b.reading_upper90[i])
                readings.append({"seed": seed, "day": at.day, "inside": inside})
    return found, readings


def ranking(posterior: Posterior, point: Point, seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Clones compared by the titre they reach in one process: pairs with probabilities, ranks and titres."""
    problem = posterior.problem
    draws = draw_laplace(posterior, point, DRAWS + 1, rng=np.random.default_rng(seed))
    nc, n = posterior.n_per_group, posterior.n_groups
    u = np.concatenate(
        [
            np.repeat(draws.shared[1:, None, : posterior.n_shared], n, axis=1),
            draws.block[1:, :, :nc],
            # an inoculum as planned
            np.zeros((DRAWS, n, posterior.n_per_vessel)),
        ],
        axis=2,
    ).reshape(DRAWS * n, -1)
    titre = _titre(problem, np.concatenate([_truth(problem), u]))
    reached, drawn = titre[:n], titre[n:].reshape(DRAWS, n)
    pairs = []
    for a in range(n):
        for b in range(a):
            p = float(np.mean(drawn[:, a] > drawn[:, b]))
            sooner, better = (p, reached[a] > reached[b]) if p >= 0.5 else (1.0 - p, reached[b] > reached[a])
            pairs.append({"seed": seed, "p": sooner, "right": bool(better), "few": max(a, b) >= n - FEW})
    place = np.argsort(np.argsort(-drawn, axis=1), axis=1)
    is_at = np.argsort(np.argsort(-reached))
    low, high = np.quantile(place, [0.05, 0.95], axis=0, method="inverted_cdf")
    ranks = [
        {
            "seed": seed,
            "few": c >= n - FEW,
            "inside": bool(low[c] <= is_at[c] <= high[c]),
            "width": int(high[c] - low[c] + 1),
        }
        for c in range(n)
    ]
    best = int(np.argmax(reached))
    chosen = int(np.argmax(np.median(drawn, axis=0)))
    ranks[best]["chosen"] = best == chosen
    logs = np.log(drawn)
    titres = [
        {
            "seed": seed,
            "few": c >= n - FEW,
            "name": ASSAY,
            "error": float(logs[:, c].mean() - np.log(reached[c])),
            "sd": float(logs[:, c].std(ddof=1)),
        }
        for c in range(n)
    ]
    return pairs, ranks, titres


def _truth(problem: FitProblem) -> np.ndarray:
    """True parameters of every clone on the fitted scale, [C, Q], with an inoculum as planned."""
    truth = problem.dataset.truth
    assert truth is not None
    rows = (*problem.shared_specs, *problem.group_specs)
    own = [[row.to_fitted((truth[""] | truth[clone])[row.name]) for row in rows] for clone in problem.groups]
    return np.pad(np.array(own), ((0, 0), (0, len(problem.vessel_specs))))


def titre_errors(posterior: Posterior, point: Point) -> list[float]:
    """Error of every clone's titre in the compared process, as predicted by the estimate; in logarithms."""
    problem, n = posterior.problem, posterior.n_groups
    u = np.zeros((n, posterior.n_shared + posterior.n_per_group + posterior.n_per_vessel))
    u[:, : posterior.n_shared] = point.shared[: posterior.n_shared]
    u[:, posterior.n_shared :][:, : posterior.n_per_group] = point.block[:, : posterior.n_per_group]
    titre = np.log(_titre(problem, np.concatenate([_truth(problem), u])))
    return [float(error) for error in titre[n:] - titre[:n]]


def _titre(problem: FitProblem, u: np.ndarray) -> np.ndarray:
    """Final titre, g/L, of parameter sets u [L, Q], all in the process of one vessel."""
    v = problem.vessels
    where = (v.variable[COMPARED] == problem.variables.index(ASSAY)) & (v.weight[COMPARED] > 0.0)
    last = int(np.flatnonzero(where)[np.argmax(v.node[COMPARED][where])])
    node = v.node.copy()
    # whichever sample of the last day is missing, the node of the day is there
    node[COMPARED, last] = int(v.grid.intervals[COMPARED])
    y, status = replace(problem, vessels=v._replace(node=node)).predict(u, np.full(len(u), COMPARED))
    if (status != 0).any():
        raise RuntimeError(f"{int((status != 0).sum())} of {len(u)} simulations of the compared process failed")
    return np.asarray(y[:, last])


# --- all screens ---


def measure(screens: int) -> list[Row]:
    """Every screen in turn."""
    found = []
    for k in range(screens):
        found.append(study(FIRST_SEED + k))
        last = found[-1]
        say(f"coverage: screen {k + 1} of {screens}, {last['pooled_s']:.1f} s and {last['alone_s']:.1f} s of fitting")
    return found


def _all(results: list[Row], what: str) -> list[Row]:
    return [row for result in results for row in result[what]]


def covered(rows: list[Row], suffix: str = "") -> tuple[float, float]:
    """Share of 90 % intervals that hold the truth, and its standard error (screens are independent, clones are not)."""
    hit = [abs(r[f"error{suffix}"]) <= Z90 * r[f"sd{suffix}"] for r in rows]
    seeds = sorted({r["seed"] for r in rows})
    by_screen = [np.mean([h for h, r in zip(hit, rows, strict=True) if r["seed"] == s]) for s in seeds]
    error = float(np.std(by_screen, ddof=1) / np.sqrt(len(by_screen))) if len(by_screen) > 1 else float("nan")
    return float(np.mean(hit)), error


def _rms(rows: list[Row], key: str) -> float:
    """Typical relative error in percent, from errors of logarithms."""
    return 100.0 * float(np.sqrt(np.mean([r[key] ** 2 for r in rows])))


def tables(results: list[Row]) -> str:
    """Everything as text."""
    rows, pairs, ranks = (_all(results, what) for what in ("parameters", "pairs", "ranks"))
    names = list(dict.fromkeys(r["name"] for r in rows))
    lines = [f"{len(results)} screens of {CLONES} clones, {FEW} of them sampled to {FEW_UNTIL_H / 24.0:g} days", ""]
    lines.append(
        "90 % intervals that hold the truth, %; mean of (estimate - truth) / sd, and its sd (should be 0 and 1)"
    )
    lines.append(f"{'parameter':<12}{'all':>12}{'full':>8}{'few':>8}{'mean':>8}{'sd':>8}{'alone':>8}{'few alone':>11}")
    few, full = [r for r in rows if r["few"]], [r for r in rows if not r["few"]]
    for name in (*names, "pooled"):

        def of(some: list[Row], name: str = name) -> list[Row]:
            return [r for r in some if name in (r["name"], "pooled")]

        share, error = covered(of(rows))
        z = np.array([r["error"] / r["sd"] for r in of(rows)])
        lines.append(
            f"{name:<12}{f'{100 * share:.1f} ± {100 * error:.1f}':>12}{100 * covered(of(full))[0]:>8.1f}"
            f"{100 * covered(of(few))[0]:>8.1f}{z.mean():>8.2f}{z.std():>8.2f}"
            f"{100 * covered(of(rows), '_alone')[0]:>8.1f}{100 * covered(of(few), '_alone')[0]:>11.1f}"
        )
    lines += ["", "the same for shared parameters, and for the titre that a clone reaches in one process"]
    others = [*_all(results, "shared"), *_all(results, "titres")]
    for name in dict.fromkeys(r["name"] for r in others):
        some = [r for r in others if r["name"] == name]
        z = np.array([r["error"] / r["sd"] for r in some])
        share, error = covered(some)
        lines.append(f"{name:<12}{f'{100 * share:.1f} ± {100 * error:.1f}':>12}{'':16}{z.mean():>8.2f}{z.std():>8.2f}")
    lines += ["", "typical error of a clone's parameter and of its predicted titre, % (root mean square, logarithms)"]
    lines.append(f"{'parameter':<12}{'pooled':>10}{'alone':>10}{'few, pooled':>14}{'few, alone':>14}{'ratio':>8}")
    measured = [*rows, *_all(results, "titres")]
    for name in (*names, ASSAY):
        some = [r for r in measured if r["name"] == name]
        sparse = [r for r in some if r["few"]]
        a, b, c, d = (_rms(x, key) for x in (some, sparse) for key in ("error", "error_alone"))
        lines.append(f"{name:<12}{a:>10.1f}{b:>10.1f}{c:>14.1f}{d:>14.1f}{d / c:>8.2f}")
    lines += ["", "pairs of clones by final titre in one process: probability of the order, and how often it is right"]
    lines.append(f"{'probability':<14}{'pairs':>8}{'said, %':>10}{'right, %':>10}")
    for low, high in BINS:
        some = [r for r in pairs if low <= r["p"] < high]
        if some:
            said, right = (100.0 * np.mean([r[key] for r in some]) for key in ("p", "right"))
            lines.append(f"{f'{low:.2f} to {min(high, 1.0):.2f}':<14}{len(some):>8}{said:>10.1f}{right:>10.1f}")
    said, right = (100.0 * np.mean([r[key] for r in pairs]) for key in ("p", "right"))
    lines.append(f"{'all':<14}{len(pairs):>8}{said:>10.1f}{right:>10.1f}")
    lines += ["", "90 % intervals of a clone's rank"]
    for label, chosen in (("all", (True, False)), ("full", (False,)), ("few", (True,))):
        some = [r for r in ranks if r["few"] in chosen]
        inside, width = (float(np.mean([r[key] for r in some])) for key in ("inside", "width"))
        lines.append(f"{label:<12}{100 * inside:>8.1f} % hold the true rank, {width:.1f} places wide")
    best = [r["chosen"] for r in ranks if "chosen" in r]
    lines.append(f"the truly best clone is ranked first in {100 * np.mean(best):.0f} % of screens")
    placed, readings = _all(results, "placed"), _all(results, "readings")
    seen = len({r["seed"] for r in placed})
    lines += [
        "",
        f"{NEW} new clones of {seen} screens placed by their first days: sd of a parameter, % (logarithms);",
    ]
    lines.append("90 % intervals that hold the truth, %; later readings inside their 90 % bands, %")
    lines.append(f"{'day':<6}" + "".join(f"{name:>11}" for name in names) + f"{'intervals':>14}{'readings':>10}")
    for day in DAYS:
        some = [r for r in placed if r["day"] == day]
        sds = [100.0 * float(np.median([r["sd"] for r in some if r["name"] == name])) for name in names]
        share, error = covered(some)
        inside = np.mean([r["inside"] for r in readings if r["day"] == day])
        lines.append(
            f"{day:<6g}"
            + "".join(f"{sd:>11.1f}" for sd in sds)
            + f"{f'{100 * share:.1f} ± {100 * error:.1f}':>14}{100 * inside:>10.1f}"
        )
    taken = ([r[key] for r in results if r[key] is not None] for key in ("pooled_s", "alone_s", "place_s"))
    seconds = [float(np.median(some)) for some in taken]
    lines += ["", "median seconds: pooled fit {:.2f}, fits alone {:.2f}, placing a clone {:.2f}".format(*seconds)]
    return "\n".join(lines)


BINS = ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 0.95), (0.95, 0.99), (0.99, 1.01))


def figure(results: list[Row], file: Path) -> None:
    """Coverage per parameter; errors of clones with few samples; how right the probabilities of pairs are."""
    rows, pairs = _all(results, "parameters"), _all(results, "pairs")
    names = list(dict.fromkeys(r["name"] for r in rows))
    few = [r for r in rows if r["few"]]
    drawn, (left, middle, right) = plt.subplots(1, 3, figsize=(13.0, 4.4))
    labels = [*names, "all"]
    place = np.arange(len(labels))
    left.axvspan(100 * TARGET[0], 100 * TARGET[1], color="0.92", label="target")
    left.axvline(90.0, color="0.6", linewidth=1.0)
    for some, colour, marker, away, label in (
        (rows, POOLED, "o", -0.12, "all clones"),
        (few, ALONE, "s", 0.12, f"clones with {FEW_UNTIL_H / 24.0:g} days"),
    ):
        share, error = np.array([covered([r for r in some if n in (r["name"], "all")]) for n in labels]).T
        bars = 100 * Z90 * error
        left.errorbar(100 * share, place + away, xerr=bars, fmt=marker, color=colour, capsize=2, label=label)
    left.set_yticks(place, labels)
    left.invert_yaxis()
    left.set_xlim(60.0, 100.0)
    left.set_xlabel("90 % intervals that hold the truth (%)")
    left.set_title("Coverage of clone parameters", fontsize=10)
    estimated = [*names, ASSAY]
    sparse = [r for r in (*rows, *_all(results, "titres")) if r["few"]]
    place = np.arange(len(estimated))
    for key, colour, away, label in (
        ("error", POOLED, -0.19, "all clones together"),
        ("error_alone", ALONE, 0.19, "every clone alone"),
    ):
        height = [_rms([r for r in sparse if r["name"] == n], key) for n in estimated]
        middle.bar(place + away, height, width=0.36, color=colour, label=label)
    middle.set_xticks(place, estimated, rotation=20, ha="right")
    middle.set_ylabel("typical error (%)")
    middle.set_title(f"Clones with {FEW_UNTIL_H / 24.0:g} days of samples", fontsize=10)
    right.plot([50, 100], [50, 100], color="0.6", linewidth=1.0)
    for low, high in BINS:
        some = [r for r in pairs if low <= r["p"] < high]
        if some:
            said, share = (100.0 * float(np.mean([r[key] for r in some])) for key in ("p", "right"))
            bar = Z90 * float(np.sqrt(share * (100.0 - share) / len(some)))
            right.errorbar(said, share, yerr=bar, fmt="o", color=POOLED, capsize=2)
    right.set_xlabel("probability that one clone beats another (%)")
    right.set_ylabel("order is right (%)")
    right.set_title("Pairs of clones by final titre", fontsize=10)
    for ax in (left, middle, right):
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in (left, middle):
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False, fontsize=8)
    drawn.tight_layout()
    drawn.savefig(file, dpi=150)
    plt.close(drawn)


def main() -> None:
    """All screens, tables to the terminal, results and figure to a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two screens: does it run?")
    parser.add_argument("--screens", type=int, default=SCREENS)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    options = parser.parse_args()
    configure()
    results = measure(2 if options.quick else options.screens)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / RESULTS).write_text(json.dumps(results) + "\n")
    print(tables(results))
    figure(results, options.out / FIGURE)


if __name__ == "__main__":
    main()
