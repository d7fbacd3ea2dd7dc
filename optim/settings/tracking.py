"""Settings of experiment tracking."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from optim.settings.ranges import FolderPath, Section

HIDDEN = "***"
SECRET_KEY = re.compile(r"([?&][^=&]*(?:password|passwd|pwd|token|secret|key)[^=&]*=)[^&]*", re.IGNORECASE)


@dataclass(frozen=True)
class TrackingSettings(Section, key="tracking"):
    """Where runs are tracked by MLflow."""

    enabled: bool = True  # false: nothing is tracked
    uri: str | None = None  # default: MLFLOW_TRACKING_URI, else an SQLite store in the folder `workspace`
    experiment: str = "optim"  # MLflow experiment that runs belong to
    workspace: FolderPath = "outputs/mlflow"  # folder of the SQLite store and its artefacts
    child_runs: bool = False  # a run of its own for every clone of a fit


def shown_address(address: str) -> str:
    """An address as it may be shown and stored: without password, token, or a user who might be one."""
    scheme, colon, rest = address.partition("://")
    if colon and "@" in rest:
        # a password may hold '@' and '/' although it should not: all up to the last '@' is hidden
        user, _, place = rest.rpartition("@")
        name, has_password, _ = user.partition(":")
        rest = f"{name}:{HIDDEN}@{place}" if has_password else f"{HIDDEN}@{place}"
    return SECRET_KEY.sub(rf"\g<1>{HIDDEN}", f"{scheme}{colon}{rest}")


def without_secret(text: str, address: str | None) -> str:
    """A text, such as an error of a store, without the secrets of an address that it may repeat."""
    if not address or (shown := shown_address(address)) == address:
        return text
    text = text.replace(address, shown)
    user = address.partition("://")[2].rpartition("@")[0]
    secrets = [user.partition(":")[2] or user, *(m.group(0).partition("=")[2] for m in SECRET_KEY.finditer(address))]
    for secret in secrets:
        for form in (secret, unquote(secret)):
            text = text.replace(form, HIDDEN) if form else text
    return text
