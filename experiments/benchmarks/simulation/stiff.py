"""Truly stiff models of the library: our implicit method against explicit ones and against the methods of others."""

from collections.abc import Callable

import ecoli
import peers
import raav
from process import Process, error
from table import Row, add_ratio, text
from timing import Peer, in_turn, say

COLUMNS = (
    "model",
    "program",
    "vessels",
    "ms/vessel",
    "least",
    "faster than explicit",
    "than BDF",
    "than Radau",
    "steps",
    "error",
    "note",
)
RTOL = 1e-6
COMPARED = 2
# An explicit method takes as many steps as the fastest rate dictates. One that needs more than these has not finished:
# of a vessel in optim, of an interval in diffrax. rAAV needs 2.4 million a vessel and 0.8 million in its longest.
MOST_STEPS, MOST_OF_INTERVAL = 100_000, 100_000
FEW = 8  # vessels of explicit methods, of Kvaerno5
SCIPY_VESSELS = 4
SCIPY = ("LSODA", "BDF", "Radau")
EXPLICIT = ("optim Tsit5", "diffrax Tsit5 by species")
PROCESSES: dict[str, Callable[[], Process]] = {
    "ecoli": lambda: ecoli.process(1e-4),
    "ecoli mild": lambda: ecoli.process(0.1),
    "raav": raav.process,
}


def _peers(process: Process, quick: bool) -> list[Peer]:
    if quick:
        return [peers.optim(process, "Rodas5P", 24, RTOL), *(peers.scipy(process, m, 1, RTOL) for m in SCIPY)]
    return [
        peers.optim(process, "Rodas5P", 1000, RTOL),
        peers.optim(process, "Tsit5", FEW, RTOL, MOST_STEPS),
        peers.diffrax_peer(process, "Tsit5", FEW, RTOL, by_species=True, max_steps=MOST_OF_INTERVAL),
        peers.diffrax_peer(process, "Kvaerno5", FEW, RTOL),
        *(peers.scipy(process, method, SCIPY_VESSELS, RTOL) for method in SCIPY),
    ]


def measure(quick: bool, cores: int) -> list[Row]:
    """Rows of every model."""
    rows: list[Row] = []
    for name in ("ecoli mild",) if quick else PROCESSES:
        process = PROCESSES[name]()
        say(f"stiff: {process.name}")
        chosen = _peers(process, quick)
        in_turn(chosen, 1 if quick else 5, 15.0)
        for peer in chosen:
            assert peer.answer is not None
            failed = peer.answer.failed
            rows.append(
                {
                    "model": process.name,
                    "program": peer.name,
                    "vessels": peer.vessels,
                    "ms/vessel": None if failed else peer.ms,
                    "least": None if failed else peer.least_ms,
                    "steps": peer.answer.steps,
                    "error": None if failed else error(process, peer.answer.states, min(COMPARED, peer.vessels)),
                    "note": f"did not finish: {failed}" if failed else "",
                }
            )
    against = {
        "faster than explicit": lambda r: r["program"] in EXPLICIT,
        "than BDF": lambda r: r["program"] == "SciPy BDF",
        "than Radau": lambda r: r["program"] == "SciPy Radau",
    }
    for column, to in against.items():
        add_ratio(rows, column, _finished(to), ("model",), inverse=True)
    return rows


def _finished(to: Callable[[Row], bool]) -> Callable[[Row], bool]:
    return lambda row: row["ms/vessel"] is not None and to(row)


def tables(rows: list[Row]) -> str:
    """The rows as text."""
    return text("Stiff models, rtol 1e-6; how many times faster than the best explicit, BDF, Radau", rows, COLUMNS)
