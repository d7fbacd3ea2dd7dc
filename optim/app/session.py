"""The session of a command: output folder, tracked run, and output to the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from optim import __version__
from optim.app.build import config_hash
from optim.app.schema import as_yaml
from optim.artefact import Artefact, save_artefact
from optim.errors import OptimError
from optim.export.text_files import csv_text
from optim.report.view import View, view_of
from optim.settings.settings import Settings
from optim.tracking.mlflow import Tracker, open_tracker

Say = Callable[[str], None]


def folder_of(kind: str, case: str) -> str:
    """Folder of a kind of artefact; `case` names a further objective and is '' for the first one."""
    return f"{kind}_{case}" if case else kind


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
        kept: names of the folders and files that were finished.
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
        return self.open_run()

    def begin_run(self) -> None:
        """Open the tracked run: the inputs are valid, and the work begins. A command that is refused leaves no run."""
        self.tracker  # noqa: B018

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
        """Say the lines and notes of a view, write its tables, figures and page, and give all of it to tracking."""

        def _named(key: str) -> str:
            return case + key.removeprefix(view.kind) if case else key

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
        """Write a file of the output folder, whole or not at all, and give it to the tracked run."""
        file = self.out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.part")
        draft.write_bytes(content)
        draft.replace(file)
        self.tracker.log_file(file, "" if name.parent == Path() else str(name.parent))
        return file

    def say_lines(self, lines: Sequence[str]) -> None:
        """Say some lines."""
        for line in lines:
            self.say(line)

    def say_note(self, text: str) -> None:
        """Say a note once, however many artefacts carry it."""
        if text not in self.told:
            self.told.add(text)
            self.say(f"  note: {text}")


@contextmanager
def open_session(
    cfg: Settings, command: str, *, say: Say = print, progress: Say = lambda text: None
) -> Iterator[Session]:
    """Open the output folder and tracking for one command. Raises `OptimError` for a folder that cannot be written."""
    out = Path(cfg.out).expanduser().resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
        (out / "config.yaml").write_text(as_yaml(cfg), encoding="utf-8")
    except OSError as err:
        raise OptimError(f"cannot write to out={cfg.out}: {err.strerror or err}. Choose a writable folder.") from err
    with ExitStack() as stack:
        yield Session(cfg, out, lambda: stack.enter_context(_tracked_run(cfg, command)), say, progress)


@contextmanager
def _tracked_run(cfg: Settings, command: str) -> Iterator[Tracker]:
    """Context with the tracked run of a command, which holds its configuration."""
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
        tracker.log_text(as_yaml(cfg), "config.yaml")
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
