"""Standard output and standard error that may be closed, broken off, or know few characters: a command goes on.

`optim simulate | head -1` closes standard output after a line; what a command writes into files is not to depend on it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

# nobody reads any more: a closed pipe, a terminal that is gone, a stream that was closed before the start
NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF)


class PatientStream:
    """A text stream that replaces characters which it cannot encode, and is silent once it cannot be written."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.lost: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Write text, and return its length."""
        if self.lost is None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                known = self._stream.encoding or "ascii"
                self.write(text.encode(known, "replace").decode(known))
            except (OSError, ValueError) as err:  # ValueError: closed by somebody else
                self._lose(err)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        if self.lost is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as err:
                self._lose(err)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, err: OSError | ValueError) -> None:
        self.lost = err
        with suppress(OSError, ValueError):
            # what the stream still holds goes nowhere; Python would complain of it at its end, with exit code 120
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def patient_streams() -> Iterator[None]:
    """Context in which `sys.stdout` and `sys.stderr` are patient. A full disk behind standard output is told."""
    _open_low_numbers()
    before = sys.stdout, sys.stderr
    # Python has none for a number that was closed
    out, err = (PatientStream(s or open(os.devnull, "w", encoding="utf-8")) for s in before)  # noqa: SIM115
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield
    finally:
        out.flush()
        if isinstance(out.lost, OSError) and out.lost.errno not in NOBODY_READS:
            print(f"optim: standard output is incomplete ({out.lost.strerror}); files are whole", file=sys.stderr)
        err.flush()
        sys.stdout, sys.stderr = before


def _open_low_numbers() -> None:
    """Occupy file numbers 0 to 2 where they are closed: a result would get one, and messages of a library into it."""
    number = os.open(os.devnull, os.O_RDWR)
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
