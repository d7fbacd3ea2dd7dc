"""Adapter: the public NISTCHO feeding-strategy runs (BOKU, University of Salzburg), cell counts and viability only.

`Total_VCD` of the counter is the density of viable cells, not of all. The authors plot and integrate it as viable,
and the data leave no choice: in LoG it falls from 18 to 1 (1e6/mL) within 28 h while viability falls from 80 to 5 %.
As viable cells that is a constant total of 20 to 22; as all cells, 95 % of them would be gone without a trace.

The feeding strategy is what differs between groups of vessels, so it stands where a clone stands in other sets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optim.data.dataset import Dataset, Run
from optim.data.sources.raw import dataset_of, read_table
from optim.errors import BadCell, DatasetError

COUNTS_FILE = "vicell_vcd_viability.csv"
COLUMNS = {"Cell_Line", "TP", "Condition", "Replicate", "Viability", "Total_VCD", "Hours", "Batch"}
# as in the authors' scripts
STRATEGIES = {"A": "STD", "B": "STD+", "C": "LoG+", "D": "HiF", "E": "HIP", "F": "HIP+", "G": "LoG"}
# neither is in the file; a constant volume divides out, and no model fitted to these data may use temperature or pH
NOMINAL_VOLUME_L = 1.0
NOMINAL_TEMPERATURE_C = 37.0
NOMINAL_PH = 7.0
MEDIUM_ID = "not_stated"
NOTES = (
    "one cell line: where a clone is asked for stands the feeding strategy",
    "Total_VCD is taken as viable cells, as the authors do: only then does a dying culture keep its total of cells",
    "volumes, times and composition of the feeds are not in the file: the volume of a vessel is constant here, and "
    "dilution by feeds is part of the apparent rates. Windows in the authors' scripts suggest feeds at 73, 121 and "
    "169 h (LoG, LoG+), also at 217 h (STD, STD+), and daily from 121 h on (HiF, HIP, HIP+)",
    "volume (1 L), temperature (37 degC) and pH (7) are nominal, not measured",
    "every run starts from its batch's mean count at time 0: single counts there scatter by 15 to 29 % and say little "
    "about those at 70 h (correlation 0.2 to 0.3); they stay among the measurements",
    "the authors leave the FB2 runs of STD, STD+ and LoG+ out of their evaluation; they are kept here",
    "no tenth sample of FB4 LoG and LoG+: the authors' scripts drop it",
    "odd and kept: FB4_LoG+_R5 reads 12.6 (1e6/mL) at 193 h, between 19.0 and 25.5; FB4_LoG+_R7 alone of its four is "
    "not dying at 245 h; FB2_LoG+ dies by a third from 214 to 238 h, and no further until 262 h",
    "cell diameter is in the file, but no variable of this project",
)


def read_nistcho(folder: Path, source: dict[str, Any]) -> Dataset:
    """Read the dataset in canonical form. Raises one `DatasetError` that lists every invalid cell."""
    table = read_table(folder, COUNTS_FILE, COLUMNS)
    _check(table)
    inoculum = table[table["TP"] == "TP1"].groupby("Batch")["Total_VCD"].mean().to_dict()
    runs, rows = [], []
    for (batch, condition, replicate), own in table.groupby(["Batch", "Condition", "Replicate"], sort=True):
        strategy = STRATEGIES[str(condition)]
        runs.append(
            Run(
                run_id=f"{batch}_{strategy}_{replicate}",
                experiment_id=str(batch),
                vessel_id=f"{batch}_{condition}_{replicate}",
                clone_id=strategy,
                start_volume_l=NOMINAL_VOLUME_L,
                medium_id=MEDIUM_ID,
                temperature_c=NOMINAL_TEMPERATURE_C,
                ph=NOMINAL_PH,
                inoculum_vcd=float(inoculum[batch]),
                end_time_h=float(own["Hours"].max()),
                actions=(),
            )
        )
        for hours, vcd, viability in sorted(zip(own["Hours"], own["Total_VCD"], own["Viability"], strict=True)):
            rows.append((len(runs) - 1, float(hours), "vcd", float(vcd)))
            rows.append((len(runs) - 1, float(hours), "viability", float(viability) / 100.0))
    return dataset_of(source, runs, rows, media={MEDIUM_ID: {}}, notes=(*NOTES, *_incomplete(table)))


def _check(table: pd.DataFrame) -> None:
    bad: list[BadCell] = []

    def _refuse(wrong: pd.Series, column: str, rule: str) -> None:
        # row 1 of the file is its header
        bad.extend(BadCell(COUNTS_FILE, int(i) + 2, column, str(table.at[i, column]), rule) for i in table.index[wrong])

    for column, upper in (("Hours", np.inf), ("Total_VCD", np.inf), ("Viability", 100.0)):
        value = pd.to_numeric(table[column], errors="coerce")
        _refuse(~value.between(0.0, upper) | np.isinf(value), column, f"expected a number from 0 to {upper:g}")
    _refuse(~table["Condition"].isin(list(STRATEGIES)), "Condition", f"expected one of {', '.join(STRATEGIES)}")
    _refuse(table["Cell_Line"] != table["Cell_Line"].iloc[0], "Cell_Line", "expected one cell line in the whole file")
    key = ["Batch", "Condition", "Replicate", "TP"]
    _refuse(table.duplicated(key), "TP", "this sample of this vessel is given twice")
    if bad:
        raise DatasetError(f"{COUNTS_FILE} has {len(bad)} fault{'s' if len(bad) > 1 else ''}:", bad)


def _incomplete(table: pd.DataFrame) -> list[str]:
    """Notes on vessels that lack samples which others of their batch and strategy have."""
    notes = []
    for (batch, condition), group in table.groupby(["Batch", "Condition"]):
        planned = sorted(group["TP"].unique(), key=lambda tp: int(tp[2:]))
        for replicate, own in group.groupby("Replicate"):
            lacking = [tp for tp in planned if tp not in set(own["TP"])]
            if lacking:
                name = f"{batch}_{STRATEGIES[str(condition)]}_{replicate}"
                notes.append(f"{name} lacks {len(lacking)} of {len(planned)} samples: {', '.join(lacking)}")
    return notes
