"""An array that stays on disk: its rows are read when they are asked for.

They are read by position, not by a memory map: a map of far more than memory costs a page fault for
nearly every row, and what it has touched counts as memory of the process.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.errors import Fault, InputError

Array = NDArray[Any]
Index = NDArray[np.int64]

CHUNK = 16 << 20
"""Bytes, about, of the rows that a pass over all rows takes at a time."""
SPARE = 256
"""Files that a process opens beside its shards, at most."""


class Piece(NamedTuple):
    """Consecutive rows in a file."""

    path: Path
    offset: int
    """Bytes before the first row."""
    rows: int


class Files:
    """Files that are opened when they are first read; a copy in another process opens its own."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def __reduce__(self) -> tuple[type[Files], tuple[()]]:
        return Files, ()

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def of(self, path: Path) -> int:
        """The file's descriptor; raises OSError."""
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDONLY)
        return self._open[path]

    def read(self, path: Path, offset: int, into: memoryview) -> None:
        """Fill `into` with the bytes from `offset` on; raises OSError."""
        descriptor = self.of(path)
        while into:
            count = os.preadv(descriptor, [into], offset)
            if count == 0:
                raise OSError(errno.EIO, "the file was cut off", str(path))
            into, offset = into[count:], offset + count


class Rows:
    """An array [N, …] in pieces of files, or some of its rows.

    `shape`, `ndim`, `dtype`, `reshape` and `astype` are those of a numpy array; indexed by a tensor
    or a slice, it gives a tensor in memory. A copy in another process reads the same files.

    row: shape of a row. stored: type of the files' numbers. small: their type if numpy lacks it
    (bfloat16, 8-bit floats); they are read as float32 then.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        row: tuple[int, ...],
        stored: np.dtype[Any],
        small: torch.dtype | None = None,
    ) -> None:
        self.pieces, self.stored, self.small = tuple(pieces), stored, small
        self.stored_row = self.row = row
        self.channels_first = False
        self.dtype = np.dtype(np.float32) if small is not None else stored.newbyteorder("=")
        self.starts = np.cumsum([0, *(piece.rows for piece in pieces)])
        """[P + 1] the first row of each piece, and their number."""
        self.positions: Index | None = None
        """[N] the rows that this array consists of; None: all."""
        self.files = Files()

    def __len__(self) -> int:
        return int(self.starts[-1]) if self.positions is None else len(self.positions)

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, …]."""
        return (len(self), *self.row)

    @property
    def ndim(self) -> int:
        """Axes, N among them."""
        return 1 + len(self.row)

    @property
    def nbytes(self) -> int:
        """Bytes that it would take in memory."""
        return len(self) * prod(self.row) * self.dtype.itemsize

    def reshape(self, *shape: int) -> Rows:
        """The same rows in another shape; shape: N first; one other axis may be −1."""
        return self._like(row=np.empty(self.row, np.bool_).reshape(shape[1:]).shape)

    def channels_last(self) -> Rows:
        """The same rows [C, …] as [… , C]."""
        first, *rest = self.row
        return self._like(row=(*rest, first), channels_first=True)

    def astype(self, dtype: Any) -> Rows:
        """The same rows, converted when they are read."""
        return self._like(dtype=np.dtype(dtype))

    def take(self, positions: Index) -> Rows:
        """Those of the rows at the positions [n], without reading them."""
        rows = positions if self.positions is None else self.positions[positions]
        return self._like(positions=rows)

    def _like(self, **changed: Any) -> Rows:
        made = Rows.__new__(Rows)
        made.__dict__ |= self.__dict__ | changed
        return made

    def __getitem__(self, at: Tensor | slice) -> Tensor:
        """The rows at an index [n] or in a slice, in memory."""
        return torch.from_numpy(self.read(self._rows(at)))

    def _rows(self, at: Tensor | slice) -> Index:
        """[n] the rows of the files that an index or a slice asks for."""
        index = np.arange(*at.indices(len(self))) if isinstance(at, slice) else at.numpy()
        return index if self.positions is None else self.positions[index]

    def read(self, rows: Index) -> Array:
        """[n, …] those rows of the files. Raises OSError."""
        read = np.empty((len(rows), *self.stored_row), self.stored)
        into, size = read.reshape(-1).view(np.uint8).data, self._row_bytes
        for path, offset, first, last in self._runs(rows):
            self.files.read(path, offset, into[first * size : last * size])
        if self.small is not None:
            read = torch.from_numpy(read).view(self.small).float().numpy()
        if self.channels_first:
            read = np.ascontiguousarray(np.moveaxis(read, 1, -1))
        with np.errstate(over="ignore"):  # what float32 cannot hold is found by the check
            return read.astype(self.dtype, copy=False).reshape(len(rows), *self.row)

    def will_need(self, at: Tensor) -> None:
        """Have the system fetch the rows at an index [n] from the disk while others are read."""
        for path, offset, first, last in self._runs(self._rows(at)):
            size = (last - first) * self._row_bytes
            os.posix_fadvise(self.files.of(path), offset, size, os.POSIX_FADV_WILLNEED)

    def _runs(self, rows: Index) -> Iterator[tuple[Path, int, int, int]]:
        """The rows [n] as runs that lie together: file, offset there, first and last + 1 of n."""
        piece = np.searchsorted(self.starts, rows, side="right") - 1
        begins = (np.diff(rows, prepend=-2) != 1) | (np.diff(piece, prepend=-1) != 0)
        first = np.flatnonzero(begins)
        offsets = (rows - self.starts[piece])[first] * self._row_bytes
        last = [*first[1:].tolist(), len(rows)]
        runs = zip(piece[first].tolist(), offsets.tolist(), first.tolist(), last, strict=False)
        for k, offset, begin, end in runs:
            yield self.pieces[k].path, self.pieces[k].offset + offset, begin, end

    @property
    def _row_bytes(self) -> int:
        return prod(self.row) * self.stored.itemsize


def spans(array: Tensor | Array | Rows, size: int = CHUNK) -> Iterator[slice]:
    """Consecutive slices that cover an array [N, …], each of about so many bytes."""
    each = max(1, size // max(1, prod(array.shape[1:]) * array.dtype.itemsize))
    for start in range(0, len(array), each):
        yield slice(start, min(start + each, len(array)))


def missing_values(array: Array | Rows) -> int:
    """Number of values that are NaN."""
    return sum(int(np.isnan(np.asarray(array[span])).sum()) for span in spans(array))


def check_files(count: int, source: str) -> None:
    """Let this process open so many files at once; raises InputError if the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE
    if soft != resource.RLIM_INFINITY and wanted > soft:
        if hard != resource.RLIM_INFINITY and wanted > hard:
            rule = f"a process here may open {hard} files at once"
            remedy = f"join shards, or raise ulimit -n to {wanted}"
            raise InputError([Fault(source, f"{count} shards", rule, remedy)])
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
