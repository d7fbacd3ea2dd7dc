"""Work against precision: error and time per vessel at tolerances from 1e-3 to 1e-9, as data and as a figure."""

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import peers
import problem
import raav
from matplotlib.ticker import LogLocator, NullFormatter
from process import Process, error
from table import Row, text
from timing import Peer, in_turn, say

COLUMNS = ("case", "program", "rtol", "vessels", "ms/vessel", "least", "steps", "error", "note")
TOLERANCES = tuple(10.0**-n for n in range(3, 10))
VESSELS = 1000
FEW = 8  # vessels of Kvaerno5, and of explicit methods where it is stiff
SCIPY_VESSELS = 2
# where it is stiff, explicit methods take minutes, and as many steps at any tolerance: these are enough
EXPLICIT_AT = (1e-3, 1e-6, 1e-9)
# steps of a vessel in optim, of an interval in diffrax; one vessel that gets stuck keeps all of diffrax's waiting
MOST_STEPS = {"cho": (100_000, 10_000), "stiff": (4_000_000, 1_000_000)}
TITLES = {"mild": "CHO, mild", "depleted": "CHO, glucose used up daily"}
# Okabe and Ito: told apart by the colour-blind; a marker of its own for each program besides
LOOKS = {
    "C Tsit5": ("#000000", "o"),
    "optim Tsit5": ("#0072B2", "s"),
    "optim Rodas5P": ("#D55E00", "D"),
    "diffrax Tsit5": ("#56B4E9", "^"),
    "diffrax Kvaerno5": ("#E69F00", "v"),
    "SciPy LSODA": ("#009E73", "P"),
    "SciPy Radau": ("#CC79A7", "X"),
}


def _peers(process: Process, rtol: float, vessels: int, quick: bool) -> list[Peer]:
    cho = process.name in problem.CASES
    explicit = vessels if cho else FEW
    most, most_of_interval = MOST_STEPS["cho" if cho else "stiff"]
    found = [peers.c(process.name, vessels, rtol)] if cho else []
    found.append(peers.optim(process, "Rodas5P", vessels, rtol))
    if cho or any(math.isclose(rtol, at) for at in EXPLICIT_AT):
        found.append(peers.optim(process, "Tsit5", explicit, rtol, most))
        if not quick:
            found.append(peers.diffrax_peer(process, "Tsit5", explicit, rtol, max_steps=most_of_interval))
    if not quick:
        found.append(peers.diffrax_peer(process, "Kvaerno5", FEW, rtol))
    return found + [peers.scipy(process, method, SCIPY_VESSELS, rtol) for method in ("LSODA", "Radau")]


def measure(quick: bool, cores: int) -> list[Row]:
    """Rows of every case, tolerance and program."""
    rows: list[Row] = []
    cases = [problem.process("mild"), problem.process("depleted"), raav.process()]
    for process in cases[: 1 if quick else None]:
        for rtol in TOLERANCES[:4:3] if quick else TOLERANCES:
            say(f"precision: {process.name}, {rtol:.0e}")
            chosen = _peers(process, rtol, 24 if quick else VESSELS, quick)
            in_turn(chosen, 1 if quick else 3, 3.0)
            for peer in chosen:
                assert peer.answer is not None
                failed = peer.answer.failed
                rows.append(
                    {
                        "case": process.name,
                        "program": peer.name,
                        "rtol": rtol,
                        "vessels": peer.vessels,
                        "ms/vessel": None if failed else peer.ms,
                        "least": None if failed else peer.least_ms,
                        "steps": peer.answer.steps,
                        "error": None if failed else error(process, peer.answer.states, SCIPY_VESSELS),
                        "note": failed,
                    }
                )
    return rows


def tables(rows: list[Row]) -> str:
    """The rows as text."""
    return text("Work and precision", rows, COLUMNS)


def figure(rows: list[Row], file: Path) -> None:
    """One panel per case: time over error, both logarithmic, left and down is better."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    drawn, axes = plt.subplots(1, len(cases), figsize=(4.2 * len(cases), 4.6), sharey=True, squeeze=False)
    for ax, case in zip(axes[0], cases, strict=True):
        for program, (colour, marker) in LOOKS.items():
            line = [r for r in rows if r["case"] == case and r["program"] == program and r["ms/vessel"] is not None]
            if line:
                x, y = np.array([(r["error"], r["ms/vessel"]) for r in line]).T
                ax.loglog(x, y, color=colour, marker=marker, markersize=5, linewidth=1.4, label=program)
        ax.set_title(TITLES.get(case, case), fontsize=10)
        ax.set_xlabel("largest relative error (-)")
        ax.invert_xaxis()
        ax.xaxis.set_major_locator(LogLocator(numticks=7))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(which="major", color="0.88", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("time per vessel, one core (ms)")
    handles = {label: h for ax in axes[0] for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    ordered = [name for name in LOOKS if name in handles]
    columns = min(len(ordered), 7 * len(cases) // 3)
    rows_of_legend = -(-len(ordered) // columns)
    shown = [handles[name] for name in ordered]
    drawn.legend(shown, ordered, loc="lower center", ncols=columns, frameon=False, fontsize=9)
    drawn.tight_layout(rect=(0.0, 0.02 + 0.05 * rows_of_legend, 1.0, 1.0))
    drawn.savefig(file, dpi=150)
    plt.close(drawn)
