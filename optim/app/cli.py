"""The command line: `optim <command> [hydra overrides]`. Imports stay light, so that help answers at once."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from optim import __version__
from optim.app.commands import command_summaries, load_command
from optim.errors import OptimError, OptimWarning

if TYPE_CHECKING:
    from optim.settings.settings import Settings

EXAMPLES = """examples:
  optim run                                     the embedded default, a simulated CHO clone screen
  optim run experiment=ecoli_protein_l          real data (read from OPTIM_DATA, or fetched)
  optim fit fit.starts=8 seed=3 out=results     overrides are key=value
  optim suggest suggest.runs=8 suggest.samples=60    the next experiments, as files a lab can execute
  optim run -m seed=1,2,3 fit=quick             a sweep; each job in a folder of its own
  optim run --cfg                               print the composed configuration and stop

exit codes: 0 done, 2 something in the input to mend, 1 a fault of optim, 130 interrupted
"""
PROGRESS_EVERY_S = 2.0


def _parser() -> argparse.ArgumentParser:
    """The parser; overrides are left to Hydra."""
    commands = command_summaries()
    listed = "\n".join(f"  {name:<10}{text[0].lower()}{text[1:]}" for name, text in commands.items())
    p = argparse.ArgumentParser(
        prog="optim",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"From screening data to an executable recipe with the best yield per cost.\n\ncommands:\n{listed}",
        epilog=EXAMPLES,
    )
    p.add_argument("command", metavar="command", choices=list(commands), help="one of the commands above")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides")
    p.add_argument("-m", "--multirun", action="store_true", help="sweep over comma-separated values")
    p.add_argument("--config-dir", type=Path, help="a folder with configuration of your own, e.g. experiment/mine.yaml")
    p.add_argument("--cfg", action="store_true", help="print the composed configuration and stop")
    p.add_argument("--quiet", action="store_true", help="no progress lines")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    p.add_argument("--version", action="version", version=f"optim {__version__}")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = _parser().parse_intermixed_args(argv)
    try:
        if args.command == "doctor":
            return int(load_command("doctor")())
        if args.multirun:
            return _multirun(args)
        from optim.app.build import compose

        cfg = compose(args.overrides, args.config_dir)
        if args.cfg:
            from optim.app.schema import as_yaml

            print(as_yaml(cfg), end="")
            return 0
        _command(args.command, cfg, args.quiet)
        return 0
    except OptimError as err:
        if args.debug:
            raise
        print(f"optim: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\noptim: interrupted. " + _kept(args.overrides), file=sys.stderr)
        return 130
    except Exception as err:
        if args.debug:
            raise
        print(
            f"optim: internal error: {type(err).__name__}: {err}\n  This is a fault of optim; --debug shows where.",
            file=sys.stderr,
        )
        return 1


def _command(command: str, cfg: Settings, quiet: bool) -> None:
    from optim.runtime import configure

    configure()
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", OptimWarning)
    from optim.app.session import open_session

    with _interrupts() as asked, open_session(cfg, command, say=print, progress=_progress(quiet, asked)) as s:
        load_command(command)(s)


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Remembers an interrupt: Python drops a KeyboardInterrupt that falls into a callback, and JAX has many."""
    asked: list[int] = []

    def _note(number: int, frame: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, _note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _progress(quiet: bool, asked: list[int]):  # type: ignore[no-untyped-def]
    """Progress on stderr: in place on a terminal, a line now and then elsewhere."""
    terminal = sys.stderr.isatty()
    last = [time.monotonic()]

    def _show(text: str) -> None:
        if asked:
            raise KeyboardInterrupt
        now = time.monotonic()
        if quiet or now - last[0] < (0.2 if terminal else PROGRESS_EVERY_S * 5):
            return
        last[0] = now
        end = "\r" if terminal else "\n"
        print(f"\x1b[K  {text}" if terminal else f"  {text}", end=end, file=sys.stderr, flush=True)

    return _show


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:  # type: ignore[no-untyped-def]
    if issubclass(category, OptimWarning):
        print(f"  warning ({category.__name__}): {message}", file=sys.stderr)


def _kept(overrides: list[str]) -> str:
    """What an interrupted run leaves: whole artefacts only, since each is written at once."""
    try:
        from optim.app.build import compose
        from optim.app.session import kept_artefacts

        out = Path(compose(overrides).out).resolve()
        found = kept_artefacts(out)
    except (OptimError, OSError):
        return "Nothing was kept."
    if not found:
        return "No artefact was finished; nothing was kept."
    return f"Finished and kept in {out}: {', '.join(found)}. Commands after them can go on from there."


def _without_passwords(overrides: list[str]) -> list[str]:
    """Overrides of a sweep, which Hydra writes to files, with an address that holds a password in the environment."""
    from optim.settings.tracking import shown_address

    kept = []
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key == "tracking.uri" and shown_address(value) != value:
            os.environ["MLFLOW_TRACKING_URI"] = value.strip("'\"")
        else:
            kept.append(text)
    return kept


def _multirun(args: argparse.Namespace) -> int:
    """Sweep with Hydra's own machinery, so that its launchers work."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from optim.app.build import completed_overrides, register_schema
    from optim.paths import configs_dir

    register_schema()
    overrides = _without_passwords(args.overrides)
    command, quiet = args.command, args.quiet
    os.environ["HYDRA_FULL_ERROR"] = "1" if args.debug else "0"

    def _job(cfg) -> None:  # type: ignore[no-untyped-def]
        from optim.app.schema import composed_settings

        cfg.out = HydraConfig.get().runtime.output_dir
        try:
            _command(command, composed_settings(cfg), quiet)
        except OptimError as err:
            print(f"optim: {err}", file=sys.stderr)
            raise SystemExit(2) from None

    extra = ["--config-dir", str(args.config_dir)] if args.config_dir else []
    argv, sys.argv = sys.argv, ["optim", "--multirun", *extra, *completed_overrides(overrides)]
    try:
        hydra.main(config_path=str(configs_dir()), config_name="config", version_base="1.3")(_job)()
    finally:
        sys.argv = argv
    return 0


if __name__ == "__main__":
    sys.exit(main())
