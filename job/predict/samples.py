"""Samples in memory, of any type that people have them in, as arrays or as a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from job.data.arrays import dense
from job.data.tables.table import Table, decoded
from job.errors import Fault, InputError

Array = NDArray[Any]
WHERE = "samples"
"""What messages call them."""


def as_table(samples: object, columns: Sequence[str]) -> Table:
    """A pyarrow table, a data frame, a dict of columns or of the cells of one row, as a table.

    columns: some that are read, for messages. Raises InputError.
    """
    if hasattr(samples, "__arrow_c_stream__"):
        table = pa.table(samples)
    elif isinstance(samples, Mapping):
        cells = {str(name): _array(x) for name, x in samples.items()}
        one = all(x.ndim == 0 for x in cells.values())
        made = {name: x.reshape(1) if one else x for name, x in cells.items()}
        _check_columns(made)
        table = pa.table({name: _column(x, name) for name, x in made.items()})
    else:
        names = ", ".join(columns[:5])
        rule = f"this run reads a table, with columns such as {names}"
        remedy = "give a pyarrow table, a data frame or a dict of columns"
        raise InputError([Fault(WHERE, type(samples).__name__, rule, remedy)])
    names_ = [name.strip() for name in table.column_names]
    chunks = [decoded(column) for column in table.columns]
    return Table(WHERE, names_, chunks, np.arange(len(table)))


def _check_columns(columns: Mapping[str, Array]) -> None:
    """Raise InputError unless all have one axis and as many cells."""
    first = next(iter(columns), "")
    for name, column in columns.items():
        if column.shape != (columns[first].size,):
            where, found = f"{WHERE}, column {name}", f"shape {list(column.shape)}"
            rule = f"{first} has {columns[first].size} cells, and a column is a list of them"
            raise InputError([Fault(where, found, rule, "give one cell for each row")])


def _column(values: Array, name: str) -> pa.Array:
    """Raises InputError for what no column can hold."""
    try:
        half = values.dtype == np.float16
        return pa.array(values.astype(np.float32) if half else values)
    except pa.ArrowException as error:
        where, found = f"{WHERE}, column {name}", str(error).splitlines()[0]
        rule, remedy = "a column holds numbers or texts", "convert it"
        raise InputError([Fault(where, found, rule, remedy)]) from None


def as_arrays(samples: object, wanted: Collection[str]) -> dict[str, Array]:
    """Arrays by name, from a dict of arrays, tensors or lists, from a table, or from one array.

    wanted: names of the arrays that are read; one array stands for the only one. Raises InputError.
    """
    if hasattr(samples, "__arrow_c_stream__") and not isinstance(samples, np.ndarray):
        table = pa.table(samples)
        names = table.column_names
        return {n: dense(table.column(n), WHERE, n, n in wanted) for n in names if n in wanted}
    if isinstance(samples, Mapping):
        return {str(name): _array(x) for name, x in samples.items()}
    if len(wanted) == 1:
        return {next(iter(wanted)): _array(samples)}
    rule = f"this run reads several arrays: {', '.join(sorted(wanted))}"
    remedy = "give a dict of arrays by name"
    raise InputError([Fault(WHERE, type(samples).__name__, rule, remedy)])


def _array(values: Any) -> Array:
    """An array, tensor or list as an array of numpy, whose types have 4 bytes or more if torch's.

    Raises InputError.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        small = values.is_floating_point() and values.itemsize < 4
        return np.asarray(values.float() if small else values)
    if isinstance(values, pa.Array | pa.ChunkedArray):
        values = values.to_pylist()
    try:
        return np.asarray(values) if not _of_texts(values) else np.array(values, dtype=object)
    except ValueError as error:
        found, rule = str(error).splitlines()[0], "an array has rows of one shape"
        raise InputError([Fault(WHERE, found, rule, "give all rows one shape")]) from None


def _of_texts(values: Any) -> bool:
    """True for a list with texts, in which None is an empty cell."""
    return isinstance(values, list | tuple) and any(isinstance(x, str) for x in values)
