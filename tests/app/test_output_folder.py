"""The output folder of a command: locked, refused before anything is computed, and without passwords."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from optim.app.build import compose
from optim.app.cli import main
from optim.app.schema import as_yaml
from optim.app.session import open_session
from optim.app.sweep import _without_passwords
from optim.errors import ConfigError, OptimError
from optim.settings.tracking import shown_address, without_secret
from optim.storage import LOCK, MANIFEST, InUseError

ADDRESS = "http://alice:s3cr3t/p@w@127.0.0.1:9"


def settings(out: Path, *overrides: str):
    return compose([f"out={out}", "tracking=off", *overrides])


def test_a_second_command_in_one_folder_is_refused_at_once(tmp_path):
    cfg = settings(tmp_path / "o")
    with open_session(cfg, "fit"):
        with (
            pytest.raises(InUseError, match=rf"in use by process {os.getpid()} \(optim fit\).*another folder"),
            open_session(cfg, "rank"),
        ):
            pass
        with open_session(settings(tmp_path / "other"), "rank"):
            pass
    with open_session(cfg, "rank") as s:
        s.begin_run()
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [MANIFEST, "config.yaml"]


def test_what_killed_commands_left_is_cleared_and_what_users_own_is_not(tmp_path):
    for name in (".fit.draft-abc", ".fit.lock", "tables/.ranking.csv.part-7", LOCK):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".fit.draft-abc").unlink()
    (tmp_path / ".fit.draft-abc").mkdir()
    (tmp_path / "config.yaml").write_text("mine: true\n")
    (tmp_path / ".git").mkdir()
    said: list[str] = []
    with open_session(settings(tmp_path), "fit", say=said.append) as s:
        s.begin_run()
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert names == {"tables", "config.yaml", "config-2.yaml", ".git", MANIFEST}
    assert (tmp_path / "config.yaml").read_text() == "mine: true\n"
    assert "config.yaml is not as optim wrote it, and stays; the new one is config-2.yaml" in said[0]


COMMANDS = {
    "fit": "fit", "rank": "ranking", "optimise": "optimum", "stress": "stress", "pareto": "front", "export": "recipe",
    "suggest": "next", "place": "placement", "replan": "replan", "run": "recipe",
}  # fmt: skip


@pytest.mark.parametrize(("command", "kind"), COMMANDS.items())
def test_a_folder_of_the_users_own_is_refused_before_anything_is_computed(tmp_path, capsys, command, kind):
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "my_own_code.py").write_text("import numpy")
    assert main([command, f"out={tmp_path}", "tracking=off", "dataset.name=nowhere"]) == 2
    assert re.search(rf"{kind} is not replaced.*my_own_code\.py", capsys.readouterr().err)
    assert [p.name for p in (tmp_path / kind).iterdir()] == ["my_own_code.py"]


def test_a_file_that_cannot_be_written_is_named_with_what_is_kept(tmp_path, monkeypatch):
    def full(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "artefact.json").touch()
    with open_session(settings(tmp_path), "fit") as s:
        monkeypatch.setattr("optim.storage._replace_file", full)
        with pytest.raises(OptimError, match=r"cannot write .*x\.csv: No space left on device; kept in .*: fit\. Make"):
            s.write_file(b"1", Path("tables/x.csv"))


@pytest.mark.parametrize("name", ["../../evil", "a/b", "x" * 5000, "a\\nb"])
def test_a_name_that_leads_out_of_the_outputs_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = name.replace("\\n", "\n")
    with pytest.raises(ConfigError, match=r"^name: "):
        compose([f'name="{text}"'])
    with pytest.raises(ConfigError, match=r"suggest\.experiment: "):
        compose([f'suggest.experiment="{text}"'])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["a\0b", "x" * 5000])
def test_an_output_folder_that_cannot_be_is_one_message(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from dataclasses import replace

    with (
        pytest.raises(OptimError, match="cannot write to out="),
        open_session(replace(settings(tmp_path), out=out), "fit"),
    ):
        pass


def test_a_password_is_neither_shown_nor_stored(tmp_path, monkeypatch, capsys):
    cfg = compose([f"tracking.uri='{ADDRESS}'", f"out={tmp_path}"])
    assert cfg.tracking.uri == ADDRESS
    assert "s3cr3t" not in as_yaml(cfg)
    assert "http://alice:***@127.0.0.1:9" in as_yaml(cfg)
    assert main(["fit", f"tracking.uri='{ADDRESS}'", "--cfg"]) == 0
    assert main(["fit", f"tracking.uri='{ADDRESS}'", "nonsense=1"]) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
    main(["doctor"])
    with pytest.warns(UserWarning, match="tracking is unavailable"), open_session(cfg, "fit") as s:
        s.begin_run()
    said = capsys.readouterr()
    assert "s3cr3t" not in said.out + said.err
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"s3cr3t" in p.read_bytes()]


def test_the_password_of_a_sweep_goes_through_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert _without_passwords(["seed=1,2", f"tracking.uri='{ADDRESS}'"]) == ["seed=1,2"]
    assert os.environ["MLFLOW_TRACKING_URI"] == ADDRESS
    assert _without_passwords(["tracking.uri=http://server"]) == ["tracking.uri=http://server"]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://alice:secret@host:5000/x", "http://alice:***@host:5000/x"),
        ("https://token@host", "https://***@host"),
        ("postgresql://host/db?user=a&password=secret&x=1", "postgresql://host/db?user=a&password=***&x=1"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("http://host/a", "http://host/a"),
        ("databricks", "databricks"),
    ],
)
def test_addresses_are_shown_without_secrets(address, shown):
    assert shown_address(address) == shown
    assert without_secret(f"no answer from {address}", address) == f"no answer from {shown}"
    assert "secret" not in without_secret("denied: secret, alice", "http://alice:secret@host")
