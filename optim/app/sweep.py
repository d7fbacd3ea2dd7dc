"""A sweep: one command with many configurations, each a job in a folder of its own. Hydra's launchers work."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from optim.app.build import compose, explained_errors, initialised_hydra, require_config_dir
from optim.app.overrides import completed_overrides
from optim.app.schema import as_yaml, composed_settings
from optim.errors import ConfigError, OptimError
from optim.settings.settings import Settings
from optim.settings.tracking import shown_address

FOLDER = "hydra.sweep.dir"
RECORD = "multirun.yaml"  # what Hydra writes into the folder of a sweep before it looks at the jobs


def show_jobs(overrides: list[str], config_dir: Path | None) -> str:
    """The composed configuration of every job, as YAML documents. Raises `ConfigError`."""
    documents = []
    for number, job in enumerate(_jobs(overrides)):
        documents.append(f"# job {number}: {' '.join(job)}\n{as_yaml(compose(job, config_dir))}")
    return "---\n".join(documents)


def run_sweep(
    overrides: list[str], config_dir: Path | None, run: Callable[[Settings], None], *, debug: bool = False
) -> int:
    """Run every job of a sweep; one that fails is named, and the others go on.

    Args:
        overrides: as on the command line, with several values for some keys.
        config_dir: a folder of configuration of the user's, or None.
        run: does one job.
        debug: show tracebacks of jobs that fail.

    Returns:
        0 when all jobs are done, 2 when one was refused, 1 when one met a fault of optim.

    Raises:
        ConfigError: an override that holds for no job; nothing was started.
        KeyboardInterrupt: with notes that say which jobs were finished.
    """
    require_config_dir(config_dir)
    overrides = _without_passwords(overrides)
    shared = _shared_out(overrides)
    done: list[str] = []
    told: set[str] = set()  # a slip that all jobs share is told once

    def _job(cfg) -> tuple[str, int] | None:  # type: ignore[no-untyped-def]
        """One job; None when it is done, else its name and exit code. Launchers may run it in another process."""
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        name = f"job {hydra.job.num} ({' '.join(t for t in hydra.overrides.task if not t.startswith('~'))})"
        folder = Path(cfg.out) / str(hydra.job.num) if shared else Path(hydra.runtime.output_dir)
        try:
            run(replace(composed_settings(cfg), out=str(folder)))
        except KeyboardInterrupt as err:
            err.add_note(f"This was {name}.")
            raise
        except Exception as err:
            if debug:
                traceback.print_exception(err)
            refused = isinstance(err, OptimError)
            text = str(err) if refused else f"internal error: {type(err).__name__}: {err}\n  This is a fault of optim."
            if text not in told:
                print(f"optim: {name}: {text}", file=sys.stderr)
            told.add(text)
            return name, 2 if refused else 1
        done.append(f"{name} in {folder}")
        return None

    with _sweep_folder(overrides) as folder, explained_errors(overrides):
        given = [] if folder is None else [f"{FOLDER}={folder}"]
        with initialised_hydra(config_dir) as hydra:
            try:
                batches = hydra.multirun("config", _job, [*given, *completed_overrides(overrides, sweep=True)])
            except KeyboardInterrupt as err:
                err.add_note(f"Finished and kept: {'; '.join(done)}." if done else "No other job was finished.")
                raise
    returned = [job.return_value for batch in batches or [] for job in batch]  # other sweepers return nothing
    failed = dict(r for r in returned if r is not None)
    if failed:
        print(
            f"optim: {len(returned) - len(failed)} of {len(returned)} jobs are done; not done: {'; '.join(failed)}",
            file=sys.stderr,
        )
    return 2 if 2 in failed.values() else max(failed.values(), default=0)


def _without_passwords(overrides: list[str]) -> list[str]:
    """Overrides, which Hydra writes to files, without an address that holds a password: it goes to the environment."""
    kept = []
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key == "tracking.uri" and shown_address(value) != value:
            os.environ["MLFLOW_TRACKING_URI"] = value.strip("'\"")
        else:
            kept.append(text)
    return kept


def _jobs(overrides: list[str]) -> list[list[str]]:
    """The overrides of every job, as Hydra's own sweeper combines them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with explained_errors(overrides):
        parsed = OverridesParser.create().parse_overrides(completed_overrides(overrides, sweep=True))
        batches = BasicSweeper.split_arguments([o for o in parsed if not o.is_hydra_override()], None)
    return batches[0]


def _shared_out(overrides: list[str]) -> bool:
    """Whether `out=...` is given: jobs then write into numbered folders below it. Refuses several values."""
    given = [text for text in overrides if text.startswith("out=")]
    if len(_jobs(given)) > 1:
        raise ConfigError(
            f"{given[0]}: a sweep takes one folder, in which each job has its own, by its number; "
            "give one folder, or none (multirun/DATE/TIME)"
        )
    return bool(given)


@contextmanager
def _sweep_folder(overrides: list[str]) -> Iterator[Path | None]:
    """Context with a new folder, multirun/DATE/TIME; None where the user names one. Removed where no job was started.

    Hydra names the folder by the second, so that two sweeps of one second would share it.
    """
    if any(text.lstrip("+").startswith(f"{FOLDER}=") for text in overrides):
        yield None
        return
    now = datetime.now()
    place = first = Path("multirun") / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}"
    for number in range(2, 1000):
        try:
            place.mkdir(parents=True)
            break
        except FileExistsError:
            place = first.with_name(f"{first.name}-{number}")
        except OSError as err:
            raise OptimError(f"cannot write {place}: {err.strerror or err}. Choose a writable folder.") from err
    try:
        yield place
    except ConfigError:
        (place / RECORD).unlink(missing_ok=True)
        for folder in (place, place.parent, place.parent.parent):
            if not any(folder.iterdir()):
                folder.rmdir()
        raise
