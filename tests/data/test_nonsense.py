"""Nonsense in data: mutated tables are refused with their place, or legal; odd files are told once, with the remedy."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support.mutants import SOUND, mutants, write_sound

from optim.data.contract import RESERVED_CLONES
from optim.data.reader import AFTER_H, read_folder
from optim.errors import DatasetError
from optim.estimation.result import NEWCOMER


@pytest.fixture
def folder(tmp_path):
    return write_sound(tmp_path / "sound")


def edit(folder, file, old, new):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_bytes(text.replace(old, new, 1).encode())


def refused(folder) -> str:
    with pytest.raises(DatasetError) as caught:
        read_folder(folder)
    return str(caught.value)


def test_the_sound_dataset_is_sound(folder):
    assert read_folder(folder).run_ids == ("R1", "R2")


def test_every_mutant_is_refused_with_its_place_or_legal(folder):
    """None ends in another error, in silence where it must be refused, or in a message that names another place."""
    wrong = []
    for m in mutants():
        (folder / m.file).write_text(m.text, newline="")
        what = f"{m.file} column {m.column!r} row {m.row}: {m.change}"
        try:
            read_folder(folder)
            if m.must:
                wrong.append(f"{what}: taken")
        except DatasetError as err:
            if m.must is False:
                wrong.append(f"{what}: {err}")
            if m.must and not re.search(rf"{re.escape(m.file)}(:\d+)?", str(err)):
                wrong.append(f"{what}: names another place: {err}")
        (folder / m.file).write_text(SOUND[m.file])
    assert not wrong, "\n".join(wrong)


CASES = {
    "megalitre": ("events.csv", "0.3,mL", "0.3,ML", r"events\.csv:2 column 'unit' value 'ML'.*is 'mL' meant\?"),
    "megamolar": ("media.csv", "35,mmol/L", "35,MM", r"media\.csv:2 column 'unit'.*is 'mM' meant\?"),
    "event twice": (
        "events.csv", "R1,24,bolus,f,0.4,mL,,,,,\n", 2 * "R1,24,bolus,f,0.4,mL,,,,,\n",
        r"events\.csv:4 .*same event as row 3",
    ),
    "ditto mark": ("measurements.csv", "g/L,analyser", 'g/L,"', r"measurements\.csv:3: a quotation mark.*ditto"),
    "another clone": (
        "measurements.csv", "R1,E1,V1,C1,24", "R1,E1,V1,C2,24",
        r"measurements\.csv:3 column 'clone_id' value 'C2': run R1 has clone_id 'C1' in runs\.csv",
    ),
    "a clone called population": (
        "runs.csv", "R1,C1", "R1,population", r"runs\.csv:2 column 'clone_id' value 'population': a word of optim's own",
    ),
    "kelvin": ("runs.csv", "36.8", "309.95", r"runs\.csv:2 column 'temperature_c'.*above 100 °C.*kelvin"),
    "no acidity": ("runs.csv", "7.0", "70", r"runs\.csv:2 column 'ph'.*above 14"),
    "inoculum in cells/mL": ("runs.csv", "96,0.5", "96,500000", r"runs\.csv:2 column 'inoculum.*is it in cells/mL"),
    "start volume in another unit": ("runs.csv", "V1,13,", "V1,13000000,", r"runs\.csv:.*times the usual volume"),
    "a run without length": ("runs.csv", "7.0,96", "7.0,0", r"runs\.csv:2 column 'end_time_h' value '0': must be above 0"),
    "a bolus beyond the vessel": ("events.csv", "f,0.4,mL", "f,4000,mL", r"events\.csv:3 .*308 times the volume"),
    "titre in mg": ("measurements.csv", "titre,0.5", "titre,500", r"measurements\.csv:4 .*'500 g/L': above 100 g/L"),
    "below quantification": (
        "measurements.csv", "titre,0.5", "titre,<0.05", r"measurements\.csv:4.*write 0\.05 here, and < in the column",
    ),
    "percent in the cell": ("measurements.csv", "97,%", "97%,%", r"measurements\.csv:5.*write 97 here, and % in"),
    "thousands or decimal": (
        "media.csv", "400,", '"1,234",', r"media\.csv:4.*write 1\.234 if it is decimal, 1234 if it parts thousands",
    ),
    "truth of an unknown clone": ("truth.csv", "C1,q", "C9,q", r"truth\.csv:3 column 'owner' value 'C9'"),
    "notes that are none": ("dataset.yaml", "simulated", "notes: 5\nsimulated", r"dataset\.yaml column 'notes' value '5'"),
    "a mapping for a text": ("dataset.yaml", "licence: none", "licence: {}", r"dataset\.yaml column 'licence'"),
    "tabs": ("runs.csv", ",", "\t", r"runs\.csv:1: columns are separated by tabs"),
    "after the last action": (
        "measurements.csv", "HPLC,1,,,", "HPLC,1,,,after", r"measurements\.csv:4 column 'when'.*end of a run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_slip_is_named_with_its_place_and_the_remedy(folder, name):
    file, old, new, message = CASES[name]
    if name == "tabs":
        (folder / file).write_text(SOUND[file].replace(",", "\t"))
    else:
        edit(folder, file, old, new)
    text = refused(folder)
    assert re.search(message, text), text
    if name != "a clone called population":  # of which other tables say other things
        assert text.count("\n") == 1, text  # one cause, one line


def test_one_cause_is_told_once_with_its_rows(folder):
    rows = "".join(f"R1,E1,V1,C1,{24 * i},ethanol,0.1,g/L,gc,{j},,,\n" for i in range(4) for j in range(20))
    (folder / "measurements.csv").write_text(SOUND["measurements.csv"] + rows)
    text = refused(folder)
    assert text.count("unknown variable") == 1
    assert "measurements.csv:6 column 'variable' value 'ethanol'" in text
    assert "also in rows 7, 8, 9, 10, 11 and 74 rows more" in text


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_lines_end_as_any_machine_ends_them(folder, end):
    for file in (f for f in SOUND if f.endswith(".csv")):
        (folder / file).write_text(SOUND[file].replace("\n", end), newline="")
    assert len(read_folder(folder).measurements.value) == 4


def test_a_separator_stated_by_excel_and_empty_columns_are_passed_over(folder):
    text = SOUND["measurements.csv"].replace("\n", ",,\n")
    (folder / "measurements.csv").write_text("sep=,\n" + text)
    assert len(read_folder(folder).measurements.value) == 4
    (folder / "measurements.csv").write_text(text.replace("HPLC,1,,,,,", "HPLC,1,,,,late,"))
    assert "column 14 has values and no name" in refused(folder)


def test_a_table_that_is_a_folder_is_named(folder):
    (folder / "events.csv").unlink()
    (folder / "events.csv").mkdir()
    assert re.search(r"events\.csv: cannot be read: .*[Dd]irectory", refused(folder))


def test_one_note_is_one_note(folder):
    edit(folder, "dataset.yaml", "simulated", "notes: one note\nsimulated")
    assert read_folder(folder).notes == ("one note",)


def test_a_time_printed_with_less_digits_than_the_end_is_the_end(folder):
    edit(folder, "runs.csv", "7.0,96,", "7.0,95.9996,")
    d = read_folder(folder)
    assert d.measurements.time_h[2] == d.runs[0].end_time_h == 95.9996
    edit(folder, "runs.csv", "95.9996", "95.78333333")
    assert "after the end of run R1 (95.78333333 h)" in refused(folder)


def test_readings_before_and_after_a_feed_at_one_time_are_told_apart(folder):
    row = "R1,E1,V1,C1,24,glucose,6.1,g/L,analyser,1,,,"
    edit(folder, "measurements.csv", row + "before\n", row + "before\n" + row.replace("6.1", "8.1") + "after\n")
    m = read_folder(folder).measurements
    readings = np.array(m.variable) == "glucose"
    assert m.time_h[readings].tolist() == [24.0, 24.0 + AFTER_H]
    edit(folder, "measurements.csv", "after\n", "before\n")
    assert "column when: before or after" in refused(folder)


def test_the_words_that_results_use_for_clones_are_reserved():
    assert NEWCOMER in RESERVED_CLONES
