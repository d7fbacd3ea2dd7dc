"""The benchmarks: the problem has its published values, every program solves the same equations, ratios are right."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "simulation"
sys.path.insert(0, str(FOLDER))

import ecoli  # noqa: E402
import peers  # noqa: E402
import problem  # noqa: E402
import raav  # noqa: E402
from process import Process, error, solve_scipy  # noqa: E402
from table import add_ratio, text  # noqa: E402
from timing import Answer, Peer, in_turn  # noqa: E402

from optim.simulation.balance import Controls, apply_left_edge, state_derivative  # noqa: E402


@pytest.mark.parametrize("case", problem.CASES)
def test_the_batch_has_its_published_values(case):
    process = problem.process(case)
    states, _ = solve_scipy(process, process.parameters(1)[0], "Radau", 1e-8, 1e-9)
    found = dict(zip(problem.SPECIES, states[-1], strict=True))
    for species, value in problem.CHECK_FINAL[case].items():
        assert found[species] == pytest.approx(value, rel=1e-5), species
    assert problem.START_L + process.grid.actions.bolus.sum() == pytest.approx(problem.CHECK_FINAL_L)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("case", problem.CASES)
def test_the_c_program_finds_the_mean_of_a_thousand_vessels_and_takes_a_tolerance(case):
    loose, tight = (peers.c(case, 1000, rtol).run() for rtol in (1e-6, 1e-8))
    assert loose.states[:, -1, -2].mean() == pytest.approx(problem.CHECK_MEAN_MAB[case], rel=2e-6)
    assert tight.states[:, -1, -2].mean() == pytest.approx(problem.CHECK_MEAN_MAB[case], rel=3e-8)
    assert tight.steps > loose.steps


def library(process: Process, k: int, y: list[float], volume: float, h: float) -> tuple[np.ndarray, np.ndarray]:
    """The library's state after the left edge of interval k, and its rates h hours later at y; the volume is last."""
    model, p = process.model, process.model.Parameters(*process.parameters(1)[0])
    dilutes = np.array([s.dilutes for s in model.species])
    c = np.array(y[: len(dilutes)])
    amounts = (*np.where(dilutes, c * volume, c), volume)
    length = process.nodes[k + 1] - process.nodes[k]
    u = Controls(length, jax.tree.map(lambda a: a[k], process.grid.actions))
    after = np.array(apply_left_edge(model, amounts, u, vessel=process.vessel))
    slope = np.array(state_derivative(model, p, amounts, s=h / length, controls=u, vessel=process.vessel)) / length
    # d(n/V)/dt = (dn/dt - c dV/dt) / V
    rates = np.where(dilutes, (slope[:-1] - c * slope[-1]) / volume, slope[:-1])
    jump = np.where(dilutes, after[:-1] / after[-1], after[:-1])
    return np.append(jump, after[-1]), np.append(rates, slope[-1])


@pytest.mark.parametrize(
    "process", [problem.process("mild"), ecoli.process(1e-4), ecoli.process(0.1), raav.process()], ids=lambda p: p.name
)
def test_other_programs_are_given_the_equations_of_the_library(process):
    p, y = process.parameters(1)[0].tolist(), (process.sizes * np.linspace(0.3, 0.9, len(process.sizes))).tolist()
    for k, u in enumerate(process.controls.tolist()):
        # where nothing flows, the controls know the volume that boluses have reached
        flows = len(y) > len(process.model.species)
        volume = y[-1] if flows else process.start_l + process.grid.actions.bolus[:k].sum()
        jump, rates = (x[: len(y)] for x in library(process, k, y, volume, 1.5))
        assert np.allclose(process.edge(y, u), jump, rtol=1e-9, atol=1e-9), k
        found = process.rates(1.5, y, p, u, math.exp)
        assert np.allclose(found, rates, rtol=1e-9, atol=1e-12 * np.abs(rates).max()), k


def test_an_error_is_relative_to_the_largest_value_of_a_species():
    process = problem.process("mild")
    true = np.stack([solve_scipy(process, process.parameters(1)[0], "Radau", 1e-10, 1e-12)[0]])
    wrong = true.copy()
    wrong[0, 5, 6] += 1e-3 * true[0, :, 6].max()
    assert error(process, true, 1) < 1e-12
    assert error(process, wrong, 1) == pytest.approx(1e-3)


ROWS = [
    {"case": "a", "program": "C", "ms/vessel": 2.0},
    {"case": "a", "program": "us", "ms/vessel": 3.0},
    {"case": "a", "program": "slow", "ms/vessel": None},
    {"case": "b", "program": "us", "ms/vessel": 5.0},
    {"case": "c", "program": "C", "ms/vessel": 4.0},
    {"case": "c", "program": "C", "ms/vessel": 8.0},
    {"case": "c", "program": "us", "ms/vessel": 1.0},
]


def test_ratios_are_to_the_best_of_the_same_case():
    rows = [dict(row) for row in ROWS]
    add_ratio(rows, "x C", lambda r: r["program"] == "C", ("case",))
    add_ratio(rows, "faster", lambda r: r["program"] == "C", ("case",), inverse=True)
    assert [row["x C"] for row in rows] == [1.0, 1.5, None, None, 1.0, 2.0, 0.25]
    assert [row["faster"] for row in rows] == [1.0, pytest.approx(2.0 / 3.0), None, None, 1.0, 0.5, 4.0]


def test_a_table_lines_up_and_has_a_dash_for_what_does_not_exist():
    rows = [dict(row) for row in ROWS[:3]]
    add_ratio(rows, "x C", lambda r: r["program"] == "C", ("case",))
    assert text("Title", rows, ("program", "ms/vessel", "x C")).splitlines() == [
        "Title",
        "program  ms/vessel   x C",
        "C                2  1.00",
        "us               3  1.50",
        "slow             -     -",
    ]


def test_programs_run_in_turn_and_a_slow_one_sits_out():
    order = []

    def peer(name: str, seconds: float, failed: str = "") -> Peer:
        def run() -> Answer:
            order.append(name)
            return Answer(seconds, np.empty(0), 1.0, failed)

        return Peer(name, 10, run)

    fast, slow, broken = peer("fast", 0.2), peer("slow", 2.0), peer("broken", 0.1, "no")
    in_turn([fast, slow, broken], repeats=3, budget_s=1.5)
    assert order == ["fast", "slow", "broken", "fast", "fast"]
    assert fast.ms == pytest.approx(20.0)
    assert slow.least_ms == pytest.approx(200.0)


@pytest.mark.parametrize("folder", [FOLDER, FOLDER.with_name("estimation")], ids=lambda f: f.name)
def test_cores_are_pinned_before_anything_counts_them(folder):
    code = "import sys; import run; print([m for m in ('numpy', 'scipy', 'jax') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
