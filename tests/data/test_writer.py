"""Writing dataset folders: other people's files stay, formulas are plain text, a dataset's hash is of its own files."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from optim.data.reader import content_hash, read_folder
from optim.data.writer import append_runs, write_dataset
from optim.errors import DatasetError, OptimError


def renamed(folder: Path, target: Path, start: str, new: str) -> Path:
    """A copy of a dataset with other ids of runs and, where `start` says so, of clones."""
    shutil.copytree(folder, target)
    for file in target.glob("*.csv"):
        rows = list(csv.reader(file.open(encoding="utf-8")))
        changed = [[new + c.removeprefix(start) if c.startswith(start) else c for c in row] for row in rows[1:]]
        with file.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([rows[0], *changed])
    return target


def test_runs_join_a_folder_and_other_files_in_it_stay(tmp_path, small_screen):
    mine = renamed(small_screen, tmp_path / "mine", "C", "C")
    (mine / ".optim.json").unlink()
    (mine / "raw").mkdir()
    (mine / "raw" / "instrument.dat").write_text("x")
    (mine / "notes.csv").write_text("not,a,table\n1,2\n")
    more = renamed(small_screen, tmp_path / "more", "C", "N")
    count = len(read_folder(mine).runs)
    assert append_runs(mine, more, target=mine) == mine
    assert len(read_folder(mine).runs) == 2 * count
    assert (mine / "raw" / "instrument.dat").read_text() == "x"
    assert (mine / "notes.csv").read_text() == "not,a,table\n1,2\n"
    with pytest.raises(OptimError, match=r"mine is not replaced.*notes\.csv, raw/"):
        write_dataset(mine, {}, {})
    with pytest.raises(OptimError, match="is not replaced"):
        append_runs(more, renamed(small_screen, tmp_path / "other", "C", "M"), target=mine)
    (more / "events.csv").unlink()
    with pytest.raises(DatasetError, match=r"events\.csv is missing"):
        append_runs(mine, more, target=tmp_path / "both")


def test_ids_that_are_formulas_are_written_as_text_and_read_as_they_are(tmp_path, small_screen):
    mine = renamed(small_screen, tmp_path / "mine", "C", "=C")
    assert read_folder(mine).clones[0] == "=C01"
    both = append_runs(mine, renamed(small_screen, tmp_path / "more", "C", "@C"), target=tmp_path / "both")
    assert {c[:2] for c in read_folder(both).clones} == {"=C", "@C"}
    for file in both.glob("*.csv"):
        assert not any(cell[:1] in "=@" for row in csv.reader(file.open()) for cell in row if cell)


def test_the_hash_of_a_dataset_is_of_its_own_files(tmp_path, small_screen):
    mine = renamed(small_screen, tmp_path / "mine", "C", "C")
    before = content_hash(mine)
    (mine / "config.yaml").write_text("seed: 1\n")
    (mine / "simulation.csv").write_text("t\n1\n")
    assert content_hash(mine) == before
    (mine / "media.csv").write_text((mine / "media.csv").read_text() + "\n")
    assert content_hash(mine) != before


@pytest.mark.parametrize("bad", ["../../evil", "a/b", "x" * 5000, "a\x01b"])
def test_an_id_that_is_no_name_is_refused_with_its_place(tmp_path, small_screen, bad):
    mine = renamed(small_screen, tmp_path / "mine", "C01", bad)
    with pytest.raises(DatasetError, match=r"runs\.csv:2 column 'run_id'"):
        read_folder(mine)
