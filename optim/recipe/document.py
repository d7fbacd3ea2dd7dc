"""The recipe as a JSON document: plain data with its schema and content hash."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from optim.artefact import content_id
from optim.errors import IncompatibleError
from optim.recipe.recipe import Recipe
from optim.recipe.steps import harvest_time
from optim.result import SHORT_ID
from optim.schedule.events import event_rows
from optim.storage import read_whole

RECIPE_FILE = "recipe.json"
# fields of the provenance that differ between equal runs, and so are no part of the id
OF_THE_RUN = ("created_utc", "run_id", "config")


def recipe_document(recipe: Recipe) -> dict[str, Any]:
    """Schema, id and content of a recipe as plain data; numbers that are not finite become null.

    Actions are rows as in the events of a dataset.
    """
    plain = _plain(asdict(recipe))
    for key in ("process", "baseline"):
        actions = getattr(recipe, key).actions
        plain[key]["actions"] = _plain([asdict(row) for row in event_rows(actions, harvest_time(actions))])
    return {"schema": recipe.schema, "id": _id_of(plain), "recipe": plain}


def read_document(folder: Path) -> dict[str, Any]:
    """The document of a recipe's folder. Raises `IncompatibleError` when it is damaged, edited or of another schema."""
    return read_whole(folder, _read)


def _read(folder: Path) -> dict[str, Any]:
    file = folder / RECIPE_FILE
    again = f"run `{Recipe.made_by}` again with this version"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["schema"] != Recipe.schema:
            raise IncompatibleError(f"{file} has schema {document['schema']!r}, expected {Recipe.schema!r}; {again}")
        stated, actual = document["id"], _id_of(document["recipe"])
    except FileNotFoundError as err:
        raise IncompatibleError(f"{file} does not exist; {again}") from err
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as err:
        raise IncompatibleError(f"{file} is no recipe that can be followed: {err!r}; {again}") from err
    if stated != actual:
        raise IncompatibleError(
            f"{file} was changed after it was written: its content has the id {actual[:SHORT_ID]}, and it says "
            f"{str(stated)[:SHORT_ID]}; {again}, and use its folder as it was written"
        )
    found: dict[str, Any] = document
    return found


def _id_of(plain: dict[str, Any]) -> str:
    provenance = {k: v for k, v in plain["provenance"].items() if k not in OF_THE_RUN}
    return content_id(Recipe.schema, plain | {"provenance": provenance})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
