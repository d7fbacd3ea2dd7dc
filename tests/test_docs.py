"""The examples in the documentation run, and print what they should."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT


def blocks(file: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / file).read_text(), re.M | re.S)


def test_the_perfusion_of_the_documentation_holds_its_vcd(capsys):
    (code,) = blocks("docs/simulator.md")
    exec(compile(code, "docs/simulator.md", "exec"), {})
    vcd, product = (float(x) for x in re.findall(r"[\d.]+(?=e6/mL| g)", capsys.readouterr().out))
    assert vcd == pytest.approx(12.0, rel=0.02)
    assert product > 0.1


def test_the_optimal_control_of_the_documentation_converges_from_all_starts(capsys):
    (code,) = blocks("docs/optimal_control.md")
    exec(compile(code, "docs/optimal_control.md", "exec"), {})
    out = capsys.readouterr().out
    assert "8 of 8 starts converged" in out
    assert "binding: biomass" in out
