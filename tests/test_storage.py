"""Folders on disk: old or new at every moment, and nothing that optim did not write is removed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from optim import storage
from optim.artefact import Artefact, Lineage, load_artefact, save_artefact
from optim.errors import IncompatibleError, OptimError
from optim.storage import (
    LOCK,
    MANIFEST,
    InUseError,
    clear_all_leftovers,
    foreign_files,
    lock_file,
    name_fault,
    whole_folder,
    write_own_file,
)


@dataclass(frozen=True)
class Count(Artefact):
    schema: ClassVar[str] = "optim.count/1"
    made_by: ClassVar[str] = "optim count"

    lineage: Lineage
    value: int
    table: np.ndarray


def count(value: int) -> Count:
    return Count(Lineage("m", "d", "h", simulated=True, seed=value), value, np.full(20000, float(value)))


# without the exchange of Linux, as on other systems and on some network drives
WAYS = pytest.mark.parametrize("at_once", [True, False], ids=["exchanged", "renamed"])


def without_exchange(monkeypatch, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr(storage, "exchange_at_once", lambda one, other: False)


def written(folder: Path, **files: str) -> Path:
    with whole_folder(folder) as draft:
        for name, text in files.items():
            (draft / name).write_text(text)
    return folder


@WAYS
def test_a_folder_that_optim_wrote_is_replaced_as_a_whole(tmp_path, monkeypatch, at_once):
    without_exchange(monkeypatch, at_once)
    folder = written(tmp_path / "a", x="1", y="2")
    written(folder, x="3")
    assert {p.name for p in folder.iterdir()} == {"x", MANIFEST}
    assert (folder / "x").read_text() == "3"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@WAYS
@pytest.mark.parametrize("change", ["added", "hidden", "changed", "inside", "link", "empty folder"])
def test_what_somebody_else_put_there_is_never_replaced(tmp_path, monkeypatch, change, at_once):
    without_exchange(monkeypatch, at_once)
    folder = written(tmp_path / "a", x="1")
    (tmp_path / "outside").write_text("1")
    if change == "inside":
        (folder / "raw" / "deep").mkdir(parents=True)
        (folder / "raw" / "deep" / "notes").write_text("mine")
    elif change == "link":
        (folder / "x").unlink()
        (folder / "x").symlink_to(tmp_path / "outside")
    elif change == "empty folder":
        (folder / "mine").mkdir()
    else:
        (folder / {"added": "notes", "hidden": ".notes", "changed": "x"}[change]).write_text("mine")
    before = sorted(str(p) for p in folder.rglob("*"))
    with pytest.raises(OptimError, match=r"a is not replaced.*Move the folder elsewhere, or choose another"):
        written(folder, x="2")
    assert sorted(str(p) for p in folder.rglob("*")) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "outside"]


def test_a_folder_of_somebody_else_and_a_file_are_refused(tmp_path):
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "my_own_code.py").write_text("import numpy")
    with pytest.raises(OptimError, match=r"fit is not replaced.*my_own_code\.py"):
        save_artefact(count(1), tmp_path / "fit")
    (tmp_path / "next").write_text("a list")
    with pytest.raises(OptimError, match="is a file"):
        written(tmp_path / "next", x="1")
    (tmp_path / "empty").mkdir()
    assert foreign_files(written(tmp_path / "empty", x="1")) == []


@WAYS
def test_a_file_that_comes_while_a_folder_is_replaced_stays(tmp_path, monkeypatch, at_once):
    without_exchange(monkeypatch, at_once)
    folder = written(tmp_path / "a", x="1")

    def add_meanwhile() -> None:
        with whole_folder(folder) as draft:
            (draft / "x").write_text("2")
            (folder / "notes").write_text("mine")

    with pytest.raises(OptimError, match=r"changed while it was being replaced \(notes\)"):
        add_meanwhile()
    assert (folder / "notes").read_text() == "mine"
    assert (folder / "x").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@WAYS
def test_others_are_kept_beside_what_is_written(tmp_path, monkeypatch, at_once):
    without_exchange(monkeypatch, at_once)
    folder = tmp_path / "a"
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "x.dat").write_text("raw")
    (folder / "runs").write_text("old")
    (folder / "report").symlink_to("raw/x.dat")
    for text in ("new", "newer"):
        with whole_folder(folder, keep_others=True) as draft:
            (draft / "runs").write_text(text)
        assert (folder / "runs").read_text() == text
        assert (folder / "report").is_symlink()
        assert (folder / "report").read_text() == "raw"
        assert foreign_files(folder) == ["raw/", "report"]


def test_a_damaged_artefact_is_made_again(tmp_path):
    folder = save_artefact(count(1), tmp_path / "fit")
    (folder / "artefact.json").write_text("{ half")
    assert load_artefact(Count, save_artefact(count(2), folder)).value == 2
    (folder / MANIFEST).unlink()  # as an earlier version left it
    assert load_artefact(Count, save_artefact(count(3), folder)).value == 3
    (folder / "notes").write_text("mine")
    with pytest.raises(OptimError, match="notes"):
        save_artefact(count(4), folder)


def test_a_file_of_somebody_else_stays_and_the_new_one_lies_beside(tmp_path):
    place, name = tmp_path / "tables" / "ranking.csv", Path("tables/ranking.csv")
    assert write_own_file(tmp_path, name, b"1") == place
    assert write_own_file(tmp_path, name, b"2") == place
    place.write_bytes(b"2 and a note")
    beside = tmp_path / "tables" / "ranking-2.csv"
    assert write_own_file(tmp_path, name, b"3") == beside
    assert write_own_file(tmp_path, name, b"4") == beside
    assert (place.read_bytes(), beside.read_bytes()) == (b"2 and a note", b"4")
    for bad in (Path("../x"), Path("tables/../../x"), tmp_path / "x"):
        with pytest.raises(OptimError, match="leads out of the output folder"):
            write_own_file(tmp_path, bad, b"1")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [MANIFEST, "ranking-2.csv", "ranking.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path):
    write_own_file(tmp_path, Path("fit.html"), b"old")
    write = "from pathlib import Path; from optim.storage import *; import resource; import sys\n"
    write += "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); root = Path(sys.argv[1])\n"
    one = write + "write_own_file(root, Path('fit.html'), b'x' * 100000)"
    r = subprocess.run([sys.executable, "-c", one, str(tmp_path)], capture_output=True, text=True)
    assert "OSError" in r.stderr
    two = write + "with whole_folder(root / 'recipe') as draft: (draft / 'x').write_bytes(b'x' * 100000)"
    r = subprocess.run([sys.executable, "-c", two, str(tmp_path)], capture_output=True, text=True)
    assert f"OptimError: cannot write {tmp_path / 'recipe'}: File too large" in r.stderr
    assert (tmp_path / "fit.html").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [MANIFEST, "fit.html"]


def test_a_second_holder_of_a_lock_is_refused_and_a_dead_one_does_not_count(tmp_path):
    lock = tmp_path / LOCK
    hold = "import sys, time; from pathlib import Path; from optim.storage import lock_file\n"
    hold += "with lock_file(Path(sys.argv[1]), wait=False, note='process 7', refusal=str):\n"
    hold += " print('held', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        with (
            pytest.raises(InUseError, match="held by process 7"),
            lock_file(lock, wait=False, note="", refusal=lambda holder: f"held by {holder}"),
        ):
            pass
    finally:
        child.kill()
        child.communicate()
    assert lock.exists()
    with lock_file(lock, wait=False, note="mine", refusal=str):
        assert lock.read_text() == "mine"
    assert not lock.exists()


@WAYS
def test_many_writers_of_one_folder_wait_for_each_other(tmp_path, monkeypatch, at_once):
    without_exchange(monkeypatch, at_once)
    wrong: list[Exception] = []

    def write(first: int) -> None:
        try:
            for value in range(first, first + 5):
                save_artefact(count(value), tmp_path / "count")
                load_artefact(Count, tmp_path / "count")
        except Exception as err:
            wrong.append(err)

    threads = [threading.Thread(target=write, args=(10 * i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert [p.name for p in tmp_path.iterdir()] == ["count"]


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from optim import storage
from test_storage import count, save_artefact
if sys.argv[3] == "renamed":
    storage.exchange_at_once = lambda one, other: False
print("ready", flush=True)
value = 0
while True:
    value += 1
    save_artefact(count(value), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")
@pytest.mark.parametrize("way", ["exchanged", "renamed"])
def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new(tmp_path, way):
    folder, chance = tmp_path / "count", random.Random(3)
    save_artefact(count(0), folder)
    for _ in range(20):
        command = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(folder), way]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout.readline() == "ready\n"
            end = time.monotonic() + chance.uniform(0.0, 0.15)
            while time.monotonic() < end:
                found = load_artefact(Count, folder)
                assert np.all(found.table == found.value)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
        found = load_artefact(Count, folder)
        assert np.all(found.table == found.value)
    clear_all_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["count"]


def test_a_folder_set_aside_by_a_dead_writer_comes_back(tmp_path):
    folder = save_artefact(count(1), tmp_path / "count")
    folder.rename(tmp_path / ".count.old-abc")
    (tmp_path / ".count.draft-abc").mkdir()
    assert load_artefact(Count, folder).value == 1
    assert [p.name for p in tmp_path.iterdir()] == ["count"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("value",), "abc", "/value is 'abc', expected a whole number"),
        (("value",), 1.5, "/value is 1.5, expected a whole number"),
        (("value",), True, "/value is True, expected a whole number"),
        (("value",), None, "/value is None"),
        (("lineage",), {}, "/lineage lacks 'model'"),
        (("lineage",), 3, "/lineage is 3, expected a mapping"),
        (("lineage", "notes"), "text", "/lineage/notes is 'text', expected a list"),
        (("lineage", "parents"), [], r"/lineage/parents is \[\], expected a mapping"),
        (("table",), [1.0], r"/table is \[1.0\], expected an array"),
        (("table",), {"array": "/other"}, "/table refers to the array '/other' of another place"),
        (("value",), float("nan"), "NaN is no number"),
        (("value",), 2, "changed after it was written"),
    ],
)
def test_an_artefact_that_is_not_what_its_schema_says_is_refused(tmp_path, path, value, said):
    file = save_artefact(count(1), tmp_path / "count") / "artefact.json"
    document = json.loads(file.read_text())
    place = document["body"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(document))
    with pytest.raises(IncompatibleError, match=said) as caught:
        load_artefact(Count, file.parent)
    assert "run `optim count` again" in str(caught.value)


@pytest.mark.parametrize("document", ["{}", "[]", "3", "null", "", "[" * 100000, '{"schema": "optim.count/1"}'])
def test_a_document_of_another_form_is_refused(tmp_path, document):
    folder = save_artefact(count(1), tmp_path / "count")
    (folder / "artefact.json").write_text(document)
    with pytest.raises(IncompatibleError, match="run `optim count` again"):
        load_artefact(Count, folder)


def test_damaged_arrays_and_folders_in_place_of_files_are_refused(tmp_path):
    folder = save_artefact(count(1), tmp_path / "count")
    file, chance = folder / "arrays.npz", random.Random(0)
    whole = file.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        file.write_bytes(bytes(damaged))
        with pytest.raises(IncompatibleError):
            load_artefact(Count, folder)
    for array in (np.array(["a"]), np.zeros(3, complex)):
        np.savez_compressed(file, **{"/table": array})
        with pytest.raises(IncompatibleError, match="expected numbers"):
            load_artefact(Count, folder)
    np.savez_compressed(file, **{"/other": np.zeros(3)})
    with pytest.raises(IncompatibleError, match="lacks the array /table"):
        load_artefact(Count, folder)
    for name in ("arrays.npz", "artefact.json"):
        (folder / name).unlink()
        (folder / name).mkdir()
        with pytest.raises(IncompatibleError):
            load_artefact(Count, folder)


def test_names_that_lead_elsewhere_are_no_names():
    for name in ("", " ", ".", "..", "../evil", "a/b", "a\\b", "a\nb", "a\0b", "x" * 5000, "é" * 100 + "x"):
        assert name_fault(name), name
    for name in ("cho_clone_screen", "Feed B 2.1", "C-01 (b)", "克隆 7", "..a", "=x"):
        assert not name_fault(name), name
