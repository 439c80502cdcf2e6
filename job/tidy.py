"""A run's numbers as one long table, a row each, written piece by piece as Parquet or CSV."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from job.metrics import Metric, Teller, Told

ROWS = 1 << 18
"""That are held at a time."""
TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("run", TEXT),
        ("seq", pa.int64()),
        ("ts", pa.timestamp("us", "UTC")),
        ("attempt", pa.int32()),
        ("event", TEXT),
        ("step", pa.int64()),
        ("epoch", pa.int64()),
        ("task", TEXT),
        ("other", TEXT),
        ("split", TEXT),
        ("metric", TEXT),
        ("about", TEXT),
        ("value", pa.float64()),
        ("unit", TEXT),
        ("superseded", pa.bool_()),
    ]
)
CSV_SCHEMA = pa.schema(
    [(field.name, pa.string() if field.type == TEXT else field.type) for field in SCHEMA]
)


class Writer(Protocol):
    """Of a file's tables."""

    def write_table(self, table: pa.Table) -> None:
        """Add one."""

    def close(self) -> None:
        """End the file."""


class Tidy:
    """Collects events, and writes their numbers in pieces."""

    def __init__(self, run: str, teller: Teller, writer: Writer, schema: pa.Schema) -> None:
        self.run, self.teller, self.writer, self.schema = run, teller, writer, schema
        self.rows = 0
        """Written so far."""
        self._events: list[Told] = []
        self._waiting = 0

    def add(self, told: Told) -> None:
        """Take in an event."""
        self._events.append(told)
        self._waiting += len(told.values)
        if self._waiting >= ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left, and end the file."""
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        events, self._events = self._events, []
        counts = [len(told.values) for told in events]
        metrics = [metric for told in events for metric, _ in told.values]
        values = np.fromiter((value for told in events for _, value in told.values), np.float64)
        every = np.repeat(np.arange(len(events)), counts)

        def of_event(name: str, get: Callable[[Told], object]) -> pa.Array:
            kind = self.schema.field(name).type
            return pa.array([get(told) for told in events], kind).take(pa.array(every))

        codes = {metric: code for code, metric in enumerate(dict.fromkeys(metrics))}
        which = pa.array(np.fromiter((codes[m] for m in metrics), np.int64, len(metrics)))

        def of_metric(name: str, get: Callable[[Metric], str | None]) -> pa.Array:
            kind = self.schema.field(name).type
            return pa.array([get(metric) for metric in codes], kind).take(which)

        columns = [
            of_event("run", lambda _: self.run),
            of_event("seq", lambda told: told.seq),
            of_event("ts", lambda told: told.ts),
            of_event("attempt", lambda told: told.attempt),
            of_event("event", lambda told: told.event),
            of_event("step", lambda told: told.step),
            of_event("epoch", lambda told: told.epoch),
            of_metric("task", lambda metric: metric.task),
            of_metric("other", lambda metric: metric.other),
            of_metric("split", lambda metric: metric.split),
            of_metric("metric", lambda metric: metric.metric),
            of_metric("about", lambda metric: metric.about),
            pa.array(values),
            of_metric("unit", self.teller.unit),
            of_event("superseded", lambda told: not told.counts),
        ]
        self.writer.write_table(pa.Table.from_arrays(columns, schema=self.schema))
        self.rows += self._waiting
        self._waiting = 0


def parquet(file: IO[bytes], run: str, teller: Teller) -> Tidy:
    """A table that goes into a Parquet file."""
    writer = pyarrow.parquet.ParquetWriter(file, SCHEMA, compression="zstd")
    return Tidy(run, teller, writer, SCHEMA)


def csv(file: IO[bytes], run: str, teller: Teller) -> Tidy:
    """A table that goes into a CSV file: nan where a number is not finite, empty where none is."""
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    writer = pyarrow.csv.CSVWriter(file, CSV_SCHEMA, write_options=options)
    return Tidy(run, teller, writer, CSV_SCHEMA)
