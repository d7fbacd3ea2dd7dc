"""A download, bounded in time and size, whole or not at all."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request

SILENCE_S = 20.0  # without a byte
TOTAL_S = 300.0
LARGEST_BYTES = 256 * 2**20  # many times the largest public set, and little enough for any memory
PIECE_BYTES = 2**16


class DownloadError(Exception):
    """Why there is no download, in a few words."""


def download(
    address: str,
    *,
    total_s: float = TOTAL_S,
    silence_s: float = SILENCE_S,
    largest_bytes: int = LARGEST_BYTES,
) -> bytes:
    """The content at an address.

    Args:
        address: an HTTP address.
        total_s: seconds after which it is given up, however it drips.
        silence_s: seconds without a byte after which it is given up.
        largest_bytes: size above which it is refused.

    Raises:
        DownloadError: no connection, no HTTP, fewer bytes than announced, too slow, or too large.
    """
    content: list[bytes] = []
    faults: list[str] = []
    end = time.monotonic() + total_s

    def _read() -> None:
        try:
            content.append(_content(address, end=end, silence_s=silence_s, largest_bytes=largest_bytes))
        except DownloadError as err:
            faults.append(str(err))
        except urllib.error.URLError as err:
            faults.append(str(err.reason))
        except http.client.HTTPException as err:
            faults.append(f"the answer is no HTTP: {type(err).__name__} {err}".strip())
        except (OSError, ValueError) as err:
            faults.append(str(err) or type(err).__name__)

    # a thread, because neither a name server nor a header that drips can be given up from within
    reader = threading.Thread(target=_read, daemon=True)
    reader.start()
    reader.join(total_s + 1.0)
    if not content:
        raise DownloadError(faults[0] if faults else f"not finished after {total_s:g} s")
    return content[0]


def _content(address: str, *, end: float, silence_s: float, largest_bytes: int) -> bytes:
    content = bytearray()
    with urllib.request.urlopen(address, timeout=silence_s) as answer:
        announced = answer.headers.get("Content-Length", "")
        if announced.isdigit() and int(announced) > largest_bytes:
            raise DownloadError(f"{announced} bytes are announced, at most {largest_bytes} are taken")
        while piece := answer.read1(PIECE_BYTES):
            content += piece
            if len(content) > largest_bytes:
                raise DownloadError(f"more than {largest_bytes} bytes")
            if time.monotonic() > end:
                raise DownloadError(f"not finished in time, after {len(content)} bytes")
    if announced.isdigit() and len(content) < int(announced):
        raise DownloadError(f"broken off after {len(content)} of {announced} bytes")
    return bytes(content)
