"""A CSV, CSV.gz or Parquet file as tables of some of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from job.data.files import check_file, first_bytes, wrong_kind
from job.data.tables.table import (
    Table,
    as_text,
    blank_rows,
    check_text,
    decoded,
    ragged_row_faults,
)
from job.errors import Fault, InputError

BLOCK = 8 << 20
"""Bytes of a CSV that are read at a time."""
ROWS = 2**16
"""Rows of a Parquet file that are read at a time."""
_newest: list[pa.csv.CSVStreamingReader] = []
"""The reader of the CSV that was opened last."""


def table_chunks(path: Path, source: str) -> Iterator[Table]:
    """The rows of a file in their order, none if it has no rows. Raises InputError."""
    check_file(path, source)
    chunks = _parquet if path.name.lower().endswith(".parquet") else _csv
    for table in chunks(path, source):
        table.names[:] = [name.strip() for name in table.names]
        yield table


def _parquet(path: Path, source: str) -> Iterator[Table]:
    first = 0
    try:
        with pa.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for batch in file.iter_batches(ROWS):
                columns = [decoded(pa.chunked_array([column])) for column in batch.columns]
                yield Table(source, list(names), columns, np.arange(first, first + len(batch)))
                first += len(batch)
    except (OSError, pa.ArrowException):
        raise wrong_kind("Parquet file", b"PAR1", source, first_bytes(path)) from None


def _csv(path: Path, source: str) -> Iterator[Table]:
    """Blank lines at the end are no rows; anywhere else they are a fault, as in read_table."""
    check_text(path, source)
    ragged: list[pa.csv.InvalidRow] = []
    names: list[str] = []
    first, blank = 1, 0  # numbers of the next row, and of the first blank one
    try:
        with _read_to_its_end(pa.csv.open_csv(path, **as_text(ragged, BLOCK))) as reader:
            for batch in reader:
                table = pa.Table.from_batches([batch])
                if ragged:
                    raise InputError(ragged_row_faults(ragged, source, table.num_rows + first))
                rows = np.arange(first, first := first + len(table))
                if not names:
                    names = [str(column[0]) for column in table.columns]
                    table, rows = table.slice(1), rows[1:]
                empty = blank_rows(table)
                end = 1 + int(max(np.flatnonzero(~empty), default=-1))
                if end and (blank or empty[:end].any()):
                    raise _blank_line(source, blank or int(rows[empty.argmax()]))
                if end:
                    yield Table(source, list(names), table.slice(0, end).columns, rows[:end])
                if end < len(rows) and not blank:
                    blank = int(rows[end])
    except (OSError, pa.ArrowInvalid):
        raise wrong_kind("CSV in UTF-8", b"", source, b"") from None


@contextmanager
def _read_to_its_end(reader: pa.csv.CSVStreamingReader) -> Iterator[pa.csv.CSVStreamingReader]:
    """The reader, with no read under way after the block; it stays in memory until the next one.

    A thread of pyarrow reads ahead. If it were the last to hold the reader, it would also free the
    Python function that takes ragged rows, and abort the process where Python ends meanwhile.
    """
    _newest[:] = [reader]
    try:
        yield reader
    finally:
        with suppress(OSError, pa.ArrowException):
            for _ in reader:
                pass


def _blank_line(source: str, row: int) -> InputError:
    rule = "every row before the last must have cells"
    return InputError([Fault(f"{source}, row {row}", "a blank line", rule, "remove it")])
