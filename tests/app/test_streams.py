"""Standard output and standard error that are closed, broken off, full, or know few characters."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from optim.app.cli import main
from optim.app.streams import PatientStream, patient_streams


def broken_pipe() -> io.TextIOWrapper:
    """A text stream whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w", encoding="utf-8")


def test_a_character_that_cannot_be_encoded_is_replaced():
    raw = io.BytesIO()
    text = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    PatientStream(text).write("37 °C, é\n")
    assert raw.getvalue() == b"37 ?C, ?\n"


def test_a_broken_pipe_is_silent_for_writing_flushing_and_closing():
    broken = broken_pipe()
    stream = PatientStream(broken)
    for _ in range(3):
        stream.write("x" * 100_000)
        stream.flush()
    assert isinstance(stream.lost, BrokenPipeError)
    broken.close()  # Python does this at its end; what was still held must not complain


def test_a_command_goes_on_without_its_output(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", broken_pipe())
    assert main(["simulate", "model=penicillin_bajpai_reuss", "tracking=off", "--quiet", "out=out"]) == 0
    assert (tmp_path / "out" / "simulation.csv").exists()
    assert capsys.readouterr().err == ""


def test_output_to_a_full_disk_is_told(monkeypatch, capsys):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with patient_streams():
            print("x")
        assert "standard output is incomplete (No space left on device)" in capsys.readouterr().err


def test_streams_are_as_before_at_the_end():
    before = sys.stdout, sys.stderr
    with patient_streams():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize("closed", ["| head -1", ">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_shell_that_closes_streams_gets_exit_code_0(tmp_path, closed):
    command = f"set -o pipefail; '{sys.executable}' -m optim.app.cli run --cfg {closed}"
    r = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (r.returncode, r.stderr) == (0, "")


def test_a_closed_standard_error_does_not_hand_its_number_to_a_result(tmp_path):
    """A library that writes to number 2 would write into a file that has got it."""
    code = (
        "import os\nfrom optim.app.streams import patient_streams\n"
        "with patient_streams():\n"
        " f = open('result', 'w'); os.write(2, b'noise'); f.write('a'); f.close()"
    )
    subprocess.run(["bash", "-c", f"'{sys.executable}' -c \"$0\" 2>&-", code], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "result").read_text() == "a"
