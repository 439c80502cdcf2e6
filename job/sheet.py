"""A table of cells from a CSV, CSV.gz or Parquet file, each of which knows its row and column.

Rows are counted as a person does: in a CSV by lines, the header being row 1; in Parquet from 0.
Blank lines at the end of a CSV are no rows; anywhere else an empty cell is a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from job.data_file import check_file, not_a, told
from job.faults import Fault, InputError

_WIDEST = 1000
"""Columns of a CSV that are kept from pyarrow's guesses of their type."""


@dataclass(frozen=True)
class Sheet:
    """A table of cells, and the faults found in it so far."""

    shown: str
    """The path as the user wrote it."""
    names: list[str]
    columns: list[pa.ChunkedArray]
    rows: NDArray[np.int64]
    """[N] number of each row as a person counts it."""
    faults: list[Fault] = field(default_factory=list)

    def missing(self, wanted: Sequence[str]) -> list[str]:
        """Those of the wanted columns that are not there exactly once."""
        names = self._plain()
        return [name for name in wanted if names.count(name) != 1]

    def column(self, name: str) -> pa.ChunkedArray:
        """The column [N] of that name, in any case and with any blanks around it."""
        return self.columns[self._plain().index(name)]

    def _plain(self) -> list[str]:
        return [name.strip().lower() for name in self.names]

    def blame(
        self, column: str, bad: NDArray[np.bool_], tell: Callable[[int], tuple[str, str, str]]
    ) -> None:
        """Add a fault for each cell where `bad` [N]; `tell` gives found, rule and remedy."""
        where = f"{self.shown}, column {column}"
        faults = told(
            where,
            np.flatnonzero(bad),
            lambda i: Fault(f"{self.shown}, row {self.rows[i]}, column {column}", *tell(i)),
        )
        self.faults.extend(faults)


def read_sheet(path: Path, shown: str) -> Sheet:
    """The table at `path`, written by the user as `shown`; raises InputError where there is none.

    Rows of a CSV that have too many or too few cells are left out and become faults.
    """
    check_file(path, shown)
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        return _csv(path, shown)
    if name.endswith(".parquet"):
        return _parquet(path, shown)
    raise InputError(
        [Fault("$.data.path", f'"{shown}"', "must end in .csv, .csv.gz or .parquet", "rename it")]
    )


def _csv(path: Path, shown: str) -> Sheet:
    """All cells as text: pyarrow's own conversion stops at the first fault and names no row."""
    ragged: list[pa.csv.InvalidRow] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    try:
        table = pa.csv.read_csv(
            path,
            # The header is read as a row, so that names may repeat and rows count from 1; row
            # numbers are known to one thread only.
            read_options=pa.csv.ReadOptions(autogenerate_column_names=True, use_threads=False),
            parse_options=pa.csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=skip),
            convert_options=pa.csv.ConvertOptions(
                column_types={f"f{i}": pa.string() for i in range(_WIDEST)}
            ),
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise not_a("CSV in UTF-8", shown, error) from None
    numbers = np.array([row.number for row in ragged], dtype=np.int64)
    rows = np.delete(np.arange(1, table.num_rows + len(ragged) + 1), numbers - 1)[1:]
    faults = told(
        shown,
        np.arange(len(ragged)),
        lambda i: Fault(
            f"{shown}, row {ragged[i].number}",
            f"{ragged[i].actual_columns} cells",
            f"the header has {ragged[i].expected_columns}",
            "correct the row",
        ),
    )
    names = [str(column[0]) for column in table.columns]
    end = _end(table)
    return Sheet(shown, names, table.slice(1, end - 1).columns, rows[: end - 1], faults)


def _end(table: pa.Table) -> int:
    """Rows up to the last that is not blank."""
    end: int = table.num_rows
    while end > 1 and not any(str(column[end - 1]).strip() for column in table.columns):
        end -= 1
    return end


def _parquet(path: Path, shown: str) -> Sheet:
    try:
        table = pa.parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise not_a("Parquet file", shown, error) from None
    return Sheet(shown, table.column_names, table.columns, np.arange(table.num_rows))
