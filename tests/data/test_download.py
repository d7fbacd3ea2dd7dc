"""Downloads that break off, are no HTTP, drip or never end: one fault, in bounded time and size."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import yaml

from optim.data import open as opening
from optim.data.download import DownloadError, download
from optim.data.open import read_dataset
from optim.errors import DatasetError

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


@contextmanager
def served(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Address of a server of this machine that answers every request in this way."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def _serve() -> None:
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                with link, suppress(OSError):
                    link.recv(65536)
                    answer(link)

        threading.Thread(target=_serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/set"


def dripping(head: bytes, *, every_s: float = 0.02) -> Callable[[socket.socket], None]:
    def _drip(link: socket.socket) -> None:
        link.sendall(head)
        while True:
            link.sendall(b"x")
            time.sleep(every_s)

    return _drip


def endless(link: socket.socket) -> None:
    link.sendall(HEAD + b"\r\n")
    while True:
        link.sendall(b"x" * 65536)


BROKEN = {
    "fewer bytes than announced": (lambda s: s.sendall(HEAD + b"Content-Length: 1000\r\n\r\na,b"), "3 of 1000 bytes"),
    "fewer bytes than a chunk": (lambda s: s.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\na"), "no HTTP"),
    "no HTTP": (lambda s: s.sendall(b"SSH-2.0-OpenSSH_9\r\n"), "no HTTP"),
    "no answer": (lambda s: None, "closed"),
    "an error": (lambda s: s.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "Not Found"),
    "silent": (lambda s: time.sleep(3.0), "timed out"),
    "dripping": (dripping(HEAD + b"\r\n"), "not finished"),
    "a dripping header": (dripping(HEAD + b"X: "), "not finished"),
    "endless": (endless, "more than 1000000 bytes"),
    "announced too large": (lambda s: s.sendall(HEAD + b"Content-Length: 9999999999\r\n\r\n"), "at most 1000000"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_download_is_one_fault_in_bounded_time(name):
    answer, words = BROKEN[name]
    began = time.monotonic()
    with served(answer) as address, pytest.raises(DownloadError, match=words):
        download(address, total_s=1.0, silence_s=0.5, largest_bytes=1_000_000)
    assert time.monotonic() - began < 2.9


@pytest.mark.parametrize("head", [b"Content-Length: 5\r\n\r\n", b"\r\n"])
def test_a_whole_download_is_returned(head):
    with served(lambda s: s.sendall(HEAD + head + b"a,b\n1")) as address:
        assert download(address, total_s=5.0) == b"a,b\n1"


def public_set(place, monkeypatch, address: str) -> None:
    folder = place / "sets" / "toy"
    folder.mkdir(parents=True)
    source = {"name": "toy", "adapter": "optfed", "repository": "a/b", "commit": "0123456789ab", "path": "d"}
    source |= {"address": address, "files": {"x.csv": "0" * 64}}
    (folder / "source.yaml").write_text(yaml.safe_dump(source))
    monkeypatch.setenv("OPTIM_DATASETS", str(place / "sets"))
    monkeypatch.setenv("OPTIM_CACHE", str(place / "cache"))
    monkeypatch.delenv("OPTIM_DATA", raising=False)


def test_a_broken_download_of_a_public_set_names_address_and_remedy_and_keeps_nothing(tmp_path, monkeypatch):
    with served(BROKEN["fewer bytes than announced"][0]) as address:
        public_set(tmp_path, monkeypatch, address)
        with pytest.raises(DatasetError, match=r"fetching http.* failed \(broken off after 3 of 1000.*OPTIM_DATA="):
            read_dataset("toy")
    assert not list(tmp_path.rglob("x.csv"))


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    content = b"a,b\n"
    (tmp_path / "cache").write_text("in the way")
    public_set(tmp_path, monkeypatch, "http://nowhere.invalid")
    monkeypatch.setattr(opening, "download", lambda address: content)
    monkeypatch.setattr(
        opening.hashlib, "sha256", lambda content: type("Digest", (), {"hexdigest": lambda s: "0" * 64})()
    )
    with pytest.raises(DatasetError, match=r"cannot write .*x.csv: .*OPTIM_CACHE"):
        read_dataset("toy")
