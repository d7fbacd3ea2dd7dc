"""Mutated datasets: a cell, row or column of a sound one changed. `python tests/support/mutants.py` counts outcomes."""

from __future__ import annotations

import csv
import io
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# a sound dataset that uses every column of the contract
SOUND = {
    "dataset.yaml": "name: sound\ndescription: d\norganism: CHO\ncitation: none\nlicence: none\nsimulated: true\n",
    "media.csv": "medium_id,component,value,unit\nm,glucose,35,mmol/L\nm,glutamine,6,mmol/L\nf,glucose,400,mmol/L\n",
    "runs.csv": (
        "run_id,clone_id,experiment_id,vessel_id,start_volume_ml,medium_id,temperature_c,ph,end_time_h,"
        "inoculum_vcd_1e6_per_ml\nR1,C1,E1,V1,13,m,36.8,7.0,96,0.5\nR2,C2,E1,V2,13,m,36.8,7.0,96,0.5\n"
    ),
    "events.csv": (
        "run_id,time_h,kind,feed_id,value,unit,value_end,until_h,ramp_h,growth_per_h,component\n"
        "R1,24,sample,,0.3,mL,,,,,\nR1,24,bolus,f,0.4,mL,,,,,\nR1,48,feed_rate,f,0.01,mL/h,0.02,72,,,\n"
        "R1,72,temperature,,33,degC,,,12,,\nR1,72,top_up,f,10,mmol/L,20,,,,glucose\nR2,24,sample,,0.3,mL,,,,,\n"
    ),
    "measurements.csv": (
        "run_id,experiment_id,vessel_id,clone_id,time_h,variable,value,unit,method,replicate,censored,qc_flag,when\n"
        "R1,E1,V1,C1,0,vcd,0.5,1e6 cells/mL,counter,1,,,\nR1,E1,V1,C1,24,glucose,6.1,g/L,analyser,1,,,before\n"
        "R1,E1,V1,C1,96,titre,0.5,g/L,HPLC,1,,,\nR2,E1,V2,C2,24,viability,97,%,counter,1,,,\n"
    ),
    "truth.csv": "owner,parameter,value\n,k,1.0\nC1,q,2.0\n",
}
NUMBERS = (
    "value", "time_h", "start_volume_ml", "temperature_c", "ph", "end_time_h", "inoculum_vcd_1e6_per_ml", "value_end",
    "until_h", "ramp_h", "growth_per_h",
)  # fmt: skip
MAY_BE_BLANK = {
    "ph", "inoculum_vcd_1e6_per_ml", "experiment_id", "vessel_id", "method", "replicate", "censored", "qc_flag", "when",
    "value_end", "until_h", "ramp_h", "growth_per_h", "owner", "measurements.csv clone_id",
}  # fmt: skip
FREE = {"method", "replicate"}  # any text


class Mutant(NamedTuple):
    """A changed dataset: where, by what, the text of the file, and whether it must be refused (None: it may be)."""

    file: str
    column: str
    row: int
    change: str
    text: str
    must: bool | None


def mutants() -> Iterator[Mutant]:
    """Every column of every table by every change; the first row that has a value in the column."""
    for file, text in SOUND.items():
        if not file.endswith(".csv"):
            continue
        header, *rows = list(csv.reader(io.StringIO(text)))
        for j, column in enumerate(header):
            i = next((i for i, row in enumerate(rows) if row[j] not in ("", "0")), 0)
            for change, value, must in _changes(file, column, rows[i][j]):
                changed = [[*r] for r in rows]
                changed[i][j] = value
                yield Mutant(file, column, i + 2, change, _table(header, changed), must)
        yield Mutant(file, "", len(rows) + 2, "row twice", _table(header, [*rows, rows[0]]), True)
        yield Mutant(file, "", 2, "cell too few", _table(header, [rows[0][:-1], *rows[1:]]), True)
        for j, column in enumerate(header):
            less = _table([c for k, c in enumerate(header) if k != j], [[*r[:j], *r[j + 1 :]] for r in rows])
            yield Mutant(file, column, 1, "column missing", less, None)
            yield Mutant(file, column, 1, "column twice", _table([*header, column], [[*r, r[j]] for r in rows]), True)


def _changes(file: str, column: str, old: str) -> Iterator[tuple[str, str, bool | None]]:
    """Name, new text and whether it must be refused, for one cell."""
    yield "line break", f"{old}\nx", True
    yield "NUL", f"{old}\0", True
    yield "empty", "", False if {column, f"{file} {column}"} & MAY_BE_BLANK else None if column == "feed_id" else True
    if column in NUMBERS:
        for change, value in {"text": "six", "NaN": "nan", "infinite": "inf", "1e300": "1e300", "underscore": "1_0",
                              "digits of another script": "\u0661\u0662", "decimal comma": "1,5"}.items():  # fmt: skip
            yield change, value, True
        signed = file == "truth.csv" or column == "growth_per_h"
        yield "negative", "-1", None if signed else True
        yield "zero", "0", True if column in ("start_volume_ml", "end_time_h") else None
        # a truth has any size, and times and amounts a thousandth off may be meant
        sized = file != "truth.csv" and column not in ("growth_per_h",)
        yield "a million times", repr(1e6 * float(old or 1.0)), True if sized else None
        yield "a thousand times", repr(1e3 * float(old or 1.0)), None
    elif column == "unit":
        for unit in ("", "ML", "Mg/L", "foo", "-1 g/L", "0 g/L", "nan g/L", "3 g/L", "1e400 g/L", "kg", "degC/degC",
                     "g/L**9**9**9**9", "g" * 50, "__import__('os')"):  # fmt: skip
            yield f"unit {unit[:12]!r}", unit, True
    elif column not in FREE:
        yield "unknown", "nowhere", True if (file, column) not in OWN_NAMES else None
        yield "very long", "x" * 5000, True
        yield "cell above the limit of CSV", "x" * 200_000, True


# where a table introduces names, any may be meant
OWN_NAMES = {
    ("media.csv", "medium_id"),
    ("runs.csv", "clone_id"), ("runs.csv", "experiment_id"), ("runs.csv", "vessel_id"), ("truth.csv", "parameter"),
}  # fmt: skip


def _table(header: list[str], rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


def write_sound(folder: Path) -> Path:
    """The sound dataset as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in SOUND.items():
        (folder / name).write_text(text)
    return folder


def main() -> None:
    from optim.data.reader import read_folder
    from optim.errors import DatasetError

    counts: Counter[tuple[str, str]] = Counter()
    folder = write_sound(Path(tempfile.mkdtemp()) / "mutant")
    for m in mutants():
        (folder / m.file).write_text(m.text, newline="")
        try:
            read_folder(folder)
            outcome = "taken"
        except DatasetError:
            outcome = "refused"
        counts[m.file, outcome] += 1
        (folder / m.file).write_text(SOUND[m.file])
    shutil.rmtree(folder.parent)
    print("| table | mutants | refused | legal |\n|---|---|---|---|")
    for file in (f for f in SOUND if f.endswith(".csv")):
        refused, taken = counts[file, "refused"], counts[file, "taken"]
        print(f"| {file} | {refused + taken} | {refused} | {taken} |")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
