"""Artefacts on disk: a folder with one JSON file and, where there are arrays, one npz file. Never pickle.

A folder is written beside its final place and then renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import dataclasses
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
from pathlib import Path
from typing import Any

import numpy as np

from optim.errors import IncompatibleError, OptimError


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A draft folder that takes the place of `folder` when the block ends well, and leaves no trace when it does not.

    Raises `OptimError` when the place cannot be written.
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


def save(artefact: Any, folder: Path) -> Path:
    """Write a dataclass that carries a `schema` class variable to `folder` (replaced when it exists).

    Raises `OptimError` when the place cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    body = _encode(artefact, "", arrays)
    document = {"schema": type(artefact).schema, "body": body}
    with whole_folder(folder) as draft:
        (draft / "artefact.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        if arrays:
            np.savez_compressed(draft / "arrays.npz", **arrays)  # type: ignore[arg-type]
    return folder


def load[T](cls: type[T], folder: Path) -> T:
    """Read an artefact of class `cls`; refuses another schema, a missing or a damaged file.

    Raises `IncompatibleError`.
    """
    file = folder / "artefact.json"
    schema, made_by = cls.schema, cls.made_by  # type: ignore[attr-defined]
    try:
        document = json.loads(file.read_text())
    except FileNotFoundError as err:
        raise IncompatibleError(f"{file} does not exist; run `{made_by}` with this configuration first") from err
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise IncompatibleError(f"{file} is damaged ({err}); run `{made_by}` again") from err
    found = document.get("schema") if isinstance(document, dict) else None
    if found != schema:
        raise IncompatibleError(
            f"{file} has schema {found!r}, expected {schema!r}; run `{made_by}` again with this version"
        )
    arrays: dict[str, np.ndarray] = {}
    npz = folder / "arrays.npz"
    try:
        if npz.exists():
            with np.load(npz, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        return _decode(cls, document["body"], arrays)
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as err:
        said = f"lacks {err}" if isinstance(err, KeyError) else str(err)
        raise IncompatibleError(
            f"{folder} does not hold what {schema} is: {said}; run `{made_by}` again with this version"
        ) from err


def _encode(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name), f"{path}/{f.name}", arrays) for f in dataclasses.fields(value)}
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
