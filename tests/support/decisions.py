"""A small design for every kind of decision, with what belongs to it."""

from __future__ import annotations

import numpy as np

from optim.process.decision import DECISION_KINDS, Decision
from optim.process.design import Component, Design

# value, and what it is moved to
VALUES = {
    "temperature": (36.0, 34.0), "shift_temperature": (33.0, 32.0), "ph": (7.0, 6.8), "shift_ph": (6.9, 6.7),
    "feed_exponent": (0.02, 0.03), "inoculum": (0.5, 0.8), "harvest": (80.0, 72.0), "shift_ramp": (5.0, 8.0),
}  # fmt: skip
TOGETHER = {
    "feed_exponent": ("feed_start",),
    "shift_time": ("shift_temperature",),
    "shift_ramp": ("shift_time", "shift_temperature"),
    "shift_temperature": ("shift_time",),
    "shift_ph": ("shift_time",),
    "addition_time": ("addition_volume",),
    "addition_volume": ("addition_time",),
}
FEEDS = ("feed_a", "stock")


def decision(kind: str) -> Decision:
    """A decision of a kind; the second feed where it needs one, glucose where it needs a component."""
    what = DECISION_KINDS[kind]
    value = VALUES.get(kind, (30.0, 40.0))[0]
    return Decision(
        kind, kind, min(0.01, value / 2.0), 100.0, value, 0.0,
        time_h=24.0 if what.at_times and not what.setpoint else 0.0,
        feed="stock" if what.needs_feed else "", component="glucose" if what.needs_component else "",
    )  # fmt: skip


def design_with(kind: str) -> tuple[Design, np.ndarray, np.ndarray]:
    """A design with a decision of a kind, its platform, and the same with that decision moved."""
    kinds = (kind, *TOGETHER.get(kind, ()))
    design = Design(
        tuple(decision(k) for k in kinds), 1.0, 37.0, 7.0, 96.0, 24.0, (24.0, 48.0), 0.01, feeds=FEEDS,
        inoculum_vcd=0.5, inoculum_species=(0,), components=(Component("glucose", 1, 0.0, 1.0),),
    )  # fmt: skip
    x = design.platform
    moved = x.copy()
    moved[0] = VALUES.get(kind, (30.0, 40.0))[1]
    return design, x, moved
