"""Finding a dataset by name: shipped, in a folder of the user's, or a public set fetched by address and checksum.

Public sets are never part of this project: each has a `source.yaml` under `datasets/<name>/` with address, commit and
SHA-256 of its files, and an adapter that turns the raw files into the contract. Where files lie at no address, `export`
says how their user makes them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from optim.data.dataset import Dataset
from optim.data.download import DownloadError, download
from optim.data.reader import read_folder
from optim.data.sources import nistcho, optfed
from optim.errors import DatasetError, nearest
from optim.paths import cache_dir, datasets_dir

ADAPTERS: dict[str, Callable[[Path, dict[str, Any]], Dataset]] = {
    "nistcho": nistcho.read_nistcho,
    "optfed": optfed.read_optfed,
}


def read_dataset(name: str | Path) -> Dataset:
    """Read a dataset: screening data of a folder, a dataset that is shipped, or a public one.

    Args:
        name: the path of a folder with `dataset.yaml` and its tables, or a name under `datasets/`.

    Returns:
        Validated runs, measurements and media in canonical units.

    Raises:
        DatasetError: an unknown name (with the closest one), a public set that cannot be fetched, or cells that break
            a rule; all of these are listed, with file, row, column and value.
    """
    name = str(name)
    if not name:
        raise DatasetError("no dataset is configured; name one (dataset.name=...), shipped or a folder of your own")
    path = Path(name).expanduser()
    if (path / "dataset.yaml").exists():
        return read_folder(path)
    shipped = datasets_dir()
    folder = shipped / name
    if "/" not in name and (folder / "source.yaml").exists():
        source = yaml.safe_load((folder / "source.yaml").read_text(encoding="utf-8"))
        return ADAPTERS[source["adapter"]](_raw_folder(name, source), source)
    if "/" not in name and (folder / "dataset.yaml").exists():
        return read_folder(folder)
    if path.is_dir():
        return read_folder(path)
    known = sorted(p.name for p in shipped.iterdir() if p.is_dir())
    raise DatasetError(
        f"unknown dataset '{name}': neither a folder nor one of {', '.join(known)}.{nearest(name, known)}"
    )


def is_at_hand(name: str) -> bool:
    """Whether `open_dataset` finds a dataset of this name without fetching anything."""
    if not name:
        return False
    source = datasets_dir() / name / "source.yaml"
    if "/" in name or not source.exists():
        return Path(name).expanduser().is_dir() or (datasets_dir() / name / "dataset.yaml").exists()
    given = os.environ.get("OPTIM_DATA")
    folder = (Path(given).expanduser() if given else cache_dir() / "data") / name
    return all((folder / file).is_file() for file in yaml.safe_load(source.read_text(encoding="utf-8"))["files"])


def _raw_folder(name: str, source: dict[str, Any]) -> Path:
    """The folder that holds the raw files of a public set, checked against their SHA-256."""
    remedy = "remove it and export it again" if "export" in source else "remove it and fetch it again"
    given = os.environ.get("OPTIM_DATA")
    wanted: dict[str, str] = source["files"]
    if given:
        folder = Path(given).expanduser() / name
        missing = [file for file in wanted if not (folder / file).is_file()]
        if missing:
            here = f"OPTIM_DATA={given}: {folder} lacks {', '.join(missing)}."
            if "export" in source:
                raise DatasetError(f"{here} {_by_hand(source)}")
            raise DatasetError(
                f"{here} Put the files of {source['repository']} "
                f"(commit {source['commit'][:10]}, {source['path']}) there, or unset OPTIM_DATA to fetch them"
            )
    else:
        folder = cache_dir() / "data" / name
        for file in wanted:
            if not (folder / file).is_file():
                _fetch(name, source, file, folder)
    for file, expected in wanted.items():
        found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        if found != expected:
            raise DatasetError(
                f"{folder / file}: SHA-256 is {found}, expected {expected}. This is not the file of commit "
                f"{source['commit'][:10]}; {remedy}"
            )
    return folder


def _by_hand(source: dict[str, Any]) -> str:
    return (
        f"It cannot be fetched: make it once from {source['repository']} (commit {source['commit'][:10]}): "
        f"{source['export']}"
    )


def _fetch(name: str, source: dict[str, Any], file: str, folder: Path) -> None:
    if "export" in source:
        raise DatasetError(
            f"dataset '{name}' is public but not part of this project, and {file} lies at no address. "
            f"{_by_hand(source)}. Put it into <folder>/{name}/ and set OPTIM_DATA=<folder>"
        )
    address = source["address"].format(commit=source["commit"], file=file)
    try:
        content = download(address)
    except DownloadError as err:
        raise DatasetError(
            f"dataset '{name}' is public but not part of this project, and fetching {address} failed ({err}). "
            f"Fetch it once with network access, or put its files into <folder>/{name}/ and set OPTIM_DATA=<folder>"
        ) from err
    found = hashlib.sha256(content).hexdigest()
    if found != source["files"][file]:
        raise DatasetError(f"{address}: SHA-256 is {found}, expected {source['files'][file]}; nothing was kept")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            draft = Path(place) / "draft"
            draft.write_bytes(content)
            os.replace(draft, folder / file)
    except OSError as err:
        raise DatasetError(
            f"cannot write {folder / file}: {err.strerror or err}. Set OPTIM_CACHE to a folder that can be written"
        ) from err
