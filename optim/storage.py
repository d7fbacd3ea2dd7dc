"""Files and folders on disk: each is old or new at every moment, and what optim did not write is never removed.

A folder that optim writes holds a manifest: the names of its files, with the hashes of what was written. A file that
the manifest does not know, or that was changed since, belongs to somebody else. A folder is written beside its place
and then exchanged with the one that is there, in one step where the system can do that (Linux).
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from optim.errors import OptimError

try:
    import fcntl
except ImportError:  # a system without file locks: one command at a time is then the user's care
    fcntl = None  # type: ignore[assignment]

MANIFEST = ".optim.json"
LOCK = ".optim.lock"
# what operating systems leave in a folder that somebody has looked at
LEFT_BY_SYSTEMS = (".DS_Store", "Thumbs.db", "desktop.ini")
LEFTOVER = re.compile(r"\.(?P<name>.+)\.(draft-\w+|old-\w+|lock)")
LONGEST_NAME = 100  # letters of an id or a name: it becomes part of the name of a file
MOST_NAMED = 5  # files that a message names
MOST_TRIES = 50  # of a reader whose folder is replaced while it reads
EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
THIS_FOLDER = -100  # AT_FDCWD: paths are relative to the working directory


def name_fault(name: str) -> str:
    """Why a name can be no part of the name of a file, as the end of a sentence; '' where it can."""
    if not name.strip():
        return "is blank"
    if name in (".", ".."):
        return "names a folder"
    if any(sign in name for sign in "/\\"):
        return "holds a slash; names become names of files, so use another sign"
    if not name.isprintable():
        return "holds a line break or another sign that cannot be printed"
    if len(name) > LONGEST_NAME or len(name.encode()) > 2 * LONGEST_NAME:
        return f"is too long ({len(name)} letters); use at most {LONGEST_NAME}"
    return ""


class InUseError(OptimError):
    """Another process writes to the same place."""


@contextmanager
def whole_folder(folder: Path, *, remade: Collection[str] = (), keep_others: bool = False) -> Iterator[Path]:
    """Context manager that replaces a folder as a whole or not at all.

    Yields a draft folder. It takes the place of `folder` if the block ends without an error and is deleted otherwise. A
    second writer of the same folder waits.

    Args:
        folder: the place; a folder that is there is replaced if optim wrote all that it holds.
        remade: names of files that are replaced even if they were changed, since no person works on them.
        keep_others: files of the folder that the draft does not hold are kept beside those that it holds, whoever
            wrote them; files of the same name are replaced.

    Raises:
        OptimError: the folder cannot be written, or holds what optim did not write.
    """
    folder = folder.expanduser().resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock_of(folder):
            clear_leftovers(folder)
            if not keep_others:
                require_own(folder, remade=remade)
            draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.draft-", dir=folder.parent))
            try:
                yield draft
                _complete(draft, folder, remade=remade, keep_others=keep_others)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except OSError as err:
        kept = "; what was there before is kept" if folder.exists() else ""
        raise OptimError(f"cannot write {folder}: {err.strerror or err}{kept}. Choose a writable folder.") from err


def _complete(draft: Path, folder: Path, *, remade: Collection[str], keep_others: bool) -> None:
    """Give a draft its manifest and its place; it holds afterwards what was there before, and may be deleted."""
    written = {p.relative_to(draft).as_posix(): [_hash_of(p)] for p in sorted(draft.rglob("*")) if p.is_file()}
    carried: set[str] = set()
    if keep_others and folder.exists():
        carried = _carry(folder, draft)
        known = read_manifest(folder)
        written |= {name: hashes for name, hashes in known.items() if name in carried}
    (draft / MANIFEST).write_text(_manifest_text(written), encoding="utf-8")
    draft.chmod(0o755)
    if not folder.exists():
        os.rename(draft, folder)
        return
    _exchange(draft, folder)
    # somebody may have put a file there a moment ago: then the two change back
    if keep_others:
        strange = sorted(_names_in(draft) - carried - written.keys() - {MANIFEST})
    else:
        strange = foreign_files(draft, remade=remade)
    if strange:
        _exchange(draft, folder)
        raise OptimError(f"{folder} was changed while it was being replaced ({_few(strange)}); run the command again")


def _carry(folder: Path, draft: Path) -> set[str]:
    """Link or copy what a folder holds, and a draft does not, into the draft; returns the names."""
    carried = set()
    for top, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            source = Path(top) / name
            inner = source.relative_to(folder)
            target = draft / inner
            if inner.as_posix() == MANIFEST or target.is_file():
                continue
            carried.add(inner.as_posix())
            if source.is_dir() and not source.is_symlink():
                target.mkdir(exist_ok=True)
                continue
            try:
                os.link(source, target, follow_symlinks=False)
            except OSError:  # a file system without hard links
                shutil.copy2(source, target, follow_symlinks=False)
    return carried


def _names_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


def _exchange(draft: Path, folder: Path) -> None:
    """Exchange two folders; where the system cannot do it in one step, the old one is set aside for a moment."""
    if exchange_at_once(draft, folder):
        return
    aside = folder.with_name(draft.name.replace(".draft-", ".old-"))
    os.rename(folder, aside)
    try:
        os.rename(draft, folder)
    except BaseException:
        os.rename(aside, folder)
        raise
    os.rename(aside, draft)


def exchange_at_once(one: Path, other: Path) -> bool:
    """Exchange two folders in one step (renameat2 of Linux); False where system or file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(call(THIS_FOLDER, os.fsencode(one), THIS_FOLDER, os.fsencode(other), EXCHANGE) == 0)


def restore_folder(folder: Path) -> bool:
    """Bring back a folder that was set aside by a process that died before it put the new one there."""
    folder = folder.expanduser().resolve()
    if folder.exists() or not _beside(folder, "old"):
        return folder.exists()
    with suppress(OSError), lock_of(folder):
        clear_leftovers(folder)
    return folder.exists()


def clear_leftovers(folder: Path) -> None:
    """Clear what earlier writers of a folder left when they were killed; the lock of the folder must be held."""
    for aside in _beside(folder, "old"):
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, folder)
    for draft in _beside(folder, "draft"):
        shutil.rmtree(draft, ignore_errors=True)


def clear_all_leftovers(place: Path) -> None:
    """Clear what killed writers left among the folders and files of `place`; those of living writers stay."""
    try:
        found = [entry.name for entry in place.iterdir()]
    except OSError:
        return
    for name in sorted({m["name"] for entry in found if (m := LEFTOVER.fullmatch(entry)) and entry != LOCK}):
        with suppress(OSError, InUseError), lock_of(place / name, wait=False):
            clear_leftovers(place / name)
    for entry in found:
        if re.fullmatch(r"\..+\.part-\w+", entry):
            with suppress(OSError):
                (place / entry).unlink()


def _beside(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.parent.glob(f".{glob.escape(folder.name)}.{kind}-*"))


def require_own(folder: Path, *, remade: Collection[str] = ()) -> None:
    """Refuse to replace a folder that holds what optim did not write. Raises `OptimError` with the remedy."""
    if folder.exists() and not folder.is_dir():
        raise OptimError(f"{folder} is a file, and a folder is to be written there; move the file elsewhere")
    if strange := foreign_files(folder, remade=remade):
        raise OptimError(
            f"{folder} is not replaced, because it holds what optim did not write, or what was changed since: "
            f"{_few(strange)}. Move the folder elsewhere, or choose another output folder (out=...)"
        )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def foreign_files(folder: Path, *, remade: Collection[str] = ()) -> list[str]:
    """What a folder holds and is not as optim wrote it: names relative to the folder, those of folders with '/'."""
    written = read_manifest(folder)
    own_folders = {str(parent) for name in written for parent in PurePath(name).parents}
    found: list[str] = []
    for top, folders, files in os.walk(folder):
        inside = Path(top).relative_to(folder)
        for name in [*folders]:
            inner = (inside / name).as_posix()
            if inner not in own_folders or (Path(top) / name).is_symlink():
                found.append(f"{inner}/")
                folders.remove(name)
        for name in files:
            inner = (inside / name).as_posix()
            if inner == MANIFEST or name in LEFT_BY_SYSTEMS or inner in remade:
                continue
            file = Path(top) / name
            if file.is_symlink() or inner not in written or _hash_of(file) not in written[inner]:
                found.append(inner)
    return sorted(found)


def read_manifest(folder: Path) -> dict[str, list[str]]:
    """Names of the files that optim wrote into a folder, with their hashes; none where nothing says so."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {str(name): [str(h) for h in hashes] for name, hashes in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _manifest_text(written: dict[str, list[str]]) -> str:
    said = "Files that optim wrote, with their SHA-256. Others in this folder are never replaced."
    return json.dumps({"about": said, "files": written}, indent=1) + "\n"


def _hash_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_own_file(root: Path, name: Path, content: bytes) -> Path:
    """Write a file of an output folder, whole or not at all.

    A file of this name that optim did not write, or that was changed since, stays; the new one is written beside it
    (`name-2.csv`). Only one process at a time may write files of `root`.

    Args:
        root: the output folder.
        name: the file, relative to it.
        content: its bytes.

    Returns:
        The file that was written.

    Raises:
        OptimError: the name leads out of the folder.
        OSError: the file cannot be written; nothing of it is left.
    """
    if name.is_absolute() or ".." in name.parts:
        raise OptimError(f"'{name}' leads out of the output folder {root}; nothing was written")
    written, digest = read_manifest(root), hashlib.sha256(content).hexdigest()
    number, wanted = 1, name
    while not _is_free(root / wanted, written.get(wanted.as_posix(), [])):
        number += 1
        wanted = name.with_name(f"{name.stem}-{number}{name.suffix}")
    # the manifest first: a kill between the two leaves the old file, which it still knows
    written[wanted.as_posix()] = [*written.get(wanted.as_posix(), [])[-1:], digest]
    _replace_file(root / MANIFEST, _manifest_text(written).encode())
    (root / wanted).parent.mkdir(parents=True, exist_ok=True)
    _replace_file(root / wanted, content)
    return root / wanted


def _is_free(file: Path, hashes: list[str]) -> bool:
    if not os.path.lexists(file):
        return True
    return file.is_file() and not file.is_symlink() and _hash_of(file) in hashes


def _replace_file(file: Path, content: bytes) -> None:
    # the process is part of the name, and the folder is locked: nobody else writes this draft
    draft = file.with_name(f".{file.name[:200]}.part-{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(file)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


@contextmanager
def lock_of(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Context with the right to replace a folder; a lock of a process that died does not count.

    Raises `InUseError` where another process has it and `wait` is false.
    """
    lock = folder.with_name(f".{folder.name}.lock")
    with lock_file(lock, wait=wait, note="", refusal=lambda _: f"{folder} is in use"):
        yield


@contextmanager
def lock_file(lock: Path, *, wait: bool, note: str, refusal: Callable[[str], str]) -> Iterator[None]:
    """Context that holds a lock file, which is there only as long as it is held or after a kill.

    Args:
        lock: the file.
        wait: wait for another holder, or refuse.
        note: what the file says while it is held.
        refusal: the message for the note of another holder.

    Raises:
        InUseError: another process holds the lock, and `wait` is false.
        OSError: the file cannot be made.
    """
    descriptor = -1
    while descriptor < 0:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _is_locked(descriptor, wait):
                raise InUseError(refusal(os.read(descriptor, 500).decode(errors="replace")))
            # the holder before removed the file when it was done: then this lock is of no use to anybody else
            with suppress(FileNotFoundError):
                if os.stat(lock).st_ino == os.fstat(descriptor).st_ino:
                    break
            os.close(descriptor)
            descriptor = -1
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            raise
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, note.encode())
        yield
    finally:
        with suppress(OSError):
            os.unlink(lock)
        os.close(descriptor)


def _is_locked(descriptor: int, wait: bool) -> bool:
    """Lock an open file; False where another process has locked it. File systems without locks lock nothing."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def read_whole[T](folder: Path, read: Callable[[Path], T]) -> T:
    """What `read` finds in a folder, although a writer may replace the folder meanwhile.

    Args:
        folder: the folder; one that was set aside by a killed process is brought back.
        read: raises an error where what it finds is not whole, which counts only if the folder has stayed the same.
    """
    restore_folder(folder)
    for _ in range(MOST_TRIES):
        before = _identity(folder)
        try:
            return read(folder)
        except Exception:
            if before == _identity(folder) and (before is not None or not restore_folder(folder)):
                raise
    return read(folder)


def _identity(folder: Path) -> tuple[int, int, int] | None:
    try:
        s = folder.stat()
    except OSError:
        return None
    return s.st_ino, s.st_mtime_ns, s.st_ctime_ns
