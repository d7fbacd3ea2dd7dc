"""The benchmark of processes: its laboratory tells the truth with errors, its opponents find optima that are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "process"
sys.path.insert(0, str(FOLDER))

import bayesian  # noqa: E402
import compare  # noqa: E402
import laboratory as lab_of  # noqa: E402
import response_surface as rsm  # noqa: E402

from optim.process.metrics import find_metric  # noqa: E402


@pytest.fixture(scope="module")
def lab() -> lab_of.Laboratory:
    return lab_of.laboratory(3)


def test_the_volume_by_arithmetic_is_that_of_the_simulation(lab):
    space = lab_of.full(lab.problem)
    x = space.decisions(np.random.default_rng(0).random((12, space.n)))
    e = lab.problem.evaluate(x, np.tile(lab.truth()["C01"], (len(x), 1)))
    limits = [c.name for c in lab.problem.constraints]
    nodes = lab.problem.trace(x[:1], lab.truth()["C01"]).t.shape[1]
    at = limits.index("vessel_volume") * nodes  # limits along the path come before it, or it is the first
    simulated = np.asarray(e.margins[:, at : at + nodes]).min(axis=1)
    assert np.allclose(lab_of.volume_room(lab.problem.design, 15.0, x), simulated, atol=1e-9)


def test_readings_scatter_about_the_truth_and_count_vessels(lab):
    own = lab.again(1)
    x = lab.problem.design.platform
    true = own.judge("C02", x)
    seen = [own.run("C02", x) for _ in range(60)]
    assert own.used == 60
    ratio = np.array([s.value for s in seen]) / true.value
    # titre errs by 6 %, the inoculum by 6 %; costs follow the titre only in part
    assert abs(ratio.mean() - 1.0) < 0.03
    assert 0.03 < ratio.std() < 0.09
    rooms = np.array([s.room for s in seen])
    for i, name in enumerate(own.assayed):
        # the worst of fifteen assays reads worse than the truth, by no more than their errors
        assert rooms[:, i].mean() == pytest.approx(true.room[name], abs=0.12 if name != "glucose" else 0.6), name


def test_without_noise_a_reading_is_the_truth(lab, monkeypatch):
    monkeypatch.setattr(lab_of, "SCREEN_ASSAYS", {k: (0.0, 0.0, *v[2:]) for k, v in lab_of.SCREEN_ASSAYS.items()})
    monkeypatch.setattr(lab_of, "OSMOMETER", (0.0, 0.0))
    monkeypatch.setattr(lab_of, "INOCULUM_SD", 0.0)
    space = lab_of.full(lab.problem)
    rng = np.random.default_rng(1)
    for x in [lab.problem.design.platform, *space.decisions(space.fill(4, rng))]:
        seen, true = lab.again(1).run("C05", x), lab.judge("C05", x)
        assert seen.value == pytest.approx(true.value, rel=1e-12)
        for name, room in zip(lab.assayed, seen.room, strict=True):
            # the laboratory samples once a day; the shift of temperature may fall between
            assert room == pytest.approx(true.room[name], abs=0.02) or room >= true.room[name], name


def test_few_factors_mean_decisions_of_the_design(lab):
    for space in (lab_of.reduced(lab.problem), lab_of.reduced(lab.problem, (3, 4, 4)), lab_of.full(lab.problem)):
        assert np.allclose(space.decisions(space.platform[None])[0], lab.problem.design.platform)
        assert space.fits(space.fill(8, np.random.default_rng(2))).all()
    x = lab_of.reduced(lab.problem, (3, 4, 4)).decisions(np.array([[0.1, 0.2, 0.3, 0.5, 0.5, 0.5]]))[0]
    assert np.allclose(x[:11], [0.12] * 3 + [0.24] * 4 + [0.36] * 4)
    with pytest.raises(ValueError, match="add up to 11"):
        lab_of.reduced(lab.problem, (3, 4))


def test_designs_are_what_their_names_say():
    full = rsm.central_composite(4, half=False, centres=4)
    assert full.shape == (28, 4)
    assert np.allclose(full.sum(axis=0), 0.0)
    half = rsm.central_composite(4, half=True, centres=4)
    assert half.shape == (20, 4)
    quadratic = np.column_stack(
        [np.ones(28), full, full**2, *[full[:, i] * full[:, j] for i in range(4) for j in range(i)]]
    )
    assert np.linalg.matrix_rank(quadratic) == 15
    screening = rsm.definitive_screening(14)
    assert screening.shape == (29, 14)
    # main effects are orthogonal to each other and to squares and products
    assert np.allclose(screening.T @ screening, 26.0 * np.eye(14))
    products = np.array([screening[:, i] * screening[:, j] for i in range(14) for j in range(i + 1)])
    assert np.allclose(products @ screening, 0.0)
    with pytest.raises(ValueError, match="order 10"):
        rsm.definitive_screening(10)


class Bowl:
    """A laboratory whose truth is a paraboloid of 4 factors with its top at a known place, and one limit."""

    def __init__(self, space: lab_of.Space, top: np.ndarray, wall: float, noise: float):
        self.space, self.top, self.wall, self.noise = space, top, wall, noise
        self.used, self._rng = 0, np.random.default_rng(5)

    def point(self, x: np.ndarray) -> np.ndarray:
        kept = np.argmax(self.space.to_design, axis=1)
        return (x[kept] - self.space.lower) / (self.space.upper - self.space.lower)

    def run(self, clone: str, x: np.ndarray) -> lab_of.Reading:
        self.used += 1
        u = self.point(x)
        value = np.exp(-3.0 * np.sum((u - self.top) ** 2) + self.noise * self._rng.standard_normal())
        return lab_of.Reading(
            float(value), np.array([self.wall - u[2] + 0.1 * self.noise * self._rng.standard_normal()])
        )


@pytest.mark.parametrize("wall", [2.0, 0.3], ids=["free", "limit"])
@pytest.mark.parametrize("method", ["bo", "rsm"])
def test_an_opponent_finds_a_known_optimum(lab, method, wall):
    space = lab_of.reduced(lab.problem)
    # within what the vessel holds
    top = np.array([0.55, 0.6, 0.45, 0.8])
    bowl = Bowl(space, top, wall, 0.02)
    if method == "bo":
        found = list(bayesian.optimise(bowl, "C01", space, 40, 24, 1))  # type: ignore[arg-type]
        assert bowl.used == 40
    else:
        found = list(rsm.composite(bowl, "C01", space, 48, 1))  # type: ignore[arg-type]
        assert bowl.used == 48
    u = bowl.point(found[-1].x)
    best = np.where(np.arange(4) == 2, min(top[2], wall), top)
    assert np.abs(u - best).max() < 0.12
    assert u[2] <= wall + 0.01
    assert [r.runs for r in found] == sorted(r.runs for r in found)


def _seed(seed: int, ours: float, theirs: float, room: float) -> dict:
    platform = {"A": {"value": 1.0, "room": {"lactate": 0.1}}, "B": {"value": 0.8, "room": {"lactate": 0.1}}}
    return {
        "seed": seed,
        "truth": {
            "platform": platform,
            "optimum": {"A": {"value": 1.25, "x": []}, "B": {"value": 1.1, "x": []}},
            "best_clone": "A",
            "platform_choice": "B",
        },
        compare.OPTIM: {"runs": 48, "clone": "A", "value": ours, "room": {"lactate": 0.0}},
        "BO, 4 factors": [
            {"runs": 24, "clone": "A", "value": 1.0, "room": {"lactate": 0.2}},
            {"runs": 48, "clone": "A", "value": theirs, "room": {"lactate": room}},
        ],
    }


def test_a_process_that_breaks_a_limit_is_not_made():
    seeds = [_seed(1, 1.2, 1.3, -0.2), _seed(2, 1.1, 1.2, -0.01)]
    by_name = {r["method"]: r for r in compare.rows(seeds)}
    assert by_name["BO, 4 factors"]["usable"] == [1.0, 1.2]
    assert by_name["BO, 4 factors"]["wins_of_optim"] == 1
    assert np.allclose(by_name["BO, 4 factors"]["behind"], [20.0, 100.0 * (1.1 / 1.2 - 1.0)])
    assert by_name[compare.CHOSEN]["clone_right"] == 0
    assert np.allclose(by_name[compare.OPTIM]["share"], [96.0, 88.0])
    gains = compare.path(seeds[1], "BO, 4 factors", np.array([0, 24, 47, 48]))
    assert np.allclose(gains, [0.0, 0.0, 0.0, 20.0])


def test_metrics_have_the_value_that_is_judged():
    assert find_metric(lab_of.VALUE).key == "yield_per_cost"
