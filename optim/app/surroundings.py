"""Surroundings of a command that it cannot do without: a current folder, and a place for temporary files."""

from __future__ import annotations

import os
import tempfile

from optim.errors import OptimError


def require_surroundings() -> None:
    """Refuse surroundings in which libraries would fail without a word of the cause.

    Raises:
        OptimError: the current folder does not exist any more, or no folder for temporary files can be written.
    """
    try:
        os.getcwd()
    except OSError as err:
        raise OptimError("the current folder does not exist any more; change to another one (cd)") from err
    try:
        tempfile.gettempdir()
    except FileNotFoundError as err:
        raise OptimError("no folder for temporary files can be written; set TMPDIR to one that can") from err
