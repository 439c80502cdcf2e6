"""What the next rows of a file hold of what a spec reads: of files larger than memory, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from job.data.arrays import Array, check_numbers, dense, read_arrays
from job.data.chunks.npz import npz_chunks
from job.data.chunks.tables import ROWS, table_chunks
from job.data.content import (
    Content,
    Known,
    content_of_arrays,
    content_of_table,
    is_table,
    missing_name,
    wanted_arrays,
)
from job.data.files import check_file, first_bytes, wrong_kind
from job.data.shards.folder import is_folder, read_shards
from job.data.shards.formats import SAFETENSORS, File, names_of, stored
from job.data.shards.rows import CHUNK, Rows
from job.data.tables.columns import local_file
from job.data.tables.table import Table
from job.data.values import Place
from job.errors import Fault, InputError
from job.spec import Arrays, JobSpec


class Chunk(NamedTuple):
    """Some rows of a file."""

    content: Content
    beside: pa.Array | None
    """[n] the column that was asked for beside what the spec reads, as it is stored."""


def read_chunks(
    spec: JobSpec, data: Arrays, source: str, folder: Path, known: Known, beside: str | None = None
) -> Iterator[Chunk]:
    """The rows of a file or a folder of shards in their order.

    known: columns of a table that training has read. beside: name of another column, or array [N].
    Raises InputError, and for a file without rows too.
    """
    some = False
    if is_table(data, source, folder):
        with local_file(source, folder) as path:
            for table in table_chunks(path, source):
                some = True
                yield chunk_of_table(spec, data, table, known, beside)
    else:
        for arrays, names, first in _array_chunks(spec, data, source, folder, beside):
            place = Place("$.data", source, "row")
            chunk = chunk_of_arrays(spec, data, arrays, names, place, first, beside)
            if not len(chunk.content):
                break
            some = True
            yield chunk
    if not some:
        raise no_rows(source)


def no_rows(source: str) -> InputError:
    """The error of data without rows."""
    return InputError([Fault(source, "no rows", "must hold one or more", "supply data")])


def chunk_of_table(
    spec: JobSpec, data: Arrays, table: Table, known: Known, beside: str | None = None
) -> Chunk:
    """What a table holds. Raises InputError."""
    content = content_of_table(spec, data, table, known)
    if beside is None:
        return Chunk(content, None)
    if beside not in table.names:
        raise InputError([missing_name(table.source, beside, table.names)])
    column = table.columns[table.names.index(beside)]
    return Chunk(content, column.combine_chunks())


def chunk_of_arrays(
    spec: JobSpec,
    data: Arrays,
    arrays: Mapping[str, Any],
    names: Sequence[str],
    place: Place,
    first: int = 0,
    beside: str | None = None,
) -> Chunk:
    """What arrays hold; first: number of their first row. Raises InputError."""
    _, texts = wanted_arrays(spec, data)
    arrays = check_numbers(place.file, {k: x for k, x in arrays.items() if k != beside}, texts) | {
        k: x for k, x in arrays.items() if k == beside
    }
    rows = max((len(x) for x in arrays.values()), default=0)
    place = place._replace(numbers=np.arange(first, first + rows))
    content = content_of_arrays(spec, data, arrays, names, place)
    if beside is None:
        return Chunk(content, None)
    if beside not in arrays:
        raise InputError([missing_name(place.file, beside, names)])
    column = np.asarray(arrays[beside])
    if column.shape != (len(content),):
        where, rule = f"{place.file}, column {beside}", "it must hold one value for each row"
        found = f"shape {list(column.shape)}"
        raise InputError([Fault(where, found, rule, "name an array of one axis")])
    return Chunk(content, pa.array(column))


_Arrays = tuple[dict[str, Array], list[str], int]
"""Some rows of arrays by name, the names of all arrays, and the number of the first row."""


def _array_chunks(
    spec: JobSpec, data: Arrays, source: str, folder: Path, beside: str | None
) -> Iterator[_Arrays]:
    wanted, texts = wanted_arrays(spec, data)
    if beside is not None:
        wanted, texts = wanted | {beside}, texts | {beside}
    if is_folder(source, folder):
        shards, names = read_shards(source, folder, wanted, texts, wanted - texts)
        yield from _sliced(shards, names, source)
        return
    with local_file(source, folder) as path:
        check_file(path, source)
        ending = path.suffix.lower()
        if ending == ".npz":
            with path.open("rb") as file:
                yield from npz_chunks(file, source, wanted)
        elif ending == SAFETENSORS:
            file_ = File(source, path)
            names = names_of(file_)
            rows = {name: stored(file_, name).rows for name in names if name in wanted}
            yield from _sliced(rows, names, source)
        elif ending == ".parquet":
            yield from _parquet_chunks(path, source, wanted, texts)
        else:  # says which endings there are
            read_arrays(source, folder, wanted, texts)


def _sliced(arrays: Mapping[str, Array | Rows], names: list[str], source: str) -> Iterator[_Arrays]:
    """Arrays that are on disk or in memory, some rows at a time."""
    counts = {name: len(x) for name, x in arrays.items()}
    (first, count), *others = counts.items() or [("", 0)]
    for name, other in others:
        if other != count:
            where, rule = f"{source}, column {name}", f"{first} has {count}"
            raise InputError([Fault(where, f"{other} rows", rule, "store as many")])
    each = sum(x.nbytes for x in arrays.values()) // max(1, count)
    size = max(1, CHUNK // max(1, each))
    for start in range(0, max(1, count), size):
        rows = slice(start, min(start + size, count))
        yield {name: np.asarray(x[rows]) for name, x in arrays.items()}, names, start


def _parquet_chunks(
    path: Path, source: str, wanted: set[str], texts: set[str]
) -> Iterator[_Arrays]:
    first = 0
    try:
        with pa.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            here, about = [name for name in names if name in wanted], file.metadata
            size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            rows = min(ROWS, max(1, CHUNK * about.num_rows // max(size, 1)))
            for batch in file.iter_batches(rows, columns=here):
                columns = {name: pa.chunked_array([batch.column(name)]) for name in here}
                yield (
                    {n: dense(x, source, n, n in texts, first) for n, x in columns.items()},
                    names,
                    first,
                )
                first += len(batch)
    except (OSError, pa.ArrowException):
        raise wrong_kind("Parquet file", b"PAR1", source, first_bytes(path)) from None
