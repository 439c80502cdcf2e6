"""`python -m job.export RUN`: a run's numbers in files for TensorBoard, notebooks and others."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from job.errors import Fault, InputError
from job.exit_codes import FAILED, INVALID
from job.export.metrics import EventMetrics, Metric, MetricExtractor
from job.export.new_file import new_file
from job.record.document import Damaged
from job.record.history import stream_history
from job.runs.find import LOCAL, default_stores, find_run
from job.show.printable import printable
from job.store import Missing, Store, StoreError, open_store

if TYPE_CHECKING:
    from job.export.table import MetricsTable
    from job.export.tensorboard import EventFile

SCALARS = "events.out.tfevents.1.evengrad"
"""TensorBoard reads every file with such a name; the number is the time of writing."""
HELP = """Write a run's numbers to files for other tools. No existing file is overwritten.

--tensorboard: event files. --parquet, --csv: one table, a row for every number, with the columns
run, seq, ts, attempt, event, step, epoch, task, other, split, metric, about, value, unit,
superseded; docs/reading-runs.md explains them. The files are in DIR/<name>/<run id>/, so several
runs fit side by side.

Exit codes: 0 written; 1 the store or the disk failed, or there is no such run; 2 usage, or a file
exists already.
"""


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run id, name/run id, or the run's folder.")
    ],
    to: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the files; made if it is missing.")
    ],
    store: Annotated[
        str | None,
        typer.Option(
            help="Where the run is kept: a directory, or s3://bucket/prefix. "
            "[default: EVENGRAD_STORE, else runs]"
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Event files; needs the extra `export`.")
    ] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="metrics.parquet.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="metrics.csv.")] = False,
    superseded: Annotated[
        bool,
        typer.Option("--superseded", help="In the tables, also what a resume has undone."),
    ] = False,
) -> None:
    """Write the files that are asked for; users read HELP."""
    if not (tensorboard or parquet or csv):
        raise typer.BadParameter("choose at least one of --tensorboard, --parquet and --csv")
    found = find_run(run, store)
    if found is None:
        raise Missing(f"{store or ' and '.join(default_stores()) or LOCAL} holds no run {run}")
    where, name = open_store(found.store), found.run
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
    """Write the files of `<name>/<run id>` in one pass over its events; returns their paths.

    Raises InputError if one exists, or google-crc32c is missing; Missing, Damaged, StoreError.
    """
    folder, extractor = to / run, MetricExtractor()
    paths: list[Path] = []
    sinks: list[Callable[[EventMetrics], None]] = []
    with ExitStack() as files:

        def opened(name: str) -> IO[bytes]:
            paths.append(folder / name)
            return files.enter_context(new_file(folder / name))

        def add_table(
            name: str, make: Callable[[IO[bytes], str, MetricExtractor], MetricsTable]
        ) -> None:
            table = make(opened(name), run, extractor)
            files.callback(table.close)
            sinks.append(lambda event: table.add(event) if event.counts or superseded else None)

        if parquet or csv:
            from job.export import table as tidy

            if parquet:
                add_table("metrics.parquet", tidy.parquet)
            if csv:
                add_table("metrics.csv", tidy.csv)
        if tensorboard:
            _require_checksums()
            sinks.append(Scalars(opened(SCALARS)).add)
        for event, counts in stream_history(store, run):
            metrics = extractor.extract(event, counts)
            for sink in sinks:
                sink(metrics)
    return paths


class Scalars:
    """Writes numbers that count as TensorBoard's scalars, at their step or the last known one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._step = file, 0
        self._writer: EventFile | None = None
        self._tags: dict[tuple[str, Metric], str] = {}

    def add(self, event: EventMetrics) -> None:
        """Write an event's numbers."""
        from job.export.tensorboard import EventFile

        time = event.ts.timestamp()
        self._writer = self._writer or EventFile(self._file, time)
        if event.counts:
            self._step = self._step if event.step is None else event.step
            values = {self._tag(event.event, metric): value for metric, value in event.values}
            self._writer.add(time, self._step, values)

    def _tag(self, event: str, metric: Metric) -> str:
        if (event, metric) not in self._tags:
            self._tags[event, metric] = tag(event, metric)
        return self._tags[event, metric]


def tag(event: str, metric: Metric) -> str:
    """TensorBoard's name of a scalar, `step.loss/task`; the group is what is before the slash."""
    parts = [part for part in (metric.task, metric.other, metric.about) if part]
    return "/".join([f"{event}.{metric.metric}", *parts]) if parts else f"{event}/{metric.metric}"


def _require_checksums() -> None:
    if importlib.util.find_spec("google_crc32c") is None:
        rule = "TensorBoard's files need the package google-crc32c"
        remedy = "pip install 'evengrad[export]', or choose --parquet or --csv"
        raise InputError([Fault("--tensorboard", "no google_crc32c", rule, remedy)])


def main(argv: list[str] | None = None) -> Any:
    """The command line; each error is one line on stderr."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name="export", help=HELP)(export)
    try:
        return app(argv, prog_name="python -m job.export")
    except InputError as error:
        for fault in error.faults:
            print(printable(str(fault)), file=sys.stderr)
        sys.exit(INVALID)
    except (StoreError, Damaged) as fault:
        print(f"evengrad: {printable(str(fault))}", file=sys.stderr)
    except OSError as error:
        print(f"evengrad: {error.filename or 'this machine'}: {error.strerror}", file=sys.stderr)
    sys.exit(FAILED)


if __name__ == "__main__":
    main()
