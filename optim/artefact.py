"""Artefacts: results with a content hash and a lineage, stored as JSON and, where there are arrays, npz. Never pickle.

A folder is written beside its final place and then exchanged, so a reader finds the old or the new one and never half
of one. What is read is compared with the schema and with the content hash: a damaged or edited file is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from optim.errors import IncompatibleError
from optim.result import SHORT_ID, Result
from optim.storage import MANIFEST, foreign_files, read_manifest, read_whole, require_own, whole_folder

ARTEFACT_FILE = "artefact.json"
ARRAY_FILE = "arrays.npz"
WORDLESS = ("nan", "inf", "-inf")  # how numbers are stored for which JSON has no word


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
    doubts: tuple[str, ...] = ()  # what speaks against the artefact as a whole, and so is told before it

    @classmethod
    def from_parents(cls, *parents: Artefact, seed: int, notes: tuple[str, ...] = ()) -> Lineage:
        """The lineage of an artefact that is made from `parents`; model, data and doubts are those of the first."""
        first = parents[0].lineage
        return dataclasses.replace(first, seed=seed, notes=notes, parents={p.kind(): p.id for p in parents})

    def with_data(self, dataset: str, dataset_hash: str, simulated: bool) -> Lineage:
        """The same lineage with other data than that of the parents; it counts as simulated if either data are."""
        simulated = simulated or self.simulated
        return dataclasses.replace(self, dataset=dataset, dataset_hash=dataset_hash, simulated=simulated)

    def with_notes(self, *notes: str) -> Lineage:
        """The same lineage with more notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def with_doubts(self, *doubts: str) -> Lineage:
        """The same lineage with more doubts."""
        return dataclasses.replace(self, doubts=(*self.doubts, *doubts))


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


class Checked:
    """Base of records whose fields must agree with each other, which is checked when an artefact is read."""

    def faults(self) -> Iterable[str]:
        """What is wrong, as sentences without a full stop."""
        raise NotImplementedError


def save_artefact(artefact: Artefact, folder: Path) -> Path:
    """Write an artefact to `folder`, which is replaced if optim wrote all that it holds, and return the folder.

    Raises:
        OptimError: the folder cannot be written, or holds what optim did not write.
    """
    arrays: dict[str, np.ndarray] = {}
    body = _encode(artefact, "", arrays)
    document = {"schema": artefact.schema, "id": content_id(artefact.schema, body, arrays), "body": body}
    with whole_folder(folder, remade=_remade_files(folder)) as draft:
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        (draft / ARTEFACT_FILE).write_text(text, encoding="utf-8")
        if arrays:
            np.savez_compressed(draft / ARRAY_FILE, **arrays)  # type: ignore[arg-type]
    return folder


def require_replaceable(folder: Path) -> None:
    """Refuse a place where no artefact may be written. Raises `OptimError` with the remedy."""
    require_own(folder, remade=_remade_files(folder))


def _remade_files(folder: Path) -> tuple[str, ...]:
    """Files of an artefact that may be replaced though they were changed: nobody edits them, so they are damaged."""
    known = (folder / MANIFEST).exists() or _stored_schema(folder).startswith("optim.")
    return (ARTEFACT_FILE, ARRAY_FILE) if known else ()


def _stored_schema(folder: Path) -> str:
    try:
        return str(json.loads((folder / ARTEFACT_FILE).read_text(encoding="utf-8"))["schema"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def stored_kind(folder: Path) -> str:
    """The kind of artefact that a folder holds (fit, ranking, ...); '' where it holds none that can be read."""
    return _stored_schema(folder).removeprefix("optim.").split("/")[0]


def load_artefact[T: Artefact](cls: type[T], folder: Path) -> T:
    """Read an artefact of class `cls` from `folder`.

    Raises:
        IncompatibleError: the file is missing, damaged or edited, or has another schema. The message names the place
            and the command that makes the artefact again.
    """
    return read_whole(folder, lambda place: _load(cls, place))


def _load[T: Artefact](cls: type[T], folder: Path) -> T:
    file, schema, made_by = folder / ARTEFACT_FILE, cls.schema, cls.made_by
    try:
        document = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as err:
        raise IncompatibleError(f"{file} does not exist; run `{made_by}` with this configuration first") from err
    except OSError as err:
        raise IncompatibleError(f"{file} cannot be read ({err.strerror or err}); run `{made_by}` again") from err
    except (ValueError, RecursionError) as err:
        raise IncompatibleError(f"{file} is damaged ({err}); run `{made_by}` again") from err
    stored_schema = document.get("schema") if isinstance(document, dict) else None
    if stored_schema != schema:
        raise IncompatibleError(
            f"{file} has schema {stored_schema!r}, expected {schema!r}; run `{made_by}` again with this version"
        )
    try:
        arrays = _stored_arrays(folder / ARRAY_FILE)
        artefact: T = _decode(cls, document["body"], _Place(arrays))
        stated, actual = document["id"], content_id(schema, document["body"], arrays)
    # whatever a damaged file makes of its decoder (zlib, struct, memory, ...): it cannot be read
    except Exception as err:
        said = f"lacks {err}" if isinstance(err, KeyError) else str(err) or type(err).__name__
        raise IncompatibleError(
            f"{folder} does not hold what {schema} is: {said}; run `{made_by}` again with this version"
        ) from err
    if stated != actual:
        raise IncompatibleError(
            f"{folder} was changed after it was written: its content has the id {actual[:SHORT_ID]}, and it says "
            f"{str(stated)[:SHORT_ID]}; run `{made_by}` again"
        )
    if arrays and ARRAY_FILE in read_manifest(folder) and ARRAY_FILE in foreign_files(folder):
        raise IncompatibleError(f"{folder / ARRAY_FILE} was changed after it was written; run `{made_by}` again")
    return artefact


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _stored_arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return {}
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


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


@dataclass(frozen=True)
class _Place:
    """Where in an artefact something is decoded, and the arrays that it may refer to."""

    arrays: dict[str, np.ndarray]
    path: str = ""

    def inside(self, key: object) -> _Place:
        return _Place(self.arrays, f"{self.path}/{key}")

    def require(self, value: Any, kinds: type | tuple[type, ...], expected: str) -> None:
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise ValueError(f"{self.path or '/'} is {_short(value)}, expected {expected}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _decode(kind: Any, value: Any, place: _Place) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(args, value, place)
    if kind is np.ndarray or origin is np.ndarray:
        return _decode_array(value, place)
    if kind is float:
        if isinstance(value, dict) and value.get("float") in WORDLESS and len(value) == 1:
            return float(value["float"])
        place.require(value, (int, float), "a number")
        return value
    if kind is int or kind is str or kind is bool:
        expected = {int: "a whole number", str: "text", bool: "true or false"}[kind]
        place.require(value, kind, expected)
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_record(kind, value, place)
    if origin is tuple:
        place.require(value, list, "a list")
        inner = args[0] if len(args) == 2 and args[1] is Ellipsis else None
        if inner is None and len(value) != len(args):
            raise ValueError(f"{place.path} has {len(value)} entries, expected {len(args)}")
        return tuple(_decode(inner or args[i], v, place.inside(i)) for i, v in enumerate(value))
    if origin is list:
        place.require(value, list, "a list")
        return [_decode(args[0], v, place.inside(i)) for i, v in enumerate(value)]
    if origin is dict:
        place.require(value, dict, "a mapping")
        return {k: _decode(args[1], v, place.inside(k)) for k, v in value.items()}
    raise TypeError(f"{place.path}: a field of type {kind} cannot be read")


def _decode_array(value: Any, place: _Place) -> np.ndarray:
    if not isinstance(value, dict) or set(value) != {"array"}:
        raise ValueError(f"{place.path} is {_short(value)}, expected an array")
    if value["array"] != place.path:
        raise ValueError(f"{place.path} refers to the array {_short(value['array'])} of another place")
    if place.path not in place.arrays:
        raise ValueError(f"{ARRAY_FILE} lacks the array {place.path}")
    array = place.arrays[place.path]
    if array.dtype.kind not in "biuf":
        raise ValueError(f"the array {place.path} holds {array.dtype}, expected numbers")
    return array


def _decode_union(kinds: tuple[Any, ...], value: Any, place: _Place) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [k for k in kinds if k is not type(None)]
    named = {k.__name__: k for k in others if isinstance(k, type) and issubclass(k, NamedByClass)}
    if named:
        place.require(value, dict, "a mapping")
        known = value.get("is")
        if known not in named:
            raise ValueError(f"{place.path} is a {_short(known)}, expected one of {', '.join(sorted(named))}")
        return _decode(named[known], {k: v for k, v in value.items() if k != "is"}, place)
    for kind in others[:-1]:
        try:
            return _decode(kind, value, place)
        except ValueError:
            continue
    return _decode(others[-1], value, place)


def _decode_record(kind: Any, value: Any, place: _Place) -> Any:
    place.require(value, dict, "a mapping")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    if unknown := sorted(set(value) - set(names)):
        raise ValueError(f"{kind.__name__} has unknown fields {unknown}")
    if missing := [n for n in names if n not in value]:
        raise ValueError(f"{place.path or kind.__name__} lacks {', '.join(map(repr, missing))}")
    record = kind(**{n: _decode(hints[n], value[n], place.inside(n)) for n in names})
    for fault in record.faults() if isinstance(record, Checked) else ():
        raise ValueError(f"{place.path or kind.__name__}: {fault}")
    return record
