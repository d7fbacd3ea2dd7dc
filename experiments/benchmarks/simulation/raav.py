"""Recombinant AAV from transfected HEK293 cells, 72 h without any action.

Equations of `optim/kinetics/raav_nguyen.py` (Nguyen et al. 2021), written once more for the other programs. Assembly
and export, 1e5 1/h, make it stiff throughout. Nothing is exchanged at 6 h, other than in the source: every program
then solves one smooth problem of 22 states.

Order of the state: that of the library's model (1e9 cells/L, copies/cell); time in hours.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from process import Process, perturbed

from optim.app.build import model_config
from optim.kinetics.base import Environment
from optim.kinetics.raav_nguyen import PROTEINS_PER_CAPSID, TRANSFECTION_DENSITY, Parameters, RaavNguyen
from optim.schedule.grid import IntervalActions, IntervalGrid
from optim.simulation.balance import Vessel

NODES_H = np.array([0.0, 6.0, 12.0, 24.0, 48.0, 60.0, 72.0])
DOSE = 7.6e4  # copies/cell of each plasmid


def rates(t: Any, y: Sequence[Any], p: Sequence[Any], u: Sequence[Any], exp: Callable[[Any], Any]) -> list[Any]:
    """dy/dt of one vessel, per hour."""
    k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, g1, g2 = p
    xv, rc_e, rc_n, rc_c, rc_u, vec_e, vec_n, vec_c, vec_u, hel_e, hel_n, hel_c, hel_u = y[:13]
    rep, cap, dna, empty_u, full_u, empty_c, full_c, _, rep_cap = y[13:]
    growth = g1 - g2 * (xv - TRANSFECTION_DENSITY)
    mu = growth / xv
    from_endosome, from_cytosol, from_nucleus = k2 + k4 + mu, k3 + k4 + mu, k4 + mu
    repress = k10 * rc_u * rep
    express = rc_u * hel_u
    assemble = k11 * cap
    dock = k12 * rep * empty_u
    pack = k13 * rep_cap * dna
    return [
        growth,
        -k1 * rc_e,
        k1 * rc_e - from_endosome * rc_n,
        k2 * rc_n - from_cytosol * rc_c,
        k3 * rc_c - from_nucleus * rc_u - repress,
        -k1 * vec_e,
        k1 * vec_e - from_endosome * vec_n,
        k2 * vec_n - from_cytosol * vec_c,
        k3 * vec_c - from_nucleus * vec_u,
        -k1 * hel_e,
        k1 * hel_e - from_endosome * hel_n,
        k2 * hel_n - from_cytosol * hel_c,
        k3 * hel_c - from_nucleus * hel_u,
        k5 * express - repress - dock + pack - (k7 + mu) * rep,
        k6 * express - PROTEINS_PER_CAPSID * assemble - (k8 + mu) * cap,
        k9 * rep * vec_u * hel_u - pack - mu * dna,
        assemble - dock - (k14 + mu) * empty_u,
        pack - (k14 + mu) * full_u,
        k14 * empty_u - mu * empty_c,
        k14 * full_u - mu * full_c,
        repress,
        dock - pack,
    ]


def edge(y: Sequence[Any], u: Sequence[Any]) -> list[Any]:
    """Nothing happens."""
    return list(y)


@cache
def process() -> Process:
    """The process, with nodes at which samples would be taken."""
    rows, model = model_config("raav_nguyen").parameters, RaavNguyen()
    nominal = [float(rows[name].value) for name in Parameters._fields]
    count, species = len(NODES_H) - 1, len(model.species)
    none = np.zeros((count, 1))
    climate = Environment(np.full(count, 37.0), np.full(count, 7.0))
    values = {"Xv": 1.0, "RC_E": DOSE, "Vec_E": DOSE, "Hel_E": DOSE}
    return Process(
        name="rAAV",
        parameters=lambda n: perturbed(nominal, n),
        start=np.array([values.get(name, 0.0) for name in model.names()]),
        nodes=NODES_H,
        controls=none,
        rates=rates,
        edge=edge,
        sizes=np.array([s.scale for s in model.species]),
        model=model,
        grid=IntervalGrid(NODES_H, IntervalActions(none[:, 0], none, none, none, climate), np.asarray(count, np.int32)),
        vessel=Vessel(np.zeros((1, species))),
        start_l=1.0,
    )
