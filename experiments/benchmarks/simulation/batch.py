"""The batch of CHO vessels by every program, for several numbers of vessels."""

import peers
import problem
from process import error
from table import Row, add_ratio, text
from timing import Peer, in_turn, say

COLUMNS = ("case", "batch", "cores", "program", "vessels", "ms/vessel", "least", "x C", "steps", "error")
COMPARED = 4  # vessels whose states are compared with the reference
SCIPY_VESSELS = {1: 1, 24: 4}
KVAERNO_MOST = 100
DIFFRAX_MOST = 1000  # its time per vessel does not fall beyond


def _peers(case: str, batch: int, cores: int, quick: bool) -> list[Peer]:
    process, rtol = problem.process(case), problem.RTOL
    found = [peers.c(case, batch, rtol, cores)]
    found += [peers.optim(process, stepper, batch, rtol) for stepper in peers.STEPPERS]
    if batch <= DIFFRAX_MOST:
        found += [peers.diffrax_peer(process, "Tsit5", batch, rtol, by_species) for by_species in (False, True)]
    if quick:
        return [*found, peers.scipy(process, "LSODA", 1, rtol)]
    if batch <= 1000 and cores == 1:
        found.append(peers.diffrax_peer(process, "Kvaerno5", min(batch, KVAERNO_MOST), rtol))
        if batch in SCIPY_VESSELS:
            found += [peers.scipy(process, method, SCIPY_VESSELS[batch], rtol) for method in peers.SCIPY]
    return found


def measure(quick: bool, cores: int) -> list[Row]:
    """Rows of every case and number of vessels."""
    rows: list[Row] = []
    batches = (24,) if quick else (1, 24, 1000, 10_000) if cores == 1 else (1000, 10_000)
    for case in problem.CASES[: 1 if quick else None]:
        for batch in batches:
            say(f"batch, {cores} cores: {case}, {batch} vessels")
            chosen = _peers(case, batch, cores, quick)
            in_turn(chosen, 2 if quick else 7 if batch <= 1000 else 3, 1.0 if quick else 5.0)
            for peer in chosen:
                assert peer.answer is not None
                compared = min(COMPARED, peer.vessels)
                rows.append(
                    {
                        "case": case,
                        "batch": batch,
                        "cores": cores,
                        "program": peer.name,
                        "vessels": peer.vessels,
                        "ms/vessel": peer.ms,
                        "least": peer.least_ms,
                        "steps": peer.answer.steps,
                        "error": error(problem.process(case), peer.answer.states, compared),
                    }
                )
    add_ratio(rows, "x C", lambda r: r["program"] == "C Tsit5", ("case", "batch", "cores"))
    return rows


def tables(rows: list[Row]) -> str:
    """The rows as text."""
    return text("A batch of CHO vessels, 14 days, rtol 1e-6; ms/vessel: median, and the least", rows, COLUMNS)
