"""`python -m job.export RUN`: a run's numbers for other tools, TensorBoard and notebooks."""

from __future__ import annotations

import importlib.util
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from job.document import Damaged
from job.faults import Fault, InputError
from job.head import folder_of_run
from job.history import stream_history
from job.metrics import Metric, Teller, Told
from job.store import Missing, Store, StoreError, open_store

if TYPE_CHECKING:
    from job.event_file import EventFile
    from job.tidy import Tidy

FAILED, INVALID = 1, 2
SCALARS = "events.out.tfevents.1.evengrad"
"""TensorBoard takes every file of such a name; the number is that of the writing."""
HELP = """Write a run's numbers into files for other tools; nothing that exists is overwritten.

--tensorboard: event files. --parquet, --csv: one table, a row for every number, with the columns
run, seq, ts, attempt, event, step, epoch, task, other, split, metric, about, value, unit,
superseded; README tells what each holds. They lie in DIR/<name>/<run id>/, so that several runs
go side by side.

Exit codes: 0 written; 1 the store or the disk did not do it; 2 usage, or a file is there already.
"""


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run id, name/run id, or its folder.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files; made if need be.")],
    store: Annotated[
        str | None,
        typer.Option(help="Where the run is kept: a directory, or s3://bucket/prefix; runs."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Event files; needs the extra `export`.")
    ] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="metrics.parquet.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="metrics.csv.")] = False,
    superseded: Annotated[
        bool,
        typer.Option("--superseded", help="In the tables, also what a resume has taken back."),
    ] = False,
) -> None:
    """Write the files that are asked for; HELP is what a user reads."""
    if not (tensorboard or parquet or csv):
        raise typer.BadParameter("choose at least one of --tensorboard, --parquet and --csv")
    here = folder_of_run(run) if store is None else None
    where = open_store(here.root if here else store or "runs")
    name = here.run if here else _found(where, run)
    for path in write(where, name, to, tensorboard, parquet, csv, superseded):
        print(path)


def write(
    store: Store,
    run: str,
    to: Path,
    tensorboard: bool = False,
    parquet: bool = False,
    csv: bool = False,
    superseded: bool = False,
) -> list[Path]:
    """The files of `<name>/<run id>`, written in one pass over its events.

    Raises InputError where one exists, or google-crc32c is missing; Missing, Damaged, StoreError.
    """
    folder, teller = to / run, Teller()
    paths: list[Path] = []
    sinks: list[Callable[[Told], None]] = []
    with ExitStack() as files:

        def opened(name: str) -> IO[bytes]:
            paths.append(folder / name)
            return files.enter_context(_new(folder / name))

        def add_table(name: str, make: Callable[[IO[bytes], str, Teller], Tidy]) -> None:
            table = make(opened(name), run, teller)
            files.callback(table.close)
            sinks.append(lambda told: table.add(told) if told.counts or superseded else None)

        if parquet or csv:
            from job import tidy

            if parquet:
                add_table("metrics.parquet", tidy.parquet)
            if csv:
                add_table("metrics.csv", tidy.csv)
        if tensorboard:
            _need_checksums()
            sinks.append(Scalars(opened(SCALARS)).add)
        for event, counts in stream_history(store, run):
            told = teller.tell(event, counts)
            for sink in sinks:
                sink(told)
    return paths


class Scalars:
    """Writes what counts as TensorBoard's scalars, at its step or the last one told."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._step = file, 0
        self._writer: EventFile | None = None
        self._tags: dict[tuple[str, Metric], str] = {}

    def add(self, told: Told) -> None:
        """Write an event's numbers."""
        from job.event_file import EventFile

        time = told.ts.timestamp()
        self._writer = self._writer or EventFile(self._file, time)
        if told.counts:
            self._step = self._step if told.step is None else told.step
            values = {self._tag(told.event, metric): value for metric, value in told.values}
            self._writer.add(time, self._step, values)

    def _tag(self, event: str, metric: Metric) -> str:
        if (event, metric) not in self._tags:
            self._tags[event, metric] = tag(event, metric)
        return self._tags[event, metric]


def tag(event: str, metric: Metric) -> str:
    """TensorBoard's name of a scalar: up to the first slash it is the group, `step.loss/task`."""
    parts = [part for part in (metric.task, metric.other, metric.about) if part]
    return "/".join([f"{event}.{metric.metric}", *parts]) if parts else f"{event}/{metric.metric}"


def _need_checksums() -> None:
    if importlib.util.find_spec("google_crc32c") is None:
        rule = "TensorBoard's files need the package google-crc32c"
        remedy = "pip install 'evengrad[export]', or choose --parquet or --csv"
        raise InputError([Fault("--tensorboard", "no google_crc32c", rule, remedy)])


@contextmanager
def _new(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there once it is whole; raises InputError where there is one already."""
    _free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with partial.open("xb") as file:
            yield file
        _free(path)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        remedy = "name another folder with --to, or move the file away"
        raise InputError([Fault(str(path), "a file", "nothing is overwritten", remedy)])


def _found(store: Store, run: str) -> str:
    """`<name>/<run id>` of a run in the store; raises Missing."""
    if "/" in run:
        return run
    for entry in store.list():
        parts = entry.key.split("/")
        if len(parts) == 3 and parts[1:] == [run, "latest.json"]:
            return f"{parts[0]}/{run}"
    raise Missing(f"{store.url} holds no run {run}")


def main(argv: list[str] | None = None) -> Any:
    """The command line; what a user can mend is a line each on stderr."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name="export", help=HELP)(export)
    try:
        return app(argv, prog_name="python -m job.export")
    except InputError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        sys.exit(INVALID)
    except (StoreError, Damaged) as fault:
        print(f"evengrad: {fault}", file=sys.stderr)
    except OSError as error:
        print(f"evengrad: {error.filename or 'this machine'}: {error.strerror}", file=sys.stderr)
    sys.exit(FAILED)


if __name__ == "__main__":
    main()
