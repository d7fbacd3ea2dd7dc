"""Artefacts: an id of the content, verified when read; a child names its parents and refuses others."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from optim.artefact import Artefact, Lineage, load_artefact, require_parent, save_artefact
from optim.errors import IncompatibleError

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
ORIGIN = Lineage("a_model", "screen", "abc", simulated=True, seed=1)


@dataclass(frozen=True)
class Parent(Artefact):
    schema: ClassVar[str] = "optim.parent/1"
    made_by: ClassVar[str] = "optim beget"

    lineage: Lineage
    table: np.ndarray
    named: dict[str, float]
    pairs: tuple[tuple[str, float], ...] = ()
    maybe: float | None = None


@dataclass(frozen=True)
class Child(Artefact):
    schema: ClassVar[str] = "optim.child/1"
    made_by: ClassVar[str] = "optim raise"

    lineage: Lineage


def parent(**changes: object) -> Parent:
    return replace(Parent(ORIGIN, np.array([[1.0, np.nan]]), {"b": 2.0, "a": 1.0}), **changes)


@given(arrays(float, st.tuples(st.integers(0, 3), st.integers(0, 3)), elements=NUMBERS), NUMBERS, NUMBERS)
def test_the_id_survives_the_folder(tmp_path_factory, table, value, other):
    one = parent(table=table, named={"x": value}, pairs=(("y", other),), maybe=value)
    folder = save_artefact(one, tmp_path_factory.mktemp("a") / "parent")
    assert load_artefact(Parent, folder).id == one.id
    assert json.loads((folder / "artefact.json").read_text())["id"] == one.id


def test_the_id_is_of_the_content_and_of_nothing_else():
    assert parent().id == parent().id
    assert parent(named={"a": 1.0, "b": 2.0}).id == parent().id  # the order of a mapping is no content
    changed = [
        {"table": np.array([[1.0, 0.0]])},
        {"table": np.array([[1.0], [np.nan]])},  # same bytes, another shape
        {"table": np.array([[1.0, np.nan]], np.float32)},
        {"named": {"a": 1.0, "b": np.nextafter(2.0, 3.0)}},
        {"lineage": replace(ORIGIN, seed=2)},
        {"lineage": replace(ORIGIN, parents={"fit": "x"})},
        {"maybe": 0.0},
    ]
    assert len({parent(**c).id for c in changed} | {parent().id}) == len(changed) + 1


def test_an_edited_artefact_is_refused(tmp_path):
    folder = save_artefact(parent(), tmp_path / "parent")
    file = folder / "artefact.json"
    whole = file.read_text()
    file.write_text(whole.replace('"a": 1.0', '"a": 1.5'))
    with pytest.raises(IncompatibleError, match=r"parent was changed after it was written.*run `optim beget` again"):
        load_artefact(Parent, folder)
    file.write_text(whole)
    np.savez_compressed(folder / "arrays.npz", **{"/table": np.array([[1.0, 2.0]])})
    with pytest.raises(IncompatibleError, match="changed after it was written"):
        load_artefact(Parent, folder)
    np.savez_compressed(folder / "arrays.npz", **{"/table": np.array([[1.0, np.nan]])})
    assert load_artefact(Parent, folder).id == parent().id
    file.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != "id"}))
    with pytest.raises(IncompatibleError, match="lacks 'id'; run `optim beget` again"):
        load_artefact(Parent, folder)


def test_a_child_names_its_parents_and_refuses_others():
    mine, other = parent(), parent(maybe=1.0)
    child = Child(Lineage.from_parents(mine, seed=5, notes=("n",)))
    assert child.lineage == replace(ORIGIN, seed=5, notes=("n",), parents={"parent": mine.id})
    require_parent(child, mine, child_place=Path("out/child"), parent_place=Path("out/parent"))
    text = (
        f"out/child was made from parent {mine.id[:12]}, but out/parent holds parent {other.id[:12]}; run `optim raise`"
    )
    with pytest.raises(IncompatibleError, match=text):
        require_parent(child, other, child_place=Path("out/child"), parent_place=Path("out/parent"))
    with pytest.raises(IncompatibleError, match="was made from no parent, but"):
        require_parent(Child(ORIGIN), mine, child_place=Path("out/child"), parent_place=Path("out/parent"))
