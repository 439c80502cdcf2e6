"""Predictions as a table or as arrays, written row after row: Parquet, CSV or .npz."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from job.errors import Fault, InputError
from job.export.new_file import new_file
from job.predict.predictor import Batch

Array = NDArray[Any]
ENDINGS = (".parquet", ".csv", ".npz")
ID = "id"
"""Name of the rows' ids."""
WIDEST = 10_000
"""Columns of a CSV, at most."""


class Writer(Protocol):
    """Takes batch after batch; `close` makes the file whole."""

    def write(self, batch: Batch) -> None:
        """Append rows."""

    def close(self) -> None:
        """Write what is left."""


def write_file(batches: Iterable[Batch], out: Path) -> int:
    """Write the batches to a new file, by its ending; returns the number of rows.

    The file is there once it is whole. Raises InputError if there is one of that name, or if the
    ending is none of ENDINGS.
    """
    check_ending(out)
    with new_file(out) as file, ExitStack() as kept:
        match out.suffix.lower():
            case ".parquet":
                writer: Writer = Parquet(file)
            case ".csv":
                writer = Csv(file)
            case _:
                folder = out.parent
                writer = Npz(file, lambda: kept.enter_context(tempfile.TemporaryFile(dir=folder)))
        return write(batches, writer)


def check_ending(out: Path) -> None:
    """Raise InputError unless the name ends in one of ENDINGS."""
    if out.suffix.lower() not in ENDINGS:
        rule = f"its name must end in {' or '.join(ENDINGS)}"
        raise InputError([Fault(f"-o {out}", out.suffix or "no ending", rule, "name it so")])


def write(batches: Iterable[Batch], writer: Writer) -> int:
    """Give all batches to a writer; returns the number of rows."""
    count = 0
    for batch in batches:
        writer.write(batch)
        count += len(batch.ids)
    writer.close()
    return count


# --- tables -------------------------------------------------------------------------------------


def columns(batch: Batch) -> Iterator[tuple[str, Array]]:
    """Of each task the predicted classes, then every number: name, [n] or [n, *positions]."""
    for about in batch.tasks.values():
        if about.classes is not None:
            several = len(about.class_names) > 1 or about.classes.ndim == about.values.ndim
            for k, name in enumerate(about.class_names):
                yield name, about.classes[..., k] if several else about.classes
        for k, name in enumerate(about.names):
            yield name, about.values[..., k]


def id_name(batch: Batch) -> str:
    """A name for the column of ids that no task has."""
    taken = [name for name, _ in columns(batch)]
    return ID if ID not in taken else f"row_{ID}"


class Parquet:
    """A row for each sample; a task of positions has lists."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.writer: pa.parquet.ParquetWriter | None = None

    def write(self, batch: Batch) -> None:
        """Append rows."""
        made = {id_name(batch): batch.ids} | {k: _listed(x) for k, x in columns(batch)}
        table = pa.table(made)
        self.writer = self.writer or pa.parquet.ParquetWriter(self.file, table.schema)
        self.writer.write_table(table)

    def close(self) -> None:
        """Write the end of the file."""
        if self.writer is not None:
            self.writer.close()


def _listed(values: Array) -> pa.Array:
    """[n, …] as a column of lists of a fixed size."""
    column = pa.array(values.reshape(-1))
    for size in values.shape[:0:-1]:
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


class Csv:
    """A row for each sample, and a column for each position."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.writer: pa.csv.CSVWriter | None = None

    def write(self, batch: Batch) -> None:
        """Append rows; raises InputError if there are too many columns."""
        width = 1 + sum(int(np.prod(x.shape[1:])) for _, x in columns(batch))
        if width > WIDEST:
            rule, remedy = f"a CSV has at most {WIDEST:,}", "write .parquet or .npz"
            raise InputError([Fault("-o", f"{width:,} columns", rule, remedy)])
        made = {id_name(batch): batch.ids}
        for name, values in columns(batch):
            for at in np.ndindex(values.shape[1:]):
                place = f"[{','.join(map(str, at))}]" if at else ""
                made[f"{name}{place}"] = pa.array(values[(slice(None), *at)])
        table = pa.table(made)
        self.writer = self.writer or pa.csv.CSVWriter(self.file, table.schema)
        self.writer.write_table(table)

    def close(self) -> None:
        """Write what is left."""
        if self.writer is not None:
            self.writer.close()


# --- arrays -------------------------------------------------------------------------------------


class _Growing:
    """An array [N, …] in a temporary file, as its header needs N."""

    def __init__(self, file: IO[bytes], first: Array) -> None:
        self.file, self.dtype, self.row, self.count = file, first.dtype, first.shape[1:], 0

    def append(self, rows: Array) -> None:
        self.file.write(np.ascontiguousarray(rows.astype(self.dtype)).data)
        self.count += len(rows)

    def into(self, member: IO[bytes]) -> None:
        """Copy it, as .npy."""
        shape = (self.count, *self.row)
        about = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, about)
        self.file.seek(0)
        shutil.copyfileobj(self.file, member)


class Npz:
    """Arrays `id`, of each task `NAME` [N, …, W] and `NAME.names` [W]; of classes `NAME.class`."""

    def __init__(self, file: IO[bytes], new_part: Callable[[], IO[bytes]]) -> None:
        """Write to `file`; new_part: makes a file for an array until it is whole."""
        self.file, self.new_part = file, new_part
        self.arrays: dict[str, _Growing] = {}
        self.names: dict[str, tuple[str, ...]] = {}
        self.id_name, self.ids = ID, list[Array]()

    def write(self, batch: Batch) -> None:
        """Append rows."""
        self.id_name = id_name(batch)
        self.ids.append(batch.ids.to_numpy(zero_copy_only=False))
        for task, about in batch.tasks.items():
            self.names[task] = about.names
            self._append(task, about.values)
            if about.classes is not None:
                found = about.classes
                if found.dtype == object:  # a class's name is a part of its column's
                    found = found.astype(f"U{max(map(len, about.names))}")
                self._append(f"{task}.class", found)

    def _append(self, name: str, rows: Array) -> None:
        if name not in self.arrays:
            self.arrays[name] = _Growing(self.new_part(), rows)
        self.arrays[name].append(rows)

    def close(self) -> None:
        """Write the archive."""
        ids = np.concatenate(self.ids)
        small = {self.id_name: ids.astype(str) if ids.dtype == object else ids}
        small |= {f"{task}.names": np.array(names) for task, names in self.names.items()}
        with zipfile.ZipFile(self.file, "w") as archive:
            for name, array in small.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            for name, growing in self.arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    growing.into(member)
