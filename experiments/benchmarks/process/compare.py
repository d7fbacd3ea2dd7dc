"""What the seeds of the benchmark say together: rows per method, tables as text, and the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

Row = dict[str, Any]

# what one assay cannot tell from the limit (assays err by 4 to 6 %): a process beyond it is not made, the platform is
ALLOWED = 0.05
OPTIM, CAREFUL = "optim, 48 vessels", "optim, limits kept by 95 %"
PLATFORM, CHOSEN = "platform, best clone told", "platform, clone chosen"
PLAIN, TRIED = "", ", best tried"
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8a8f98", "#24292f"


def violation(made: Row) -> float:
    """Largest relative violation of a limit."""
    return max(0.0, -min(made["room"].values()))


def usable(made: Row, seed: Row, allowed: float = ALLOWED) -> float:
    """Value of what is made in the end: of the process, or of the platform where it breaks a limit by too much."""
    return float(made["value"] if violation(made) <= allowed else seed["platform"][made["clone"]]["value"])


def ends(parts: Row) -> dict[str, Row]:
    """By method, what it recommends after its last vessel, from the parts of one seed."""
    truth = parts["truth"]
    found = {
        name: {"clone": clone, "runs": runs, **truth["platform"][clone]}
        for name, clone, runs in ((PLATFORM, truth["best_clone"], 0), (CHOSEN, truth["platform_choice"], 48))
    }
    for name, made in parts.items():
        if name.startswith("optim"):
            found[name] = made
        elif isinstance(made, list):
            found[name] = made[-1]
            if "tried" in made[-1]:
                found[name + TRIED] = {**made[-1]["tried"], "clone": made[-1]["clone"], "runs": made[-1]["runs"]}
    return found


def attainable(truth: Row) -> float:
    """Value of the true optimum of the best clone."""
    return float(truth["optimum"][truth["best_clone"]]["value"])


def rows(seeds: list[Row], allowed: float = ALLOWED) -> list[Row]:
    """One row per method: values of all seeds, and what they say, sorted by the median of `share`.

    `share` is of the true optimum; `gain` over the platform process of the best clone; `behind` is what optim's usable
    value is above it, paired by seed. Numbers in percent.
    """
    by_seed = [ends(parts) for parts in seeds]
    names = [n for n in by_seed[0] if all(n in found for found in by_seed)]
    top = np.array([attainable(parts["truth"]) for parts in seeds])
    base = np.array([found[PLATFORM]["value"] for found in by_seed])

    def used(name: str) -> np.ndarray:
        return np.array(
            [usable(found[name], parts["truth"], allowed) for found, parts in zip(by_seed, seeds, strict=True)]
        )

    ours = used(OPTIM) if OPTIM in names else np.full(len(seeds), np.nan)
    table = []
    for name in names:
        made = [found[name] for found in by_seed]
        value, final = np.array([m["value"] for m in made]), used(name)
        broken = np.array([violation(m) for m in made])
        table.append(
            {
                "method": name,
                "vessels": int(max(m["runs"] for m in made)),
                "value": value.tolist(),
                "usable": final.tolist(),
                "violation": broken.tolist(),
                "clone_right": sum(m["clone"] == p["truth"]["best_clone"] for m, p in zip(made, seeds, strict=True)),
                "share": (100.0 * final / top).tolist(),
                "gain": (100.0 * (final / base - 1.0)).tolist(),
                "behind": (100.0 * (ours / final - 1.0)).tolist(),
                "wins_of_optim": int(np.sum(ours > final)),
            }
        )
    return sorted(table, key=lambda r: -float(np.median(r["share"])))


def best_of(table: list[Row], kind: str, told: bool = True) -> str:
    """The variant of a kind ('RSM', 'BO') with the highest median; told the best clone, or having chosen it. '' where
    no such variant was run."""
    found = (r["method"] for r in table if r["method"].startswith(kind) and ("clone chosen" not in r["method"]) == told)
    return next(found, "")


def _spread(values: list[float], form: str) -> str:
    q1, q2, q3 = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{q2:{form}} [{q1:{form}}, {q3:{form}}]"


def text(table: list[Row], seeds: list[Row]) -> str:
    """The table of methods and what optim said of its own optimum, in Markdown."""
    n = len(seeds)
    lines = [
        f"{n} seeds, 48 vessels each. Median [quartiles].",
        "",
        "| method | yield per cost, g/EUR | % of the true optimum | gain over platform, % | seeds that break a limit "
        "by > 1 %, > 5 % (worst) | right clone | optim above it, %, paired (wins) |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in table:
        broken = np.array(r["violation"])
        lines.append(
            f"| {r['method']} | {_spread(r['usable'], '.4f')} | {_spread(r['share'], '.1f')} | "
            f"{_spread(r['gain'], '+.1f')} | {int(np.sum(broken > 0.01))}, {int(np.sum(broken > 0.05))} "
            f"({100 * broken.max():.1f} %) | {r['clone_right']} of {n} | "
            + ("" if r["method"] == OPTIM else f"{_spread(r['behind'], '+.1f')} ({r['wins_of_optim']} of {n})")
            + " |"
        )
    lines += ["", *tolerances(seeds)]
    for name in sorted(k for k in seeds[0] if k.startswith("true optimum")):
        shares = [100.0 * p[name]["value"] / attainable(p["truth"]) for p in seeds if name in p]
        lines += ["", f"The {name} is {_spread(shares, '.1f')} % of that in all decisions."]
    for name in (OPTIM, CAREFUL):
        if all(name in parts for parts in seeds):
            lines += ["", f"{name}: what it said, and the truth", "", *calibration(seeds, name)]
    return "\n".join(lines)


def tolerances(seeds: list[Row]) -> list[str]:
    """How the comparison depends on what breach of a limit is let pass."""
    chosen = [n for n in (OPTIM, CAREFUL) if all(n in p for p in seeds)]
    table = rows(seeds)
    chosen += [best_of(table, kind, told) for kind in ("RSM", "BO") for told in (True, False)]
    chosen = [name for name in chosen if name]
    lines = ["| breach let pass | " + " | ".join(chosen) + " |", "|---|" + "---|" * len(chosen)]
    for allowed in (0.001, 0.01, 0.02, 0.05):
        by_name = {r["method"]: r for r in rows(seeds, allowed)}
        shares = [f"{np.median(by_name[n]['share']):.1f}" for n in chosen]
        lines.append(f"| {100 * allowed:g} % | " + " | ".join(shares) + " |")
    return ["Median % of the true optimum, where a greater breach of a limit means the platform:", "", *lines]


def calibration(seeds: list[Row], name: str) -> list[str]:
    """What optim said of its optimum against the truth."""
    lines = [
        "| seed | clone (true rank) | predicted, g/EUR [90 %] | truth | error | inside | worst limit | "
        "said probability that it is met | true room |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    inside = []
    errors = []
    for parts in seeds:
        made, best = parts[name], parts["truth"]["optimum"]
        low, middle, high = made["predicted"]
        order = sorted(best, key=lambda c: -best[c]["value"])
        inside.append(low <= made["value"] <= high)
        errors.append(100.0 * (middle / made["value"] - 1.0))
        worst = min(made["room"], key=lambda k: made["room"][k])
        lines.append(
            f"| {parts['seed']} | {made['clone']} ({order.index(made['clone']) + 1}) | "
            f"{middle:.5f} [{low:.5f}, {high:.5f}] | {made['value']:.5f} | {errors[-1]:+.1f} % | "
            f"{'yes' if inside[-1] else 'no'} | {worst} | {made['met'][worst]:.2f} | "
            f"{100 * made['room'][worst]:+.1f} % |"
        )
    lines += [
        "",
        f"The 90 % interval holds the truth in {sum(inside)} of {len(seeds)} seeds; "
        f"median error {np.median(errors):+.2f} %, largest {max(errors, key=abs):+.2f} %.",
    ]
    return lines


# --- the figure ---


def path(parts: Row, name: str, runs: np.ndarray) -> np.ndarray:
    """Gain in percent over the platform of the best clone, of what a method would make after so many vessels; the
    platform before it recommends anything. A clone has to be chosen first by those that are not told."""
    truth = parts["truth"]
    base = truth["platform"][truth["best_clone"]]["value"]
    made = parts[name] if isinstance(parts[name], list) else [parts[name]]
    values = np.full(len(runs), np.nan if name.startswith("optim") else base)
    for m in made:
        values[runs >= m["runs"]] = usable(m, truth)
    return np.asarray(100.0 * (values / base - 1.0))


def figure(table: list[Row], seeds: list[Row], file: Path) -> None:
    """Left: gain by number of vessels, median and quartiles. Right: all seeds at the end, joined by seed."""
    drawn, (left, right) = plt.subplots(1, 2, figsize=(12.0, 4.9), width_ratios=(1.0, 1.1), layout="constrained")
    _paths(left, table, seeds)
    _ends(right, table, len(seeds))
    for ax in (left, right):
        ax.grid(color="#e6e8eb", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    title = "SIMULATED CHO clone screen: the process that each recommends, judged by the hidden truth"
    drawn.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    drawn.savefig(file, dpi=150)
    plt.close(drawn)


def _paths(ax: Axes, table: list[Row], seeds: list[Row]) -> None:
    shown = [
        (best_of(table, "BO"), ORANGE, "o-"),
        (best_of(table, "BO, 14"), ORANGE, "o:"),
        (best_of(table, "RSM"), GREEN, "s-"),
    ]
    for name, colour, style in shown:
        if not name:
            continue
        plain = name.removesuffix(TRIED)
        runs = np.array([0, *(m["runs"] for m in seeds[0][plain])])
        low, middle, high = np.quantile([path(p, plain, runs) for p in seeds], (0.25, 0.5, 0.75), axis=0)
        ax.plot(runs, middle, style, color=colour, markersize=4, label=f"{plain}; best clone told")
        if style.endswith("-"):
            ax.fill_between(runs, low, high, color=colour, alpha=0.13, linewidth=0)
    ours = np.array([path(p, OPTIM, np.array([48]))[0] for p in seeds])
    low, middle, high = np.quantile(ours, (0.25, 0.5, 0.75))
    bar = [[middle - low], [high - middle]]
    label = "optim; chooses the clone as well"
    ax.errorbar([48], [middle], yerr=bar, fmt="D", color=BLUE, capsize=4, zorder=5, label=label)
    top = np.median([100.0 * (attainable(p["truth"]) / ends(p)[PLATFORM]["value"] - 1.0) for p in seeds])
    ax.axhline(top, color=GREY, linewidth=1.0, linestyle="--")
    ax.text(0.5, top + 0.4, "true optimum of the best clone (median)", color=GREY, fontsize=8)
    ax.set_xlim(-1, 50)
    ax.set_ylim(top=top + 4.0)
    ax.set_xticks([0, 8, 16, 24, 32, 40, 48])
    ax.set_xlabel("vessel runs of 14 days", fontsize=9)
    ax.set_ylabel("true yield per cost above the platform (%)", fontsize=9)
    ax.set_title("After so many vessels: median, quartiles", fontsize=10, loc="left")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=8)


def _ends(ax: Axes, table: list[Row], n: int) -> None:
    names = [
        (CHOSEN, "platform,\nclone\nchosen", GREY),
        (best_of(table, "RSM", told=False), "RSM,\nclone\nchosen", GREEN),
        (best_of(table, "RSM"), "RSM,\nclone\ntold", GREEN),
        (best_of(table, "BO", told=False), "BO,\nclone\nchosen", ORANGE),
        (best_of(table, "BO"), "BO,\nclone\ntold", ORANGE),
        (OPTIM, "optim,\nclone\nchosen", BLUE),
        (CAREFUL, "optim,\nlimits kept\nby 95 %", BLUE),
    ]
    by_name = {r["method"]: r for r in table}
    names = [n for n in names if n[0] in by_name]
    values = np.array([by_name[name]["share"] for name, _, _ in names])
    ax.plot(range(len(names)), values, color="#d5d8dc", linewidth=0.7, zorder=1)
    for i, (_, _, colour) in enumerate(names):
        line = {"color": colour}
        ax.boxplot(
            values[i],
            positions=[i],
            widths=0.5,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.18, "edgecolor": colour},
            medianprops={**line, "linewidth": 2},
            whiskerprops=line,
            capprops=line,
        )
        ax.scatter(np.full(n, i), values[i], s=20, color=colour, zorder=4, edgecolor="white", linewidth=0.5)
    ax.axhline(100.0, color=GREY, linewidth=1.0, linestyle="--")
    ax.set_xticks(range(len(names)), [label for _, label, _ in names])
    ax.set_ylabel("% of the best clone's true optimum", fontsize=9)
    ax.set_title(f"After 48 vessels: {n} seeds, joined by seed; best variant of each", fontsize=10, loc="left")
