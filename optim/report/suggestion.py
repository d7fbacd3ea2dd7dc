"""The view of suggested experiments: the runs, their expected gain, and the probability of the right choice."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from optim.doe.result import Suggestion
from optim.estimation.posterior import Z90
from optim.optimisation.result import DecisionValue, probability_text
from optim.process.metrics import readable_name
from optim.report.style import BLUE, GREEN, GREY, INK, ORANGE, STYLE, new_figure, tidy_axes
from optim.report.view import View

SHOWN = 99  # draws whose agreement two digits can tell from certainty
CHOSEN_BY = {
    "decision": "their value for the decision",
    "d_optimal": "information on all parameters",
    "space_filling": "coverage of the design space",
    "random": "chance",
}


def suggestion_view(s: Suggestion) -> View:
    """The view of suggested experiments."""
    return View(
        kind=s.kind(),
        title=f"Next {len(s.runs)} runs",
        lines=suggestion_lines(s),
        doubts=s.lineage.doubts,
        notes=s.lineage.notes,
        metrics=suggestion_metrics(s),
        tables={"suggestion": suggestion_frame(s)},
        figures={"suggestion": lambda: draw_suggestion(s)},
    )


def suggestion_lines(s: Suggestion, top: int = 5) -> list[str]:
    """The likeliest best clones, the runs, and the expected change of probability and loss."""
    new = sum(run.new_clone for run in s.runs)
    lines = [
        f"{len(s.runs)} runs with {s.samples} samples, chosen by {CHOSEN_BY[s.by]} out of {s.considered} that meet all "
        f"limits with a probability of at least {s.least_met:g}" + (f"; {new} of new clones" if new else ""),
        f"  now: {s.clones[0].clone} is the likeliest best clone by {s.objective} ({s.unit})",
    ]
    for c in [c for c in s.clones if c.chance >= 0.01][:top]:
        likely = probability_text(c.chance, SHOWN)
        lines.append(f"    {c.clone:<8} {c.value:.4g} ± {100 * c.relative_sd:.2g} %   P(best) {likely}")
    wide = max(len(run.run.run_id) for run in s.runs)
    for run in s.runs:
        days = ", ".join(f"{d:g}" for d in run.sample_days)
        lines.append(f"  {run.run.run_id:<{wide}}  {run.run.clone_id:<8} {process_text(run.decisions)}")
        lines.append(f"  {'':<{wide}}  samples on days {days}; meets all limits with a probability of {run.met:.2f}")
        lines.append(f"  {'':<{wide}}  expected gain {100 * run.gain:.2g} %: {run.reason}")
    lines.append(
        f"  expected: the right clone is chosen with a probability of {s.chance_after:.2f} instead of "
        f"{s.chance_before:.2f}; expected loss {100 * s.loss_after:.2g} % instead of "
        f"{100 * s.loss_before:.2g} %"
    )
    return lines


def process_text(decisions: tuple[DecisionValue, ...]) -> str:
    """Decisions in one line; decisions at several times by their range and mean."""
    profiles: dict[str, list[DecisionValue]] = {}
    parts = []
    for d in decisions:
        timed = re.fullmatch(r"(.*)_(day_[\d.]+|[\d.]+h)", d.name)
        if timed:
            profiles.setdefault(timed.group(1), []).append(d)
        else:
            parts.append(f"{d.name.replace('_', ' ')} {d.value:.4g} {d.unit}")
    for name, own in profiles.items():
        values = [d.value for d in own]
        mean = sum(values) / len(values)
        parts.insert(
            0, f"{name.replace('_', ' ')} {min(values):.3g} to {max(values):.3g} (mean {mean:.3g}) {own[0].unit}"
        )
    return "; ".join(parts)


def suggestion_metrics(s: Suggestion) -> dict[str, float]:
    """Probabilities and expected losses before and after the runs, by name."""
    return {
        "suggest/chance_before": s.chance_before,
        "suggest/chance_after": s.chance_after,
        "suggest/loss_before": s.loss_before,
        "suggest/loss_after": s.loss_after,
        "suggest/gain": sum(run.gain for run in s.runs),
        "suggest/samples": float(s.samples),
    }


def suggestion_frame(s: Suggestion) -> pd.DataFrame:
    """A table with one row per suggested run."""
    rows = []
    for run in s.runs:
        row: dict[str, Any] = {"run_id": run.run.run_id, "clone": run.run.clone_id, "new_clone": run.new_clone}
        row |= {f"{d.name} [{d.unit}]": d.value for d in run.decisions}
        row |= {
            "sample_days": " ".join(f"{d:g}" for d in run.sample_days),
            "expected_gain": run.gain,
            "gain_standard_error": run.gain_error,
            "information_nats": run.information,
            "expected_loss_after": run.loss,
            "chance_of_right_clone_after": run.chance,
            "probability_to_meet_limits": run.met,
            "reason": run.reason,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def draw_suggestion(s: Suggestion) -> Figure:
    """Draw the runs by clone and decision, the probabilities of clones, and the expected loss after each run."""
    height = max(3.4, 0.9 + 0.3 * len(s.runs))
    figure = new_figure(
        f"Next {len(s.runs)} runs, chosen by {s.by.replace('_', ' ')}", (12.0, height), s.lineage.simulated
    )
    runs, clones, after = figure.subplots(1, 3, width_ratios=(1.5, 1.0, 1.0))
    _runs(runs, s)
    _clones(clones, s)
    _after(after, s)
    return figure


def _runs(a: Axes, s: Suggestion) -> None:
    """A cell for each decision of each run: where it lies between its bounds."""
    names, cells, texts = _table(s)
    a.imshow(cells, cmap="Blues", vmin=-0.15, vmax=1.4, aspect="auto")
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            a.text(j, i, text, ha="center", va="center", fontsize=STYLE["small"], color=INK)
    a.set_xticks(np.arange(len(names)), names, fontsize=STYLE["small"])
    labels = [f"{run.run.run_id}   {run.run.clone_id}" for run in s.runs]
    a.set_yticks(np.arange(len(labels)), labels, fontsize=STYLE["small"])
    a.xaxis.tick_top()
    a.tick_params(length=0, colors=INK)
    a.spines[:].set_visible(False)
    a.set_xlabel("darker: nearer to the upper bound", fontsize=STYLE["small"], color=GREY)


def _table(s: Suggestion) -> tuple[list[str], np.ndarray, list[list[str]]]:
    """Names of columns, place between bounds, and text of every cell; a profile is one column, by its mean."""
    first = s.runs[0].decisions
    groups: dict[str, list[int]] = {}
    for i, d in enumerate(first):
        stem = d.name.split("_day_")[0] if "_day_" in d.name else d.name
        groups.setdefault(stem, []).append(i)
    names = [
        f"{stem.replace('_', ' ')}\n{'mean, ' if len(own) > 1 else ''}{first[own[0]].unit}"
        for stem, own in groups.items()
    ]
    values = np.array([[np.mean([run.decisions[i].value for i in own]) for own in groups.values()] for run in s.runs])
    low = np.array([np.mean([first[i].lower for i in own]) for own in groups.values()])
    high = np.array([np.mean([first[i].upper for i in own]) for own in groups.values()])
    cells = (values - low) / np.maximum(high - low, 1e-12)
    texts = [[f"{v:.3g}" for v in row] for row in values]
    samples = np.array([len(run.sample_days) for run in s.runs], float)
    cells = np.column_stack([cells, np.full(len(samples), 0.0)])
    return [*names, "samples\n"], cells, [[*row, f"{n:.0f}"] for row, n in zip(texts, samples, strict=True)]


def _clones(a: Axes, s: Suggestion, most: int = 8) -> None:
    """Value and uncertainty of the likeliest clones, and whether they get a run."""
    tidy_axes(a)
    shown = s.clones[:most]
    place = np.arange(len(shown))
    tried = [sum(run.run.clone_id == c.clone for run in s.runs) for c in shown]
    for i, c in enumerate(shown):
        wide = Z90 * c.relative_sd * c.value
        colour = BLUE if tried[i] else GREY
        a.errorbar(c.value, i, xerr=wide, fmt="o", color=colour, markersize=4, capsize=2)
        a.annotate(
            f"{c.chance:.0%}, {tried[i]} run{'' if tried[i] == 1 else 's'}",
            (c.value, i),
            (0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=STYLE["small"],
            color=INK,
        )
    a.set_yticks(place, [c.clone for c in shown], fontsize=STYLE["small"])
    a.set_ylim(len(shown) - 0.5, -0.8)
    a.margins(x=0.18)
    a.xaxis.set_major_locator(MaxNLocator(4))
    a.set_title("clones now: P(best), runs they get", fontsize=STYLE["font"], loc="left")
    a.set_xlabel(f"{readable_name(s.objective)} [{s.unit}], 90 %", fontsize=STYLE["font"])


def _after(a: Axes, s: Suggestion) -> None:
    """Probability of choosing the right clone, and expected loss, after each run."""
    tidy_axes(a)
    x = np.arange(len(s.runs) + 1)
    a.plot(x, [s.chance_before, *(run.chance for run in s.runs)], "o-", color=GREEN, markersize=4)
    a.set_ylim(0.0, 1.06)
    a.yaxis.set_major_formatter(PercentFormatter(1.0))
    a.set_xlabel("runs done", fontsize=STYLE["font"])
    a.set_ylabel("right clone chosen", fontsize=STYLE["font"], color=GREEN)
    a.xaxis.set_major_locator(MaxNLocator(integer=True))
    b = a.twinx()
    b.plot(x, [s.loss_before, *(run.loss for run in s.runs)], "s--", color=ORANGE, markersize=4)
    b.set_ylim(0.0, 1.15 * max(s.loss_before, 1e-6))
    b.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    b.set_ylabel("expected loss", fontsize=STYLE["font"], color=ORANGE)
    b.tick_params(labelsize=STYLE["small"], colors=INK)
    b.spines[["top"]].set_visible(False)
    a.set_title("expected of the decision", fontsize=STYLE["font"], loc="left")
