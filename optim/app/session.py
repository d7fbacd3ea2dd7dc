"""The session of a command: output folder, tracked run, and output to the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

from optim import __version__
from optim.app.build import config_hash
from optim.app.schema import as_yaml
from optim.artefact import Artefact, require_replaceable, save_artefact
from optim.data.csv_table import csv_text
from optim.errors import OptimError
from optim.report.view import View, view_of
from optim.settings.settings import Settings
from optim.storage import LOCK, clear_all_leftovers, lock_file, write_own_file
from optim.tracking.mlflow import Tracker, open_tracker

Say = Callable[[str], None]


def folder_of(kind: str, case: str) -> str:
    """Folder of a kind of artefact; `case` names a further objective and is '' for the first one."""
    return f"{kind}_{case}" if case else kind


def kept_artefacts(out: Path) -> list[str]:
    """Names of the artefacts that an output folder holds."""
    try:
        return sorted(p.name for p in out.iterdir() if (p / "artefact.json").exists() or (p / "recipe.json").exists())
    except OSError:
        return []


@dataclass
class Session:
    """The session of a command.

    Attributes:
        cfg: the composed settings.
        out: the output folder.
        open_run: opens the tracked run.
        say: prints a line of the report.
        progress: receives a line of progress.
        told: notes that were printed already.
        kept: names of the folders that this command has finished.
    """

    cfg: Settings
    out: Path
    open_run: Callable[[], Tracker]
    say: Say
    progress: Say
    told: set[str] = field(default_factory=set)
    kept: list[str] = field(default_factory=list)

    @cached_property
    def tracker(self) -> Tracker:
        """The tracked run, opened when it is first used."""
        file = self._written(as_yaml(self.cfg).encode(), Path("config.yaml"))
        tracker = self.open_run()
        tracker.log_file(file, "")
        return tracker

    def begin_run(self) -> None:
        """Open the tracked run: the inputs are valid, and the work begins. A command that is refused leaves no run."""
        self.tracker  # noqa: B018

    def reserve(self, *kinds: str, cases: Sequence[str] = ("",)) -> None:
        """Refuse at once, before anything is computed, folders that this command may not replace.

        Args:
            kinds: of the folders that the command will write.
            cases: further objectives that it will write them for; '' is the first one.

        Raises:
            OptimError: a folder holds what optim did not write; the message names it and the remedy.
        """
        for kind in kinds:
            for case in cases:
                require_replaceable(self.out / folder_of(kind, case))

    def publish(self, artefact: Artefact, case: str = "") -> View:
        """Write an artefact to the output folder, and show its view. `case` names a further objective."""
        view = view_of(artefact)
        self.keep_folder(save_artefact(artefact, self.out / folder_of(view.kind, case)))
        self.show_view(view, case)
        return view

    def keep_folder(self, folder: Path) -> None:
        """Give a finished folder to the tracked run, and remember it for an interrupt."""
        self.kept.append(folder.name)
        self.tracker.log_folder(folder, folder.name)

    def kept_so_far(self) -> str:
        """What an interrupt leaves of this command: whole artefacts only, since each is written at once."""
        if not self.kept:
            return "No artefact was finished; nothing of this command was kept."
        return f"Finished and kept in {self.out}: {', '.join(self.kept)}. Commands after them can go on from there."

    def show_view(self, view: View, case: str = "") -> None:
        """Say doubts, lines and notes of a view, write tables, figures and page, and give all of it to tracking."""

        def _named(key: str) -> str:
            return case + key.removeprefix(view.kind) if case else key

        for doubt in view.doubts:
            self.say(f"  warning: {doubt}")
        for line in view.lines:
            self.say(line)
        for note in view.notes:
            self.say_note(note)
        self.tracker.log_metrics({_named(key): value for key, value in view.metrics.items()})
        for key, values in view.series.items():
            self.tracker.log_history(_named(key), values)
        for name, table in view.tables.items():
            self.write_file(csv_text(table).encode(), Path("tables") / f"{folder_of(name, case)}.csv")
        for name, picture in view.pictures.items():
            self.write_file(picture, Path("plots") / f"{folder_of(name, case)}.png")
        if view.page is not None:
            file = self.write_file(view.html(self.cfg.title).encode(), Path(f"{folder_of(view.kind, case)}.html"))
            self.say(f"  report: {file}")

    def write_file(self, content: bytes, name: Path) -> Path:
        """Write a file of the output folder, whole or not at all, and give it to the tracked run.

        A file of this name that optim did not write stays, and the new one is written beside it.

        Raises `OptimError` that names the file, and what is kept, when it cannot be written.
        """
        file = self._written(content, name)
        self.tracker.log_file(file, "" if name.parent == Path() else str(name.parent))
        return file

    def _written(self, content: bytes, name: Path) -> Path:
        try:
            file = write_own_file(self.out, name, content)
        except OSError as err:
            kept = kept_artefacts(self.out)
            rest = f"kept in {self.out}: {', '.join(kept)}" if kept else "nothing was kept"
            raise OptimError(
                f"cannot write {self.out / name}: {err.strerror or err}; {rest}. Make room there, or choose another "
                "folder (out=...), and run the command again"
            ) from err
        if file != self.out / name:
            self.say(f"  {self.out / name} is not as optim wrote it, and stays; the new one is {file.name} beside it")
        return file

    def say_note(self, text: str) -> None:
        """Say a note once, however many artefacts carry it."""
        if text not in self.told:
            self.told.add(text)
            self.say(f"  note: {text}")


@contextmanager
def open_session(
    cfg: Settings, command: str, *, say: Say = print, progress: Say = lambda text: None
) -> Iterator[Session]:
    """Open the output folder, which is locked meanwhile, and tracking for one command.

    Raises `OptimError` for a folder that cannot be written, and `InUseError` for one that another command writes to.
    """
    with _open_folder(cfg, command) as out, ExitStack() as stack:
        yield Session(cfg, out, lambda: stack.enter_context(_tracked_run(cfg, command)), say, progress)


@contextmanager
def _open_folder(cfg: Settings, command: str) -> Iterator[Path]:
    """The output folder, locked, without what killed commands left in it."""
    entered = False
    try:
        out = Path(cfg.out).expanduser().resolve()
        out.mkdir(parents=True, exist_ok=True)
        note = f"process {os.getpid()} (optim {command})"
        with lock_file(out / LOCK, wait=False, note=note, refusal=partial(_in_use, cfg.out)):
            for place in (out, out / "tables", out / "plots"):
                clear_all_leftovers(place)
            entered = True
            yield out
    except (OSError, ValueError) as err:  # a path with a NUL is a ValueError
        if entered:
            raise
        reason = getattr(err, "strerror", None) or err
        raise OptimError(f"cannot write to out={cfg.out[:200]!r}: {reason}. Choose a writable folder.") from err


def _in_use(out: str, holder: str) -> str:
    return (
        f"out={out} is in use by {holder or 'another process'}: two commands would mix their results. Wait until it "
        "has ended, or choose another folder (out=...)"
    )


@contextmanager
def _tracked_run(cfg: Settings, command: str) -> Iterator[Tracker]:
    """Context with the tracked run of a command."""
    import jax

    tags = {
        "optim.command": command,
        "optim.version": __version__,
        "optim.config_hash": config_hash(cfg)[:16],
        "jax": version("jax"),
        "x64": str(jax.config.jax_enable_x64),
        "device": jax.default_backend(),
    }
    with open_tracker(cfg.tracking, f"{cfg.name} {command}", tags) as tracker:
        tracker.log_parameters(
            {
                "experiment": cfg.name,
                "model": cfg.model.name,
                "dataset": cfg.dataset.name or "none",
                "maximise": cfg.objective.maximise,
                "cost": cfg.cost.name if cfg.cost else "none",
                "seed": cfg.seed,
                "starts": cfg.optimise.starts,
            }
        )
        yield tracker
