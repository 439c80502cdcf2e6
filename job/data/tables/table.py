"""A table of cells from a CSV, CSV.gz or Parquet file, with the row number of each cell.

Rows are counted as a person does: in a CSV by lines, the header being row 1; in Parquet from 0.
Blank lines at the end of a CSV are no rows; anywhere else an empty cell is a fault.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from job.data.files import START, check_file, first_bytes, first_faults, known_kind, wrong_kind
from job.errors import Fault, InputError

_WIDEST = 1000
"""Columns of a CSV that are kept from pyarrow's guesses of their type."""
_GZIP = b"\x1f\x8b"
"""How a gzip file begins."""
_CHUNK = 2**20
"""Bytes of a CSV that are checked at a time."""


@dataclass(frozen=True)
class Table:
    """A table of cells, and the faults found in it so far."""

    source: str
    """The path as the user wrote it."""
    names: list[str]
    columns: list[pa.ChunkedArray]
    rows: NDArray[np.int64]
    """[N] number of each row as a person counts it."""
    faults: list[Fault] = field(default_factory=list)

    def column(self, name: str) -> pa.ChunkedArray:
        """The column [N] of that name, in any case and with any blanks around it."""
        return self.columns[self.plain_names().index(name)]

    def plain_names(self) -> list[str]:
        """The columns' names in lower case, without blanks around them."""
        return [name.strip().lower() for name in self.names]

    def add_faults(
        self, column: str, bad: NDArray[np.bool_], explain: Callable[[int], tuple[str, str, str]]
    ) -> None:
        """Add a fault for each cell where `bad` [N]; `explain` gives found, rule and remedy."""
        where = f"{self.source}, column {column}"
        rows = np.flatnonzero(bad)
        self.faults.extend(
            first_faults(where, rows, len(bad), lambda i: self.fault_at(i, column, *explain(i)))
        )

    def fault_at(self, i: int, column: str, found: str, rule: str, remedy: str) -> Fault:
        """A fault of one cell, of the i-th row."""
        where = f"{self.source}, row {self.rows[i]}, column {column}"
        return Fault(where, found, rule, remedy)


def read_table(path: Path, source: str) -> Table:
    """The table at `path`, which the user wrote as `source`; raises InputError if there is none.

    Rows of a CSV that have too many or too few cells are left out and become faults.
    """
    check_file(path, source)
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        return _csv(path, source)
    if name.endswith(".parquet"):
        return _parquet(path, source)
    rule = "must end in .csv, .csv.gz or .parquet"
    raise InputError([Fault("$.data.path", f'"{source}"', rule, "write the bars as one of these")])


# --- CSV --------------------------------------------------------------------------------------


def _csv(path: Path, source: str) -> Table:
    check_text(path, source)
    ragged: list[pa.csv.InvalidRow] = []
    try:
        table = pa.csv.read_csv(path, **as_text(ragged))
    except (OSError, pa.ArrowInvalid):
        raise wrong_kind("CSV in UTF-8", b"", source, b"") from None
    numbers = np.array([row.number for row in ragged], dtype=np.int64)
    rows = np.delete(np.arange(1, table.num_rows + len(ragged) + 1), numbers - 1)
    names = [str(column[0]) for column in table.columns]
    blank = blank_rows(table)
    if blank.all():
        raise InputError([Fault(source, "blank lines", "must hold a header and rows", "add them")])
    end = 1 + max(np.flatnonzero(~blank), default=0)
    kept = np.flatnonzero(~blank[:end])[1:]
    faults = ragged_row_faults(ragged, source, len(ragged) + len(kept))
    for row in rows[:end][blank[:end]]:
        where, rule = f"{source}, row {row}", "every row before the last must have cells"
        faults.append(Fault(where, "a blank line", rule, "remove it"))
    return Table(source, names, table.take(kept).columns, rows[kept], faults)


def as_text(ragged: list[pa.csv.InvalidRow], block: int | None = None) -> dict[str, Any]:
    """Options that read all cells as text, and append rows of too many or too few cells.

    pyarrow's own conversion stops at the first fault and names no row. block: bytes of the file
    that are read at a time.
    """

    def skip(row: pa.csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    return {
        # The header is read as a row, so that names may repeat and rows count from 1; row numbers
        # are known to one thread only.
        "read_options": pa.csv.ReadOptions(
            autogenerate_column_names=True, use_threads=False, block_size=block
        ),
        "parse_options": pa.csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=skip),
        "convert_options": pa.csv.ConvertOptions(
            column_types={f"f{i}": pa.string() for i in range(_WIDEST)}
        ),
    }


def check_text(path: Path, source: str) -> None:
    """Raise InputError if the file is no text in UTF-8, or cells are not separated by commas."""
    zipped = path.name.lower().endswith(".gz")
    if zipped and not (start := first_bytes(path)).startswith(_GZIP):
        raise wrong_kind("CSV in gzip", _GZIP, source, start)
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines = 1
    header = ""
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            start = file.read(START)
            if known_kind(start) or b"\0" in start:
                raise wrong_kind("CSV in UTF-8", b"", source, start)
            header = start.decode("utf-8", "replace").partition("\n")[0]
            chunk = start
            while chunk:
                decoder.decode(chunk)
                lines += chunk.count(b"\n")
                chunk = file.read(_CHUNK)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        row = lines + error.object.count(b"\n", 0, error.start)
        found = f"byte 0x{error.object[error.start]:02x}, which is no UTF-8"
        where, rule = f"{source}, row {row}", "must be a CSV in UTF-8"
        raise InputError([Fault(where, found, rule, "save it as UTF-8")]) from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise wrong_kind("CSV in gzip", _GZIP, source, _GZIP) from None
    if lines == 1:
        raise InputError([Fault(source, "one line", "must hold a header and rows", "add the rows")])
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        if mark in header and "," not in header:
            rule = "must be separated by commas, and numbers have a decimal point"
            raise InputError(
                [Fault(source, f"cells separated by {name}", rule, "export the file like that")]
            )


def blank_rows(table: pa.Table) -> NDArray[np.bool_]:
    """[N] true for each row without any text."""
    blank = np.ones(table.num_rows, dtype=bool)
    for column in table.columns:
        if is_text(column):
            blank &= pc.equal(pc.utf8_trim_whitespace(column), "").to_numpy()
        else:
            blank &= pc.is_null(column).to_numpy()
    return blank


def ragged_row_faults(ragged: Sequence[pa.csv.InvalidRow], source: str, total: int) -> list[Fault]:
    """The faults of the rows that have too many or too few cells, out of `total` rows."""

    def fault_at(i: int) -> Fault:
        row = ragged[i]
        remedy = "give every column one name and one cell; a number with a comma makes two cells"
        if row.text and row.text.count('"') and row.actual_columns < row.expected_columns:
            remedy = "close the quote in it"
        cells = row.actual_columns
        where, found = f"{source}, row {row.number}", "1 cell" if cells == 1 else f"{cells} cells"
        return Fault(where, found, f"the header has {row.expected_columns}", remedy)

    return first_faults(source, np.arange(len(ragged)), total, fault_at)


def _parquet(path: Path, source: str) -> Table:
    try:
        table = pa.parquet.read_table(path)
    except (OSError, pa.ArrowException):
        raise wrong_kind("Parquet file", b"PAR1", source, first_bytes(path)) from None
    columns = [decoded(column) for column in table.columns]
    return Table(source, table.column_names, columns, np.arange(table.num_rows))


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column's values, if it holds indexes into a dictionary of them; else the column."""
    if not pa.types.is_dictionary(column.type):
        return column
    return pc.cast(column, column.type.value_type)


def is_text(column: pa.ChunkedArray) -> bool:
    """True if a column holds texts."""
    types, kind = pa.types, column.type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
