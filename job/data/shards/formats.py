"""One shard: where in a file each array lies, so that its rows can be read one by one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import torch

from job.data.arrays import Array, dense, is_list
from job.data.files import first_bytes, wrong_kind
from job.data.shards.cache import kept_copy
from job.data.shards.rows import CHUNK, Piece, Rows
from job.errors import Fault, InputError

NPY, SAFETENSORS, ARROW, PARQUET = ".npy", ".safetensors", ".arrow", ".parquet"
KINDS = {
    NPY: (".npy file", b"\x93NUMPY"),
    SAFETENSORS: ("safetensors file", b""),
    ARROW: ("Arrow file", b"ARROW1"),
    PARQUET: ("Parquet file", b"PAR1"),
}
"""How the names of shards end, what they are, and how such a file begins."""
TYPES: dict[str, tuple[str, torch.dtype | None]] = {
    **{f"F{8 * n}": (f"f{n}", None) for n in (2, 4, 8)},
    **{f"{c}{8 * n}": (f"{c.lower()}{n}", None) for c in "IU" for n in (1, 2, 4, 8)},
    "BOOL": ("?", None),
    "BF16": ("u2", torch.bfloat16),
    "F8_E4M3": ("u1", torch.float8_e4m3fn),
    "F8_E5M2": ("u1", torch.float8_e5m2),
}
"""Types of safetensors: numpy's of that size, and torch's where numpy has none."""
LISTS = "write it as fixed-size lists, uncompressed: pyarrow.list_(pyarrow.float32(), n)"


class File(NamedTuple):
    """A shard."""

    shown: str
    """Its name for messages: the folder as the user wrote it, and the name there."""
    path: Path

    @property
    def suffix(self) -> str:
        """How its name ends."""
        return Path(self.shown).suffix


class Stored(NamedTuple):
    """An array [n, …] as it lies in a shard."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    small: torch.dtype | None
    """Its type if numpy lacks it."""
    pieces: list[Piece]

    @property
    def kind(self) -> str:
        """Shape of a row and type, in words."""
        row = ", ".join(map(str, ("n", *self.shape[1:])))
        return f"[{row}] of {str(self.small or self.dtype).removeprefix('torch.')}"

    @property
    def rows(self) -> Rows:
        """The array, on disk."""
        return Rows(self.pieces, self.shape[1:], self.dtype, self.small)


def names_of(file: File) -> list[str]:
    """The arrays that a shard holds. Raises InputError."""
    if file.suffix == SAFETENSORS:
        return sorted(_safetensors(file))
    if file.suffix == ARROW:
        with _arrow(file) as (stored, _):
            return list(stored.schema.names)
    with _parquet(file) as stored:
        return list(stored.schema_arrow.names)


def stored(file: File, name: str) -> Stored:
    """An array of a shard, not read. A Parquet file's is copied to the cache. Raises InputError."""
    if file.suffix == NPY:
        return _npy(file.path, file.shown)
    if file.suffix == SAFETENSORS:
        return _safetensors(file)[name]
    if file.suffix == ARROW:
        with _arrow(file) as (table, whole):
            return _column(table, whole, name, file)
    with _parquet(file) as table:
        if not table.metadata.num_rows:
            raise _refused(file.shown, "no rows", "must hold data", "write it anew")
        chunks = _chunks(table, name, file)
        copy = kept_copy(file.path, name, chunks, table.metadata.num_rows)
    return _npy(copy, file.shown)


def whole(file: File, name: str, texts: bool) -> Array:
    """An array of a shard, in memory; texts: it may hold texts. Raises InputError."""
    if file.suffix in (NPY, SAFETENSORS):
        found = stored(file, name)
        return found.rows.read(np.arange(found.shape[0]))
    if file.suffix == ARROW:
        with _arrow(file) as (table, _):
            return dense(table.column(name), file.shown, name, texts)
    with _parquet(file) as table:
        return dense(table.read(columns=[name]).column(name), file.shown, name, texts)


def _npy(path: Path, shown: str) -> Stored:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, by_columns, dtype = read(file)
            offset = file.tell()
    except ValueError:
        raise _damaged(path, shown) from None
    if dtype.hasobject:
        raise _refused(shown, "Python objects", "must hold numbers", "store it as numbers")
    if by_columns and len(shape) > 1:
        remedy = "save it with numpy.ascontiguousarray"
        raise _refused(
            shown, "rows that are scattered (Fortran's order)", "rows must lie together", remedy
        )
    if not shape:
        raise _refused(shown, "a single number", "must hold an array [N, …]", "store an array")
    _check_size(path, shown, offset + math.prod(shape) * dtype.itemsize)
    return Stored(shape, dtype, None, [Piece(path, offset, shape[0])])


def _safetensors(file: File) -> dict[str, Stored]:
    try:
        with file.path.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if size > 100_000_000:  # the format's own limit
                raise ValueError
            header = json.loads(opened.read(size))
        header.pop("__metadata__", None)
        arrays = {}
        for name, about in header.items():
            begin, end = about["data_offsets"]
            dtype, small = TYPES.get(about["dtype"], ("V1", None))
            shape = tuple(about["shape"]) or (1,)
            piece = Piece(file.path, 8 + size + begin, shape[0])
            arrays[name] = Stored(shape, np.dtype(dtype), small, [piece])
            if dtype != "V1" and end - begin != math.prod(shape) * np.dtype(dtype).itemsize:
                raise ValueError
        end = max((each["data_offsets"][1] for each in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(file.path, file.shown) from None
    _check_size(file.path, file.shown, 8 + size + end)
    return arrays


@contextmanager
def _arrow(file: File) -> Iterator[tuple[pa.Table, pa.Buffer]]:
    """The file as a table that lies in it, and its bytes; of Arrow's file or streaming format."""
    streamed = not first_bytes(file.path).startswith(b"ARROW1")
    try:
        with pa.memory_map(str(file.path)) as source:
            mapped = source.read_buffer()
            source.seek(0)
            opened = pa.ipc.open_stream(source) if streamed else pa.ipc.open_file(source)
            yield opened.read_all(), mapped
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged(file.path, file.shown) from None


@contextmanager
def _parquet(file: File) -> Iterator[pa.parquet.ParquetFile]:
    try:
        with pa.parquet.ParquetFile(file.path) as opened:
            yield opened
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged(file.path, file.shown) from None


def _chunks(table: pa.parquet.ParquetFile, name: str, file: File) -> Iterator[Array]:
    """The rows of a column, some at a time."""
    about, first = table.metadata, None
    size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    some = max(1, CHUNK * about.num_rows // max(size, 1))
    for batch in table.iter_batches(batch_size=min(some, 2**16), columns=[name]):
        chunk = dense(pa.chunked_array([batch.column(0)]), file.shown, name, False)
        first = chunk.shape[1:] if first is None else first
        if chunk.shape[1:] != first:
            where = f"{file.shown}, column {name}"
            found, rule = (f"lists of shape {list(shape)}" for shape in (chunk.shape[1:], first))
            raise InputError([Fault(where, found, f"it has {rule} above", "give all one shape")])
        yield chunk


def _column(table: pa.Table, mapped: pa.Buffer, name: str, file: File) -> Stored:
    """Where the numbers of a column lie in the file."""
    pieces, row, kind = [], None, pa.null()
    for column in table.column(name).chunks:
        count, shape = len(column), []
        if count == 0:
            continue
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        while is_list(column.type):
            lengths = pc.min_max(pc.list_value_length(column)).as_py()
            if column.null_count or lengths["min"] != lengths["max"]:
                raise _unlike_an_array(file, name, "lists of several lengths or without a value")
            shape.append(lengths["max"] or 0)
            column = column.flatten()
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)) or column.null_count:
            raise _unlike_an_array(
                file, name, f"type {kind}" if not column.null_count else "empty values"
            )
        buffer = column.buffers()[1]
        at = (
            (buffer.address if buffer else 0) - mapped.address + column.offset * kind.bit_width // 8
        )
        if not 0 <= at <= mapped.size:
            raise _unlike_an_array(file, name, "compressed data")
        if row not in (None, tuple(shape)):
            raise _unlike_an_array(file, name, "lists of several lengths")
        row = tuple(shape)
        pieces.append(Piece(file.path, at, count))
    if row is None:
        raise _refused(file.shown, "no rows", "must hold data", "write it anew")
    return Stored(
        (sum(p.rows for p in pieces), *row), np.dtype(kind.to_pandas_dtype()), None, pieces
    )


def _unlike_an_array(file: File, name: str, found: str) -> InputError:
    where = f"{file.shown}, column {name}"
    return InputError([Fault(where, found, "the column must lie in the file as an array", LISTS)])


def _check_size(path: Path, shown: str, size: int) -> None:
    found = path.stat().st_size
    if found < size:
        rule = f"its header announces {size:,} bytes"
        raise _refused(shown, f"{found:,} bytes", rule, "copy it again: it is cut off")


def _damaged(path: Path, shown: str) -> InputError:
    kind, magic = KINDS[Path(shown).suffix]
    return wrong_kind(kind, magic, shown, first_bytes(path))


def _refused(shown: str, found: str, rule: str, remedy: str) -> InputError:
    return InputError([Fault(shown, found, rule, remedy)])
