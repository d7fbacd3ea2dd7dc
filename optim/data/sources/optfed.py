"""Adapter: the public E. coli Protein L fed-batch set (Schlögel et al. 2024) from its four raw files.

Feeds and volumes are masses in kg and are used as litres, as the authors do. So glycerol of a feed, which the table
states in g/L, counts per kg. Controls become piecewise constant on a grid that contains every sample time, from
differences of the cumulative feed and base, so that mass is kept exactly. The on-line volume is an account of feed,
base and withdrawals; its drops beyond feed and base are the withdrawals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optim.data.dataset import Dataset, Run
from optim.data.sources.raw import dataset_of, read_table
from optim.schedule.actions import Action, Feed, Sample, Setpoint, start_time
from optim.units import ICE_POINT_K

CONTROL_STEP_H = 0.25
WITHDRAWAL_L = 0.004  # smaller drops of the on-line volume are rounding of the scales
OUTLIER_ROW = 40  # dropped by the authors as an outlier
NEAR_SAMPLE_H = 0.06
ML_PER_L = 1000.0
GLYCEROL_DENSITY = 1.261  # kg/L, pure, as the authors use it
ASSAY_COLUMNS = {"X": "biomass", "P": "product", "G": "glycerol"}


def read_optfed(folder: Path, source: dict[str, Any]) -> Dataset:
    """Read the dataset in canonical form. Raises `DatasetError` when a raw file lacks an expected column."""
    samples = read_table(folder, "sampling_points.csv", {"t", "X", "P", "G", "V", "process"}, index=True)
    feed_glycerol = read_table(folder, "c_feed.csv", {"process", "c_feed"}).set_index("process")["c_feed"]
    temperatures = read_table(folder, "temperatures.csv", {"t", "T", "process"}, index=True)
    flows = read_table(folder, "volume_flow_rates.csv", {"t", "V", "f_cum", "f_base_cum", "process"}, index=True)

    runs, rows = [], []
    for process in samples["process"].unique():
        own = samples[samples["process"] == process]
        flow = flows[flows["process"] == process]
        heat = temperatures[temperatures["process"] == process]
        end = float(own["t"].iloc[-1])
        times = own["t"].to_numpy()
        actions = [*_withdrawals(flow, times, end), *_controls(str(process), flow, heat, times)]
        runs.append(
            Run(
                run_id=str(process),
                experiment_id=str(process).split("_")[0],
                vessel_id=str(process),
                clone_id="proteinL",
                start_volume_l=float(flow["V"].iloc[0]),
                medium_id="induced_broth",
                temperature_c=float(heat["T"].iloc[0]) - ICE_POINT_K,
                ph=7.0,
                inoculum_vcd=None,
                end_time_h=end,
                actions=tuple(sorted(actions, key=start_time)),
            )
        )
        for index, row in own.iterrows():
            if index == OUTLIER_ROW:
                continue
            for column, variable in ASSAY_COLUMNS.items():
                rows.append((len(runs) - 1, float(row["t"]), variable, float(row[column])))
    media: dict[str, dict[str, float]] = {"induced_broth": {}, "base": {}}
    media |= {f"feed_{name}": {"glycerol": _per_kg(float(c))} for name, c in feed_glycerol.items()}
    return dataset_of(
        source,
        runs,
        rows,
        media=media,
        notes=(
            "glycerol of feeds is converted from g/L to g/kg, as the authors do",
            f"sampling_points.csv row {OUTLIER_ROW} (DoE1_R3, 10.35 h) left out: the authors dropped it as an outlier",
            "product at time 0 is 0 by construction of the published table, not a measurement",
            "volumes and feeds are masses in kg, used as litres as the authors do",
        ),
    )


def _per_kg(glycerol: float) -> float:
    """Glycerol of a feed in g per kg, from g/L, by the density of a mixture as the authors have it."""
    return glycerol / (1.0 + glycerol / 1000.0 * (1.0 - 1.0 / GLYCEROL_DENSITY))


def _withdrawals(flow: pd.DataFrame, sample_times: np.ndarray, end: float) -> list[Action]:
    t = flow["t"].to_numpy()
    drop = -np.diff(flow["V"] - flow["f_cum"] - flow["f_base_cum"])
    actions = list[Action]()
    for i in np.flatnonzero(drop > WITHDRAWAL_L):
        time = float(t[i])
        nearest = float(sample_times[np.argmin(np.abs(sample_times - time))])
        # the account is written up to some seconds after the sample was drawn
        time = nearest if abs(nearest - time) < NEAR_SAMPLE_H else time
        if time < end:
            actions.append(Sample(time, ML_PER_L * float(drop[i])))
    return actions


def _controls(process: str, flow: pd.DataFrame, heat: pd.DataFrame, sample_times: np.ndarray) -> list[Action]:
    end = sample_times[-1]
    nodes = np.union1d(np.arange(0.0, end, CONTROL_STEP_H), sample_times)
    # a sliver between a grid node and a sample would only cost steps
    keep = [n for n in nodes if n in sample_times or np.min(np.abs(sample_times - n)) > 0.05]
    nodes = np.array(sorted(keep))
    t = flow["t"].to_numpy()
    actions = list[Action]()
    for feed_id, column in ((f"feed_{process}", "f_cum"), ("base", "f_base_cum")):
        total = np.interp(nodes, t, flow[column].to_numpy())
        rates = np.maximum(np.diff(total), 0.0) / np.diff(nodes)
        actions += [
            Feed(feed_id, float(a), ML_PER_L * float(r), stop_h=float(b))
            for a, b, r in zip(nodes[:-1], nodes[1:], rates, strict=True)
        ]
    # mean temperature of each interval, from the integral of the record
    clock, degrees = heat["t"].to_numpy(), heat["T"].to_numpy() - ICE_POINT_K
    area = np.concatenate([[0.0], np.cumsum(0.5 * (degrees[1:] + degrees[:-1]) * np.diff(clock))])
    mean = np.diff(np.interp(nodes, clock, area)) / np.diff(nodes)
    return actions + [Setpoint(float(a), temperature_c=float(m)) for a, m in zip(nodes[:-1], mean, strict=True)]
