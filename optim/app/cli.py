"""The command line: `optim <command> [hydra overrides]`. Imports stay light, so that help answers at once."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from optim import __version__
from optim.app.commands import command_summaries, load_command
from optim.app.interrupts import Interrupts, watched_interrupts
from optim.app.streams import patient_streams
from optim.app.surroundings import require_surroundings
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

exit codes: 0 done, 2 something in the input to mend, 1 a fault of optim,
            130 interrupted, 143 by SIGTERM, 129 by SIGHUP
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
    with patient_streams(), watched_interrupts() as interrupts:
        args = _parser().parse_intermixed_args(argv)
        try:
            require_surroundings()
            return _run(args, interrupts)
        except OptimError as err:
            if args.debug:
                raise
            print(f"optim: {err}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as err:
            kept = getattr(err, "__notes__", None) or ["Nothing was kept."]
            print(f"\noptim: interrupted. {' '.join(kept)}", file=sys.stderr)
            return interrupts.exit_code
        except Exception as err:
            if args.debug:
                raise
            print(
                f"optim: internal error: {type(err).__name__}: {err}\n  This is a fault of optim; --debug shows where.",
                file=sys.stderr,
            )
            return 1


def _run(args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Do what the arguments say."""
    if args.command == "doctor":
        return int(load_command("doctor")())
    if args.multirun:
        from optim.app.sweep import run_sweep, show_jobs

        if args.cfg:
            print(show_jobs(args.overrides, args.config_dir), end="")
            return 0
        do_job = partial(_command, args.command, quiet=args.quiet, interrupts=interrupts)
        return run_sweep(args.overrides, args.config_dir, do_job, debug=args.debug)
    from optim.app.build import compose

    cfg = compose(args.overrides, args.config_dir)
    if args.cfg:
        from optim.app.schema import as_yaml

        print(as_yaml(cfg), end="")
        return 0
    _command(args.command, cfg, quiet=args.quiet, interrupts=interrupts)
    return 0


def _command(command: str, cfg: Settings, *, quiet: bool, interrupts: Interrupts) -> None:
    """Run one command in a session. An interrupt gets a note of what was finished."""
    from optim.runtime import configure, require_device

    warnings.showwarning = _show_warning
    warnings.simplefilter("always", OptimWarning)
    configure()
    require_device()
    from optim.app.session import open_session

    with open_session(cfg, command, say=print, progress=_progress(quiet, interrupts)) as s:
        try:
            load_command(command)(s)
        except KeyboardInterrupt as err:
            err.add_note(s.kept_so_far())
            raise


def _progress(quiet: bool, interrupts: Interrupts):  # type: ignore[no-untyped-def]
    """Progress on stderr: in place on a terminal, a line now and then elsewhere."""
    terminal = sys.stderr.isatty()
    last = [time.monotonic()]

    def _show(text: str) -> None:
        interrupts.raise_pending()
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


if __name__ == "__main__":
    sys.exit(main())
