"""`optim simulate model=NAME` runs from the name alone, without data and without prices."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from optim.app.build import compose, model_names
from optim.app.cli import main
from optim.app.commands import load_command
from optim.app.session import open_session
from optim.units import VARIABLES, display_unit

FAST = ("penicillin_bajpai_reuss",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in model_names()])
def test_every_model_runs_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.delenv("OPTIM_DATA", raising=False)
    said: list[str] = []
    with open_session(compose([f"model={name}", "tracking=off", f"out={tmp_path}"]), "simulate", say=said.append) as s:
        found = load_command("simulate")(s)
    table = pd.read_csv(tmp_path / "simulation.csv")
    shown = found.trajectory.names
    assert [c for c in table.columns if c.endswith(" p50")] == [
        f"{n} [{u}] p50" for n, u in zip(shown, found.trajectory.units, strict=True)
    ]
    units = dict(zip(shown, found.trajectory.units, strict=True))
    assert {n: units[n] for n in units if n in VARIABLES} == {
        n: display_unit(VARIABLES[n].unit) for n in units if n in VARIABLES
    }
    assert np.isfinite(table.to_numpy()).all()
    assert table["time_h"].iloc[-1] == pytest.approx(next(d.value for d in found.decisions if d.kind == "harvest"))
    assert (tmp_path / "plots" / "simulation.png").stat().st_size > 10_000
    assert said[0].endswith("at the configured parameter values")
    assert str(tmp_path / "simulation.csv") in said[-1]
    assert not any("limit broken" in line for line in said)


def test_a_command_that_needs_data_says_so(tmp_path, capsys):
    with warnings.catch_warnings():
        assert main(["fit", "model=penicillin_bajpai_reuss", "tracking=off", "--quiet", f"out={tmp_path}"]) == 2
    assert "no dataset is configured; name one (dataset.name=...)" in capsys.readouterr().err
