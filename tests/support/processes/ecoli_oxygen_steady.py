"""The process of the model with dissolved oxygen, without oxygen as a species."""

from __future__ import annotations

from functools import partial

from support.cases import Process
from support.processes.ecoli_oxygen import OXYGEN, OXYGEN_START, oxygen, oxygen_random


def process() -> Process:
    vessel = OXYGEN._replace(feeds=OXYGEN.feeds[:, :3], topup=OXYGEN.topup[:, :3])
    random = partial(oxygen_random, "ecoli_oxygen_steady")
    return Process(("ecoli_oxygen_steady",), vessel, OXYGEN_START[:3], 2.0, oxygen(), random)
