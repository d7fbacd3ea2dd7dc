"""Datasets: the contract, the zoo of bad files, units, and where public sets come from."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pint
import pytest
from conftest import ROOT, needs_public_data
from hypothesis import given
from hypothesis import strategies as st

from optim.app.build import compose
from optim.data import open as registry
from optim.data.open import read_dataset
from optim.data.reader import content_hash, read_folder
from optim.errors import ConfigError, DatasetError
from optim.schedule.actions import Bolus, Setpoint
from optim.synthetic import ScreenOptions, make_screen
from optim.units import VARIABLES, Quantity, conversion_factor, to_canonical


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small sound dataset that a test may spoil."""
    place = tmp_path / "mine"
    place.mkdir()
    (place / "dataset.yaml").write_text(
        "name: mine\ndescription: d\norganism: CHO\ncitation: none\nlicence: none\nsimulated: true\n"
    )
    (place / "media.csv").write_text("medium_id,component,value,unit\nm,glucose,35,mmol/L\nf,glucose,400,mmol/L\n")
    (place / "runs.csv").write_text(
        "run_id,clone_id,start_volume_ml,medium_id,temperature_c,end_time_h,inoculum_vcd_1e6_per_ml\n"
        "R1,C1,13,m,36.8,96,0.5\nR2,C1,13,m,36.8,96,0.5\n"
    )
    (place / "events.csv").write_text(
        "run_id,time_h,kind,feed_id,value,unit\nR1,24,sample,,0.3,mL\nR1,24,bolus,f,0.4,mL\nR2,24,sample,,0.3,mL\n"
    )
    (place / "measurements.csv").write_text(
        "run_id,time_h,variable,value,unit\nR1,0,vcd,0.5,1e6 cells/mL\nR1,24,glucose,6.1,g/L\nR2,24,glucose,30,mmol/L\n"
    )
    return place


def test_a_sound_dataset_is_read_into_canonical_units(folder):
    d = read_folder(folder)
    assert d.run_ids == ("R1", "R2")
    assert d.clones == ("C1",)
    assert d.measurements.value[1] == pytest.approx(6.1 / 180.156 * 1000.0, rel=1e-12)
    assert d.runs[0].actions[1] == Bolus(24.0, "f", 0.4)
    assert d.runs[0].start_volume_l == pytest.approx(0.013)


SPOILS = {
    "text in a number": ("measurements.csv", "6.1,g/L", "six,g/L", ["measurements.csv:3", "'value'", "'six'", "not a number"]),
    "decimal comma": ("measurements.csv", "6.1,g/L", '"6,1",g/L', ["measurements.csv:3", "'6,1'", "decimal comma"]),
    "unit that does not fit": ("measurements.csv", "6.1,g/L", "6.1,degC", ["measurements.csv:3", "'unit'", "'degC'"]),
    "unknown unit": ("measurements.csv", "6.1,g/L", "6.1,foo", ["measurements.csv:3", "'foo'", "is no unit", "like 'mmol/L'"]),
    "negative time": ("measurements.csv", "R1,24,glucose", "R1,-24,glucose", ["measurements.csv:3", "'time_h'", "below 0"]),
    "negative value": ("measurements.csv", "6.1,g/L", "-6.1,g/L", ["measurements.csv:3", "'value'", "below 0"]),
    "duplicate sample": (
        "measurements.csv", "R2,24,glucose,30,mmol/L", "R1,24,glucose,30,mmol/L", ["measurements.csv:4", "same run, time"],
    ),
    "after the end": ("measurements.csv", "R1,24,glucose", "R1,240,glucose", ["measurements.csv:3", "after the end of run R1"]),
    "unknown variable": ("measurements.csv", "glucose,6.1", "glucos,6.1", ["measurements.csv:3", "Did you mean 'glucose'"]),
    "unknown run": ("measurements.csv", "R2,24,glucose", "R3,24,glucose", ["measurements.csv:4", "'R3'", "not in runs.csv"]),
    "infinite": ("measurements.csv", "6.1,g/L", "inf,g/L", ["measurements.csv:3", "not a finite number"]),
    "missing column": ("runs.csv", "medium_id", "medum_id", ["runs.csv:1", "column is missing", "'medium_id'"]),
    "zero volume": ("runs.csv", "R1,C1,13", "R1,C1,0", ["runs.csv:2", "must be above 0"]),
    "run twice": ("runs.csv", "R2,C1", "R1,C1", ["runs.csv:3", "given twice"]),
    "unknown medium": ("runs.csv", "R1,C1,13,m,", "R1,C1,13,k,", ["runs.csv:2", "not in media.csv"]),
    "unknown event": ("events.csv", "bolus", "bulus", ["events.csv:3", "Did you mean 'bolus'"]),
    "unknown feed": ("events.csv", "bolus,f,", "bolus,g,", ["events.csv:3", "not in media.csv"]),
    "a feed for a sample": ("events.csv", "R1,24,sample,,", "R1,24,sample,f,", ["events.csv:2", "has no feed"]),
    "volume used up": ("events.csv", "R1,24,sample,,0.3,mL", "R1,24,sample,,30,mL", ["events.csv:2", "no volume left"]),
    "vessel without events": ("events.csv", "R2,24,sample,,0.3,mL\n", "", ["events.csv", "this run has no event"]),
    "wrong truth value": ("dataset.yaml", "simulated: true", "simulated: perhaps", ["dataset.yaml", "true or false"]),
    "missing header key": ("dataset.yaml", "licence: none\n", "", ["dataset.yaml", "'licence'", "missing"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILS)
def test_a_fault_names_file_row_column_value_and_rule(folder, name):
    file, old, new, words = SPOILS[name]
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    with pytest.raises(DatasetError) as caught:
        read_folder(folder)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "file is empty"),
        (b"run_id,time_h,variable,value,unit\n", "no rows below the header"),
        (b"PK\x03\x04rest", "Excel workbook"),
        (b"run_id;time_h;variable;value;unit\nR1;0;vcd;1;x\n", "separated by ';'"),
        ("run_id,time_h,variable,value,unit\nR1,0,vcd,1,µ\n".encode("latin-1"), "not UTF-8"),
        (
            b"run_id,time_h,variable,value,unit\nR1,0,vcd,1,a,b,c\n",
            r"measurements\.csv:2.*7 cells where the header has 5",
        ),
    ],
)
def test_a_file_that_is_no_table_is_refused(folder, content, rule):
    (folder / "measurements.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=rule):
        read_folder(folder)


def test_rows_are_counted_as_in_the_file_blank_lines_included(folder):
    text = (folder / "measurements.csv").read_text().replace("6.1,g/L", "six,g/L").replace("unit\n", "unit\n\n\n", 1)
    (folder / "measurements.csv").write_text(text)
    with pytest.raises(DatasetError, match=r"measurements\.csv:5 column 'value' value 'six'"):
        read_folder(folder)


def test_a_missing_file_is_named(folder):
    (folder / "events.csv").unlink()
    with pytest.raises(DatasetError, match=r"events\.csv: file is missing"):
        read_folder(folder)


def test_all_faults_are_reported_at_once(folder):
    for name in ("text in a number", "unknown event", "missing header key"):
        file, old, new, _ = SPOILS[name]
        (folder / file).write_text((folder / file).read_text().replace(old, new, 1))
    with pytest.raises(DatasetError) as caught:
        read_folder(folder)
    assert {c.file for c in caught.value.cells} == {"measurements.csv", "events.csv", "dataset.yaml"}
    assert len(caught.value.cells) == 3


def test_reading_changes_no_file_and_the_hash_follows_the_content(folder):
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    first = read_folder(folder).content_hash
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    (folder / "measurements.csv").write_text((folder / "measurements.csv").read_text().replace("6.1", "6.2"))
    assert read_folder(folder).content_hash != first


def test_an_excluded_row_is_not_used(folder):
    text = (
        (folder / "measurements.csv")
        .read_text()
        .replace("unit\n", "unit,qc_flag\n", 1)
        .replace("mmol/L\n", "mmol/L,exclude\n")
    )
    text = text.replace("mL\n", "mL,\n").replace("g/L\n", "g/L,\n")
    (folder / "measurements.csv").write_text(text)
    assert len(read_folder(folder).measurements.value) == 2


def test_an_unknown_dataset_names_the_nearest():
    with pytest.raises(DatasetError, match="Did you mean 'cho_clone_screen'"):
        read_dataset("cho_clone_scren")


@pytest.mark.parametrize("mismatch", [False, True])
def test_the_shipped_screens_are_what_the_generator_makes(tmp_path, mismatch):
    name = "cho_clone_screen" + ("_mismatch" if mismatch else "")
    made = read_folder(make_screen(tmp_path / name, name, ScreenOptions(mismatch=mismatch)))
    shipped = read_folder(ROOT / "datasets" / name)
    assert made.run_ids == shipped.run_ids
    assert made.measurements.variable == shipped.measurements.variable
    # four digits are written, so a last digit may differ between machines
    assert np.allclose(made.measurements.value, shipped.measurements.value, rtol=2e-3)
    assert shipped.simulated
    assert "SIMULATED" in shipped.description


def test_the_screen_is_as_described(screen):
    assert len(screen.clones) == 24
    assert len(screen.runs) == 48
    q_p = np.array([screen.truth[c]["qP"] for c in screen.clones]) * 24.0e3  # g/1e9 cells/h -> pg/cell/d
    assert q_p.min() >= 10.0 - 1e-9
    assert q_p.max() <= 40.0 + 1e-9
    assert np.std(np.log(q_p)) > 0.2
    assert "<" in screen.measurements.censored
    full = len(screen.runs) * (4 * 15 + 2 * 8 + 7)
    assert 0.02 < 1.0 - len(screen.measurements.value) / full < 0.06  # values are missing
    m = screen.measurements
    titre = m.value[(np.array(m.variable) == "titre") & (m.time_h == 336.0)]
    assert titre.max() > 2.5 * titre.min()


# --- units: pint is the oracle ---

PINT = pint.UnitRegistry()


@pytest.mark.parametrize(
    ("variable", "unit", "value", "expected"),
    [
        ("vcd", "1e6 cells/mL", 3.0, 3.0),
        ("vcd", "cells/mL", 3e6, 3.0),
        ("vcd", "1e5 cells/mL", 30.0, 3.0),
        ("viability", "%", 97.0, 0.97),
        ("viability", "fraction", 0.97, 0.97),
        ("titre", "mg/L", 500.0, 0.5),
        ("titre", "µg/mL", 500.0, 0.5),
        ("glucose", "g/L", 1.80156, 10.0),
        ("glucose", "mg/dL", 180.156, 10.0),
        ("glucose", "mM", 10.0, 10.0),
        ("lactate", "g/L", 0.9008, 10.0),
        ("glycerol", "mmol/L", 10.0, 0.9209),
    ],
)
def test_units_that_laboratories_write(variable, unit, value, expected):
    assert to_canonical(value, unit, VARIABLES[variable]) == pytest.approx(expected, rel=1e-12)


@given(st.floats(-50.0, 200.0))
def test_temperatures_convert_with_their_offset(celsius):
    kelvin = PINT.Quantity(celsius, "degC").to("kelvin").magnitude
    fahrenheit = PINT.Quantity(celsius, "degC").to("degF").magnitude
    assert to_canonical(kelvin, "kelvin", Quantity("degC")) == pytest.approx(celsius, abs=1e-9)
    assert to_canonical(fahrenheit, "degF", Quantity("degC")) == pytest.approx(celsius, abs=1e-9)


@given(st.sampled_from(["g/L", "mg/mL", "ug/mL", "kg/m**3", "mg/dL"]), st.floats(0.0, 1e6))
def test_concentrations_agree_with_pint(unit, value):
    assert to_canonical(value, unit, VARIABLES["titre"]) == pytest.approx(
        PINT.Quantity(value, unit).to("g/L").magnitude
    )


@pytest.mark.parametrize("unit", ["degC", "h", "", "g/", "cells", "1e6", "; drop"])
def test_a_unit_that_does_not_fit_is_refused(unit):
    with pytest.raises(ConfigError, match=r"does not fit|is no unit"):
        conversion_factor(unit, VARIABLES["titre"])


# --- public sets ---


@pytest.fixture
def public(tmp_path, monkeypatch):
    """A public set of one file, with its source registered, and no network."""
    shipped = tmp_path / "datasets" / "toy"
    shipped.mkdir(parents=True)
    content = b"a,b\n1,2\n"
    digest = hashlib.sha256(content).hexdigest()
    (shipped / "source.yaml").write_text(
        f"name: toy\nadapter: toy\nrepository: someone/toy\ncommit: 0123456789abcdef\npath: data\n"
        f"address: {(tmp_path / 'remote').as_uri()}/{{commit}}/{{file}}\nfiles:\n  x.csv: {digest}\n"
    )
    remote = tmp_path / "remote" / "0123456789abcdef"
    remote.mkdir(parents=True)
    (remote / "x.csv").write_bytes(content)
    monkeypatch.setattr(registry, "datasets_dir", lambda: tmp_path / "datasets")
    monkeypatch.setattr(registry, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setitem(registry.ADAPTERS, "toy", lambda folder, source: (folder / "x.csv").read_text())
    monkeypatch.delenv("OPTIM_DATA", raising=False)
    return tmp_path


def test_a_public_set_is_fetched_once_and_checked(public):
    assert read_dataset("toy") == "a,b\n1,2\n"
    shutil.rmtree(public / "remote")
    assert read_dataset("toy") == "a,b\n1,2\n"  # from the cache


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(public):
    (public / "remote" / "0123456789abcdef" / "x.csv").write_bytes(b"tampered")
    with pytest.raises(DatasetError, match=r"SHA-256 is .* expected .* nothing was kept"):
        read_dataset("toy")
    assert not list((public / "cache").rglob("*.csv"))


def test_without_network_the_message_says_what_to_do(public):
    shutil.rmtree(public / "remote")
    with pytest.raises(DatasetError, match=r"fetching .* failed .* set OPTIM_DATA"):
        read_dataset("toy")


def test_optim_data_is_read_checked_and_never_written(public, monkeypatch):
    mine = public / "data" / "toy"
    mine.mkdir(parents=True)
    monkeypatch.setenv("OPTIM_DATA", str(public / "data"))
    with pytest.raises(DatasetError, match=r"OPTIM_DATA=.* lacks x\.csv"):
        read_dataset("toy")
    (mine / "x.csv").write_bytes(b"other")
    with pytest.raises(DatasetError, match="SHA-256"):
        read_dataset("toy")
    (mine / "x.csv").write_bytes(b"a,b\n1,2\n")
    assert read_dataset("toy") == "a,b\n1,2\n"
    assert [p.name for p in mine.iterdir()] == ["x.csv"]


@needs_public_data
def test_the_public_ecoli_set_is_read_whole():
    d = read_dataset("optfed_ecoli_proteinL")
    assert len(d.runs) == 12
    assert len(d.measurements.value) == 249  # 84 rows less the authors' outlier, three assays
    assert not d.simulated
    m = d.measurements
    late = np.flatnonzero(m.time_h > 11.0)
    final = {(d.runs[m.run[i]].run_id, m.variable[i]): m.value[i] for i in late}
    assert final["DoE1_R2", "product"] == pytest.approx(9.41, abs=0.01)
    assert final["DoE1_R2", "biomass"] == pytest.approx(52.27, abs=0.01)
    assert final["DoE2_R2", "biomass"] == pytest.approx(70.17, abs=0.01)
    # 388.60 g/L is 359.67 g per kg, in which feeds are counted; the reference process has 360.87
    assert d.media["feed_DoE1_R2"]["glycerol"] == pytest.approx(359.67, abs=0.01)
    temperatures = {r.run_id: [a.temperature_c for a in r.actions if isinstance(a, Setpoint)] for r in d.runs}
    assert np.median(temperatures["DoE3_R1"] or [31.0]) == pytest.approx(31.0, abs=0.7)


def test_every_dataset_config_names_a_dataset_that_exists():
    for file in (ROOT / "configs" / "dataset").glob("*.yaml"):
        name = compose([f"dataset={file.stem}"]).dataset.name
        assert (ROOT / "datasets" / name).is_dir(), name


def test_the_hash_ignores_files_that_are_no_part_of_it(folder):
    before = content_hash(folder)
    (folder / "notes.txt").write_text("scribble")
    assert content_hash(folder) == before
