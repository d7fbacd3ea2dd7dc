"""The process behind a tracked run, so that a run whose process was killed is not left running for ever."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

HOST, PID, START = "optim.host", "optim.pid", "optim.process_start"


def process_tags() -> dict[str, str]:
    """Tags that name this process: its host, its number, and when it was started (a number is given out again)."""
    return {HOST: host(), PID: str(os.getpid()), START: _start_of(os.getpid())}


def host() -> str:
    """Name of this machine and, on Linux, of the set of process numbers: containers may share the first."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def is_dead(tags: Mapping[str, str]) -> bool:
    """Whether the process that these tags name has ended; False where this cannot be known from here."""
    if tags.get(HOST) != host() or not tags.get(PID, "").isdigit():
        return False
    pid = int(tags[PID])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is there, and belongs to somebody else
    return _start_of(pid) != tags.get(START, "")


def _start_of(pid: int) -> str:
    """Boot of the machine, and clock ticks from there to the start of a process; '' where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot}/{fields[19]}"  # field 22 of proc(5); the first two, with the name in brackets, are cut off
