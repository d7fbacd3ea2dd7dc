"""The embedded store: an SQLite database of MLflow in a folder, made aside under a lock and then moved in place.

MLflow makes its tables in dozens of steps, which take seconds and cannot be rolled back. A store that is made where it
stays is broken for ever when it is interrupted, or when two commands make it at once.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from optim.errors import OptimError
from optim.storage import lock_of

STORE_FILE = "mlflow.db"
# what a user may have put into a store; the experiment with id 0 is made by MLflow itself
CONTENT = {"runs": "1", "registered_models": "1", "experiments": "experiment_id <> 0"}


def store_address(file: Path) -> str:
    """Address of an SQLite file, with every sign of its path quoted."""
    from sqlalchemy.engine import URL

    # the driver is named because MLflow would take the path of 'sqlite:///...', quoted as it is, for a folder to make
    return URL.create("sqlite+pysqlite", database=str(file)).render_as_string()


@contextmanager
def open_store(workspace: Path, artefacts: str) -> Iterator[str]:
    """Context with the address of the embedded store; other commands wait until it is left.

    Args:
        workspace: folder of the store; it is made if it does not exist.
        artefacts: address of the folder of artefacts.

    Raises:
        OptimError: the file of the store cannot be used; the message names it and the remedy.
        OSError: the folder cannot be written.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    file = workspace / STORE_FILE
    with lock_of(file):
        if not _is_whole(file):
            _make(file, artefacts)
        yield store_address(file)


def _is_whole(file: Path) -> bool:
    """Whether the store is there with all its tables; False where it must be made, and nothing is lost by that."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    try:
        if not file.exists() or file.stat().st_size == 0:
            return False
        with closing(sqlite3.connect(file, timeout=20.0)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            versions = (
                {v for (v,) in db.execute("SELECT version_num FROM alembic_version")}
                if "alembic_version" in tables
                else set()
            )
            held = sum(
                db.execute(f"SELECT count(*) FROM {table} WHERE {rows}").fetchone()[0]
                for table, rows in CONTENT.items()
                if table in tables
            )
    except sqlite3.Error as err:
        raise OptimError(
            f"{file} cannot be read as a tracking store ({err}); move it away or remove it, "
            "and the next command makes a new one"
        ) from err
    if versions == {_get_latest_schema_revision()}:
        return True
    if held:
        raise OptimError(
            f"{file} is a tracking store of another version of MLflow, or was left unfinished; "
            f"`mlflow db upgrade '{store_address(file)}'` brings an older one up to date; otherwise move the file "
            "away, and the next command makes a new one"
        )
    return False


def _make(file: Path, artefacts: str) -> None:
    """Make a new store aside and move it in place; what an interrupted command left of one is removed."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    draft = file.with_name(f".{file.name}.part")
    _remove(draft)
    try:
        SqlAlchemyStore(store_address(draft), artefacts).engine.dispose()
        _remove(file)
        os.replace(draft, file)
    finally:
        _remove(draft)


def _remove(file: Path) -> None:
    """Remove a database with its journals: SQLite would apply an old journal to a new file of the same name."""
    for ending in ("-journal", "-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            file.with_name(file.name + ending).unlink()
