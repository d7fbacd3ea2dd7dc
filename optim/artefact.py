"""Artefacts: results with a content hash and a lineage, stored as JSON and, where there are arrays, npz. Never pickle.

A folder is written beside its final place and then renamed, so a reader never sees half of one. The content hash is
checked when an artefact is read, so a file that was damaged or edited is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import tempfile
import types
import typing
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from optim.errors import IncompatibleError, OptimError
from optim.result import SHORT_ID, Result


@dataclass(frozen=True)
class Lineage:
    """Where an artefact comes from: model, data, seed, and the ids of the artefacts that it was made from."""

    model: str
    dataset: str
    dataset_hash: str
    simulated: bool
    seed: int
    notes: tuple[str, ...] = ()  # what a reader must know: unverified numbers, extrapolation, ...
    parents: dict[str, str] = field(default_factory=dict)  # kind of artefact -> its id

    @classmethod
    def from_parents(cls, *parents: Artefact, seed: int, notes: tuple[str, ...] = ()) -> Lineage:
        """The lineage of an artefact that is made from `parents`; its model and data are those of the first parent."""
        first = parents[0].lineage
        return dataclasses.replace(first, seed=seed, notes=notes, parents={p.kind(): p.id for p in parents})

    def with_data(self, dataset: str, dataset_hash: str, simulated: bool) -> Lineage:
        """The same lineage with other data than that of the parents; it counts as simulated if either data are."""
        simulated = simulated or self.simulated
        return dataclasses.replace(self, dataset=dataset, dataset_hash=dataset_hash, simulated=simulated)

    def with_notes(self, *notes: str) -> Lineage:
        """The same lineage with more notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))


class Artefact(Result):
    """Base of the results that commands leave: dataclasses with a schema, a lineage and a content hash."""

    lineage: Lineage

    @cached_property
    def id(self) -> str:
        """SHA-256 of the schema and of everything that is stored: equal content has an equal id."""
        arrays: dict[str, np.ndarray] = {}
        return content_id(self.schema, _encode(self, "", arrays), arrays)


def content_id(schema: str, body: Any, arrays: dict[str, np.ndarray] | None = None) -> str:
    """SHA-256 of plain JSON data in canonical form, and of arrays with their names, types and shapes."""
    plain = json.dumps([schema, body], sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = hashlib.sha256(plain.encode())
    for name, array in sorted((arrays or {}).items()):
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def require_parent(child: Artefact, parent: Artefact, *, child_place: Path, parent_place: Path) -> None:
    """Refuse an artefact that was not made from `parent`.

    Args:
        child: the artefact to check.
        parent: an artefact of the kind that the child was made from.
        child_place: folder of the child, for the message.
        parent_place: folder of the parent, for the message.

    Raises:
        IncompatibleError: the child was made from another parent; the message holds both ids and the remedy.
    """
    made_from = child.lineage.parents.get(parent.kind(), "")
    require_parent_id(made_from, parent, child_place=child_place, parent_place=parent_place, made_by=child.made_by)


def require_parent_id(made_from: str, parent: Artefact, *, child_place: Path, parent_place: Path, made_by: str) -> None:
    """`require_parent` for a child that is not loaded.

    Args:
        made_from: id of the artefact that the child was made from; '' if the child states none.
        parent: as for `require_parent`.
        child_place: as for `require_parent`.
        parent_place: as for `require_parent`.
        made_by: the command that makes the child.

    Raises:
        IncompatibleError: as for `require_parent`.
    """
    if made_from != parent.id:
        known = f"{parent.kind()} {made_from[:SHORT_ID]}" if made_from else f"no {parent.kind()}"
        raise IncompatibleError(
            f"{child_place} was made from {known}, but {parent_place} holds {parent.kind()} {parent.id[:SHORT_ID]}; "
            f"run `{made_by}` again"
        )


class NamedByClass:
    """Base of records of several kinds that share one place of an artefact: the name of their class is stored, too."""


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Context manager that replaces a folder as a whole or not at all.

    Yields a draft folder. It replaces `folder` if the block ends without an error and is deleted otherwise.

    Raises:
        OptimError: the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield draft
            draft.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(draft, folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as err:
        raise OptimError(f"cannot write {folder}: {err.strerror or err}. Choose a writable folder.") from err


def save_artefact(artefact: Artefact, folder: Path) -> Path:
    """Write an artefact to `folder`, which is replaced if it exists, and return the folder.

    Raises:
        OptimError: the folder cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    body = _encode(artefact, "", arrays)
    document = {"schema": artefact.schema, "id": content_id(artefact.schema, body, arrays), "body": body}
    with whole_folder(folder) as draft:
        (draft / "artefact.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if arrays:
            np.savez_compressed(draft / "arrays.npz", **arrays)  # type: ignore[arg-type]
    return folder


def stored_kind(folder: Path) -> str:
    """The kind of artefact that a folder holds (fit, ranking, ...); '' where it holds none that can be read."""
    try:
        schema = json.loads((folder / "artefact.json").read_text(encoding="utf-8"))["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(schema).removeprefix("optim.").split("/")[0]


def load_artefact[T: Artefact](cls: type[T], folder: Path) -> T:
    """Read an artefact of class `cls` from `folder`.

    Raises:
        IncompatibleError: the file is missing, damaged or edited, or has another schema. The message names the command
            that makes the artefact again.
    """
    file = folder / "artefact.json"
    schema, made_by = cls.schema, cls.made_by
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise IncompatibleError(f"{file} does not exist; run `{made_by}` with this configuration first") from err
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise IncompatibleError(f"{file} is damaged ({err}); run `{made_by}` again") from err
    stored_schema = document.get("schema") if isinstance(document, dict) else None
    if stored_schema != schema:
        raise IncompatibleError(
            f"{file} has schema {stored_schema!r}, expected {schema!r}; run `{made_by}` again with this version"
        )
    arrays: dict[str, np.ndarray] = {}
    npz = folder / "arrays.npz"
    try:
        if npz.exists():
            with np.load(npz, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        artefact: T = _decode(cls, document["body"], arrays)
        stated, actual = document["id"], content_id(schema, document["body"], arrays)
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as err:
        said = f"lacks {err}" if isinstance(err, KeyError) else str(err)
        raise IncompatibleError(
            f"{folder} does not hold what {schema} is: {said}; run `{made_by}` again with this version"
        ) from err
    if stated != actual:
        raise IncompatibleError(
            f"{folder} was changed after it was written: its content has the id {actual[:SHORT_ID]}, and it says "
            f"{str(stated)[:SHORT_ID]}; run `{made_by}` again"
        )
    return artefact


def _encode(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        body = {f.name: _encode(getattr(value, f.name), f"{path}/{f.name}", arrays) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__} | body if isinstance(value, NamedByClass) else body
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"array": path}
    if isinstance(value, dict):
        return {str(k): _encode(v, f"{path}/{k}", arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(v, f"{path}/{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}  # JSON has no word for these; they stay readable and exact
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path}: {type(value).__name__} cannot be stored")


def _decode(kind: Any, value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict) and set(value) == {"array"}:
        return arrays[value["array"]]
    if isinstance(value, dict) and set(value) == {"float"}:
        return float(value["float"])
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        kinds = {a.__name__: a for a in args if isinstance(a, type) and issubclass(a, NamedByClass)}
        if kinds:
            named = dict(value)
            return _decode(kinds[named.pop("is")], named, arrays)
        return _decode(next(a for a in args if a is not type(None)), value, arrays)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        names = [f.name for f in dataclasses.fields(kind)]
        unknown = set(value) - set(names)
        if unknown:
            raise ValueError(f"{getattr(kind, '__name__', kind)} has unknown fields {sorted(unknown)}")
        return kind(**{n: _decode(hints[n], value[n], arrays) for n in names})  # type: ignore[operator]
    if origin is tuple:
        inner = args[0] if len(args) == 2 and args[1] is Ellipsis else None
        return tuple(_decode(inner or args[i], v, arrays) for i, v in enumerate(value))
    if origin is list:
        return [_decode(args[0], v, arrays) for v in value]
    if origin is dict:
        return {k: _decode(args[1], v, arrays) for k, v in value.items()}
    if isinstance(value, list):
        return [_decode(None, v, arrays) for v in value]
    if isinstance(value, dict):
        return {k: _decode(None, v, arrays) for k, v in value.items()}
    return value
