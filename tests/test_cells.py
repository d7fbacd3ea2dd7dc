"""Text that a spreadsheet would run as a formula leaves as plain text, and comes back as it was."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.cells import is_formula, read_cell, safe_cell
from optim.data.csv_table import csv_text, read_text_table

FORMULAS = [
    '=HYPERLINK("http://x")',
    "@SUM(A1:A9)",
    "+1+1",
    "-2+3",
    "=1",
    "\t=1",
    "\tx",
    " =1",
    "=cmd|' /C calc'!A0",
    "\uff1d1",
]
PLAIN = ["C01", "-2", "+2.5e-3", "-inf", "", "-", "'", "it's", "1-2", "+3 %", "a=b", "'quoted'", "-2 %"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_an_apostrophe(text):
    assert safe_cell(text) == f"'{text}"
    assert read_cell(f"'{text}") == text


@pytest.mark.parametrize("text", PLAIN)
def test_numbers_and_plain_text_stay_as_they_are(text):
    assert safe_cell(text) == text
    assert read_cell(text) == text


@given(st.text("'=+-@\t 1a%", max_size=8) | st.text(max_size=8))
def test_every_text_comes_back(text):
    written = safe_cell(text)
    assert read_cell(written) == text
    assert written.startswith("'") or not is_formula(written)


def test_tables_hold_no_formula_and_come_back(tmp_path):
    texts = [*FORMULAS, *PLAIN, "'=1", "''=1"]
    table = pd.DataFrame({"clone": texts, "=x()": range(len(texts)), "value": -1.0})
    (tmp_path / "t.csv").write_text(csv_text(table), encoding="utf-8")
    back = read_text_table(tmp_path / "t.csv")
    assert list(back["clone"]) == texts
    assert list(back.columns) == list(table.columns)
    assert set(back["value"]) == {"-1.0"}
    for cell in (tmp_path / "t.csv").read_text(encoding="utf-8").replace('"', "").replace("\n", ",").split(","):
        assert not cell.startswith(("=", "@", "\t", "+1"))
