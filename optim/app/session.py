"""One command at work: its output folder, its tracked run, and how it tells what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optim import __version__
from optim.app.build import config_hash
from optim.app.schema import as_yaml
from optim.artefact import save
from optim.errors import OptimError
from optim.report.page import png
from optim.settings.settings import Settings
from optim.tracking.mlflow import Tracker, TrackingOptions, open_tracker

Say = Callable[[str], None]


@dataclass
class Session:
    """One command at work: where it writes, how it is tracked, how it tells."""

    cfg: Settings
    out: Path
    tracker: Tracker
    say: Say
    progress: Say
    told: set[str] = field(default_factory=set)

    def table(self, text: str, name: str) -> None:
        file = self.out / "tables" / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        self.tracker.file(file, "tables")

    def page(self, text: str, name: str) -> None:
        """Write an HTML page to the output folder, and give it to the tracked run."""
        file = self.out / name
        draft = file.with_suffix(".part")
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
        self.tracker.file(file, "")
        self.say(f"  report: {file}")

    def keep(self, artefact: Any, name: str) -> None:
        """Write an artefact to the output folder, and give it to the tracked run."""
        self.tracker.folder(save(artefact, self.out / name), name)

    def lines(self, lines: list[str]) -> None:
        for line in lines:
            self.say(line)

    def note(self, text: str) -> None:
        """Say a note once, however many artefacts carry it."""
        if text not in self.told:
            self.told.add(text)
            self.say(f"  note: {text}")

    def figure(self, figure: Any, name: str) -> None:
        self.image(png(figure), name)

    def image(self, content: bytes, name: str) -> None:
        folder = self.out / "plots"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.png"
        file.write_bytes(content)
        self.tracker.file(file, "plots")


@contextmanager
def session(cfg: Settings, command: str, say: Say = print, progress: Say = lambda text: None) -> Iterator[Session]:
    """Open the output folder and tracking for one command. Raises `OptimError` for a folder that cannot be written."""
    out = Path(cfg.out).expanduser().resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
        (out / "config.yaml").write_text(as_yaml(cfg))
    except OSError as err:
        raise OptimError(f"cannot write to out={cfg.out}: {err.strerror or err}. Choose a writable folder.") from err
    import jax

    t = cfg.tracking
    options = TrackingOptions(t.enabled, t.uri, t.experiment, Path(t.workspace), t.child_runs)
    tags = {
        "optim.command": command,
        "optim.version": __version__,
        "optim.config_hash": config_hash(cfg)[:16],
        "jax": version("jax"),
        "x64": str(jax.config.jax_enable_x64),
        "device": jax.default_backend(),
    }
    with open_tracker(options, f"{cfg.name} {command}", tags) as tracker:
        tracker.text(as_yaml(cfg), "config.yaml")
        tracker.parameters(
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
        yield Session(cfg, out, tracker, say, progress)
