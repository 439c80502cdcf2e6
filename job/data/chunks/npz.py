"""The arrays of an .npz file, some rows at a time: its members are read side by side."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from math import prod
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from job.data.arrays import NPZ_ERRORS, array_fault
from job.data.files import START, wrong_kind
from job.data.shards.rows import CHUNK
from job.errors import Fault, InputError

Array = NDArray[Any]
ENDING = ".npy"


class _Member(NamedTuple):
    """An array that is being read."""

    name: str
    file: IO[bytes]
    """At the first row that was not read."""
    row: tuple[int, ...]
    dtype: np.dtype[Any]
    length: int
    """Rows."""
    by_columns: bool

    @property
    def row_bytes(self) -> int:
        return prod(self.row) * self.dtype.itemsize

    def take(self, rows: int) -> Array:
        """The next rows. Raises EOFError if the file ends before."""
        data = bytearray(self.file.read(rows * self.row_bytes))
        if len(data) < rows * self.row_bytes:
            raise EOFError
        shape = (rows, *self.row)
        if self.by_columns:
            return np.frombuffer(data, self.dtype).reshape(shape[::-1]).T
        return np.frombuffer(data, self.dtype).reshape(shape)


def npz_chunks(
    file: IO[bytes], source: str, wanted: Collection[str]
) -> Iterator[tuple[dict[str, Array], list[str], int]]:
    """The next rows of the wanted arrays, the names of all arrays, and the number of the first row.

    An array whose memory goes by columns is read as a whole. Raises InputError.
    """
    try:
        with zipfile.ZipFile(file) as archive, ExitStack() as opened:
            names = [n.removesuffix(ENDING) for n in archive.namelist() if n.endswith(ENDING)]
            members = [
                _opened(opened.enter_context(archive.open(name + ENDING)), name, source)
                for name in names
                if name in wanted
            ]
            _check_lengths(members, source)
            yield from ((rows, names, first) for rows, first in _rows(members))
    except InputError:
        raise
    except NPZ_ERRORS:
        file.seek(0)
        raise wrong_kind(".npz", b"PK", source, file.read(START)) from None


def _rows(members: list[_Member]) -> Iterator[tuple[dict[str, Array], int]]:
    count = members[0].length if members else 0
    size = max(1, CHUNK // max(1, sum(member.row_bytes for member in members)))
    if any(member.by_columns for member in members):
        size = max(1, count)
    for first in range(0, max(1, count), size):  # one chunk of no rows, if there is none
        yield {each.name: each.take(min(size, count - first)) for each in members}, first


def _opened(file: IO[bytes], name: str, source: str) -> _Member:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        header = np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header(file)
    if dtype.hasobject:
        raise InputError([array_fault(source, name, "Python objects")])
    if not shape:
        rule, remedy = "an array has a row for each sample", "store it along a first axis"
        raise InputError([Fault(f"{source}, column {name}", "a single number", rule, remedy)])
    return _Member(name, file, shape[1:], dtype, shape[0], by_columns and len(shape) > 1)


def _check_lengths(members: list[_Member], source: str) -> None:
    """Raise InputError unless all have as many rows."""
    for member in members[1:]:
        if member.length != members[0].length:
            where, first = f"{source}, column {member.name}", members[0]
            rule = f"{first.name} has {first.length}"
            raise InputError([Fault(where, f"{member.length} rows", rule, "store as many")])
