"""The fed-batch of the other CHO model."""

from __future__ import annotations

from support.cases import Process
from support.processes.cho_xing import fed_batch


def process() -> Process:
    return fed_batch("cho_moller")
