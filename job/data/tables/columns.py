"""The columns of a table as numbers or texts, by name or by pattern."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from job.data.files import download
from job.data.tables.cells import GAP, add_notation_faults, numbers, odd_cells, quoted
from job.data.tables.table import Table, is_text, read_table
from job.errors import Fault

Array = NDArray[Any]


@contextmanager
def local_file(source: str, folder: Path) -> Iterator[Path]:
    """The file's path; an object of S3 lies in a temporary file meanwhile."""
    if not source.startswith("s3://"):
        yield folder / source
        return
    suffix = "".join(Path(source).suffixes[-2:])
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(download(source))
        file.flush()
        yield Path(file.name)


def open_table(source: str, folder: Path) -> Table:
    """The table at `source`, its names without blanks around them; raises InputError."""
    with local_file(source, folder) as path:
        table = read_table(path, source)
    table.names[:] = [name.strip() for name in table.names]
    return table


def matching(pattern: str, names: Sequence[str], excluded: Collection[str] = ()) -> list[str]:
    """The names that a name or pattern stands for, in the order of the file.

    A name in `excluded` is found by its name only.
    """
    if pattern in names:
        return [pattern]
    if not set("*?[") & set(pattern):
        return []
    return [name for name in names if name not in excluded and fnmatchcase(name, pattern)]


def parse_column(table: Table, name: str) -> Array:
    """The column [N]: float64, NaN where a cell is empty; or texts as objects, then "".

    A column is one of numbers if all its cells are, or are marks for a missing value. If half of
    them are, the others are faults, which are added to the table.
    """
    if table.names.count(name) > 1:
        found, rule = f"{table.names.count(name)} columns of that name", "a name stands for one"
        where = f"{table.source}, column {name}"
        table.faults.append(Fault(where, found, rule, "rename or remove the others"))
    column = table.columns[table.names.index(name)]
    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.string())
        return _texts(column)
    if is_text(column):
        return _text_column(table, name, column)
    types, kind = pa.types, column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return numbers(column)
    if types.is_null(kind):
        return np.full(len(column), np.nan)
    where = f"{table.source}, column {name}"
    found, remedy = f"type {kind}", "convert it; a date to a number, such as days since another"
    table.faults.append(Fault(where, found, "must hold numbers or texts", remedy))
    return np.zeros(len(column))


def parse_known(table: Table, name: str, texts: bool) -> Array:
    """The column [N] as it was in training: float64, NaN where a cell is empty; or texts.

    Cells that are no numbers where training had numbers are faults, which are added to the table. A
    column of another type comes as it is.
    """
    column = table.columns[table.names.index(name)]
    if table.names.count(name) > 1 or not (is_text(column) or pa.types.is_null(column.type)):
        return parse_column(table, name)
    if texts:
        return _texts(pc.cast(column, pa.string()))
    values = numbers(column)
    if is_text(column):
        odd = odd_cells(column, name, values)
        wrong = np.isnan(values) & (_texts(column) != "")
        wrong[[cell.row for cell in odd]] = False
        add_notation_faults(table, [cell for cell in odd if cell.notation != GAP])
        remedy = "correct it, or empty the cell"
        table.add_faults(name, wrong, lambda i: (quoted(column, i), "must be a number", remedy))
    return values


def _texts(column: pa.ChunkedArray) -> Array:
    """Texts [N] without blanks around them, "" for an empty cell."""
    values = pc.fill_null(pc.utf8_trim_whitespace(column), "")
    return np.array(values.to_pylist(), dtype=object)


def _text_column(table: Table, name: str, column: pa.ChunkedArray) -> Array:
    values, texts = numbers(column), _texts(column)
    odd = odd_cells(column, name, values)
    gaps = [cell.row for cell in odd if cell.notation == GAP]
    filled = texts != ""
    wrong = np.isnan(values) & filled
    wrong[gaps] = False
    notations = [cell for cell in odd if cell.notation != GAP and filled[cell.row]]
    if not wrong.any():
        # A column of marks for missing values alone may as well be one of texts.
        return values if np.isfinite(values).any() or not gaps else texts
    if 2 * (np.isfinite(values).sum() + len(notations)) < filled.sum():
        return texts
    add_notation_faults(table, notations)
    wrong[[cell.row for cell in notations]] = False
    _add_faults_of_words(table, name, column, texts, wrong)
    return np.where(np.isnan(values) & filled, 0.0, values)  # they have their faults


def _add_faults_of_words(
    table: Table, name: str, column: pa.ChunkedArray, texts: Array, wrong: NDArray[np.bool_]
) -> None:
    """Add one fault for each of the texts [N] that is wrong [N]: it stands for no number."""
    counts, rows = Counter(texts[wrong]), np.flatnonzero(wrong)
    first = np.zeros_like(wrong)
    first[list(dict(zip(texts[rows[::-1]], rows[::-1], strict=True)).values())] = True

    def explain(i: int) -> tuple[str, str, str]:
        more = f", in {counts[texts[i]]} rows" if counts[texts[i]] > 1 else ""
        return quoted(column, i) + more, "must be a number", "correct it, or empty the cell"

    table.add_faults(name, first, explain)


def cell_text(table: Table, name: str, row: int) -> str:
    """A cell in quotes, for messages."""
    return quoted(table.columns[table.names.index(name)], row)
