"""Interrupts of a command: Ctrl-C, SIGTERM (a queue, a container) and SIGHUP (a closed terminal) end it alike."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

REPEAT_S = 2.0  # a closed terminal sends its signal twice; a second one must not disturb the orderly end


class Interrupts:
    """The signals that asked this process to end."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self._last_s = 0.0

    @property
    def exit_code(self) -> int:
        """Exit code of an interrupted command: 128 and the number of the signal."""
        return 128 + (self.signals[0] if self.signals else signal.SIGINT)

    def note(self, number: int, frame: object) -> None:
        """Handle a signal: remember it, and raise `KeyboardInterrupt`."""
        repeated = bool(self.signals) and time.monotonic() - self._last_s < REPEAT_S
        self.signals.append(number)
        self._last_s = time.monotonic()
        if not repeated:
            raise KeyboardInterrupt

    def raise_pending(self) -> None:
        """Raise again: Python drops a KeyboardInterrupt that falls into a callback, and JAX has many."""
        if self.signals:
            raise KeyboardInterrupt


@contextmanager
def watched_interrupts() -> Iterator[Interrupts]:
    """Context in which the signals are noted. Outside of the main thread, and under `nohup`, they are left alone."""
    found = Interrupts()
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, n) for n in names if hasattr(signal, n)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    # `nohup` ignores SIGHUP; a shell ignores SIGINT for what it starts with '&', and a sent one is meant all the same
    before = {n: signal.getsignal(n) for n in numbers}
    watched = [n for n in numbers if n == signal.SIGINT or before[n] is not signal.SIG_IGN]
    for n in watched:
        signal.signal(n, found.note)
    try:
        yield found
    finally:
        for n in watched:
            signal.signal(n, before[n])
