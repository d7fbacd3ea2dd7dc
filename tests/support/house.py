"""The measures of the house, counted from its syntax trees: `python tests/support/house.py` prints them."""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "optim"
MOST_PARAMETERS = 8
MOST_POSITIONAL = 3
MOST_ONE_WORD = 0.35
LONGEST_FILE = 500
# every kinetic model has a State and a Parameters of its own: that is how its equations read like its paper
SHARED_BY_DESIGN = ("State", "Parameters")


@dataclass(frozen=True)
class Counts:
    """What is counted; the lists name the places that break a rule, as file:name."""

    functions: int  # public, methods and nested ones included
    one_word: float  # fraction of them whose name is a single word
    many_parameters: tuple[str, ...]
    many_positional: tuple[str, ...]
    several_homes: tuple[str, ...]  # public names that several modules define
    long_files: tuple[str, ...]

    def lines(self) -> list[str]:
        """The counts for a terminal, the offenders below each rule."""
        found = [f"{self.functions} public functions, {self.one_word:.0%} with a name of one word"]
        for rule, names in (
            (f"functions with more than {MOST_PARAMETERS} parameters", self.many_parameters),
            (f"public functions with more than {MOST_POSITIONAL} positional parameters", self.many_positional),
            ("public names with more than one home", self.several_homes),
            (f"files over {LONGEST_FILE} lines", self.long_files),
        ):
            found += [f"{len(names)} {rule}", *(f"  {name}" for name in names)]
        return found


def count(package: Path = PACKAGE) -> Counts:
    """Count over all Python files of a package."""
    names: list[str] = []
    many, positional, long = [], [], []
    homes: dict[str, set[str]] = defaultdict(set)
    for file in sorted(package.rglob("*.py")):
        text, where = file.read_text(encoding="utf-8"), str(file.relative_to(package))
        if text.count("\n") > LONGEST_FILE:
            long.append(where)
        tree = ast.parse(text)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(where)
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            by_place = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
            if len(by_place) + len(node.args.kwonlyargs) > MOST_PARAMETERS:
                many.append(f"{where}:{node.name}")
            if not node.name.startswith("_"):
                names.append(node.name)
                if len(by_place) > MOST_POSITIONAL:
                    positional.append(f"{where}:{node.name}")
    several = [
        f"{name}: {', '.join(sorted(files))}"
        for name, files in sorted(homes.items())
        if len(files) > 1 and name not in SHARED_BY_DESIGN
    ]
    share = sum("_" not in name for name in names) / max(1, len(names))
    return Counts(len(names), share, tuple(many), tuple(positional), tuple(several), tuple(long))


if __name__ == "__main__":
    print("\n".join(count().lines()))
