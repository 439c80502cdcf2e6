"""A run's numbers as one long table, a row each, written in pieces as Parquet or CSV."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from job.export.metrics import EventMetrics, Metric, MetricExtractor

ROWS = 1 << 18
"""Rows that are held at a time."""
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
    """Writes tables to a file."""

    def write_table(self, table: pa.Table) -> None:
        """Add a table."""

    def close(self) -> None:
        """End the file."""


class MetricsTable:
    """Collects events, and writes their numbers in pieces."""

    def __init__(
        self, run: str, extractor: MetricExtractor, writer: Writer, schema: pa.Schema
    ) -> None:
        self.run, self.extractor, self.writer, self.schema = run, extractor, writer, schema
        self.rows = 0
        """Rows written so far."""
        self._events: list[EventMetrics] = []
        self._waiting = 0

    def add(self, event: EventMetrics) -> None:
        """Take in an event."""
        self._events.append(event)
        self._waiting += len(event.values)
        if self._waiting >= ROWS:
            self._flush()

    def close(self) -> None:
        """Write the rest, and end the file."""
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        events, self._events = self._events, []
        counts = [len(event.values) for event in events]
        metrics = [metric for event in events for metric, _ in event.values]
        values = np.fromiter((value for event in events for _, value in event.values), np.float64)
        every = np.repeat(np.arange(len(events)), counts)

        def of_event(name: str, get: Callable[[EventMetrics], object]) -> pa.Array:
            kind = self.schema.field(name).type
            return pa.array([get(event) for event in events], kind).take(pa.array(every))

        codes = {metric: code for code, metric in enumerate(dict.fromkeys(metrics))}
        which = pa.array(np.fromiter((codes[m] for m in metrics), np.int64, len(metrics)))

        def of_metric(name: str, get: Callable[[Metric], str | None]) -> pa.Array:
            kind = self.schema.field(name).type
            return pa.array([get(metric) for metric in codes], kind).take(which)

        columns = [
            of_event("run", lambda _: self.run),
            of_event("seq", lambda event: event.seq),
            of_event("ts", lambda event: event.ts),
            of_event("attempt", lambda event: event.attempt),
            of_event("event", lambda event: event.event),
            of_event("step", lambda event: event.step),
            of_event("epoch", lambda event: event.epoch),
            of_metric("task", lambda metric: metric.task),
            of_metric("other", lambda metric: metric.other),
            of_metric("split", lambda metric: metric.split),
            of_metric("metric", lambda metric: metric.metric),
            of_metric("about", lambda metric: metric.about),
            pa.array(values),
            of_metric("unit", self.extractor.unit),
            of_event("superseded", lambda event: not event.counts),
        ]
        self.writer.write_table(pa.Table.from_arrays(columns, schema=self.schema))
        self.rows += self._waiting
        self._waiting = 0


def parquet(file: IO[bytes], run: str, extractor: MetricExtractor) -> MetricsTable:
    """A table that is written to a Parquet file."""
    writer = pyarrow.parquet.ParquetWriter(file, SCHEMA, compression="zstd")
    return MetricsTable(run, extractor, writer, SCHEMA)


def csv(file: IO[bytes], run: str, extractor: MetricExtractor) -> MetricsTable:
    """A table that is written to a CSV file: not finite is nan, nothing is empty."""
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    writer = pyarrow.csv.CSVWriter(file, CSV_SCHEMA, write_options=options)
    return MetricsTable(run, extractor, writer, CSV_SCHEMA)
